"""How a file is laid out, from its first lines: separator, header, columns, first row."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedinv_jax.data import columns as columns_lib
from fedinv_jax.data import files, values
from fedinv_jax.data import lines as lines_lib

_SAMPLE = 100  # lines


class Layout(NamedTuple):
    """How a file is laid out.

    Attributes:
        separator: a key of `lines.SEPARATORS`, or 'JSON' for an object a line.
        quoted: whether fields may be quoted.
        width: columns of a row, less empty ones at the end.
        columns: 'user', 'item' and perhaps 'rating' or 'label', 'timestamp' -> column.
        named_by: 'data.columns', 'the header', 'one name of the header' (the other column of two is
            the other), or 'position'.
        names: of the header, or the keys of the first JSON objects; None: no header.
        dates: whether times are dates, not numbers.
        first_line: line number at which the body starts.
        first_row: fields of the first row.
        num_comments: lines that were skipped as comments.
    """

    separator: str
    quoted: bool
    width: int
    columns: Mapping[str, int]
    named_by: str
    names: tuple[str, ...] | None
    dates: bool
    first_line: int
    first_row: tuple[str, ...]
    num_comments: int


def sniff(
    path: pathlib.Path,
    data: bytes,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
) -> tuple[Layout, bytes]:
    r"""The layout of a file, and its body: what is behind the header, comments blanked.

    Args:
        path: of the file, for messages.
        data: from `files.content`.
        columns: what each column is, from the first on; None: names of a header, else positions.
        header: whether the first line is a header; None: where it looks like one.

    Raises:
        ValueError: for a file without rows, or whose columns are unclear; it says what to set.

    Example:
        >>> sniff(pathlib.Path('x.csv'), b'uid;iid;stars\n1;80;4,0\n')[0].columns
        {'user': 0, 'item': 1, 'rating': 2}
    """
    data, num_comments = files.without_comments(data)
    lines = list(itertools.islice(lines_lib.numbered(data), _SAMPLE))
    if not lines:
        kind = 'only comments' if num_comments else 'an empty file'
        raise ValueError(f'{path}:1: Expected lines of user and item, found {kind}.')
    separator, quoted, names, table = _table(path, lines, b'"' in data, header)
    if names is None:
        _check_one_a_line(path, table, separator)
    is_header = names is not None and separator != lines_lib.JSON
    number, end, first = lines[0]
    first_line = number + 1 if is_header else 1
    if not table:
        raise ValueError(
            f'{path}:{first_line}: Expected rows after the header, found only a header.'
        )
    where = f'{path}:{number}'
    width = _width(table, names)
    if width < 2:
        raise ValueError(
            f'{where}: Expected 2 to 4 columns (user, item, rating, timestamp) separated by '
            f'{", ".join(lines_lib.SEPARATORS)}, found {width}: {values.show(first)}.'
        )
    rows = [row[:width] for row in table if len(row) >= width]
    if not rows:
        raise ValueError(
            f'{where}: Expected {width} columns separated by {separator}, as the header has, found '
            f'{len(table[0])}: {values.show(lines[1][2])}.'
        )
    found, named_by = _columns(where, rows, width, names, columns, separator == lines_lib.JSON)
    times = [row[found['timestamp']] for row in rows] if 'timestamp' in found else ['']
    layout = Layout(
        separator,
        quoted,
        width,
        found,
        named_by,
        None if names is None else tuple(names),
        values.seconds(times[0]) is not None,
        first_line,
        tuple(rows[0]),
        num_comments,
    )
    return layout, data[end:] if is_header else data


def _table(
    path: pathlib.Path, lines: Sequence[tuple[int, int, str]], quoted: bool, header: bool | None
) -> tuple[str, bool, Sequence[str] | None, Sequence[Sequence[str]]]:
    """Separator, whether fields may be quoted, names, and the fields of the first rows."""
    texts = [text for _, _, text in lines]
    if texts[0].lstrip().startswith('{'):
        names, *table = lines_lib.keys_and_rows(path, lines)
        return lines_lib.JSON, False, names, table
    separator = lines_lib.separator(texts, quoted)
    table = lines_lib.split(texts, separator, quoted)
    table = table[:-1] if quoted and len(table) > 2 else table  # may be cut within quotes
    if _is_header(f'{path}:{lines[0][0]}', table) if header is None else header:
        return separator, quoted, table[0], table[1:]
    return separator, quoted, None, table


def _check_one_a_line(path: pathlib.Path, table: Sequence[Sequence[str]], separator: str) -> None:
    """Refuses a user's items in one line, and an interaction over several lines."""
    widths = [len(row) for row in table]
    uneven = 2 * widths.count(widths[0]) < len(widths)
    if uneven or all(row[0].endswith(':') for row in table):
        raise ValueError(
            f'{path}: Expected a line for each interaction, with as many columns as the others, '
            f'found {", ".join(map(str, sorted(set(widths))[:3]))} columns separated by '
            f'{separator}: {values.show(", ".join(table[0]))}. Write the file anew: user, item.'
        )


def _is_header(where: str, table: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names the columns: by known names, or words above values."""
    first, below = table[0], table[1:]
    if any(field.endswith((':token', ':float')) for field in first):
        return True
    known = [columns_lib.kinds(field) for field in first]
    if any('user' in found for found in known) and any('item' in found for found in known):
        return True
    if first == list(map(str, range(len(first)))) and len(first) > 2 and below:
        raise ValueError(
            f'{where}: Expected to know whether {values.show(", ".join(first))} is a header or a '
            'row. Set data.header to True or False.'
        )
    if any(map(_is_value, first)) or not any(first):
        return False
    if any('user' in found and len(name) > 2 for name, found in zip(first, known, strict=True)):
        return not any(set(row) & set(first) for row in below)
    columns = list(zip(*(row for row in below if len(row) == len(first)), strict=True))
    if any(all(map(_is_value, column)) for column in columns):
        return True
    # Ids with digits below a line without any.
    without = len(below) > 2 and not any(map(_has_digit, first))
    return without and any(all(map(_has_digit, column)) for column in columns)


def _is_value(field: str) -> bool:
    return values.number(field) is not None or values.seconds(field) is not None


def _has_digit(field: str) -> bool:
    return any(map(str.isdigit, field))


def _width(table: Sequence[Sequence[str]], names: Sequence[str] | None) -> int:
    """Columns of the first row, less those at the end that are empty everywhere."""
    width = len(table[0]) if names is None else len(names)
    while width and not any(row[width - 1] for row in table if len(row) >= width):
        if names is not None and names[width - 1]:
            break
        width -= 1
    return width


def _columns(
    where: str,
    rows: Sequence[Sequence[str]],
    width: int,
    names: Sequence[str] | None,
    columns: Sequence[str] | None,
    is_json: bool,
) -> tuple[dict[str, int], str]:
    """Which column is what, and what says so."""
    if columns is not None:
        columns_lib.check(columns)
        if len(columns) > width:
            raise ValueError(
                f'{where}: Expected {len(columns)} columns, as data.columns={tuple(columns)} has, '
                f'found {width}: {values.show(", ".join(names or rows[0]))}.'
            )
        found = {name: index for index, name in enumerate(columns) if name != '_'}
        return {name: found[name] for name in columns_lib.NAMES if name in found}, 'data.columns'
    if names is None:
        return columns_lib.by_position(where, rows), 'position'
    found = columns_lib.by_name(names[:width], rows)
    missing = [name for name in ('user', 'item') if name not in found]
    if missing:
        raise ValueError(
            f"{where}: Expected a header that names the columns of 'user' and 'item', found "
            f'{values.show(", ".join(names))}, where no name of {" and ".join(missing)} is known. '
            f'{columns_lib.suggestion(width, {index: name for name, index in found.items()})}'
            + ' If that line is a row, set data.header=False.'
            * (not is_json)
        )
    known = {kind for name in names for kind in columns_lib.kinds(name)}
    return found, 'the header' if {'user', 'item'} <= known else 'one name of the header'
