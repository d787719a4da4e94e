"""Checks names and numbers that the caller chose; suggests similar names for an unknown one."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def lookup(field: str, name: str, choices: Mapping[str, Any] | Sequence[str]) -> Any:
    """Returns the choice called `name`, or `name` itself where the choices are names only.

    Raises:
        ValueError: for an unknown name; the message suggests similar names and lists all.
    """
    if name not in choices:
        raise ValueError(
            f'Unknown {field}={name!r}.{hint(name, choices)} '
            f'Choices: {", ".join(map(repr, sorted(choices)))}.'
        )
    return choices[name] if isinstance(choices, Mapping) else name


def check_range(
    name: str,
    value: float,
    least: float = 0.0,
    most: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuses a number out of bounds, and one that is not finite: NaN lies in no range.

    Args:
        name: of the number.
        value: the number.
        least: least value.
        most: largest value.
        above: whether `least` itself is refused.
        below: whether `most` itself is refused.

    Raises:
        ValueError: if it is out of range.

    Example:
        >>> check_range('scale', 0.5)
        >>> check_range('scale', float('inf'))
        Traceback (most recent call last):
        ValueError: Expected scale=inf >= 0 and finite.
    """
    high_enough = value > least if above else value >= least
    low_enough = value < most if below else value <= most
    if math.isfinite(value) and high_enough and low_enough:
        return
    if most < math.inf:
        bound = f'in {"(" if above else "["}{least}, {most}{")" if below else "]"}'
    else:
        bound = f'{">" if above else ">="} {least:g}' + ' and finite' * math.isinf(value)
    raise ValueError(f'Expected {name}={value} {bound}.')


def check_finite(name: str, value: float, hint: str = '') -> None:
    """Refuses NaN and infinity.

    Raises:
        ValueError: if it is one; `hint` follows the message.
    """
    if not math.isfinite(value):
        raise ValueError(f'Expected {name}={value} to be a finite number.{hint}')


def hint(name: str, choices: Iterable[str]) -> str:
    """Returns a question with the most similar choices, after a space; empty if none is similar.

    Example:
        >>> hint('ml-10k', ['ml-100k', 'ml-1m', 'synthetic'])
        " Did you mean 'ml-100k' or 'ml-1m'?"
    """
    near = difflib.get_close_matches(str(name), list(map(str, choices)), n=3, cutoff=0.5)
    return f' Did you mean {" or ".join(map(repr, near))}?' if near else ''


def check_widths(hidden: Sequence[int]) -> tuple[int, ...]:
    """Widths of hidden layers as a tuple; refuses none, and all but positive integers."""
    widths = tuple(hidden)
    if not widths or not all(isinstance(width, int) and width >= 1 for width in widths):
        raise ValueError(f'Expected hidden={widths} to be one or more positive integers.')
    return widths
