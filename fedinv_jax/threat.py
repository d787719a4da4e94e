"""The threat model of a run, for people: what the attacker sees, knows and assumes."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np
import optax

from fedinv_jax import experiment, observe, plan
from fedinv_jax.experiment import Config


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
        for setting in experiment.settings(config)
        if setting.dynamics is not None
    )
    return '\n'.join(['Threat model', *lines, head, *counts])


# What a solver takes for likely besides what it sees.
_POPULAR = 'popularity and the public share of interactions where equations are scarce'
_ASSUMED = {
    'aligned': 'size of a fresh embedding',
    'closed_form': _POPULAR,
    'levels': 'interactions are fewer than negatives',
    'rough': 'size of a fresh embedding',
    'scaled': f'size of a fresh embedding, {_POPULAR}; interactions are fewer than negatives',
    'sparse': 'popularity and the public share of interactions',
    'spectral': 'interactions are fewer than negatives',
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
    embedding = plan.num_private(cases[0], experiment.settings(config)[0]._replace(dynamics=None))
    items = _span(case.interactions.num_items for case in cases)
    clients = _span(sum(len(group.users) for group in case.clients) for case in cases)
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
    defences = []
    if config.observation.noise:
        noise = f'{config.observation.noise:g}'
        defences.append(f'Gaussian noise of standard deviation {noise} on every entry of an upload')
    if client.item_drift:
        defences.append(f'mean L1 penalty of weight {client.item_drift:g} on moved item rows')
    used = [
        f'{name} (weight {weight:g}, mgradinv)'
        for name, weight in attack.priors.items()
        if weight and 'mgradinv' in attack.name
    ]
    solvers = {choice.solver for choice in cases[0].attacks.values()}
    used += [f'{what} ({name})' for name, what in _ASSUMED.items() if name in solvers]
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
        ('defence', '; '.join(defences) + ', known to the attacker' if defences else 'none'),
        ('priors', ', '.join(used) or 'none'),
        *([('symmetry', 'labels y with embedding p and 1 - y with -p give the same uploads; only '
                        'a prior (sparsity, popularity) tells them apart')] if symmetric else []),
        *_solvers(cases[0]),
    ]  # fmt: skip


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


def _count(case: plan.Case, setting: experiment.Setting, batch: int) -> str:
    """A setting's numbers seen against its unknowns, for a batch of that size."""
    shared = jax.eval_shape(case.model.init_shared, jax.random.key(0))
    num_items = case.interactions.num_items
    seen = observe.share(*setting.seen).observe(shared, (), jax.random.key(0))[0]
    rows = optax.tree.size(seen.get('items', {})) // num_items
    numbers = setting.num_gradients * (batch * rows + optax.tree.size(seen.get('scorer', {})))
    labels = batch if case.config.observation.batch_known else 2 * num_items
    latent = plan.num_private(case, setting)
    return (
        f'  {setting.num_gradients:<2} {"+".join(setting.seen):<13} {setting.dynamics:<11} '
        f'{numbers} : {labels} + {latent} = {numbers / (labels + latent):.2f}'
    )
