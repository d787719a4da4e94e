"""The claims of the paper, as paired tests over victims: what holds, for which attack, how sure.

Deng, Liu, Tang, Zhao, Twice the gradient, twice the privacy risk in federated learning? A case
study of federated recommendation systems, ICDM 2025, pp. 199-207:

- C1: gradients of several training steps of a client reveal more than one.
- C2: the attack is strongest early in training.
- C3: it still helps with intervals of up to 230 training steps between the gradients.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fedinv_jax import stats
from fedinv_jax.stats import Row

CLAIMS = {
    'C1': 'several gradients reveal more than one',
    'C2': 'the attack is strongest early in training',
    'C3': 'it still helps with 230 steps between the gradients',
}
_FAR = 230  # the paper's longest interval
_METRICS = ('auc', 'f1')
# What a side of a comparison chooses by itself: T, the interval, the round.
_FREE = (*stats.STEPS, 'first_round')


class Comparison(NamedTuple):
    """One claim about one attack: the same victims in two settings.

    Attributes:
        claim: 'C1', 'C2' or 'C3'.
        better: a row of the setting that the claim says reveals more.
        worse: a row of the other one.
        effect: by metric, `stats.interval` of the paired difference.
        popularity: by metric, that of `better` to the popularity guesser; None without one.
        p: by metric, `stats.paired_p` of the paired difference.
        means: by metric, the mean in either setting.
        num_victims: pairs.
    """

    claim: str
    better: Row
    worse: Row
    effect: dict[str, Row]
    popularity: dict[str, Row] | None
    p: dict[str, float | None]
    means: dict[str, tuple[float | None, float | None]]
    num_victims: int


def compare(rows: Iterable[Row]) -> list[Comparison]:
    """Every claim that the rows can speak to, for each attack, hypothesis and upload seen.

    C1 compares the largest T at the smallest interval with T = 1, C2 the first with the last
    first round at that T and interval, C3 the largest T at the interval nearest to 230 (100 or
    more) with T = 1. C1 and C3 are read at the earliest first round.

    Args:
        rows: rows of victims.
    """
    groups: dict[str, dict[str, list[Row]]] = {}
    guesses: dict[str, list[Row]] = {}
    for row in rows:
        if row['attack'] == 'popularity':
            guesses.setdefault(stats.setting(row, stats.OWN), []).append(row)
        elif row['attack'] not in stats.GUESSERS:
            own = groups.setdefault(stats.setting(row, _FREE), {})
            own.setdefault(stats.setting(row), []).append(row)
    found = []
    for own in groups.values():
        for claim, better, worse in _pairs(list(own.values())):
            guess = guesses.get(stats.setting(better[0], stats.OWN))
            found.append(_comparison(claim, better, worse, guess))
    return sorted(found, key=lambda comparison: comparison.claim)


def _pairs(settings: Sequence[list[Row]]) -> list[tuple[str, list[Row], list[Row]]]:
    """The settings of one attack that each claim compares, the one that should leak more first."""
    rounds = sorted({rows[0]['first_round'] for rows in settings})
    most = max(rows[0]['num_gradients'] for rows in settings)
    spans = sorted({rows[0]['interval'] for rows in settings} - {None})
    far = min((span for span in spans if span >= 100), key=lambda s: abs(s - _FAR), default=None)

    def at(steps: int, first_round: int, interval: int | None) -> list[Row] | None:
        wanted = steps, first_round, interval if steps > 1 else None
        keys = ('num_gradients', 'first_round', 'interval')
        return next((r for r in settings if tuple(r[0][key] for key in keys) == wanted), None)

    near = spans[0] if spans else None
    one = at(1, rounds[0], None)
    pairs = [
        ('C1', at(most, rounds[0], near) if most > 1 else None, one),
        ('C2', at(most, rounds[0], near), at(most, rounds[-1], near) if rounds[1:] else None),
        ('C3', at(most, rounds[0], far) if far and most > 1 else None, one),
    ]
    return [(claim, better, worse) for claim, better, worse in pairs if better and worse]


def _comparison(
    claim: str, better: list[Row], worse: list[Row], guess: list[Row] | None
) -> Comparison:
    pairs = stats.pair(better, worse)
    seeds = [row['seed'] for row, _ in pairs]
    differences = {name: stats.differences(pairs, name) for name in _METRICS}
    against = stats.pair(better, guess or ())
    over = [row['seed'] for row, _ in against]
    return Comparison(
        claim,
        better[0],
        worse[0],
        {name: stats.interval(values, seeds) for name, values in differences.items()},
        {name: stats.interval(stats.differences(against, name), over) for name in _METRICS}
        if against
        else None,
        {name: stats.paired_p(values, seeds) for name, values in differences.items()},
        {name: (_mean(better, name), _mean(worse, name)) for name in _METRICS},
        len(pairs),
    )


def _mean(rows: Sequence[Row], metric: str) -> float | None:
    return stats.mean(row['metrics'].get(metric) for row in rows)


def holds(comparison: Comparison) -> bool:
    """Whether the 95% interval of the paired difference of AUC lies above 0."""
    low = comparison.effect['auc']['low']
    return low is not None and low > 0


def why_not(comparison: Comparison) -> str:
    """In words, what is there instead of an effect on AUC."""
    effect, (one, other) = comparison.effect['auc'], comparison.means['auc']
    if effect['high'] is None:
        return 'nothing was measured'
    if effect['high'] < 0:
        return 'the reverse holds'
    if min(one or 0, other or 0) >= 0.9995:
        return 'nothing is left to gain: all is recovered either way'
    return 'no difference is seen: the interval includes 0'


def verdicts(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One verdict a claim and upload seen: 'holds', 'holds only for ...', 'does not hold'.

    Args:
        comparisons: from `compare`.

    Returns:
        `{'claim', 'seen', 'word', 'comparisons'}` each, by claim.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Comparison]] = {}
    for comparison in comparisons:
        key = comparison.claim, tuple(comparison.better['seen'])
        groups.setdefault(key, []).append(comparison)
    found = []
    for (claim, seen), members in groups.items():
        true = [each for each in members if holds(each)]
        names = dict.fromkeys(name_of(each.better, members) for each in true)
        word = (
            'does not hold'
            if not true
            else 'holds'
            if len(true) == len(members)
            else f'holds only for {", ".join(names)}'
        )
        found.append({'claim': claim, 'seen': list(seen), 'word': word, 'comparisons': members})
    return found


def name_of(row: Row, among: Sequence[Comparison]) -> str:
    """The attack's name, with its hypothesis where the name alone would be ambiguous."""
    others = {each.better['dynamics'] for each in among if each.better['attack'] == row['attack']}
    return f'{row["attack"]} ({row["dynamics"]})' if len(others) > 1 else row['attack']
