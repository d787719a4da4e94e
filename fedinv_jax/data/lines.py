"""Lines of text -> fields: separators, quotes, JSON objects."""

import csv
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedinv_jax.data import values

SEPARATORS = {'TAB': '\t', "'::'": '::', "';'": ';', "'|'": '|', "','": ',', 'blanks': None}
"""By name in messages; None: any number of blanks. The first ones are tried first."""

_NOTHING = ' \t\r\n\f;|,'  # spreadsheets write separators for rows without content

JSON = 'JSON'
"""Instead of the name of a separator: an object a line."""

LIST = '[...]'
"""What stands for a list in a JSON object: no column can hold one."""


def numbered(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Number, end and text of each line that is not blank."""
    end = 0
    for number, line in enumerate(io.BytesIO(data), 1):
        end += len(line)
        if line.strip(_NOTHING.encode()):
            yield number, end, line.decode('utf-8', 'backslashreplace').strip('\r\n')


def separator(lines: Sequence[str], quoted: bool) -> str:
    """The separator that gives the same number of columns on all lines.

    TAB and `::` come first, blanks last. Among the others the one does that comes first in a line;
    a comma does not where another one leaves decimal commas. Where none agrees with itself, the one
    does that gives the most lines as many columns as the first.
    """
    tables = {name: split(lines, name, quoted) for name in SEPARATORS}
    tables = {name: table for name, table in tables.items() if len(table[0]) > 1}
    if not tables:
        return next(iter(SEPARATORS))

    def agreement(name: str) -> int:
        return sum(len(row) == len(tables[name][0]) for row in tables[name])

    agreed = [name for name in tables if agreement(name) == len(tables[name])]
    if not agreed:
        return max(tables, key=lambda name: agreement(name) / len(tables[name]))
    if "','" in agreed and any(name != "','" and _leaves_decimals(tables[name]) for name in agreed):
        agreed.remove("','")
    if 'blanks' in agreed and 'TAB' in agreed:
        more = len(tables['blanks'][0]) > len(tables['TAB'][0])
        if more and _is_all_numbers(tables['blanks']):
            agreed.remove('TAB')  # among blanks
    sure = [name for name in agreed if name in ('TAB', "'::'")]
    between = [name for name in agreed if name not in (*sure, 'blanks')]
    between.sort(key=lambda name: lines[-1].find(str(SEPARATORS[name])))
    return [*sure, *between, *agreed][0]


def _leaves_decimals(table: Sequence[Sequence[str]]) -> bool:
    """Whether the only commas in the rows are those of numbers; the first may be a header."""
    commas = [field for row in table[len(table) > 1 :] for field in row if ',' in field]
    return bool(commas) and all(map(values.is_decimal_comma, commas))


def _is_all_numbers(table: Sequence[Sequence[str]]) -> bool:
    """Whether all fields are numbers; the first row may be a header."""
    fields = (field for row in table[len(table) > 1 :] for field in row)
    return all(values.number(field) is not None for field in fields)


def split(lines: Sequence[str], separator: str, quoted: bool) -> list[list[str]]:
    """The fields of lines, without blanks around them."""
    if not quoted or _delimiter(separator) is None:
        return [_fields(line, separator, quoted) for line in lines]
    delimiter = _delimiter(separator) or ' '
    try:
        found = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error:  # `rows` says where
        return split(lines, separator, quoted=False)
    return [[field.strip() for field in row] for row in found if row]


def _fields(line: str, separator: str, quoted: bool) -> list[str]:
    """The fields of one line where the csv module is not needed."""
    fields = [field.strip() for field in line.split(SEPARATORS[separator])]
    return [field.strip('"') for field in fields] if quoted else fields


def _delimiter(separator: str) -> str | None:
    """What the csv module can split at; None: nothing."""
    return {"'::'": None, 'blanks': ' '}.get(separator, SEPARATORS[separator])


def _quoted_rows(
    path: pathlib.Path, lines: Iterator[str], first_line: int, separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row whose fields may be quoted."""
    taken: list[str] = []

    def one_by_one() -> Iterator[str]:
        for line in lines:
            taken.append(line.strip(' ') if separator == 'blanks' else line)
            yield taken[-1]

    number, delimiter = first_line, _delimiter(separator) or ' '
    reader = csv.reader(one_by_one(), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            if len(taken) > 1 and all(line.count(delimiter) == len(row) - 1 for line in taken):
                raise csv.Error('it goes over lines that are rows themselves')
            if any(row):
                yield number, [field.strip() for field in row]
            number = first_line + reader.line_num
            taken.clear()
    except csv.Error as error:
        raise ValueError(
            f'{path}:{number}: Expected a quoted field to end, found {values.show(taken[0])} '
            f'({error}). Close the quote, or remove it.'
        ) from error


def rows(
    path: pathlib.Path,
    body: bytes,
    first_line: int,
    separator: str,
    quoted: bool,
    keys: Sequence[str] | None,
) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row.

    Args:
        path: of the file, for messages.
        body: the rows.
        first_line: number of the first line of the body.
        separator: a key of `SEPARATORS`, or `JSON`.
        quoted: whether fields may be quoted.
        keys: of JSON objects.

    Raises:
        ValueError: for a line that is no JSON object, or quotes that are never closed.
    """
    text = io.TextIOWrapper(io.BytesIO(body), 'utf-8', 'backslashreplace', newline='\n')
    if separator == JSON:
        for number, line in enumerate(text, first_line):
            if line.strip():
                record = _record(f'{path}:{number}', line)
                yield number, [record.get(name, '') for name in keys or ()]
    elif quoted and _delimiter(separator):
        yield from _quoted_rows(path, text, first_line, separator)
    else:
        for number, line in enumerate(text, first_line):
            if line.strip(_NOTHING):
                yield number, _fields(line, separator, quoted)


def keys_and_rows(path: pathlib.Path, lines: Sequence[tuple[int, int, str]]) -> list[list[str]]:
    """The keys of the first JSON objects, then their values as text."""
    records = [_record(f'{path}:{number}', text) for number, _, text in lines]
    keys = list(dict.fromkeys(key for record in records for key in record))
    return [keys, *([record.get(key, '') for key in keys] for record in records)]


def _record(where: str, line: str) -> dict[str, str]:
    """A JSON object's values as text, those of inner objects under `outer.inner`."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{where}: Expected a JSON object a line: {error}, found {values.show(line)}. Write '
            'each on a line of its own, with double quotes: jq -c ., or json.dumps in Python.'
        ) from error
    if not isinstance(record, dict):
        raise ValueError(f'{where}: Expected a JSON object a line, found {values.show(line)}.')
    return dict(_flat(record, ''))


def _flat(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            plain = LIST if isinstance(value, list) else str(value)
            yield prefix + key, '' if value is None else plain
