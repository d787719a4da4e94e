"""The columns of a file whose layout is known: integers at once, everything else line by line."""

import io
import pathlib
import re
import warnings

import numpy as np

from fedinv_jax.data import columns as columns_lib
from fedinv_jax.data import lines, values
from fedinv_jax.data.sniffing import Layout

_LARGEST = {
    'rating': float(np.finfo(np.float32).max),
    'label': float(np.finfo(np.float32).max),
    'timestamp': float(2**62),
}
_DTYPES = {'user': 'i8', 'item': 'i8', 'rating': 'f8', 'label': 'f8', 'timestamp': 'i8'}
# Integers such as 01 or +1, which differ from the text of their value: these ids stay text.
_NOT_CANONICAL = re.compile(rb'[\s,;:|](?:[+]|-?0[0-9]|-0)')
_NO_ID = {'', 'NA', 'N/A', '<NA>', 'NaN', 'nan', 'NULL', 'null', 'None', '\\N'}
_TRUTHS = {'true': 1, 'false': 0}


def parse(path: pathlib.Path, body: bytes, layout: Layout) -> dict[str, np.ndarray]:
    r"""The columns of a body, each of length M.

    Args:
        path: of the file, for messages.
        body: from `sniffing.sniff`.
        layout: from there too.

    Returns:
        By the names of `layout.columns`: ids as integers or text, ratings and labels as numbers,
        times as integers, dates as seconds since 1970.

    Raises:
        ValueError: `path:line: Expected ..., found ...` for a line with another number of columns,
            a missing id, a rating or time that is none.

    Example:
        >>> from fedinv_jax.data import sniffing
        >>> path = pathlib.Path('x.csv')
        >>> layout, body = sniffing.sniff(path, b'1;80;4,0\n1;49;2,5\n')
        >>> parse(path, body, layout)['rating'].tolist()
        [4.0, 2.5]
    """
    found = _integers(body, layout)
    return _lines(path, body, layout) if found is None else found


def _integers(body: bytes, layout: Layout) -> dict[str, np.ndarray] | None:
    """Columns of a file whose ids are all plain integers; None for other or malformed files."""
    separator = lines.SEPARATORS.get(layout.separator, '')
    if layout.quoted or layout.dates or separator == '':
        return None
    if _NOT_CANONICAL.search(body) or _NOT_CANONICAL.match(b'\n' + body[:2]):
        return None
    if separator == '::':  # NumPy takes one character only.
        body, separator = body.replace(b'::', b'\x1f'), '\x1f'
    kinds = {index: _DTYPES[column] for column, index in layout.columns.items()}
    dtype = np.dtype([(str(index), kinds.get(index, 'U1')) for index in range(layout.width)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # Older NumPy only warns of an id like 1.5.
            rows = np.loadtxt(
                io.TextIOWrapper(io.BytesIO(body), 'latin-1'),
                dtype=dtype,
                delimiter=separator,
                comments=None,
                ndmin=1,
            )
    except (ValueError, Warning):
        return None
    parsed = {column: rows[str(index)] for column, index in layout.columns.items()}
    in_range = (
        (np.abs(parsed[column]) <= largest).all()
        for column, largest in _LARGEST.items()
        if column in parsed
    )
    return parsed if all(in_range) else None


def _lines(path: pathlib.Path, body: bytes, layout: Layout) -> dict[str, np.ndarray]:
    """Columns of any file, parsed line by line, so that an error can name the line."""
    parsed: dict[str, list] = {column: [] for column in layout.columns}
    rows = lines.rows(path, body, layout.first_line, layout.separator, layout.quoted, layout.names)
    for number, fields in rows:
        if len(fields) != layout.width and not _ends_empty(fields, layout.width):
            line = (lines.SEPARATORS.get(layout.separator) or ' ').join(fields)
            raise ValueError(
                f'{path}:{number}: Expected {layout.width} columns separated by '
                f'{layout.separator}, found {len(fields)}: {values.show(line)}. Mend or remove the '
                'line.'
            )
        for column, index in layout.columns.items():
            value = _value(column, fields[index], layout)
            if value is None:
                raise ValueError(f'{path}:{number}: {_problem(column, fields[index], layout)}')
            parsed[column].append(value)
    return {column: np.asarray(values_) for column, values_ in parsed.items()}


def _ends_empty(fields: list[str], width: int) -> bool:
    """Whether a row is as wide as it should be, but for separators at its end."""
    return len(fields) > width and not any(fields[width:])


def _value(column: str, field: str, layout: Layout) -> str | float | None:
    """What a field holds; None if it holds no such thing."""
    if column not in _LARGEST:
        return None if field in _NO_ID or field == lines.LIST or '\n' in field else field
    if column == 'timestamp' and layout.dates:
        return values.seconds(field)
    if column == 'label' and field.lower() in _TRUTHS:
        return _TRUTHS[field.lower()]
    value = values.number(field)
    return None if value is None or not abs(value) <= _LARGEST[column] else value


def _problem(column: str, field: str, layout: Layout) -> str:
    """What is wrong with a field, and what to do."""
    expected = 'a finite number' if column in _LARGEST else 'an id'
    if column == 'timestamp' and layout.dates:
        expected = 'a date like 2014-05-13T17:45:25Z, as in the first row,'
    others = {index: name for name, index in layout.columns.items() if name != column}
    without = columns_lib.suggestion(layout.width, {layout.columns[column]: '_'} | others)
    if column in _LARGEST and values.is_thousands(field):
        advice = ' Write it without a comma: that may be thousands or decimals.'
    elif column == 'timestamp':
        advice = ' Dates are read as 2014-05-13 or 2014-05-13T17:45:25Z. ' + without
    elif field == lines.LIST:
        advice = ' Write a line for each interaction.'
    elif column not in _LARGEST and field in _NO_ID:
        advice = ' Leave such lines out of the file.'
    elif column not in _LARGEST:
        advice = ' Is a quote before it not closed?'
    else:
        advice = ' ' + without
    return (
        f'Expected {expected} as {column} in column {layout.columns[column] + 1}, '
        f'found {values.show(field)}.{advice}'
    )
