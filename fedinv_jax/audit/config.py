"""The config of a run: every field with its default, and how a config becomes another."""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from fedinv_jax import _validate
from fedinv_jax.audit import compatibility, defences

Config = compatibility.Config


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
                # Of a file: what each column is, from the first on: 'user', 'item', 'rating',
                # 'label' (a rating whose zeros are no interactions), 'timestamp', '_' (not read);
                # None: as its header or, without one, the positions say.
                'columns': optional(tuple),
                'header': optional(bool),  # whether its first line is one; None: if it looks so
                'rating_threshold': optional(
                    float
                ),  # ratings from here on are interactions; None: all
                'k_core': 0,  # k of the k-core filter; 0: none
                # Leave each user's last interaction out of the training, and evaluate the model
                # that is trained for server.num_rounds on it.
                'leave_one_out': False,
                'ties': 'item',  # which of several last ones: the largest item id, or 'random'
                'negatives_per_positive': 4,  # negatives for each positive
                'resample_negatives': False,  # new ones each round; needs batch_known=False
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
                'private_learning_rate': 0.1,  # step size of the private embedding
                'private_optimizer': {
                    'name': 'sgd'
                },  # of local_sgd, at the rate private_learning_rate
                'optimizer': {'name': 'sgd', 'learning_rate': 0.1},  # of local_sgd
                'num_epochs': 1,  # of local_sgd
                'batch_size': optional(int),  # of local_sgd; None: full batch
                # Uploads times the number of the client's entries (FedAvg).
                'weight_by_num_examples': False,
                **defences.defaults('client'),
                'precision': 'float32',  # dtype of the uploads; 'float64' is a control
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
                # Every defence, off; what each value means is in `defences.DEFENCES`.
                **defences.defaults('observation'),
                'error_feedback': False,  # what top and random leave out is added the next time
                'delta': 1e-5,  # of (epsilon, delta)-differential privacy
            },
            'dynamics': {'name': ('free',)},  # free, static, unrolled; of mgradinv
            'attack': {
                'name': ('mgradinv', 'popularity', 'random'),  # see `registry.ATTACKS`
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
                'warm_start': optional(
                    str
                ),  # mgradinv starts from that attack's answer; None: random
                'label_rate_scale': 30.0,  # how much faster labels move than the private embedding
                'private_learning_rate': optional(float),  # what the attacker believes; None: known
                'learning_rate': optional(float),  # the same for the optimiser of local_sgd
                'dtype': 'float32',  # of all attacks but the exact ones
                'stop_below': 0.0,  # objective at which mgradinv is done with a victim; 0: none
                'victims_per_call': 16,  # most victims in one compiled call
                # Exact attacks form matrices [K, K] of at most so many candidates K.
                'max_dense_candidates': 4096,
            },
            # What may not change a result.
            'run': {
                'progress': True,
                'parallel_victims': optional(
                    int
                ),  # victims of a call in step; None: few on a CPU, else all
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
    config.attack.update({'num_victims': 4, 'num_iterations': 20, 'victims_per_call': 4})
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
    config.client.update({'name': 'local_sgd', 'num_epochs': 20, 'private_learning_rate': 1e-3})
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
