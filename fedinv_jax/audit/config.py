"""ConfigDict -> functions: one dict per seam resolves the names of a config."""

import inspect
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import ml_collections
import optax
from ml_collections import config_dict

from fedinv_jax import _validate, client, losses, models
from fedinv_jax.attack import distances
from fedinv_jax.report import stats

Config: TypeAlias = ml_collections.ConfigDict

MODELS = {'matrix_factorization': models.matrix_factorization, 'ncf': models.ncf}
LOSSES = {'bce': losses.bce, 'squared_error': losses.squared_error}
PARTS = ('items', 'scorer')  # of the shared parameters
TIES = ('item', 'random')
CLIENTS = ('gradient_step', 'local_sgd')
DYNAMICS = ('free', 'static', 'unrolled')
DISTANCES = {
    'cosine': distances.cosine_distance,
    'cosine_per_leaf': distances.cosine_distance_per_leaf,
    'squared': distances.squared_distance,
    'squared_per_leaf': distances.squared_distance_per_leaf,
}
PRIORS = ('binary', 'norm', 'popularity', 'sparsity')
EXACT = ('exact', 'sign', 'spectral', 'summed')
"""Attacks that solve for the labels instead of descending an objective; always in float64."""
STOPPING = ('dlg', 'imia', 'raifle', 'raifle_joint')
RECIPES = (*STOPPING, 'inverting_gradients', 'tgias_ro')
"""Attacks of the literature, see `attack.recipes`; those of `STOPPING` end by themselves."""
ON_ROWS = ('imia', 'raifle', 'raifle_joint', 'sign', 'spectral', 'summed')
"""Attacks that read item rows."""
BY_SHARE = ('imia', *stats.GUESSERS)  # these know how many candidates are interactions
ATTACKS = (*EXACT, 'mgradinv', *RECIPES, *stats.GUESSERS)
OPTIMIZERS = {
    name: client.differentiable(make)
    for name, make in vars(optax).items()
    if inspect.isfunction(make)
    and 'learning_rate' in inspect.signature(make).parameters
    and not name.startswith(('_', 'scale_by_'))
}
PRECISIONS = ('float32', 'float64')
DECAYS = ('constant', 'cosine')


def default_config() -> Config:
    """The config that every file in `configs/` starts from; a comment documents each field.

    Tuples are axes of the run: every combination is a setting, all served by the same training.
    """
    optional = config_dict.placeholder
    config = Config(
        {
            'seed': 0,  # of everything that is drawn: data, negatives, training, victims, attacks
            'num_seeds': 1,  # training runs, of seeds seed, seed + 1, ...; they share the victims
            'data': {
                'name': 'synthetic',  # or a known data set, or the path of a file
                'threshold': optional(float),  # ratings from here on are interactions; None: all
                'core': 0,  # k of the k-core filter; 0: none
                # Leave each user's last interaction out of the training, and evaluate the model
                # that is trained for server.num_rounds on it.
                'leave_one_out': False,
                'ties': 'item',  # which of several last ones: the largest item id, or 'random'
                'per_positive': 4,  # negatives for each positive
                'fresh_negatives': False,  # new ones each round; needs batch_known=False
                'labels': 'implicit',  # or 'ratings'
                'min_positives': 1,  # users with fewer are left out
                'max_positives': optional(int),  # users with more are left out; None: nobody
                'max_users': optional(int),  # of those left, only the first are clients; None: all
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
                'kernel_init': 'he_normal',  # of the scorer, zero biases; or 'uniform' (ncf)
            },
            'client': {
                'name': 'gradient_step',  # or 'local_sgd'
                'loss': 'bce',  # or 'squared_error'
                'private_rate': 0.1,  # step size of the private embedding
                'private_optimizer': {'name': 'sgd'},  # of local_sgd, at the rate private_rate
                'optimizer': {'name': 'sgd', 'learning_rate': 0.1},  # of local_sgd
                'num_epochs': 1,  # of local_sgd
                'batch_size': optional(int),  # of local_sgd; None: full batch
                'by_size': False,  # uploads times the number of the client's entries (FedAvg)
                'item_drift': 0.0,  # of local_sgd: weight of the mean L1 penalty on moved rows
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
                # Defences in the order in which they act, see docs/defences.md.
                'label_epsilon': optional(float),  # randomised response on labels; None: none
                'pseudo': 0.0,  # share of the negatives that clients pass off as interactions
                'uploaded': ('items', 'scorer'),  # the other parameters stay as they were drawn
                'rank': optional(int),  # of the item rows; None: full
                'top': 1.0,  # share of an upload's entries that is kept: the largest
                'random': 1.0,  # the same: by chance
                'error_feedback': False,  # what top and random leave out is added the next time
                'levels': optional(int),  # of stochastic quantisation; None: none
                'clip': optional(float),  # largest norm of an upload; None: any
                'noise': 0.0,  # standard deviation of Gaussian noise on every entry of an upload
                'cohort': 1,  # clients of which the server sees the sum only: secure aggregation
                'sum_noise': 0.0,  # standard deviation of Gaussian noise on every entry of a sum
                'delta': 1e-5,  # of (epsilon, delta)-differential privacy
            },
            'dynamics': {'name': ('free',)},  # free, static, unrolled; of mgradinv
            'attack': {
                'name': ('mgradinv', 'popularity', 'random'),  # see ATTACKS
                'adaptive': (True,),  # whether the attacker knows the defences
                'popularity': True,  # whether attacks that read uploads may use it as a prior too
                'num_victims': 64,  # of all seeds, drawn among the clients; 0: all of them
                'min_positives': 1,  # clients with fewer are no victims
                'max_positives': optional(int),  # clients with more are none; None: any number
                'num_gradients': (1, 2),  # T
                'first_round': (0,),
                'interval': (1,),  # server rounds between two observed ones
                # None: squared_per_leaf, or squared where the attacker knows of noise.
                'distance': optional(str),
                'priors': {'binary': 0.0, 'norm': 0.0, 'popularity': 0.0, 'sparsity': 0.0},
                'optimizer': {'name': 'adam', 'learning_rate': 0.01, 'decay': 'cosine'},
                'num_iterations': 1000,
                'num_restarts': 1,
                'start': optional(str),  # mgradinv starts from that attack's answer; None: random
                'label_gain': 30.0,  # how much faster labels move than the private embedding
                'private_rate': optional(float),  # what the attacker believes; None: known
                'learning_rate': optional(float),  # the same for the optimiser of local_sgd
                'precision': 'float32',  # of mgradinv and the guessers
                'threshold': 0.0,  # objective at which mgradinv is done with a victim; 0: none
                'block': 16,  # most victims in one compiled call
                'dense': 4096,  # most candidates K of which exact attacks form matrices [K, K]
            },
            # What may not change a result.
            'run': {
                'progress': True,
                'lanes': optional(int),  # victims of a call in step; None: few on a CPU, else all
                'memory_mib': 4096,  # most that attacks hold on a device, beside data and training
            },
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
    _validate.lookup('variant', arg, ('smoke',))
    config.data.synthetic.update({'num_users': 40, 'num_items': 120, 'median_activity': 12.0})
    config.data.min_positives, config.data.max_positives = 1, 30
    config.attack.update({'num_victims': 4, 'num_iterations': 20, 'block': 4})
    config.attack.num_gradients = config.attack.num_gradients[:2]
    config.attack.first_round = (0,)
    config.attack.interval = (1,)
    config.num_seeds = min(config.num_seeds, 2)
    if 'arms' in config:  # one seed, one size of batch, one layer: little to compile
        config.num_seeds, config.data.max_positives, config.model.hidden = 1, 10, (8,)
        return with_arms(config, {'synthetic': {}})
    return config


def raifle_setting(config: Config) -> Config:
    """The config with model, client and what is seen as in RAIFLE's own experiments.

    MovieLens-100K, the first 30 users with their full histories, D = 64, hidden [128, 64, 32], 20
    local epochs of Adam, of whose upload the item rows are seen.

    References:
        Pham, Kulkarni, Houmansadr, RAIFLE, NDSS 2025, arXiv:2310.19163, and its code.
    """
    config.data.update({'name': 'ml-100k', 'max_users': 30})
    config.model.update(
        {'dim': 64, 'hidden': (128, 64, 32), 'scale': 1.0, 'kernel_init': 'uniform'}
    )
    config.client.update({'name': 'local_sgd', 'num_epochs': 20, 'private_rate': 1e-3})
    config.client.optimizer.update({'name': 'adam', 'learning_rate': 1e-3})
    config.client.private_optimizer.name = 'adam'
    with config.unlocked():  # as torchopt's Adam in RAIFLE's code
        config.client.optimizer.eps_root = 1e-8
        config.client.private_optimizer.eps_root = 1e-8
    config.observation.seen = ('items',)
    config.attack.num_victims = 30
    return config


def with_arms(config: Config, arms: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config of a study: by name of an arm, the fields that are its own, nested as in `config`.

    An arm 'synthetic' without changes is what `:smoke` runs.
    """
    with config.unlocked():
        config.arms = arms
    return config


def single_seeds(config: Config) -> list[Config]:
    """The config of each training run: its own seed, and its share of the victims."""
    count, victims = config.num_seeds, config.attack.num_victims
    configs = []
    for index in range(count):
        one = config.copy_and_resolve_references()
        one.seed, one.num_seeds = config.seed + index, 1
        one.attack.num_victims = victims // count + (index < victims % count)
        configs.append(one)
    return configs


def precision(config: Config, attack: str) -> str:
    """What an attack computes in."""
    return 'float64' if attack in EXACT else config.attack.precision


def hypothesis_of(attack: str, hypothesis: str) -> str | None:
    """The hypothesis that an attack makes, of which only MGradInv has a choice."""
    if attack in stats.GUESSERS:
        return None
    return hypothesis if attack == 'mgradinv' else 'free'


def iterates(attack: str) -> bool:
    """Whether `attack.num_iterations` bounds an attack."""
    return attack == 'mgradinv' or (attack in RECIPES and attack != 'imia')


def defence(config: Config) -> str:
    """What the clients do against attacks, for a row: 'clip 1, noise 0.1', or 'none'."""
    seen, client = config.observation, config.client
    feedback = ' with error feedback' * seen.error_feedback
    used = {
        f'{stats.HIDING[0]} {{:g}}': seen.label_epsilon,
        f'{stats.HIDING[1]} {{:g}}': seen.pseudo or None,
        'item_drift {:g}': client.item_drift or None,
        'only {}': '+'.join(seen.uploaded) if len(seen.uploaded) < len(PARTS) else None,
        'rank {:g}': seen.rank,
        f'top {{:g}}{feedback}': seen.top if seen.top < 1 else None,
        f'random {{:g}}{feedback}': seen.random if seen.random < 1 else None,
        'levels {:g}': seen.levels,
        'clip {:g}': seen.clip,
        'noise {:g}': seen.noise or None,
        'cohort {:g}': seen.cohort if seen.cohort > 1 else None,
        '{:g} clients a round': config.server.clients_per_round if seen.cohort > 1 else None,
        'sum noise {:g}': seen.sum_noise or None,
    }
    words = [text.format(value) for text, value in used.items() if value is not None]
    return ', '.join(words) or 'none'


class Setting(NamedTuple):
    """One point of a run's axes.

    Attributes:
        attack: name of the attack.
        dynamics: name of the hypothesis; None for an attack that reads no upload.
        num_gradients: T.
        first_round: the first observed round.
        interval: rounds between two observed ones; None at T = 1.
        seen: parts of the upload that are seen.
        adaptive: whether the attacker knows the defences.
    """

    attack: str
    dynamics: str | None
    num_gradients: int
    first_round: int
    interval: int | None
    seen: tuple[str, ...]
    adaptive: bool = True

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
        config.attack.adaptive,
    )
    undefended, defended = defence(config) == 'none', config.observation
    # What these attacks know of a defence: the share of interactions, and that entries are large.
    simple = defended.label_epsilon is None and not defended.pseudo and defended.top == 1
    same = (*stats.GUESSERS, *('spectral', 'summed') * simple)
    return list(
        dict.fromkeys(
            Setting(
                attack,
                hypothesis_of(attack, hypothesis),
                num_gradients,
                first_round,
                interval if num_gradients > 1 else None,
                tuple(seen.split('+')),
                adaptive or undefended or attack in same,
            )
            for seen, first_round, num_gradients, interval, attack, hypothesis, adaptive in axes
        )
    )
