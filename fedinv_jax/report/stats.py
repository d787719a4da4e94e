"""Victim rows -> summary: means with confidence intervals, paired differences. NumPy and SciPy.

`rows` has the keys of both kinds of rows. The victims of all seeds are one sample. Every mean
includes failed victims, with the metrics in their rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedinv_jax.report import inference
from fedinv_jax.report.rows import (
    Certificate,
    ConfidenceInterval,
    Setting,
    Summary,
    SummaryRow,
    VictimRow,
)

SETTING = tuple(Setting.__annotations__)
CERTIFICATE = tuple(Certificate.__annotations__)
METRICS = (
    'auc', 'average_precision', 'f1', 'precision', 'recall', 'exact', 'recovered_at_known_count',
    'label_mse', 'private_error', 'private_cosine',
)  # fmt: skip
COMPARED = ('auc', 'average_precision', 'f1')
OF_RATINGS = ('accuracy', 'rmse', 'exact', 'private_error', 'private_cosine')
"""The metrics of victims whose labels are explicit ratings; they have none of binary labels."""

OF_ATTACK = ('attack', 'attacker', 'placebo', 'reader', 'dynamics', 'solver', 'iterations', 'dtype')
"""Keys of the setting that are ignored when a row is paired with its baseline."""

STEPS = ('num_gradients', 'interval', 'solver')
"""Keys that are ignored when T gradients are paired with one; the solver may depend on T."""
_COUNT = ('num_gradients', 'solver')  # ignored when T gradients are paired with fewer

_LIMITS = dict.fromkeys(METRICS[:8], (0.0, 1.0))
_LIMITS |= {'private_error': (0.0, np.inf), 'private_cosine': (-1.0, 1.0)}
_LIMITS |= {'accuracy': (0.0, 1.0), 'rmse': (0.0, np.inf)}
FEW = 5
"""Smallest number of victims for a verdict."""


def metrics_of(metrics: Iterable[str]) -> tuple[str, ...]:
    """The metrics of binary labels, or of ratings, whichever the given ones are."""
    return OF_RATINGS if 'accuracy' in metrics else METRICS


def compared_by(metrics: Iterable[str]) -> tuple[str, ...]:
    """The metrics by which settings are compared: the first decides.

    Example:
        >>> compared_by(['auc', 'f1']), compared_by(['accuracy', 'rmse'])
        (('auc', 'average_precision', 'f1'), ('accuracy', 'rmse'))
    """
    return OF_RATINGS[:2] if 'accuracy' in metrics else COMPARED


def setting(row: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """A hashable form of a row's setting, without the keys in `without`."""
    return json.dumps([row[key] for key in SETTING if key not in without])


def same_but_steps(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows have the same setting except for T, the interval and the solver."""
    return setting(row, STEPS) == setting(other, STEPS)


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in SETTING}


def _group(rows: Iterable[VictimRow]) -> list[list[VictimRow]]:
    """The rows of each setting, in order of first appearance; victims sorted by seed and user."""
    groups: dict[str, dict[tuple[int, int], VictimRow]] = {}
    for row in rows:
        victims = groups.setdefault(setting(row), {})
        if _victim(row) in victims:
            raise ValueError(
                f'Expected one row per victim and setting, got two of user={row["user"]}, '
                f'seed={row["seed"]} in {_values(row)}.'
            )
        victims[_victim(row)] = row
    return [[victims[victim] for victim in sorted(victims)] for victims in groups.values()]


def pair(
    victims: Iterable[VictimRow], others: Iterable[VictimRow]
) -> list[tuple[VictimRow, VictimRow]]:
    """Pairs of rows of the same victim (seed and user), for victims that are in both settings."""
    found = {_victim(row): row for row in others}
    return [(row, found[_victim(row)]) for row in victims if _victim(row) in found]


def differences(pairs: Iterable[tuple[VictimRow, VictimRow]], metric: str) -> list[float | None]:
    """`metric(first) - metric(second)` for each pair; None where either is undefined."""

    def one(mine: float | None, other: float | None) -> float | None:
        return None if mine is None or other is None else mine - other

    return [one(row['metrics'].get(metric), other['metrics'].get(metric)) for row, other in pairs]


def compared(
    victims: Sequence[VictimRow], others: Iterable[VictimRow], metric: str
) -> tuple[list[float | None], list[int], list[int]]:
    """`differences` of all victims, their seeds and users; None for one that is not in `others`."""
    pairs = pair(victims, others)
    known = {_victim(row) for row, _ in pairs}
    lonely = [row for row in victims if _victim(row) not in known]
    values = [*differences(pairs, metric), *[None] * len(lonely)]
    return values, *_who([*(row for row, _ in pairs), *lonely])


def _who(rows: Iterable[VictimRow]) -> tuple[list[int], list[int]]:
    """Seeds and users of rows; the users of a synthetic data set are others for each seed."""
    rows = list(rows)
    users = [row['user'] + (row['data'] == 'synthetic') * (row['seed'] << 32) for row in rows]
    return [row['seed'] for row in rows], users


def _difference(
    victims: Sequence[VictimRow], others: Sequence[VictimRow] | None
) -> dict[str, ConfidenceInterval] | None:
    """By metric, the mean paired difference to `others`; None without a counterpart."""
    if not others or not pair(victims, others):
        return None
    return {
        name: inference.confidence_interval(*compared(victims, others, name))
        for name in compared_by(victims[0]['metrics'])
    }


def _victim(row: VictimRow) -> tuple[int, int]:
    return row['seed'], row['user']


def _metrics(victims: Sequence[VictimRow]) -> dict[str, ConfidenceInterval]:
    """The mean and confidence interval of each metric, those of `metrics_of` first."""
    first = metrics_of(victims[0]['metrics'])
    others = {name for row in victims for name in row['metrics']}.difference(first)
    who = _who(victims)

    def about(name: str) -> ConfidenceInterval:
        values = [row['metrics'].get(name) for row in victims]
        if name == 'exact':
            return inference.proportion_interval(values, *who)
        return inference.confidence_interval(
            values, *who, limits=_LIMITS.get(name, (-np.inf, np.inf))
        )

    return {name: about(name) for name in (*first, *sorted(others))}


def _certificates(victims: Sequence[VictimRow]) -> dict[str, Any]:
    """The certificate columns of a summary row; None for an attack without certificates."""
    made = [row for row in victims if row['certified'] is not None]
    certified = [row for row in made if row['certified']]
    unique = [row for row in made if row['locally_unique']]
    share = inference.proportion_interval([row['certified'] for row in victims], *_who(victims))
    return {
        'certified': share if made else None,
        'num_certified': len(certified) if made else None,
        'num_exact_certified': _num_exact(certified) if made else None,
        'num_locally_unique': len(unique) if made else None,
        'num_exact_locally_unique': _num_exact(unique) if made else None,
        'rank': inference.mean(row['rank'] for row in made),
        'unknowns': inference.mean(row['unknowns'] for row in made),
    }


def _num_exact(victims: Sequence[VictimRow]) -> int:
    """How many victims have all labels right."""
    return sum(row['metrics'].get('exact') == 1 for row in victims)


def _quality(victims: Sequence[VictimRow]) -> dict[str, ConfidenceInterval] | None:
    """Quality metrics of the trained models, means over seeds; None if they were not evaluated."""
    by_seed = {row['seed']: row['quality'] for row in victims if row['quality']}
    if not by_seed:
        return None
    names = next(iter(by_seed.values()))
    return {
        name: inference.confidence_interval(
            [found[name] for found in by_seed.values()],
            list(by_seed),
            limits=(0.0, np.inf) if name == 'held_out_rmse' else (0.0, 1.0),
        )
        for name in names
    }


def _step_size_errors(victims: Sequence[VictimRow]) -> dict[str, float | None] | None:
    """The mean absolute relative error of the step sizes, by part; None without estimates."""
    found = [row['step_size_errors'] for row in victims if row['step_size_errors']]
    absolute = [{part: abs(x) for part, x in each.items() if x is not None} for each in found]
    parts = dict.fromkeys(part for each in found for part in each)
    return {part: inference.mean(each.get(part) for each in absolute) for part in parts} or None


def _failures(victims: Sequence[VictimRow]) -> dict[str, int]:
    """Number of failed victims by reason."""
    reasons = [str(row['reason']) for row in victims if row['status'] != 'ok']
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def fitting(rows: Iterable[VictimRow]) -> list[VictimRow]:
    """The rows but those of uploads that contradict what the client is said to send."""
    return [row for row in rows if row['fits'] is not False]


def _summary_row(
    victims: Sequence[VictimRow],
    popularity: Sequence[VictimRow] | None,
    one_gradient: Sequence[VictimRow] | None,
    fewer: Sequence[VictimRow] | None,
) -> SummaryRow:
    """The summary row of one setting, given the rows of its counterparts (None if missing)."""
    first, seeds = victims[0], {row['seed'] for row in victims}
    found: Any = {
        **_values(first),
        'family': first['family'],
        'defences': first['defences'],
        'labels_changed': first['labels_changed'],
        'seed': sorted(seeds),
        'num_seeds': len(seeds),
        'num_victims': len(victims),
        'num_failed': sum(row['status'] != 'ok' for row in victims),
        'num_fits': sum(row['fits'] is True for row in victims),
        'num_misfits': len(victims) - len(fitting(victims)),
        'step_size_errors': _step_size_errors(victims),
        'drift': inference.mean(row['drift'] for row in victims),
        'training_loss': inference.mean(row['training_loss'] for row in victims),
        'epsilon': first['epsilon'],
        'quality': _quality(victims),
        'seconds_per_victim': inference.mean(row['seconds'] for row in victims),
        'metrics': _metrics(victims),
        'difference_to_popularity': _difference(victims, popularity),
        'difference_to_one_gradient': _difference(victims, one_gradient),
        'difference_to_fewer_gradients': _difference(victims, fewer),
        **_certificates(victims),
        'failures': _failures(victims),
    }
    return found


def summarize(rows: Iterable[VictimRow]) -> Summary:
    """One summary row per setting: the content of `summary.json`.

    Args:
        rows: victim rows in any order, see `rows.VictimRow`.

    Returns:
        `{'schema': 2, 'rows': [...]}`, strict JSON (null where undefined), with a
        `rows.SummaryRow` for each setting in order of first appearance. `metrics` and the
        differences hold confidence intervals over the victims of all seeds.
        `difference_to_popularity` pairs each victim with the popularity baseline in the same
        setting (ignoring the keys `OF_ATTACK`), `difference_to_one_gradient` with T = 1 (ignoring
        the keys `STEPS`), `difference_to_fewer_gradients` with the next smaller T > 1 at the same
        interval; null without a counterpart. `certified` is the share of victims whose
        answer is certified, `num_exact_certified` the number of certified answers that are the
        truth (all, if certificates are right); `rank` and `unknowns` are means. `num_fits` and
        `num_misfits` count the victims whose uploads are, or are not, what the client is said to
        send; the rest is unknown. `step_size_errors` are mean absolute relative errors.
        `failures` counts failed victims by reason.

    Raises:
        ValueError: if a victim has two rows in one setting.
    """
    groups = _group(rows)
    baselines = {setting(v[0], OF_ATTACK): v for v in groups if v[0]['attack'] == 'popularity'}
    single = {setting(v[0], STEPS): v for v in groups if v[0]['num_gradients'] == 1}

    def fewer(row: VictimRow) -> list[VictimRow] | None:
        several = [v for v in groups if 1 < v[0]['num_gradients'] < row['num_gradients']]
        same = [v for v in several if setting(v[0], _COUNT) == setting(row, _COUNT)]
        return max(same, key=lambda victims: victims[0]['num_gradients'], default=None)

    def summary(victims: Sequence[VictimRow]) -> SummaryRow:
        first = victims[0]
        is_baseline = first['attack'] == 'popularity'
        baseline = None if is_baseline else baselines.get(setting(first, OF_ATTACK))
        one = single.get(setting(first, STEPS)) if first['num_gradients'] > 1 else None
        return _summary_row(victims, baseline, one, fewer(first))

    return {'schema': 2, 'rows': [summary(victims) for victims in groups]}
