"""The threat model of a run as text: what the attacker sees, knows and assumes."""

import operator
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
import optax

from fedinv_jax import accounting, observe, quality, tree
from fedinv_jax.audit import beliefs, defences, plan, registry, secure_aggregation, training
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config, default_config
from fedinv_jax.data import held_out, provenance, values
from fedinv_jax.data import interactions as interactions_lib


def describe(config: Config, cases: Sequence[plan.Case]) -> str:
    """The threat model: assumptions, and for each setting the count of knowns and unknowns.

    Args:
        config: config of the whole run.
        cases: the case of each seed.

    Returns:
        Lines of text.
    """
    batch = int(np.median(_sizes(cases)))
    lines = [f'  {name:<9} {value}' for name, value in _assumptions(config, cases)]
    head = '  T  seen          hypothesis  numbers seen : unknowns (labels + private) = ratio'
    counts = dict.fromkeys(
        _count(cases[0], setting, batch)
        for setting in settings_lib.settings(config)
        if setting.dynamics is not None
    )
    return '\n'.join(['Threat model', *lines, head, *counts])


# The priors that each solver uses besides the uploads.
_POPULAR = 'item popularity and the public share of interactions where equations are scarce'
_NORM = 'norm of an untrained embedding'
_ASSUMED = {
    'aligned': _NORM,
    'closed_form': _POPULAR,
    'levels': 'public share of interactions',
    'one_line': 'public share of interactions',
    'rank_one': 'public share of interactions',
    'two_lines': 'most rows are those of negatives',
    'approximate_embedding': _NORM,
    'scaled': f'{_NORM}, {_POPULAR}; fewer interactions than negatives',
    'sparse': 'item popularity and the public share of interactions',
    'spectral': 'public share of interactions',
    'summed': 'public share of interactions',
    'projection': 'public share of interactions',
    'replay': 'distribution of untrained embeddings, public share of interactions',
    'unrolled': (
        'distribution of untrained embeddings, which clients have before the first round; public '
        'share of interactions'
    ),
    'joint': 'distribution of untrained embeddings, public share of interactions',
    'variable_projection': _NORM,
}


_ASSUMED_OF_RATINGS = {'scaled': _NORM, 'variable_projection': _NORM}


# What a client does where a field differs from its default.
_TRAINS = {
    'model.item_features': 'items have public features ({}), whose rows are in the scorer',
    'model.dropout': 'dropout {:g}',
    'client.label_smoothing': 'labels smoothed by {:g}',
    'client.positive_weight': "weight {:g} of an interaction's loss",
    'client.weight_decay': 'weight decay {:g}',
    'client.private_distance': 'distance of the private from the shared item table, weight {:g}',
    'client.item_sparsity': 'absolute entries of the shared item rows, weight {:g}',
    'client.learning_rate_decay': 'both learning rates times {:g} after each epoch',
    'client.item_rate_scale': 'item rows at {:g} times the rate',
    'client.batch_size': 'minibatches of {}',
    'client.shuffle': 'minibatches in another order in each epoch',
    'client.batch_share': 'trains on a random share {:g} of its batch in each round',
    'client.weight_by_num_examples': 'uploads times the number of its examples',
}
_PLACEBO = (
    'each attack that reads uploads also runs on those of another victim, scored against the '
    'labels of its own: what it finds without the uploads of its victim'
)
_STEP_SIZES = (
    'unknown: one factor of the gradients of the item rows and one of those of the scorer, '
    'estimated from the uploads where these determine them'
)
_TOO_FEW = {
    'loo99': f'fewer than {held_out.NEGATIVES} items that they never interacted with',
    'full': f'ranked among {quality.K} items or fewer',
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
    """`_span([3, 5]) == '3 to 5'`; a single number if all are equal."""
    ordered = sorted(values)
    return ' to '.join(map(str, dict.fromkeys([ordered[0], ordered[-1]])))


def _beliefs(config: Config) -> Iterator[str]:
    """What the attacker believes of the clients that is not so."""
    for entry in config.attack.believes:
        field, value = beliefs.parse(entry)
        yield f'{field} is {value}; the truth is {operator.attrgetter(field)(config)}'
    if not config.attack.participation_known:
        number = config.server.clients_per_round or 'all'
        yield f'its victim takes part in every round; the truth is {number} clients a round'


def _assumptions(config: Config, cases: Sequence[plan.Case]) -> list[tuple[str, str]]:
    """The lines above the counts: pairs of a keyword and a text."""
    number = min(_num_clients(case) for case in cases)
    batch = 'unknown: every item of the catalogue is a candidate'
    batch += '; new negatives each round' * config.data.resample_negatives
    known = 'items known, labels unknown'
    if training.is_explicit(config):
        low, high, step = training.rating_scale(config)
        known = f'rated items known; ratings of {low:g} to {high:g} in steps of {step:g} unknown'
    if config.attack.wrong_items:
        known = (
            f'items known but for a share {config.attack.wrong_items:g}, at least one, that the '
            'attacker takes for items of no batch; labels unknown'
        )
    if config.data.resample_negatives:
        known += '; new negatives each round: items that recur are the interactions'
    return [
        ('server', 'honest but curious: follows the protocol, and analyses the uploads'),
        ('data', _data(config, cases)),
        *_provenance(config, cases[0]),
        *[('left out', text) for text in dict.fromkeys(_left_out(cases))],
        ('client', _client(config)),
        ('private', _private(config, cases[0])),
        *[('believes', text) for text in _beliefs(config)],
        *[('step size', _STEP_SIZES)] * (not config.attack.step_sizes_known),
        ('batch', known if config.observation.batch_known else batch),
        ('not seen', "parts of an upload that are not in the column 'seen' reach the server only "
                     'inside the aggregate'),
        *[('defence', text) for text in defences.sentences(config) or ['none']],
        *[('attacker', text) for text in _attackers(config)],
        *[('privacy', accounting.describe(each)) for each in defences.guarantees(config, number)],
        ('priors', _priors(config, cases[0])),
        *[('placebo', _PLACEBO)] * config.attack.placebo,
        *[('symmetry', text) for text in _symmetries(cases[0])],
        *_solvers(cases[0]),
    ]  # fmt: skip


def _num_clients(case: plan.Case) -> int:
    return sum(len(group.users) for group in case.clients)


def _data(config: Config, cases: Sequence[plan.Case]) -> str:
    """The data set, its clients and items, and the victims with their batches."""
    sizes, runs = _sizes(cases), ''
    if len(cases) > 1:
        seeds = _span(case.config.seed for case in cases)
        runs = f' of {len(cases)} training runs (seeds {seeds})'
    return (
        f'{config.data.name}, {_span(map(_num_clients, cases))} clients, '
        f'{_span(case.interactions.num_items for case in cases)} items, '
        f'{len(sizes)} victims{runs}, batches of {_span(sizes)} (median {int(np.median(sizes))})'
    )


def _provenance(config: Config, case: plan.Case) -> list[tuple[str, str]]:
    """How the data file was read, and what is odd about it."""
    interactions = case.interactions
    if interactions.source is None:
        return []
    zeros = int(np.sum(interactions.ratings <= 0))
    below = ' or below' * bool((interactions.ratings < 0).any())
    odd = (
        f'{zeros} of {len(interactions.ratings)} interactions have rating 0{below}; if that '
        'means none, set data.rating_threshold above 0'
    )
    return [*provenance.describe(interactions.source), *[('warning', odd)] * bool(zeros)]


def _left_out(cases: Sequence[plan.Case]) -> Iterator[str]:
    """Users who are no clients, or are not evaluated, and why; the first five by their ids."""
    for case in cases:
        ids = case.interactions.user_ids

        def named(users: np.ndarray, ids: Sequence[str] = ids) -> str:
            first = ', '.join(values.show(ids[user]) for user in users[:5])
            more = f' and {len(users) - 5} more' if len(users) > 5 else ''
            return f'{len(users)} of {len(ids)} users ({first}{more})'

        for reason, users in interactions_lib.left_out(
            case.interactions, not training.is_explicit(case.config)
        ).items():
            yield f'{named(users)}: {reason}'
        if case.held is None or training.is_explicit(case.config):
            continue
        clients = np.concatenate([group.users for group in case.clients])
        is_client = np.isin(case.held.users, clients)
        for protocol, fits in quality.comparable(case.held, case.interactions.num_items).items():
            users = case.held.users[is_client & ~fits]
            if len(users):
                metrics = f'hr@{quality.K}_{protocol} and ndcg@{quality.K}_{protocol}'
                null = '; both are null' if len(users) == is_client.sum() else ''
                yield f'of {metrics} {named(users)}: {_TOO_FEW[protocol]}{null}'


def _client(config: Config) -> str:
    """The model and how a client trains it."""
    client, local = config.client, config.client.name
    if local == 'local_sgd':
        local += (
            f', {client.num_epochs} epochs of {client.optimizer.name} at rate '
            f'{client.optimizer.learning_rate:g}'
        )
    default, words = default_config(), []
    for field, text in _TRAINS.items():
        value, usual = (operator.attrgetter(field)(each) for each in (config, default))
        if value != usual:
            words.append(text.format(value))
    dtype = f'uploads in {client.upload_dtype or client.precision}'
    head = f'{config.model.name} (D={config.model.dim})'
    return ', '.join([head, local, client.loss, *words, dtype])


def _private(config: Config, case: plan.Case) -> str:
    """The private parameters, which stay on the device, and their learning rate."""
    client, optimizer = config.client, ''
    size = plan.num_private(case, settings_lib.settings(config)[0]._replace(dynamics=None))
    names = tree.names(jax.eval_shape(case.model.init_private, jax.random.key(0)))
    what = ', '.join(names) if names[1:] else 'user embedding'
    if client.name == 'local_sgd' and client.private_optimizer.name != 'sgd':
        optimizer = f' of {client.private_optimizer.name}'
    return f'{what}, {size} numbers; learning rate{optimizer} {client.private_learning_rate:g}'


def _priors(config: Config, case: plan.Case) -> str:
    """The priors that the attacks use."""
    read = {name for each in settings_lib.settings(config) for name in (each.attack, each.reader)}
    used = [
        f'{name} (weight {weight:g}, mgradinv)'
        for name, weight in config.attack.priors.items()
        if weight and 'mgradinv' in read
    ]
    solvers = {choice.solver for choice in case.attacks.values()} | {'joint'} & read
    public = config.attack.popularity
    assumed = _ASSUMED_OF_RATINGS if training.is_explicit(config) else _ASSUMED
    for name, what in assumed.items():
        if name in solvers:
            what = what if public else what.replace('item popularity and the ', '')
            used.append(f'{what} ({name})')
    if not public:
        used.append('attacks that read uploads do not use item popularity')
    return ', '.join(used) or 'none'


def _symmetries(case: plan.Case) -> list[str]:
    """Changes of labels and private state that leave every upload the same.

    Exact attacks probe for them; that of matrix factorisation is known without.
    """
    model, client = case.config.model, case.config.client
    found = dict.fromkeys(
        symmetry for choice in case.attacks.values() for symmetry in choice.symmetries
    )
    symmetric = client.loss in ('bce', 'bpr', 'hinge') and client.positive_weight == 1
    if model.name == 'matrix_factorization' and not model.item_bias and symmetric:
        found['y -> 1 - y, p -> -p'] = None
    return [
        f'{each} gives the same uploads; only a prior (sparsity, popularity) distinguishes the two'
        for each in found
    ]


def _attackers(config: Config) -> list[str]:
    """Whether the attacker knows the defences; empty without defences."""
    if not defences.used(config):
        return []
    if len(set(config.attack.adaptive)) > 1:
        return ['two attackers: one knows the defences, the other does not']
    return ['knows the defences' if all(config.attack.adaptive) else 'does not know the defences']


def _solvers(case: plan.Case) -> list[tuple[str, str]]:
    """The solver chosen for each setting and the reason, each reason once."""
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


def _count(case: plan.Case, setting: settings_lib.Setting, batch: int) -> str:
    """A setting's numbers seen and its unknowns, for a batch of size `batch`."""
    shared = jax.eval_shape(case.model.init_shared, jax.random.key(0))
    num_items = case.interactions.num_items
    section = case.config.observation
    seen = observe.share(*setting.seen).observe(shared, (), jax.random.key(0))[0]
    rows = optax.tree.size(seen.get('items', {})) // num_items
    if secure_aggregation.changes(case.config) or registry.ATTACKS[setting.attack].reads_sums:
        return _count_sums(case, setting, optax.tree.size(seen))
    batch *= section.cohort  # an upper bound: members may share items
    numbers = setting.num_gradients * (batch * rows + optax.tree.size(seen.get('scorer', {})))
    labels = batch if section.batch_known else 2 * num_items
    return _line(setting, numbers, labels, plan.num_private(case, setting, batch))


def _count_sums(case: plan.Case, setting: settings_lib.Setting, size: int) -> str:
    """The numbers in all sums, of `size` each, and the unknowns of all clients."""
    cohorts = training.make_cohorts(case.config, case.clients)
    numbers = setting.num_gradients * size * (1 if cohorts is None else cohorts.number)
    count = _num_clients(case)
    labels = sum(int(np.sum(group.weights > 0)) for group in case.clients)
    if not case.config.observation.batch_known:
        labels = 2 * count * case.interactions.num_items
    one = plan.num_private(case, setting._replace(dynamics=None))
    if setting.attack == 'joint' and setting.dynamics == 'free':  # new ones in each round
        count = setting.num_gradients * (case.config.server.clients_per_round or count)
    return _line(setting, numbers, labels, count * one)


def _line(setting: settings_lib.Setting, numbers: int, labels: int, latent: int) -> str:
    return (
        f'  {setting.num_gradients:<2} {"+".join(setting.seen):<13} {setting.dynamics:<11} '
        f'{numbers} : {labels} + {latent} = {numbers / (labels + latent):.2f}'
    )
