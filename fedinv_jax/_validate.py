"""Checks names that the caller chose, and suggests similar ones for an unknown name."""

import difflib
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


def hint(name: str, choices: Iterable[str]) -> str:
    """Returns a question with the most similar choices, after a space; empty if none is similar.

    Example:
        >>> hint('ml-10k', ['ml-100k', 'ml-1m', 'synthetic'])
        " Did you mean 'ml-100k' or 'ml-1m'?"
    """
    near = difflib.get_close_matches(str(name), list(map(str, choices)), n=3, cutoff=0.5)
    return f' Did you mean {" or ".join(map(repr, near))}?' if near else ''
