"""Summaries -> the small file of measured numbers that the repository keeps for its pages.

`results/NAME/summary.json` has command, date, device, versions, and lists of rows: `rows` (a row
for each setting), `claims` (for each claim and attack) and `defences` (for each defence and T, the
best attack). Values that are equal in all rows are in `shared`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedinv_jax import _validate
from fedinv_jax.report import claims as claims_lib
from fedinv_jax.report import stats, tables, tradeoff
from fedinv_jax.report.rows import ConfidenceInterval, SummaryRow

Row = dict[str, Any]
"""One row: keys of the setting, numbers, texts, and estimates `{'mean', 'low', 'high'}`."""

HEAD = ('command', 'date', 'device', 'versions', 'shared')
"""The keys of a file that are not lists of rows."""

_METRICS = ('auc', 'average_precision', 'f1', 'exact', 'private_error', 'accuracy', 'rmse')
_DIFFERENCES = ('auc', 'f1', 'accuracy', 'rmse')
_PLAIN = (
    *stats.SETTING, 'defences', 'labels_changed', 'num_seeds', 'num_victims', 'num_failed',
    'num_fits', 'num_misfits', 'drift', 'training_loss', 'epsilon', 'seconds_per_victim',
    'num_certified', 'num_locally_unique', 'rank', 'unknowns',
)  # fmt: skip
# What a baseline, which reads no upload, does not depend on; a placebo does.
_OF_UPLOADS = ('num_gradients', 'first_round', 'interval', 'seen', 'drift', 'training_loss',
               'seconds_per_victim', 'difference_to_one_gradient')  # fmt: skip


def _estimates(found: Mapping[str, ConfidenceInterval] | None, names: Sequence[str]) -> Row | None:
    """The named estimates that are defined; None without any."""
    known = {name: found[name] for name in names if name in found} if found else {}
    return {name: one for name, one in known.items() if one['mean'] is not None} or None


def _row(row: SummaryRow) -> Row:
    """A summary row without what no page shows; null where a value is undefined."""
    values: Mapping[str, Any] = row
    return {
        **{name: values[name] for name in _PLAIN},
        'confidence_intervals': _intervals(row['num_seeds']),
        'step_size_errors': row.get('step_size_errors'),
        **(_estimates(row['metrics'], _METRICS) or {}),
        **(_estimates(row['quality'], tuple(row['quality'] or ())) or {}),
        **{
            name: _estimates(values[name], _DIFFERENCES)
            for name in (
                'difference_to_popularity',
                'difference_to_one_gradient',
                'difference_to_fewer_gradients',
            )
        },
    }


def _intervals(num_seeds: int) -> str:
    """How the confidence intervals of a summary are made, see `inference`."""
    way = 'bootstrap' if num_seeds == 1 else 't-based, clustered by seed and user'
    return f'{way} (exact matches: Wilson)'


def rows(found: Iterable[SummaryRow]) -> list[Row]:
    """The rows of a summary in small form.

    A baseline with equal numbers for every T, round and upload has one row without these keys. A
    placebo reads an upload and keeps them.

    Args:
        found: summary rows, see `stats.summarize`.
    """
    made: dict[str, Row] = {}
    for row in found:
        small = _row(row)
        if row['family'] == 'baseline' and not row['placebo']:
            small |= dict.fromkeys(_OF_UPLOADS)
        made.setdefault(json.dumps(small), small)
    return list(made.values())


def claims(found: Sequence[claims_lib.Comparison], summary: Iterable[SummaryRow]) -> list[Row]:
    """A row for each comparison of `claims.compare`: that of its better setting, and the test.

    `better` and `worse` hold the means in the two settings, `difference` the paired difference,
    `compared_with` the keys in which the other setting differs.

    Args:
        found: the comparisons, with the p-values to show, see `claims.corrected`.
        summary: the summary rows of the same victims.
    """
    settings = {stats.setting(row): row for row in summary}
    return [
        {
            **_row(settings[stats.setting(one.better)]),
            'num_victims': one.num_victims,
            'claim': one.claim,
            'outcome': claims_lib.outcome(one),
            'better': {name: means[0] for name, means in one.means.items()},
            'worse': {name: means[1] for name, means in one.means.items()},
            'difference': _estimates(one.effect, _DIFFERENCES),
            'difference_to_popularity': _estimates(one.popularity, _DIFFERENCES),
            'p': one.p,
            'compared_with': {
                name: value
                for name, value in one.worse.items()
                if name in stats.SETTING and value != {**one.better}[name]
            },
        }
        for one in found
    ]


def defences(found: Sequence[tradeoff.Point]) -> list[Row]:
    """A row for each point of `tradeoff.points`: that of the best attack with at most T gradients.

    `family` is the defence without its numbers, `stopped` says whether no attack exceeds
    popularity, `num_gradients` is T.
    """
    return [
        {
            **_row(point.best),
            'num_gradients': point.num_gradients,
            'defence': point.defence,
            'family': point.family,
            'stopped': point.stopped,
        }
        for point in found
    ]


def pack(head: Mapping[str, Any], lists: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The content of a file: floats to five digits, equal values once, nulls left out.

    Args:
        head: command, date, device and versions.
        lists: the lists of rows by name; empty ones are left out.

    Example:
        >>> pack({}, {'rows': [{'data': 'a', 'auc': 0.123456}, {'data': 'a', 'auc': None}]})
        {'shared': {'data': 'a'}, 'rows': [{'auc': 0.12346}, {}]}
    """
    every = [row for found in lists.values() for row in found]
    first = every[0] if every else {}
    shared = {
        name: value
        for name, value in first.items()
        if value is not None and all(name in row and row[name] == value for row in every)
    }

    def small(row: Row) -> Row:
        return {
            name: value for name, value in row.items() if name not in shared and value is not None
        }

    made = {name: [small(row) for row in found] for name, found in lists.items() if found}
    packed: dict[str, Any] = _rounded({**head, 'shared': shared, **made})
    return packed


def _rounded(value: Any) -> Any:
    """A JSON value with its floats to five digits, and without counts of 0 undefined values."""
    if isinstance(value, Mapping):
        return {
            name: _rounded(own) for name, own in value.items() if (name, own) != ('undefined', 0)
        }
    if isinstance(value, list | tuple):
        return [_rounded(own) for own in value]
    return float(f'{value:.5g}') if isinstance(value, float) else value


def unpack(packed: Mapping[str, Any], name: str = 'rows') -> list[Row]:
    """The rows of a list of a file, with the values that all rows share."""
    return [{**packed['shared'], **row} for row in _validate.lookup('list', name, packed)]


def value(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path of keys; None if there is none.

    Example:
        >>> value({'num_victims': 8, 'better': {'auc': 0.75}}, 'better.auc')
        0.75
    """
    key, _, rest = path.partition('.')
    found = row.get(key)
    return value(found, rest) if rest and isinstance(found, Mapping) else found


def select(rows: Sequence[Row], conditions: str) -> list[Row]:
    """The rows that fulfil all conditions, in the order in which the conditions list the values.

    Args:
        rows: the rows.
        conditions: `path=value|value; path=value`; '' for all rows. A row without a value, such as
            the T of a baseline, fulfils each condition on it, and comes last.

    Raises:
        ValueError: for a value that no row has.

    Example:
        >>> rows = [{'attack': 'dlg', 'T': 1}, {'attack': 'exact', 'T': 2}, {'attack': 'random'}]
        >>> [row['attack'] for row in select(rows, 'attack=random|dlg; T=1')]
        ['random', 'dlg']
    """
    kept = list(rows)
    for condition in reversed([each for each in conditions.split(';') if each.strip()]):
        path, _, values = map(str.strip, condition.partition('='))
        wanted = [each.strip() for each in values.split('|')]
        there = [tables.show(value(row, path)) for row in rows]
        for one in wanted:
            if one not in there:
                known = sorted(set(there) - {tables.show(None)})
                raise ValueError(
                    f'No row has {path}={one}; there are {", ".join(known) or "none"}.'
                )
        wanted.append(tables.show(None))
        found = [(tables.show(value(row, path)), row) for row in kept]
        found = [(shown, row) for shown, row in found if shown in wanted]
        kept = [row for _, row in sorted(found, key=lambda pair: wanted.index(pair[0]))]
    return kept


def text(packed: Mapping[str, Any]) -> str:
    """The file as text: a line for each key of the head, and for each row.

    Example:
        >>> print(text({'date': '2026-11-25', 'rows': [{'auc': 0.5}, {'auc': 0.75}]}), end='')
        {
        "date": "2026-11-25",
        "rows": [
        {"auc": 0.5},
        {"auc": 0.75}
        ]
        }
    """

    def shown(name: str, value: Any) -> str:
        if name in HEAD:
            return line(value)
        return '[\n' + ',\n'.join(map(line, value)) + '\n]'

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    parts = [f'{line(name)}: {shown(name, value)}' for name, value in packed.items()]
    return '{\n' + ',\n'.join(parts) + '\n}\n'
