"""The threat model of a run, for people: what the attacker sees, knows and assumes."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np
import optax

from fedinv_jax import accounting, observe
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import defences, plan
from fedinv_jax.audit.config import Config


def describe(config: Config, cases: Sequence[plan.Case]) -> str:
    """What the attacker sees, knows and assumes, with knowns against unknowns.

    Args:
        config: of the whole run.
        cases: of its seeds.

    Returns:
        Lines of text.
    """
    batch = int(np.median(_sizes(cases)))
    lines = [f'  {name:<9} {value}' for name, value in _assumptions(config, cases)]
    head = '  T  seen          hypothesis  numbers seen : unknown (labels + private)'
    counts = dict.fromkeys(
        _count(cases[0], setting, batch)
        for setting in config_lib.settings(config)
        if setting.dynamics is not None
    )
    return '\n'.join(['Threat model', *lines, head, *counts])


# What a solver takes for likely besides what it sees.
_POPULAR = 'popularity and the public share of interactions where equations are scarce'
_ASSUMED = {
    'aligned': 'size of a fresh embedding',
    'closed_form': _POPULAR,
    'levels': 'public share of interactions',
    'rough': 'size of a fresh embedding',
    'scaled': f'size of a fresh embedding, {_POPULAR}; interactions are fewer than negatives',
    'sparse': 'popularity and the public share of interactions',
    'spectral': 'public share of interactions',
    'summed': 'public share of interactions',
    'variable_projection': 'size of a fresh embedding',
}


def _sizes(cases: Sequence[plan.Case]) -> np.ndarray:
    """Batch sizes of all victims."""
    return np.concatenate(
        [
            (group.weights > 0).sum(1)[np.isin(group.users, case.victims)]
            for case in cases
            for group in case.clients
        ]
    )


def _span(values: Iterable[int]) -> str:
    """`_span([3, 5]) == '3 to 5'`, and one number where all are the same."""
    ordered = sorted(values)
    return ' to '.join(map(str, dict.fromkeys([ordered[0], ordered[-1]])))


def _known(belief: float | None) -> str:
    return 'known' if belief is None else f'unknown, taken for {belief:g}'


def _assumptions(config: Config, cases: Sequence[plan.Case]) -> list[tuple[str, str]]:
    client, attack, sizes = config.client, config.attack, _sizes(cases)
    embedding = plan.num_private(cases[0], config_lib.settings(config)[0]._replace(dynamics=None))
    items = _span(case.interactions.num_items for case in cases)
    counts = [sum(len(group.users) for group in case.clients) for case in cases]
    clients, number = _span(counts), min(counts)
    runs = ''
    if len(cases) > 1:
        seeds = _span(case.config.seed for case in cases)
        runs = f' of {len(cases)} training runs (seeds {seeds})'
    local, private = client.name, ''
    if local == 'local_sgd':
        local += (
            f', {client.num_epochs} epochs of {client.optimizer.name} at rate '
            f'{client.optimizer.learning_rate:g} ({_known(attack.learning_rate)})'
        )
        if client.private_optimizer.name != 'sgd':
            private = f' of {client.private_optimizer.name}'
    used = [
        f'{name} (weight {weight:g}, mgradinv)'
        for name, weight in attack.priors.items()
        if weight and 'mgradinv' in attack.name
    ]
    solvers = {choice.solver for choice in cases[0].attacks.values()}
    used += [f'{what} ({name})' for name, what in _ASSUMED.items() if name in solvers]
    if not attack.popularity:
        used.append('popularity is switched off for attacks that read uploads')
    symmetric = (
        config.model.name == 'matrix_factorization'
        and client.loss == 'bce'
        and not config.model.item_bias
    )
    return [
        ('server', 'honest but curious: follows the protocol, keeps what the clients upload'),
        ('data', f'{config.data.name}, {clients} clients, {items} items, '
                 f'{len(sizes)} victims{runs}, batches of {_span(sizes)} '
                 f'(median {int(np.median(sizes))})'),
        ('client', f'{config.model.name} (D={config.model.dim}), {local}, {client.loss}, '
                   f'uploads in {client.precision}'),
        ('private', f'user embedding, {embedding} numbers; step size{private} '
                    f'{client.private_rate:g} ({_known(attack.private_rate)})'),
        ('batch', 'items known, labels unknown' if config.observation.batch_known
                  else 'unknown: every item of the catalogue is a candidate'
                  + '; new negatives each round' * config.data.fresh_negatives),
        ('not seen', 'parts of an upload that a setting does not list reach the server only '
                     'inside the aggregate'),
        *[('defence', text) for text in _defences(config)],
        *[('privacy', accounting.describe(each)) for each in defences.guarantees(config, number)],
        ('priors', ', '.join(used) or 'none'),
        *([('symmetry', 'labels y with embedding p and 1 - y with -p give the same uploads; only '
                        'a prior (sparsity, popularity) tells them apart')] if symmetric else []),
        *_solvers(cases[0]),
    ]  # fmt: skip


def _defences(config: Config) -> list[str]:
    """What the clients do, a line each, and whether the attacker knows."""
    seen = config.observation
    feedback = ', what is left out is added the next time' * seen.error_feedback
    noise = 'Gaussian noise of standard deviation'
    used = {
        f'randomised response, epsilon {seen.label_epsilon} a label':
            seen.label_epsilon is not None,
        f'{seen.pseudo:.0%} of the negatives are passed off as interactions': seen.pseudo > 0,
        f'mean L1 penalty of weight {config.client.item_drift:g} on moved item rows':
            config.client.item_drift > 0,
        f'only {"+".join(seen.uploaded)} are uploaded and trained': len(seen.uploaded) == 1,
        f'item rows of rank {seen.rank}': seen.rank is not None,
        f'the largest {seen.top:.2%} of the entries{feedback}': seen.top < 1,
        f'{seen.random:.2%} of the entries, by chance{feedback}': seen.random < 1,
        f'entries rounded to one of {seen.levels} levels by chance': seen.levels is not None,
        f'uploads clipped to norm {seen.clip}': seen.clip is not None,
        f'{noise} {seen.noise:g} on every entry of an upload': seen.noise > 0,
        f'secure aggregation: only sums over cohorts of at most {seen.cohort} clients are seen, '
        'who took part and with which items is known': seen.cohort > 1,
        f'{noise} {seen.sum_noise:g} on every entry of a sum': seen.sum_noise > 0,
    }  # fmt: skip
    lines = [text for text, is_used in used.items() if is_used]
    if not lines:
        return ['none']
    knows = {True: 'knows of them', False: 'does not know of them'}
    attackers = [knows[known] for known in dict.fromkeys(config.attack.adaptive)]
    return [*lines, f'the attacker {" or ".join(attackers)}']


def _solvers(case: plan.Case) -> list[tuple[str, str]]:
    """What was chosen for the settings, and why, each reason once."""
    where: dict[tuple[str, str], list[str]] = {}
    for setting, choice in case.attacks.items():
        if choice.why:
            reason = (setting.attack, f'{choice.solver}: {choice.why}')
            where.setdefault(reason, []).append(
                f'T = {setting.num_gradients}, {"+".join(setting.seen)} seen'
            )
    return [
        (attack, f'{reason} ({"; ".join(dict.fromkeys(settings))})')
        for (attack, reason), settings in where.items()
    ]


def _count(case: plan.Case, setting: config_lib.Setting, batch: int) -> str:
    """A setting's numbers seen against its unknowns, for a batch of that size."""
    shared = jax.eval_shape(case.model.init_shared, jax.random.key(0))
    num_items = case.interactions.num_items
    section = case.config.observation
    seen = observe.share(*setting.seen).observe(shared, (), jax.random.key(0))[0]
    rows = optax.tree.size(seen.get('items', {})) // num_items
    batch *= section.cohort  # at most: members share items
    numbers = setting.num_gradients * (batch * rows + optax.tree.size(seen.get('scorer', {})))
    labels = batch if section.batch_known else 2 * num_items
    latent = plan.num_private(case, setting)
    return (
        f'  {setting.num_gradients:<2} {"+".join(setting.seen):<13} {setting.dynamics:<11} '
        f'{numbers} : {labels} + {latent} = {numbers / (labels + latent):.2f}'
    )
