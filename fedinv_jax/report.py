"""Report: rows of victims -> summaries with intervals, a table, a text for people. NumPy only.

A row is one JSON object of `victims.jsonl`: the keys of `SETTING`, then `user`, `status`
('ok' or 'failed'), `reason`, `drift`, `seconds` and `metrics` (null where undefined). Failed
victims stay in every average with the metrics that were recorded for them.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

Row = Mapping[str, Any]

SETTING = (
    'attack', 'dynamics', 'num_gradients', 'first_round', 'interval', 'seen', 'batch_known',
    'defence', 'data', 'model', 'client', 'seed', 'solver', 'iterations', 'precision',
)  # fmt: skip
METRICS = (
    'auc', 'average_precision', 'f1', 'precision', 'recall', 'exact', 'recovered_at_known_count',
    'label_mse', 'private_error', 'private_cosine',
)  # fmt: skip
COMPARED = ('auc', 'average_precision', 'f1')
GUESSERS = ('random', 'popularity')
"""Attacks that read no upload."""

_OWN = ('attack', 'dynamics', 'solver', 'iterations')  # What a guesser does not share.
_STEPS = ('num_gradients', 'interval')  # What one gradient does not share.
_RESAMPLES = 2000
_FEW = 5  # Below that many victims there is no verdict.
_TITLES = {
    'num_gradients': 'T', 'first_round': 'first round', 'batch_known': 'batch known',
    'auc': 'AUC', 'average_precision': 'AP', 'f1': 'F1', 'label_mse': 'label MSE',
    'private_error': 'private error', 'private_cosine': 'private cosine',
    'recovered_at_known_count': 'recovered at n',
}  # fmt: skip


def title(name: str) -> str:
    """A key's name for people: `title('num_gradients') == 'T'`."""
    return _TITLES.get(name, name)


def show(value: Any) -> str:
    """A setting's value for people: `show(['items', 'scorer']) == 'items+scorer'`."""
    if value is None:
        return '-'
    return '+'.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def setting(row: Row, without: Sequence[str] = ()) -> str:
    """A hashable form of a row's setting, less some of its keys."""
    return json.dumps([row[key] for key in SETTING if key not in without])


def interval(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean of the defined values with its 95% percentile bootstrap interval over victims.

    Args:
        values: one number a victim; None, NaN or infinite where undefined.

    Returns:
        `{'mean', 'low', 'high', 'undefined'}`: three floats, or three None when nothing is
        defined, and the number of undefined values. Equal values (one alone too) are their own
        interval. The generator's seed is fixed: equal values give equal intervals.

    Example:
        >>> interval([0.5, None, 0.5])
        {'mean': 0.5, 'low': 0.5, 'high': 0.5, 'undefined': 1}
    """
    numbers = np.array([np.nan if value is None else value for value in values], float)
    defined = numbers[np.isfinite(numbers)]
    undefined = numbers.size - defined.size
    if not defined.size:
        return {'mean': None, 'low': None, 'high': None, 'undefined': undefined}
    mean, low, high = (float(defined[0]),) * 3
    if np.ptp(defined) > 0:
        bounds = scipy.stats.bootstrap(
            (defined,),
            np.mean,
            n_resamples=_RESAMPLES,
            batch=200,
            method='percentile',
            rng=np.random.default_rng(0),
        ).confidence_interval
        mean, low, high = float(np.mean(defined)), float(bounds.low), float(bounds.high)
    return {'mean': mean, 'low': low, 'high': high, 'undefined': undefined}


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values, or None."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    numbers = numbers[np.isfinite(numbers)]
    return float(np.mean(numbers)) if numbers.size else None


def _group(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by setting, in order of first appearance; victims in order of their id."""
    groups: dict[str, dict[Any, Row]] = {}
    for row in rows:
        victims = groups.setdefault(setting(row), {})
        if row['user'] in victims:
            raise ValueError(
                f'Expected one row per victim and setting, got two of user={row["user"]} in '
                f'{ {key: row[key] for key in SETTING} }.'
            )
        victims[row['user']] = row
    return [[victims[user] for user in sorted(victims)] for victims in groups.values()]


def _difference(victims: Sequence[Row], others: Sequence[Row] | None) -> dict[str, Any] | None:
    """Mean over users of `metric - metric of the same user in others`, with its interval."""
    metrics = {row['user']: row['metrics'] for row in others or ()}
    if not any(row['user'] in metrics for row in victims):
        return None

    def paired(row: Row, name: str) -> float | None:
        pair = row['metrics'].get(name), metrics.get(row['user'], {}).get(name)
        return None if None in pair else pair[0] - pair[1]

    return {name: interval(paired(row, name) for row in victims) for name in COMPARED}


def summarize(rows: Iterable[Row]) -> dict[str, Any]:
    """One summary row per setting: what `summary.json` holds.

    Args:
        rows: rows of victims, in any order.

    Returns:
        `{'schema': 1, 'rows': [...]}`, strict JSON (null where undefined), settings in order of
        first appearance. `metrics` and both differences hold `interval`s over victims.
        `difference_to_popularity` pairs each victim with the popularity guesser's answer in the
        same setting (all but attack, dynamics, solver and iterations),
        `difference_to_one_gradient` with T = 1 (all but num_gradients and interval); null
        without a counterpart. `failures` counts the reasons of the failed victims.

    Raises:
        ValueError: a victim has two rows in one setting.
    """
    groups = _group(rows)
    guesses = {
        setting(victims[0], _OWN): victims
        for victims in groups
        if victims[0]['attack'] == 'popularity'
    }
    single = {
        setting(victims[0], _STEPS): victims
        for victims in groups
        if victims[0]['num_gradients'] == 1
    }

    def summary(victims: list[Row]) -> dict[str, Any]:
        first = victims[0]
        failed = [row for row in victims if row['status'] != 'ok']
        reasons = [str(row['reason']) for row in failed]
        names = {name for row in victims for name in row['metrics']}.difference(METRICS)
        guess = guesses.get(setting(first, _OWN)) if first['attack'] != 'popularity' else None
        one = single.get(setting(first, _STEPS)) if first['num_gradients'] > 1 else None
        return {
            **{key: first[key] for key in SETTING},
            'num_victims': len(victims),
            'num_failed': len(failed),
            'drift': _mean(row['drift'] for row in victims),
            'seconds_per_victim': _mean(row['seconds'] for row in victims),
            'metrics': {
                name: interval(row['metrics'].get(name) for row in victims)
                for name in (*METRICS, *sorted(names))
            },
            'difference_to_popularity': _difference(victims, guess),
            'difference_to_one_gradient': _difference(victims, one),
            'failures': {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        }

    return {'schema': 1, 'rows': [summary(victims) for victims in groups]}


def _number(value: Mapping[str, Any] | None, sign: str = '') -> str:
    """`mean [low, high]` with three decimals, or a dash."""
    if value is None or value['mean'] is None:
        return '-'
    return '{mean:{s}.3f} [{low:{s}.3f}, {high:{s}.3f}]'.format(s=sign, **value)


def varying(rows: Iterable[Row]) -> list[str]:
    """Keys of the setting in which the summary rows differ, guessers aside."""
    rows = [row for row in rows if row['attack'] not in GUESSERS] or list(rows)
    return [key for key in SETTING if len({show(row[key]) for row in rows}) > 1]


def _cells(row: Row, keys: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """One line of the table by column."""
    failed = f' ({row["num_failed"]} failed)' if row['num_failed'] else ''
    popularity, one = row['difference_to_popularity'], row['difference_to_one_gradient']
    return {
        **{title(key): show(row[key]) for key in keys},
        'drift': '-' if row['drift'] is None else f'{row["drift"]:.3f}',
        'victims': f'{row["num_victims"]}{failed}',
        **{title(name): _number(row['metrics'].get(name)) for name in metrics},
        'ΔAUC to popularity': _number(popularity and popularity['auc'], '+'),
        'ΔAUC to one gradient': _number(one and one['auc'], '+'),
    }


def _merge_guessers(lines: list[dict[str, str]], guesses: list[bool]) -> list[dict[str, str]]:
    """Lists a guesser once where its numbers are the same for every T and kind of upload."""
    blank = {title('num_gradients'): 'any', 'seen': 'any', 'interval': '-', 'drift': '-'}
    blank['ΔAUC to one gradient'] = '-'
    merged = []
    for line, guess in zip(lines, guesses, strict=True):
        if guess:
            line = {column: blank.get(column, cell) for column, cell in line.items()}
        if not guess or line not in merged:
            merged.append(line)
    return merged
