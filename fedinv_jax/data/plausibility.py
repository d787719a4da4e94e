"""Refuses columns that cannot be what they were taken for; warns where they were named."""

import decimal
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from fedinv_jax.data import columns as columns_lib
from fedinv_jax.data import values
from fedinv_jax.data.sniffing import Layout

_FEWEST = 10  # rows of which something can be said
_LARGEST_RATING = 1e6
_IF_TIMES = "A column of times is called 'timestamp'."
_NUMBER = re.compile(r'[+-]?\d+(\.\d*)?', re.ASCII)
# Ids of Amazon, of reviewers and of products.
_PATTERNS = {
    'user': re.compile(r'A[0-9A-Z]{9,20}', re.ASCII),
    'item': re.compile(r'B0[0-9A-Z]{8}', re.ASCII),
}
_WORD = re.compile(r'([A-Za-z]+)[\W_]*[0-9a-f]*', re.ASCII)


def check(
    path: pathlib.Path,
    layout: Layout,
    parsed: Mapping[str, np.ndarray],
    ids: Mapping[str, Sequence[str]],
) -> list[str]:
    """Refuses columns that cannot be what they were taken for.

    Args:
        path: of the file, for messages.
        layout: what the columns were taken for.
        parsed: the columns, from `parsing.parse`.
        ids: the distinct ones of 'user' and 'item'.

    Returns:
        What is odd, for a warning.

    Raises:
        ValueError: if two ids are equal as numbers but not as text; where no header names them, if
            the ids of one column are all distinct, the ratings are times, or users and items look
            exchanged. What `data.columns` says is not refused but warned of.
    """
    texts = {name: own for name, own in ids.items() if parsed[name].dtype.kind == 'U'}
    alike = [('', _alike(name, own)) for name, own in texts.items()]
    distinct = [
        (name, _distinct(name, layout, len(own), len(parsed[name])))
        for name, own in ids.items()
        if name == 'user' or len(ids['user']) > 1
    ]
    guessed = [(name, _broken(name, own)) for name, own in texts.items()]
    guessed += [(name, _few_numbers(name, parsed)) for name in ids]
    guessed += [(name, test(parsed[name])) for name, test in _TESTS.items() if name in parsed]
    guessed.append(('', _counts_first(parsed)))
    refused = {
        'data.columns': [],
        'the header': alike,
        'one name of the header': alike + distinct,
        'position': alike + distinct + guessed,
    }
    for column, problem in refused[layout.named_by]:
        if problem:
            raise ValueError(f'{path}: {problem} {_suggestion(column, layout)}')
    odd = [problem for _, problem in alike + distinct + guessed]
    odd += [_taken_for_row(layout), _unread_label(layout), _other_times(parsed)]
    if layout.named_by == 'position':
        odd += _check_order(path, layout, parsed)
    return list(filter(None, odd))


def _suggestion(column: str, layout: Layout) -> str:
    """What to set where a column cannot be what it was taken for; '': no column in particular."""
    known = {index: name for name, index in layout.columns.items() if name != column}
    if column in ('user', 'item'):
        known = {index: name for index, name in known.items() if name == 'timestamp'}
    if column:
        is_time = column == 'rating' and 'timestamp' not in layout.columns
        known[layout.columns[column]] = 'timestamp' if is_time else '_'
    return columns_lib.suggestion(layout.width, known)


def _check_order(path: pathlib.Path, layout: Layout, parsed: Mapping[str, np.ndarray]) -> list[str]:
    """Refuses users and items that look exchanged; returns a warning where they may be."""
    rest = [name for name in layout.columns if name not in ('user', 'item')]
    advice = (
        f'Set data.columns={("item", "user", *rest)} if they are exchanged, else '
        f'data.columns={("user", "item", *rest)}.'
    )
    if exchanged := _exchanged(parsed):
        raise ValueError(f'{path}: Expected user, item in this order, found {exchanged}. {advice}')
    if 'timestamp' not in parsed and _is_by_second(parsed):
        return [f'the rows go by column 2, as if it held the users. {advice}']
    return []


def _distinct(column: str, layout: Layout, num_ids: int, num_rows: int) -> str:
    """That every row has another id, as row numbers have; empty where it is not so."""
    if num_rows < _FEWEST or num_ids < num_rows:
        return ''
    return (
        f'Expected ids that come back, found {num_ids} distinct {column} ids in {num_rows} rows '
        f'(column {layout.columns[column] + 1}).'
    )


def _alike(column: str, ids: Sequence[str]) -> str:
    """That two ids are one number written in two ways; empty where none are."""
    seen: dict[decimal.Decimal, str] = {}
    for text in ids:
        if _NUMBER.fullmatch(text):
            other = seen.setdefault(decimal.Decimal(text), text)
            if other != text:
                return (
                    f'Expected each {column} id in one spelling, found {values.show(other)} and '
                    f'{values.show(text)}, which are equal as numbers. Write them alike; if they '
                    'are different ids, name the columns.'
                )
    return ''


def _ratings(ratings: np.ndarray) -> str:
    """That ratings are times or numbers of rows; empty where they are none."""
    if ratings.min() >= _LARGEST_RATING:
        return f'Expected ratings, found {ratings.min():.0f} and more, as times are. {_IF_TIMES}'
    whole = len(ratings) >= _FEWEST and bool(np.all(ratings == np.floor(ratings)))
    for some in (ratings[:1000], ratings):  # most often the first ones tell
        if not whole or len(np.unique(some)) < len(some):
            return ''
    found = f'{len(ratings)} distinct whole numbers in as many rows'
    return f'Expected ratings, found {found}. {_IF_TIMES}'


def _times(times: np.ndarray) -> str:
    """That times never change; empty where they do."""
    if len(times) < _FEWEST or times.min() < times.max() or values.unit(float(times[0])):
        return ''
    return f'Expected times, found {times[0]} in every row.'


_TESTS = {'rating': _ratings, 'timestamp': _times}


def _few_numbers(column: str, parsed: Mapping[str, np.ndarray]) -> str:
    """That ids are a few small numbers in pairs that recur, as ratings; empty if they are not."""
    own = parsed[column]
    if own.dtype.kind == 'U' or len(own) < _FEWEST or own.min() < 0 or own.max() > 10:
        return ''
    pairs = np.unique(np.stack([parsed['user'], parsed['item']]), axis=1).shape[1]
    if 2 * pairs > len(own):
        return ''
    return (
        f'Expected {column} ids, found only numbers of {own.min()} to {own.max()}, as ratings are, '
        f'and {pairs} distinct pairs in {len(own)} rows.'
    )


def _counts_first(parsed: Mapping[str, np.ndarray]) -> str:
    """That the first row holds the numbers of users, items and rows; empty where it does not."""
    ids, ratings = [parsed['user'], parsed['item']], parsed.get('rating', np.zeros(1))
    if len(ids[0]) < _FEWEST or ratings[0] != len(ratings) - 1:
        return ''
    if any(own.dtype.kind == 'U' or own[0] < own[1:].max() for own in ids):
        return ''
    return (
        'Expected an interaction in the first row, found the numbers of users, items and rows: '
        f'{ids[0][0]}, {ids[1][0]}, {ratings[0]:g}. Remove that row.'
    )


def _unread_label(layout: Layout) -> str:
    """That a label is not read, because there is a rating too; empty where it is."""
    names = enumerate(layout.names or () if layout.named_by == 'the header' else ())
    unread = [n for i, n in names if 'label' in columns_lib.kinds(n) and i < layout.width]
    if 'rating' not in layout.columns or not unread:
        return ''
    return (
        f'{values.show(", ".join(unread))} is not read, as there is a rating: if rows of 0 are no '
        "interactions, call that column 'label' with data.columns, and the rating '_'"
    )


def _other_times(parsed: Mapping[str, np.ndarray]) -> str:
    """That some times, such as 0 for none, are not of our days as most are; empty where all are."""
    times = parsed.get('timestamp', np.zeros(1, int))
    if len(times) >= _FEWEST and times.min() == times.max():
        return f'every row has the time {times[0]}, hence no interaction of a user is the last'
    first, last = values.days(float(np.median(times)))
    others = times[(times < first) | (times > last)]
    if not len(others):
        return ''
    return (
        f'{len(others)} of {len(times)} times are not of our days as the others are, such as '
        f'{others[0]}: they count as the {"first" if others[0] < first else "last"}'
    )


def _taken_for_row(layout: Layout) -> str:
    """That `data.header` takes names for a row, or a row for names; empty where it does not."""
    first = layout.names or layout.first_row
    known = {kind for field in first for kind in columns_lib.kinds(field)}
    if layout.names is None and {'user', 'item'} <= known:
        return f'the first row looks like a header: {values.show(", ".join(first))}'
    if layout.names and any(values.number(field) is not None for field in first):
        return f'the header looks like a row: {values.show(", ".join(first))}'
    return ''


def _broken(column: str, ids: Sequence[str]) -> str:
    """That ids are numbers, some of them broken, as ratings and places are; empty if they are not.

    Names, one of which may be '3.5', are none.
    """
    found = next(filter(values.is_broken, ids), None)
    if found is None or any(values.number(text) is None for text in ids):
        return ''
    return f'Expected {column} ids, found the number {values.show(found)}.'


def _exchanged(parsed: Mapping[str, np.ndarray]) -> str:
    """Why the first column seems to hold items, or the second users; empty where they do not."""
    ids = [parsed['user'], parsed['item']]
    kinds = [_kind(own) for own in ids]
    for place, kind in enumerate(('item', 'user')):
        if kinds[place] == kind and kinds[1 - place] != kind:
            shown = values.show(str(ids[place][0]))
            return f'that ids of column {place + 1} look like those of {kind}s ({shown})'
    if kinds == ['user', 'item'] or 'timestamp' not in parsed or not _is_by_second(parsed):
        return ''
    steps = np.diff(parsed['timestamp'])[ids[1][1:] == ids[1][:-1]]
    if not (steps >= 0).all() and not (steps <= 0).all():
        return ''
    return (
        'that the rows go by column 2, each of its ids in order of time, as histories of users do'
    )


def _is_by_second(parsed: Mapping[str, np.ndarray]) -> bool:
    """Whether equal ids of the second column follow each other, and those of the first do not."""
    first, second = parsed['user'], parsed['item']
    few = len(first) < _FEWEST or 2 * _num_runs(second) > len(second)
    return not few and _is_grouped(second) and not _is_grouped(first)


def _kind(ids: np.ndarray) -> str | None:
    """What ids say that they are, such as 'user12', 'item_5', or those of Amazon."""
    sample = [str(text) for text in ids[:100].tolist()]
    for kind, pattern in _PATTERNS.items():
        if all(map(pattern.fullmatch, sample)):
            return kind
    words = {match[1] if (match := _WORD.fullmatch(text)) else '' for text in sample}
    known = columns_lib.kinds(words.pop()) if len(words) == 1 else {}
    return next((kind for kind in ('user', 'item') if kind in known), None)


def _num_runs(ids: np.ndarray) -> int:
    """How often another id follows, and one."""
    return 1 + int(np.sum(ids[1:] != ids[:-1]))


def _is_grouped(ids: np.ndarray) -> bool:
    """Whether equal ids follow each other."""
    return _num_runs(ids) == len(np.unique(ids))
