"""Refuses what was passed in, once for the whole package: names that are not known."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def lookup(field: str, name: str, choices: Mapping[str, Any] | Sequence[str]) -> Any:
    """The choice of that name (the name itself where the choices are just names).

    Raises:
        ValueError: for an unknown name; the message has the nearest ones and all of them.
    """
    if name not in choices:
        raise ValueError(
            f'Unknown {field}={name!r}.{hint(name, choices)} '
            f'Choices: {", ".join(map(repr, sorted(choices)))}.'
        )
    return choices[name] if isinstance(choices, Mapping) else name


def hint(name: str, choices: Iterable[str]) -> str:
    """The nearest names as a question, with a blank before it; empty where none is near.

    Example:
        >>> hint('ml-10k', ['ml-100k', 'ml-1m', 'synthetic'])
        " Did you mean 'ml-100k' or 'ml-1m'?"
    """
    near = difflib.get_close_matches(str(name), list(map(str, choices)), n=3, cutoff=0.5)
    return f' Did you mean {" or ".join(map(repr, near))}?' if near else ''
