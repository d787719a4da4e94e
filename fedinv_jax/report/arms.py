"""The arms of a study side by side: a table for each data set, with a line for each arm."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedinv_jax.report import stats, tables
from fedinv_jax.report.rows import Summary, SummaryRow

_MOST = 3  # attacks that a table holds
_COLUMNS = ('exact match', 'certified', 'fits')
_MEANS = {'auc': ('auc', 'f1'), 'accuracy': ('accuracy', 'rmse')}
_LEGEND = (
    'AUC and F1, of ratings accuracy and RMSE: means over victims [95% confidence interval]. Other '
    'columns count victims: all labels right, certified, and, of those for whom it is known, '
    'uploads that fit what the client is said to send. A placebo attacks the upload of another '
    'victim.'
)
_Named = tuple[str, SummaryRow]


def table(summaries: Mapping[str, Summary]) -> str:
    """A Markdown table for each data set: a line for each arm and setting, columns for each attack.

    AUC and F1 are means with 95% confidence intervals. The other columns count victims: those whose
    labels are all right, those whose answer is certified, and, of those for whom it is known, those
    whose uploads are what the client is said to send (`fits`). A placebo has a line of its own.

    Args:
        summaries: by name of an arm, its summary.

    Returns:
        The tables; empty for a single arm, and for more attacks than a table holds.
    """
    named = [
        (name, row)
        for name, summary in summaries.items()
        for row in summary['rows']
        if row['family'] != 'baseline' or row['placebo']
    ]
    labels = list(dict.fromkeys(_label(row, named) for _, row in named))
    if len(summaries) < 2 or not 0 < len(labels) <= _MOST:
        return ''
    blocks = []
    for data in dict.fromkeys(row['data'] for _, row in named):
        own = [(name, row) for name, row in named if row['data'] == data]
        blocks.append(f'{data}:\n\n{_table(own, labels)}')
    return '\n\n'.join([*blocks, _LEGEND])


def _varying(named: Sequence[_Named], keys: Iterable[str]) -> list[str]:
    """The keys of the setting that vary over the rows of some arm."""
    arms = [tables.distinct(row for name, row in named if name == arm) for arm in dict(named)]
    return [key for key in keys if any(len(values[key]) > 1 for values in arms)]


def _label(row: SummaryRow, named: Sequence[_Named]) -> str:
    """The attack's name, with its hypothesis or attacker if an arm has it with several."""
    own = [(name, other) for name, other in named if other['attack'] == row['attack']]
    values: Mapping[str, Any] = row
    words = [str(values[key]) for key in _varying(own, ('dynamics', 'attacker'))]
    return row['attack'] + f' ({", ".join(words)})' * bool(words)


def _table(named: Sequence[_Named], labels: Sequence[str]) -> str:
    """The table of one data set."""
    keys = _varying(named, (key for key in stats.SETTING if key not in stats.OF_ATTACK))
    lines: dict[tuple[str, ...], dict[str, SummaryRow]] = {}
    for name, row in named:
        values: Mapping[str, Any] = row
        where = (tables.show(values[key]) for key in keys)
        line = lines.setdefault((name + ' (placebo)' * row['placebo'], *where), {})
        line[_label(row, named)] = row
    head = ['arm', *map(tables.title, keys)]
    shown = _MEANS[stats.compared_by(named[0][1]['metrics'])[0]]
    columns = (*map(tables.title, shown), *_COLUMNS)
    head += [f'{label}: {column}' for label in labels for column in columns]
    grid = [
        [*start, *(cell for label in labels for cell in _cells(found.get(label), shown))]
        for start, found in lines.items()
    ]
    return tables.markdown(head, grid)


def _cells(row: SummaryRow | None, shown: Sequence[str]) -> list[str]:
    """The metrics shown and the cells of `_COLUMNS`; dashes for an attack that was not run."""
    if row is None:
        return ['-'] * (len(shown) + len(_COLUMNS))
    victims, known = row['num_victims'], row['num_fits'] + row['num_misfits']
    exact = round((row['metrics']['exact']['mean'] or 0) * victims)
    return [
        *(tables.estimate(row['metrics'].get(name), victims) for name in shown),
        f'{exact}/{victims}',
        '-' if row['certified'] is None else f'{row["num_certified"]}/{victims}',
        f'{row["num_fits"]}/{known}' if known else '-',
    ]
