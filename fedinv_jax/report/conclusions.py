"""The verdict of a report: what the strongest attacks recover, and whether defences stop them."""

from collections.abc import Sequence

from fedinv_jax.report import stats, tables
from fedinv_jax.report.rows import Summary, SummaryRow


def leaks(summary: Summary) -> list[str]:
    """The verdict: sentences on what the strongest attacks recover, and whether defences stop them.

    For each upload seen, the strongest attack is the one with the most exact matches, then the
    largest F1 (of ratings, accuracy). The auditor, who knows the truth, makes that choice.

    Args:
        summary: the result of `stats.summarize`.
    """
    groups: dict[str, list[SummaryRow]] = {}
    for row in tables.attacks_of(summary):
        groups.setdefault(tables.show(row['seen']), []).append(row)
    lines: list[str] = []
    ends: dict[str, list[str]] = {}
    for seen, rows in groups.items():
        lines.append(f'Upload seen: **{seen}**. {_strongest(rows)}')
        ends.setdefault(_ends(rows), []).append(seen)
    if not lines:
        return ['No attack was run.']
    tried = ', '.join(dict.fromkeys(row['defence'] for row in summary['rows']))
    return [
        *lines,
        *(
            f'Do defences stop the attacks, {" and ".join(seen)} seen? {end} (defences: {tried}).'
            for end, seen in ends.items()
        ),
    ]


def _strongest(rows: Sequence[SummaryRow]) -> str:
    """A sentence: how many histories the strongest attack recovers, certifies, and its F1."""
    best = max(rows, key=_strength)
    victims, steps, certified = best['num_victims'], best['num_gradients'], best['num_certified']
    where = f'T = {steps}' + f', interval {best["interval"]}' * (steps > 1)
    sure = ''
    if certified is not None:
        unique = best['num_locally_unique']
        more = f' ({unique} more are locally unique)' if unique else ''
        sure = f', and certifies {certified} without knowing the truth{more}'
    return (
        f'The strongest attack, {best["attack"]} ({where}, first round {best["first_round"]}), '
        f'recovers **{_num_exact(best)} of {victims}** histories without error{sure}; '
        f'{_detail(best)}{_with_one(best, rows)}.'
    )


def _detail(row: SummaryRow) -> str:
    """F1, or the RMSE of ratings, as text."""
    name = 'f1' if 'f1' in row['metrics'] else 'rmse'
    return f'{tables.title(name)} {tables.estimate(row["metrics"][name], row["num_victims"])}'


def _num_exact(row: SummaryRow) -> int:
    return round((row['metrics']['exact']['mean'] or 0) * row['num_victims'])


def _ends(rows: Sequence[SummaryRow]) -> str:
    """Whether the defences stop the attacks on an upload: no attack beats popularity then.

    An attack that finds some victims' labels and the flip of others' has an AUC that says nothing
    for certain, and still reveals the former: a larger F1 is said, too.
    """
    verbs = {tables.outcome(row['difference_to_popularity'], row['num_victims'])[0] for row in rows}
    undefended = all(row['defences'] == {} for row in rows)
    first = 'No defence was on' if undefended else 'No'
    if 'beats' in verbs:
        return f'{first}, an attack beats the popularity baseline'
    if any(map(_has_larger_f1, rows)):
        return f'{first}, an attack has a larger F1 than the popularity baseline, though not AUC'
    if verbs <= {'is worse than', tables.LEVEL}:
        if undefended:
            return 'There is nothing to stop: no attack beats the popularity baseline'
        return 'Yes, no attack beats the popularity baseline'
    if tables.UNPAIRED in verbs:
        return 'Not known: the popularity baseline was not run for every attack'
    return f'Not known: there are fewer than {stats.FEW} victims'


def _has_larger_f1(row: SummaryRow) -> bool:
    """Whether enough victims have, paired, a larger F1 than popularity."""
    found = (row['difference_to_popularity'] or {}).get('f1')
    if found is None or found['low'] is None:
        return False
    return found['low'] > 0 and row['num_victims'] - found['undefined'] >= stats.FEW


def _with_one(best: SummaryRow, rows: Sequence[SummaryRow]) -> str:
    """The result of the same attack with one gradient, if `best` uses several."""
    if best['num_gradients'] == 1:
        return ''
    for row in rows:
        if row['num_gradients'] == 1 and stats.same_but_steps(row, best):
            number = f'{_num_exact(row)} of {row["num_victims"]}'
            return f' (with one gradient {number}, {_detail(row)})'
    return ''


def _strength(row: SummaryRow) -> tuple[float, float]:
    name = 'f1' if 'f1' in row['metrics'] else 'accuracy'
    return row['metrics']['exact']['mean'] or 0, row['metrics'][name]['mean'] or 0


def misfits(summary: Summary) -> list[str]:
    """How many answers do not fit, a line for each setting that has some."""
    return [
        f'**{row["num_misfits"]} of {row["num_victims"]} answers do not fit** ({row["attack"]}, '
        f'T = {row["num_gradients"]}, {tables.show(row["seen"])} seen): the uploads contradict '
        'what the client is said to send. They say neither that anything leaks nor that nothing '
        'does, and are not counted above.'
        for row in summary['rows']
        if row['num_misfits'] and row['family'] != 'baseline'
    ]
