"""Rows of victims -> the summary: means, bootstrap intervals, paired differences. NumPy only.

A row is one JSON object of `victims.jsonl`: the keys of `SETTING`, then `user`, `status`
('ok' or 'failed'), `reason`, `drift`, `seconds` and `metrics` (null where undefined). Failed
victims stay in every average with the metrics that were recorded for them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

Row = Mapping[str, Any]

SETTING = (
    'attack', 'dynamics', 'num_gradients', 'first_round', 'interval', 'seen', 'batch_known',
    'defence', 'data', 'model', 'client', 'seed', 'solver', 'iterations', 'precision',
    'upload_precision',
)  # fmt: skip
METRICS = (
    'auc', 'average_precision', 'f1', 'precision', 'recall', 'exact', 'recovered_at_known_count',
    'label_mse', 'private_error', 'private_cosine',
)  # fmt: skip
COMPARED = ('auc', 'average_precision', 'f1')
GUESSERS = ('random', 'popularity')
"""Attacks that read no upload."""

_OWN = ('attack', 'dynamics', 'solver', 'iterations')  # What a guesser does not share.
STEPS = ('num_gradients', 'interval')  # What one gradient does not share.
_RESAMPLES = 2000


def setting(row: Row, without: Sequence[str] = ()) -> str:
    """A hashable form of a row's setting, less some of its keys."""
    return json.dumps([row[key] for key in SETTING if key not in without])


def same_but_steps(row: Row, other: Row) -> bool:
    """Whether two rows differ in nothing but T and the interval."""
    return setting(row, STEPS) == setting(other, STEPS)


def _defined(values: Iterable[float | None]) -> np.ndarray:
    """The finite ones among the values, float64."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return numbers[np.isfinite(numbers)]


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
    values = list(values)
    defined = _defined(values)
    undefined = len(values) - defined.size
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
    defined = _defined(values)
    return float(np.mean(defined)) if defined.size else None


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
    guesses = {setting(v[0], _OWN): v for v in groups if v[0]['attack'] == 'popularity'}
    single = {setting(v[0], STEPS): v for v in groups if v[0]['num_gradients'] == 1}

    def summary(victims: list[Row]) -> dict[str, Any]:
        first = victims[0]
        failed = [row for row in victims if row['status'] != 'ok']
        reasons = [str(row['reason']) for row in failed]
        names = {name for row in victims for name in row['metrics']}.difference(METRICS)
        guess = guesses.get(setting(first, _OWN)) if first['attack'] != 'popularity' else None
        one = single.get(setting(first, STEPS)) if first['num_gradients'] > 1 else None
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
