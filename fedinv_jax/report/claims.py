"""The claims of the paper as paired tests over victims: which hold, and for which attacks.

Deng, Liu, Tang, Zhao, Twice the gradient, twice the privacy risk in federated learning? A case
study of federated recommendation systems, ICDM 2025, pp. 199-207:

- C1: gradients of several training steps of a client reveal more than one.
- C2: the attack is strongest early in training.
- C3: it still helps with intervals of up to 230 training steps between the gradients.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fedinv_jax.report import inference, stats
from fedinv_jax.report.rows import ConfidenceInterval, VictimRow

CLAIMS = {
    'C1': 'several gradients reveal more than one',
    'C2': 'the attack is strongest early in training',
    'C3': 'it still helps with {interval} steps between the gradients',
}
_FAR = 230  # the paper's longest interval
_METRICS = ('auc', 'f1')
_Rows = list[VictimRow]
# Keys in which the two settings of a comparison may differ: T, interval, solver, first round.
_FREE = (*stats.STEPS, 'first_round')


class Comparison(NamedTuple):
    """One claim about one attack: the same victims in two settings.

    Attributes:
        claim: 'C1', 'C2' or 'C3'.
        better: a row of the setting that reveals more according to the claim.
        worse: a row of the other setting.
        effect: by metric, the `inference.confidence_interval` of the paired difference.
        popularity: by metric, that of the paired difference of `better` to the popularity baseline;
            None if the baseline was not run.
        p: by metric, `inference.paired_p` of the paired difference; in a report Holm's, see
            `corrected`.
        means: by metric, the means in the two settings, over the pairs.
        num_victims: number of victims in `better`; one without a counterpart in `worse` is
            undefined in `effect`.
    """

    claim: str
    better: VictimRow
    worse: VictimRow
    effect: dict[str, ConfidenceInterval]
    popularity: dict[str, ConfidenceInterval] | None
    p: dict[str, float | None]
    means: dict[str, tuple[float | None, float | None]]
    num_victims: int


def compare(rows: Iterable[VictimRow]) -> list[Comparison]:
    """The comparisons for every claim that the rows allow, by attack, hypothesis and upload seen.

    C1 compares the largest T at the smallest interval with T = 1. C2 compares the earliest with the
    latest first round, at that T and interval. C3 compares the largest T at the interval nearest to
    230 (at least 100, and not the one of C1) with T = 1. C1 and C3 use the earliest first round.

    Args:
        rows: victim rows; those of explicit ratings are left out.
    """
    groups: dict[str, dict[str, _Rows]] = {}
    baselines: dict[str, _Rows] = {}
    for row in sorted(rows, key=lambda row: (row['seed'], row['user'])):
        if 'accuracy' in row['metrics']:  # the claims are about binary labels
            continue
        if row['attack'] == 'popularity':
            baselines.setdefault(stats.setting(row, stats.OF_ATTACK), []).append(row)
        elif row['family'] != 'baseline':
            own = groups.setdefault(stats.setting(row, _FREE), {})
            own.setdefault(stats.setting(row), []).append(row)
    found = []
    for own in groups.values():
        for claim, better, worse in _pairs(list(own.values())):
            baseline = baselines.get(stats.setting(better[0], stats.OF_ATTACK))
            found.append(_comparison(claim, better, worse, baseline))
    return sorted(found, key=lambda comparison: comparison.claim)


def _pairs(settings: Sequence[_Rows]) -> list[tuple[str, _Rows, _Rows]]:
    """For each claim, the two settings of one attack that it compares: (claim, better, worse)."""
    rounds = sorted({rows[0]['first_round'] for rows in settings})
    most = max(rows[0]['num_gradients'] for rows in settings)
    spans = sorted({span for rows in settings if (span := rows[0]['interval']) is not None})
    far = min((span for span in spans if span >= 100), key=lambda s: abs(s - _FAR), default=None)

    def at(steps: int, first_round: int, interval: int | None) -> _Rows | None:
        wanted = steps, first_round, interval if steps > 1 else None
        for rows in settings:
            first = rows[0]
            if (first['num_gradients'], first['first_round'], first['interval']) == wanted:
                return rows
        return None

    near = spans[0] if spans else None
    one = at(1, rounds[0], None)
    pairs = [
        ('C1', at(most, rounds[0], near) if most > 1 else None, one),
        ('C2', at(most, rounds[0], near), at(most, rounds[-1], near) if rounds[1:] else None),
        ('C3', at(most, rounds[0], far) if far != near and most > 1 else None, one),
    ]
    return [(claim, better, worse) for claim, better, worse in pairs if better and worse]


def _comparison(claim: str, better: _Rows, worse: _Rows, baseline: _Rows | None) -> Comparison:
    differences = {name: stats.compared(better, worse, name) for name in _METRICS}
    pairs = stats.pair(better, worse)
    popularity = None
    if baseline:
        popularity = {
            name: inference.confidence_interval(*stats.compared(better, baseline, name))
            for name in _METRICS
        }

    def mean(side: int, metric: str) -> float | None:
        return inference.mean(pair[side]['metrics'].get(metric) for pair in pairs)

    return Comparison(
        claim,
        better[0],
        worse[0],
        {name: inference.confidence_interval(*values) for name, values in differences.items()},
        popularity,
        {name: inference.paired_p(*values) for name, values in differences.items()},
        {name: (mean(0, name), mean(1, name)) for name in _METRICS},
        len(better),
    )


def corrected(groups: Sequence[Sequence[Comparison]]) -> list[list[Comparison]]:
    """The comparisons of a report with p-values that are Holm's over all of them, by metric.

    Args:
        groups: the comparisons of each run.
    """
    every = [one for group in groups for one in group]
    adjusted = {name: inference.holm([one.p[name] for one in every]) for name in _METRICS}
    found = iter(
        [
            one._replace(p={name: adjusted[name][index] for name in _METRICS})
            for index, one in enumerate(every)
        ]
    )
    return [[next(found) for _ in group] for group in groups]


HOLDS, REVERSE, FULL, LEVEL, FEW, NOTHING = (
    'holds',
    'the reverse holds',
    'all is recovered either way',
    'no difference is seen',
    'too few victims',
    'not measured',
)
"""The outcomes of a comparison, see `outcome`."""


def outcome(comparison: Comparison) -> str:
    """The outcome of a comparison for its claim, by AUC.

    `HOLDS` if the 95% confidence interval of the paired difference is above 0 and p < .05,
    `REVERSE` if the interval is below 0 and p < .05, `FULL` if both settings recover everything,
    `LEVEL` otherwise. `FEW` with fewer than `stats.FEW` pairs, `NOTHING` without a value.
    """
    effect, p = comparison.effect['auc'], comparison.p['auc']
    low, high = effect['low'], effect['high']
    if low is None or high is None:
        return NOTHING
    if comparison.num_victims - effect['undefined'] < stats.FEW:
        return FEW
    if p is not None and p < 0.05 and (low > 0 or high < 0):
        return HOLDS if low > 0 else REVERSE
    full = all(mean is not None and mean >= 0.9995 for mean in comparison.means['auc'])
    return FULL if full else LEVEL


def verdicts(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A verdict for each claim and upload seen: 'holds only for exact; the reverse holds for dlg'.

    An attack that recovers everything in both settings is evidence neither for nor against C1 and
    C3; it is evidence against C2.

    Args:
        comparisons: the result of `compare`.

    Returns:
        A list of `{'claim', 'title', 'seen', 'word', 'comparisons'}`, in the order of the claims.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Comparison]] = {}
    for comparison in comparisons:
        key = comparison.claim, tuple(comparison.better['seen'])
        groups.setdefault(key, []).append(comparison)
    return [
        {
            'claim': claim,
            'title': CLAIMS[claim].format(interval=members[0].better['interval']),
            'seen': list(seen),
            'word': _word(claim, members),
            'comparisons': members,
        }
        for (claim, seen), members in groups.items()
    ]


def _word(claim: str, members: Sequence[Comparison]) -> str:
    names: dict[str, list[str]] = {}
    for each in members:
        names.setdefault(outcome(each), []).append(name_of(each.better, members))
    undecided = (NOTHING, FEW) if claim == 'C2' else (NOTHING, FEW, FULL)
    decided = [found for found in names if found not in undecided]
    if not decided:
        return next(found for found in (FULL, FEW, NOTHING) if found in names)
    if HOLDS not in decided:
        words = ['does not hold']
    elif len(decided) == 1:
        words = [HOLDS]
    else:
        words = [f'holds only for {", ".join(names[HOLDS])}']
    if REVERSE in names:
        words.append(f'the reverse holds for {", ".join(names[REVERSE])}')
    if FULL in names:
        words.append(f'{FULL} by {", ".join(names[FULL])}')
    return '; '.join(words)


def name_of(row: VictimRow, among: Sequence[Comparison]) -> str:
    """The attack's name, with its hypothesis if `among` has the attack with several."""
    others = {each.better['dynamics'] for each in among if each.better['attack'] == row['attack']}
    return f'{row["attack"]} ({row["dynamics"]})' if len(others) > 1 else row['attack']
