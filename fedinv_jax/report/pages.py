"""Tables of measured numbers in pages, generated from the files in `results/`.

A page marks a table with two comments. The first one names the file in `results/` (`NAME`, or
`NAME/LIST` for another list of its rows than `rows`), the rows and the columns; what is between the
two is generated:

    <!-- table quickstart where attack=mgradinv|popularity
    T = {num_gradients}
    AUC = {auc}
    ΔAUC to popularity = {difference_to_popularity.auc}
    -->
    ...
    <!-- end -->

A column is `title = cell`. A cell is text with paths into a row in braces, with a format if the
default does not fit (`{drift:.2f}`; `{attack:s}` is the name as in a config). If a column has a
condition (`{auc where num_gradients=2}`), the rows that agree in the columns without one share a
line, and the value is that of the row which fulfils the condition.
"""

import pathlib
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedinv_jax import _validate
from fedinv_jax.report import results, tables, tradeoff
from fedinv_jax.report.results import Row

_MARKED = re.compile(
    r'(?P<mark><!-- table (?P<head>[^\n>]*)\n(?P<columns>(?:[^\n]+\n)*?)-->\n).*?<!-- end -->', re.S
)
_HOLE = re.compile(r'\{([^{}:]+?)(?: where ([^{}:]+))?(?::([^{}]*))?\}')
_NUMBER = re.compile(r'[-+]?[\d,]*\.?\d+(e[-+]?\d+)?%?,?')
_DIFFERENCE = re.compile(r'(?<![\w-])[-+]\d*\.\d')
_BETWEEN = ('of', 'to', '/', '→')  # the numbers of a cell
# Names of a row as the pages write them.
_WORDS = {
    'mgradinv': 'MGradInv', 'tgias_ro': 'TGIAs-RO', 'dlg': 'DLG', 'imia': 'IMIA',
    'raifle': 'RAIFLE', 'inverting_gradients': 'Inverting Gradients', 'ml-100k': 'MovieLens-100K',
    'amazon-instant-video': 'Amazon Instant Video',
}  # fmt: skip
_MARKS = string.ascii_lowercase  # of epsilons that mean different things
_ENDS = ('mean', 'low', 'high')
# What a caption says of intervals that rest on few training runs, by the number of seeds.
_ONLY = {1: ', over victims only', 2: ', from two training runs only',
         3: ', from three training runs only'}  # fmt: skip


class Column(NamedTuple):
    """A column of a table: its title, and the cell as a template."""

    title: str
    cell: str

    @property
    def holes(self) -> list[tuple[str, str, str]]:
        """Path, condition and format of each value in the cell; the last two may be ''."""
        return _HOLE.findall(self.cell)

    @property
    def is_key(self) -> bool:
        """Whether the cell is the same in all rows of a line."""
        return not any(condition for _, condition, _ in self.holes)


def files(root: pathlib.Path) -> list[pathlib.Path]:
    """The pages of a checkout that have tables."""
    return [
        root / 'README.md',
        *sorted(root.glob('docs/*.md')),
        *sorted(root.glob('fedinv_jax/report/*.md')),
    ]


def without_marks(page: str) -> str:
    r"""A page without the comments that mark tables.

    Example:
        >>> without_marks('a\n\n<!-- table x\nb = {b}\n-->\n\n| b |\n\n<!-- end -->\n')
        'a\n\n| b |'
    """
    return re.sub(r'<!--.*?-->\n*', '', page, flags=re.S).strip()


def render(page: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page with its tables generated anew; the rest stays as it is.

    Args:
        page: Markdown with marks.
        found: the content of each file in `results/`, by name.

    Raises:
        ValueError: if a mark has no end, or names what is not there; the message has the mark.
    """

    def table(match: re.Match[str]) -> str:
        try:
            made = _table(match['head'], match['columns'], found)
        except ValueError as error:
            raise ValueError(f'Table {match["head"]}: {error}') from error
        return f'{match["mark"]}\n{made}\n\n<!-- end -->'

    made, count = _MARKED.subn(table, page)
    if count != page.count('<!-- table '):
        raise ValueError(
            'Expected each mark of a table to have columns, a line for each, and <!-- end -->.'
        )
    return made


def unmarked(page: str) -> list[str]:
    r"""The tables of a page that hold measured numbers and are not generated.

    These are tables with a cell that is a number or several (`.8 [.7, .9]`, `3 of 8`, `.5 → .8`),
    or has a difference in it: a signed number with a point (`holds (+.145)`).

    Example:
        >>> unmarked('| attack | AUC |\n|---|---|\n| DLG | .797 [.75, .84] |')
        ['| attack | AUC |']
        >>> unmarked('| field | meaning |\n|---|---|\n| `clip` | norm of an upload |')
        []
        >>> unmarked('| arm | known |\n|---|---|\n| rate twice | .2, .05: wrong |')
        []
    """
    grids = re.findall(r'(?:^ *\|.*\n?)+', _MARKED.sub('', page), re.M)
    heads = []
    for grid in grids:
        head, _, *body = grid.splitlines()
        if any(_is_measured(cell) for line in body for cell in line.split('|')):
            heads.append(head.strip())
    return heads


def _is_measured(cell: str) -> bool:
    """Whether a cell has a difference, or only numbers apart from what is in brackets."""
    parts = re.sub(r'\[.*?\]|\(.*?\)', '', cell).replace(' ,', ',').split()
    numbers = [part for part in parts if part not in _BETWEEN]
    only_numbers = bool(numbers) and all(map(_NUMBER.fullmatch, numbers))
    return only_numbers or bool(_DIFFERENCE.search(cell))


def _table(head: str, columns: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of a mark, with its caption."""
    place, _, conditions = head.partition(' where ')
    name, _, part = place.strip().partition('/')
    packed = _validate.lookup('results', name, found)
    rows = results.select(results.unpack(packed, part or 'rows'), conditions)
    parsed = [Column(*map(str.strip, line.rpartition(' = ')[::2])) for line in columns.splitlines()]
    _check_paths(parsed, rows)
    lines = _lines(parsed, rows)
    body = [[_cell(column.cell, line, rows) for column in parsed] for line in lines]
    heads = [column.title for column in parsed]
    texts = [f'| {" | ".join(line)} |' for line in (heads, *body)]
    text = '\n'.join([texts[0], f'|{"---|" * len(heads)}', *texts[1:]])
    brackets = any('[' in cell for line in body for cell in line)
    return f'{text}\n\n{_caption(packed, rows, parsed, brackets)}'


def _check_paths(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Refuses a path that no row has."""
    for column in columns:
        for path, _, _ in column.holes:
            if all(results.value(row, path) is None for row in rows):
                known = dict.fromkeys(key for row in rows for key in row)
                hint = _validate.hint(path, known)
                raise ValueError(f'No row has a value for {path!r}.{hint}')


def _lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each line; those that agree in the columns without `where` share one."""
    keys = [column.cell for column in columns if column.is_key]
    if len(keys) == len(columns):
        return [[row] for row in rows]
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(_cell(key, [row], rows) for key in keys), []).append(row)
    return list(lines.values())


def _cell(template: str, line: Sequence[Row], rows: Sequence[Row]) -> str:
    """The text of a cell; '-' if no value in it is known, without unknown ones at its end."""
    notes = _notes(rows)
    texts = []

    def fill(match: re.Match[str]) -> str:
        path, condition, spec = match[1], match[2] or '', match[3] or ''
        chosen = [row for row in results.select(rows, condition) if row in line]
        values = {_show(results.value(row, path), path, spec, notes) for row in chosen} - {'-'}
        if len(values) > 1:
            raise ValueError(f'{match[0]} has several values: {", ".join(sorted(values))}.')
        texts.append(values.pop() if values else '-')
        return texts[-1]

    text = _HOLE.sub(fill, template)
    return '-' if texts and set(texts) == {'-'} else re.sub(r'(, -)+$', '', text)


def _show(value: Any, path: str, spec: str, notes: Sequence[str]) -> str:
    """A value as the text of a cell."""
    if path == 'epsilon' and value is not None:
        mark = f' ({_MARKS[notes.index(tradeoff.meaning(value))]})' if len(notes) > 1 else ''
        return _number(value['epsilon'], ',.3g' if value['epsilon'] < 100 else ',.0f') + mark
    sign = '+' if path.startswith('difference') else ''
    if isinstance(value, Mapping):
        mean, *ends = (_number(value[key], spec or f'{sign}.3f') for key in value if key in _ENDS)
        rest = f' [{", ".join(ends)}]' if ends else ''
        without = f' ({value["undefined"]} undefined)' if 'undefined' in value else ''
        return f'{mean}{rest}{without}'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, int):
        return _number(value, spec or ',d')
    if isinstance(value, float):
        return _number(value, spec or f'{sign}.3f')
    if isinstance(value, str):
        return value if spec == 's' else _WORDS.get(value, value)
    return tables.show(value)


def _number(value: float, spec: str) -> str:
    """A number without the zero before its point: `_number(0.5, '+.3f') == '+.500'`."""
    return re.sub(r'^([-+]?)0(?=\.\d)', r'\1', format(value, spec))


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the epsilons of rows mean, without repetition."""
    known = [row['epsilon'] for row in rows if row.get('epsilon')]
    return list(dict.fromkeys(map(tradeoff.meaning, known)))


def _caption(
    packed: Mapping[str, Any], rows: Sequence[Row], columns: Sequence[Column], brackets: bool
) -> str:
    """The lines below a table: victims and seeds, intervals, date and device; each epsilon."""
    victims = () if _is_of_models(rows, columns) else _victims(rows)
    parts = [*victims, *(_intervals(rows) if brackets else ())]
    text = '; '.join([*parts, f'{packed["date"]}, {packed["device"]}.'])
    shown = any(path == 'epsilon' for column in columns for path, _, _ in column.holes)
    notes = _notes(rows) if shown else []
    marks = [f' ({mark})' for mark in _MARKS[: len(notes)]] if len(notes) > 1 else ['']
    lines = [f'Epsilon{mark}: {note}.' for mark, note in zip(marks, notes, strict=False)]
    return '\n'.join([text[0].upper() + text[1:], *lines])


def _is_of_models(rows: Sequence[Row], columns: Sequence[Column]) -> bool:
    """Whether all estimates of a table are of trained models, as hr@10, and none of victims."""
    keys = {path.split('.')[0] for column in columns for path, _, _ in column.holes}
    estimates = {key for key in keys for row in rows if isinstance(row.get(key), Mapping)}
    return bool(estimates) and all('@' in key for key in estimates)


def _victims(rows: Sequence[Row]) -> list[str]:
    """How many victims and seeds the rows have, and how many victims failed."""
    seeds, victims = (_range(rows, key) for key in ('num_seeds', 'num_victims'))
    failed = max(row.get('num_failed', 0) for row in rows)
    if not victims:
        return []
    runs = ' of one training run' if seeds == '1' else f' over {seeds} seeds' * bool(seeds)
    return [f'{victims} victims{runs}', *[f'up to {failed} of them failed'] * bool(failed)]


def _intervals(rows: Sequence[Row]) -> list[str]:
    """How the intervals in a table are made, and if they rest on few training runs."""
    seeds: dict[str, list[int]] = {}
    for row in rows:
        if 'confidence_intervals' in row:
            seeds.setdefault(row['confidence_intervals'], []).append(row['num_seeds'])
    ways = [way + _ONLY.get(min(numbers), '') for way, numbers in seeds.items()]
    return [f'95% confidence intervals: {" or ".join(ways)}'] if ways else []


def _range(rows: Sequence[Row], key: str) -> str:
    """The values of a count: '130', or '20 to 130'; '' if no row has it."""
    values = sorted({row[key] for row in rows if key in row})
    return ' to '.join(map(str, dict.fromkeys([*values[:1], *values[-1:]])))
