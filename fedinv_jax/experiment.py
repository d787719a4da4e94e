"""ConfigDict -> functions: one dict per seam resolves the names of a config."""

import difflib
import inspect
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import ml_collections
import numpy as np
import optax
from ml_collections import config_dict

from fedinv_jax import losses, models, observe, server
from fedinv_jax.attack import distances
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.types import Model

Config: TypeAlias = ml_collections.ConfigDict

MODELS = {'matrix_factorization': models.matrix_factorization, 'ncf': models.ncf}
LOSSES = {'bce': losses.bce, 'squared_error': losses.squared_error}
CLIENTS = ('gradient_step', 'local_sgd')
DYNAMICS = ('free', 'static', 'unrolled')
DISTANCES = {
    'cosine': distances.cosine_distance,
    'cosine_per_leaf': distances.cosine_distance_per_leaf,
    'squared': distances.squared_distance,
    'squared_per_leaf': distances.squared_distance_per_leaf,
}
PRIORS = ('binary', 'norm', 'popularity', 'sparsity')
ATTACKS = ('mgradinv', 'popularity', 'random')
OPTIMIZERS = {
    name: make
    for name, make in vars(optax).items()
    if inspect.isfunction(make)
    and 'learning_rate' in inspect.signature(make).parameters
    and not name.startswith(('_', 'scale_by_'))
}
PRECISIONS = ('float32', 'float64')
DECAYS = ('constant', 'cosine')


def default_config() -> Config:
    """The config that every file in `configs/` starts from; a comment documents each field.

    Tuples are axes of the run: every combination is a setting, all served by one training run.
    """
    optional = config_dict.placeholder
    config = Config(
        {
            'seed': 0,  # of everything that is drawn: data, negatives, training, victims, attacks
            'data': {
                'name': 'synthetic',  # or a known data set, or the path of a file
                'threshold': optional(float),  # ratings from here on are interactions; None: all
                'core': 0,  # k of the k-core filter; 0: none
                'leave_one_out': False,  # leave each user's last interaction out of the training
                'per_positive': 4,  # negatives for each positive
                'labels': 'implicit',  # or 'ratings'
                'min_positives': 1,  # users with fewer are left out
                'max_positives': optional(int),  # users with more are left out; None: nobody
                'synthetic': {  # see data.synthetic.generate
                    'num_users': 200,
                    'num_items': 400,
                    'popularity_exponent': 2.0,
                    'popularity_offset': 0.07,
                    'median_activity': 20.0,
                    'activity_sigma': 1.0,
                    'min_activity': 8,
                    'max_activity': optional(int),
                    'taste_dim': 8,
                    'taste_strength': 1.0,
                },
            },
            'model': {
                'name': 'ncf',
                'dim': 16,  # D
                'hidden': (64, 32, 16),  # widths of the scorer's hidden layers (ncf)
                'use_bias': True,  # biases in the scorer (ncf)
                'item_bias': False,  # a bias for each item (matrix_factorization)
                'scale': 0.1,  # standard deviation of the initial embeddings
            },
            'client': {
                'name': 'gradient_step',  # or 'local_sgd'
                'loss': 'bce',  # or 'squared_error'
                'private_rate': 0.1,  # step size of the private embedding
                'optimizer': {'name': 'sgd', 'learning_rate': 0.1},  # of local_sgd
                'num_epochs': 1,  # of local_sgd
                'batch_size': optional(int),  # of local_sgd; None: full batch
                'precision': 'float32',  # of the uploads; 'float64' is a control
            },
            'server': {
                # On gradients this is FedSGD; on the differences of local_sgd, rate 1 is FedAvg.
                'optimizer': {'name': 'sgd', 'learning_rate': 0.1},
                'aggregate_items': 'sum',  # or mean, mean_over_touched
                'aggregate_scorer': 'mean',
                'clients_per_round': optional(int),  # drawn afresh each round; None: all
                'num_rounds': 1000,  # the length of the training; observed rounds lie within
            },
            'observation': {
                'seen': ('items+scorer',),  # what the server looks at, parts joined by '+'
                'batch_known': True,  # whether it knows the items of the batch
            },
            'dynamics': {'name': ('free',)},  # free, static, unrolled
            'attack': {
                'name': ('mgradinv', 'popularity', 'random'),
                'num_victims': 64,  # drawn among the clients; 0: all of them
                'num_gradients': (1, 2),  # T
                'first_round': (0,),
                'interval': (1,),  # server rounds between two observed ones
                'distance': 'squared_per_leaf',
                'priors': {'binary': 0.0, 'norm': 0.0, 'popularity': 0.0, 'sparsity': 0.0},
                'optimizer': {'name': 'adam', 'learning_rate': 0.01, 'decay': 'cosine'},
                'num_iterations': 1000,
                'num_restarts': 1,
                'label_gain': 30.0,  # how much faster labels move than the private embedding
                'private_rate': optional(float),  # what the attacker believes; None: known
                'learning_rate': optional(float),  # the same for the optimiser of local_sgd
                'precision': 'float32',  # of the solver
                'block': 16,  # victims in one compiled call
            },
            # What may not change a result.
            'run': {'progress': True},
        }
    )
    return config.lock()


def variant(config: Config, arg: str | None) -> Config:
    """What `configs/x.py:arg` means: 'smoke' shrinks the experiment to seconds.

    Raises:
        ValueError: for another `arg`.
    """
    if not arg:
        return config
    lookup('variant', arg, ('smoke',))
    config.data.synthetic.update({'num_users': 40, 'num_items': 120, 'median_activity': 12.0})
    config.data.min_positives, config.data.max_positives = 1, 30
    config.attack.update({'num_victims': 4, 'num_iterations': 20, 'block': 4})
    config.attack.num_gradients = config.attack.num_gradients[:2]
    config.attack.first_round = (0,)
    config.attack.interval = (1,)
    return config


def lookup(field: str, name: str, choices: Mapping[str, Any] | Sequence[str]) -> Any:
    """The choice of that name (the name itself where the choices are just names).

    Raises:
        ValueError: for an unknown name; the message has the nearest ones and all of them.
    """
    if name not in choices:
        near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
        hint = f' Did you mean {" or ".join(map(repr, near))}?' if near else ''
        raise ValueError(
            f'Unknown {field}={name!r}.{hint} Choices: {", ".join(map(repr, sorted(choices)))}.'
        )
    return choices[name] if isinstance(choices, Mapping) else name


# Counts of a config, 1 or more; those that are axes hold several.
_COUNTS = (
    'attack.num_gradients',
    'attack.interval',
    'attack.num_iterations',
    'attack.num_restarts',
    'attack.block',
    'server.num_rounds',
    'data.per_positive',
)
_AXES: dict[str, Sequence[str]] = {
    'observation.seen': (),
    'dynamics.name': DYNAMICS,
    'attack.name': ATTACKS,
    'attack.num_gradients': (),
    'attack.first_round': (),
    'attack.interval': (),
}
_NAMES: dict[str, Mapping[str, Any] | Sequence[str]] = {
    'model.name': MODELS,
    'client.name': CLIENTS,
    'client.loss': LOSSES,
    'client.precision': PRECISIONS,
    'client.optimizer.name': OPTIMIZERS,
    'server.optimizer.name': OPTIMIZERS,
    'server.aggregate_items': server.AGGREGATIONS,
    'server.aggregate_scorer': server.AGGREGATIONS,
    'attack.distance': DISTANCES,
    'attack.optimizer.name': OPTIMIZERS,
    'attack.optimizer.decay': DECAYS,
    'attack.precision': PRECISIONS,
}


def check(config: Config) -> None:
    """Refuses what no run can do, before anything is computed.

    Raises:
        ValueError: for an unknown name (with the nearest ones), an axis without values, a count
            that is not an integer >= 1, or observed rounds past the end of the training.
    """
    values = {field: operator.attrgetter(field)(config) for field in (*_COUNTS, *_AXES, *_NAMES)}
    for field, names in _AXES.items():
        if not values[field]:
            raise ValueError(f'Expected {field} to hold at least one value.')
        for name in values[field] if names else ():
            lookup(field, name, names)
    for field in (*_COUNTS, 'attack.first_round'):
        for number in values[field] if field in _AXES else (values[field],):
            least = 0 if field == 'attack.first_round' else 1
            if not isinstance(number, int) or number < least:
                raise ValueError(f'Expected {field}={number!r} to be an integer >= {least}.')
    for field, choices in _NAMES.items():
        lookup(field, values[field], choices)
    if config.client.precision == 'float64' and config.attack.precision == 'float32':
        raise ValueError('A float32 solver would round float64 uploads: attack.precision=float64.')
    if config.seed < 0:
        raise ValueError(f'Expected seed={config.seed} >= 0.')
    for setting in settings(config):
        if setting.rounds[-1] >= config.server.num_rounds:
            raise ValueError(
                f'The interval runs past the training: first_round={setting.first_round}, '
                f'num_gradients={setting.num_gradients}, interval={setting.interval} observe round '
                f'{setting.rounds[-1]}; expected at most {config.server.num_rounds - 1} '
                f'(server.num_rounds={config.server.num_rounds}).'
            )
        rows_seen = any(part.split('/')[0] == 'items' for part in setting.seen)
        if rows_seen and not config.observation.batch_known:
            raise ValueError('Item rows reveal the batch: seen=items needs batch_known=True.')


class Setting(NamedTuple):
    """One point of a run's axes.

    Attributes:
        attack: name of the attack.
        dynamics: name of the hypothesis; None for an attack that reads no upload.
        num_gradients: T.
        first_round: the first observed round.
        interval: rounds between two observed ones; None at T = 1.
        seen: parts of the upload that are seen.
    """

    attack: str
    dynamics: str | None
    num_gradients: int
    first_round: int
    interval: int | None
    seen: tuple[str, ...]

    @property
    def rounds(self) -> list[int]:
        """The observed rounds, `[T]`."""
        return [self.first_round + t * (self.interval or 1) for t in range(self.num_gradients)]


def settings(config: Config) -> list[Setting]:
    """Every combination of the config's axes, each once."""
    axes = itertools.product(
        config.observation.seen,
        config.attack.first_round,
        config.attack.num_gradients,
        config.attack.interval,
        config.attack.name,
        config.dynamics.name,
    )
    return list(
        dict.fromkeys(
            Setting(
                attack,
                None if attack in ('popularity', 'random') else hypothesis,
                num_gradients,
                first_round,
                interval if num_gradients > 1 else None,
                tuple(seen.split('+')),
            )
            for seen, first_round, num_gradients, interval, attack, hypothesis in axes
        )
    )


def threat_model(
    config: Config, model: Model, clients: Sequence[clients_lib.Clients], victims: Sequence[int]
) -> str:
    """What the attacker sees, knows and assumes, for people, with knowns against unknowns."""
    sizes = np.concatenate([(g.weights > 0).sum(1)[np.isin(g.users, victims)] for g in clients])
    batch = int(np.median(sizes))
    shared = jax.eval_shape(model.init_shared, jax.random.key(0))
    num_items = jax.tree.leaves(shared['items'])[0].shape[0]
    private = optax.tree.size(jax.eval_shape(model.init_private, jax.random.key(0)))
    client_, attack = config.client, config.attack

    def known(belief: float | None) -> str:
        return 'known' if belief is None else f'unknown, taken for {belief:g}'

    local = client_.name
    if local == 'local_sgd':
        local += f', {client_.num_epochs} epochs of {client_.optimizer.name} at rate '
        local += f'{client_.optimizer.learning_rate:g} ({known(attack.learning_rate)})'
    used = [f'{name} (weight {weight:g})' for name, weight in attack.priors.items() if weight]
    symmetric = (
        config.model.name == 'matrix_factorization'
        and client_.loss == 'bce'
        and not config.model.item_bias
    )
    lines = [
        ('server', 'honest but curious: follows the protocol, keeps what the clients upload'),
        ('data', f'{config.data.name}, {sum(len(g.users) for g in clients)} clients, '
                 f'{num_items} items, {len(victims)} victims, batches of {sizes.min()} to '
                 f'{sizes.max()} (median {batch})'),
        ('client', f'{config.model.name} (D={config.model.dim}), {local}, {client_.loss}, '
                   f'uploads in {client_.precision}'),
        ('private', f'user embedding, {private} numbers; step size {client_.private_rate:g} '
                    f'({known(attack.private_rate)})'),
        ('batch', 'items known, labels unknown' if config.observation.batch_known
                  else 'unknown: every item of the catalogue is a candidate'),
        ('not seen', 'parts of an upload that a setting does not list reach the server only '
                     'inside the aggregate'),
        ('defence', 'none'),
        ('priors', ', '.join(used) or 'none'),
        *([('symmetry', 'labels y with embedding p and 1 - y with -p give the same uploads; only '
                        'a prior (sparsity, popularity) tells them apart')] if symmetric else []),
    ]  # fmt: skip
    text = ['Threat model', *(f'  {name:<9} {value}' for name, value in lines)]
    text.append('  T  seen          hypothesis  numbers seen : unknown (labels + private)')
    labels = batch if config.observation.batch_known else 2 * num_items
    for setting in settings(config):
        if setting.dynamics is None:
            continue
        seen = observe.share(*setting.seen).observe(shared, (), jax.random.key(0))[0]
        rows = optax.tree.size(seen.get('items', {})) // num_items
        known_numbers = setting.num_gradients * (
            batch * rows + optax.tree.size(seen.get('scorer', {}))
        )
        latent = private * (setting.num_gradients if setting.dynamics == 'free' else 1)
        line = (
            f'  {setting.num_gradients:<2} {"+".join(setting.seen):<13} {setting.dynamics:<11} '
            f'{known_numbers} : {labels} + {latent} = {known_numbers / (labels + latent):.2f}'
        )
        if line not in text:
            text.append(line)
    return '\n'.join(text)
