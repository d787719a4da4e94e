"""The config of a run: every field with its default, the smoke variant, and a config per seed."""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from fedinv_jax import _validate
from fedinv_jax.audit import compatibility, defences

Config = compatibility.Config


def default_config() -> Config:
    """The config that every file in `configs/` starts from; a comment documents each field.

    A tuple is an axis of the run, except `data.rating_scale`, `model.hidden` and
    `observation.uploaded`: every combination of the axes is a setting, and one training run per
    seed serves all settings.
    """
    optional = config_dict.placeholder
    config = Config(
        {
            'seed': 0,  # seed of all random draws: data, negatives, training, victims, attacks
            # Number of training runs, with seeds seed, seed + 1, ...; num_victims is divided
            # among them.
            'num_seeds': 1,
            'data': {
                'name': 'synthetic',  # or the name of a known data set, or the path of a file
                # What each column of the file is, in order: 'user', 'item', 'rating', 'label' (a
                # rating; rows of 0 are not interactions), 'timestamp' or '_' (not read). None:
                # taken from the header, or without a header from the positions.
                'columns': optional(tuple),
                # Whether the first line of the file is a header; None: detected.
                'header': optional(bool),
                # Ratings >= this value are interactions; None: every rating is one.
                'rating_threshold': optional(float),
                # Repeatedly drops users and items with fewer than k interactions; 0: no filter.
                'k_core': 0,
                # Hold out each user's last interaction, train for all of server.num_rounds, and
                # evaluate the recommendations on the held-out interactions.
                'leave_one_out': False,
                # Which interaction is held out where several share the last time: that with the
                # largest item id ('item'), or one drawn at random ('random').
                'ties': 'item',
                'negatives_per_positive': 4,  # items sampled with label 0, per interaction
                # Sample new negatives each round; needs observation.batch_known=False.
                'resample_negatives': False,
                # 'implicit': 1 for an interaction, 0 for a negative. 'ratings': ratings scaled to
                # (1/2, 1], beside negatives. 'explicit': ratings alone, predicted by squared error.
                'labels': 'implicit',
                # With explicit ratings: the lowest, the highest, and the step between two.
                'rating_scale': (1.0, 5.0, 1.0),
                'min_positives': 1,  # users with fewer interactions are no clients
                'max_positives': optional(int),  # users with more are no clients; None: no limit
                'max_users': optional(int),  # keep only the first of these users; None: all
                'synthetic': {  # arguments of data.synthetic.generate
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
                    'num_ratings': 1,
                },
            },
            'model': {
                # 'matrix_factorization', 'gmf', 'ncf', 'neumf', 'lightgcn', 'pfedrec', 'fedrap' or
                # 'two_tower'. A field that names models in brackets is one of theirs.
                'name': 'ncf',
                'dim': 16,  # D, entries of a user's and of an item's embedding
                'hidden': (64, 32, 16),  # widths of the scorer's hidden layers (ncf, neumf)
                'width': 32,  # width of the user tower's hidden layer (two_tower)
                'num_layers': 1,  # layers of the graph network (lightgcn)
                'use_bias': True,  # biases in the scorer (ncf, neumf, gmf)
                'item_bias': False,  # a bias for each item (matrix_factorization)
                'scale': 0.1,  # standard deviation of the initial embeddings
                # Initial kernels of the scorer, with biases of zero; or 'uniform' (ncf).
                'kernel_init': 'he_normal',
                # Items are described by features, and an item row is the mean of the rows of its
                # features, which are parameters of the scorer: 'genres' (those of ml-100k),
                # 'random' (one to three of model.num_features for each item), or the path of a CSV
                # file of lines item,feature. None: an item has a row of its own. Needs
                # observation.uploaded=('scorer',) and observation.seen=('scorer',).
                'item_features': optional(str),
                'num_features': 20,  # features that are drawn with model.item_features='random'
                'dropout': 0.0,  # probability that a hidden unit is dropped in training (ncf)
            },
            'client': {
                # The upload: one gradient ('gradient_step'), or the change of the parameters over
                # local training ('local_sgd').
                'name': 'gradient_step',
                # Binary cross-entropy, 'squared_error' or 'hinge' of each item; or a loss of the
                # whole batch, 'bpr', 'sampled_softmax' or 'softmax', see `losses`.
                'loss': 'bce',
                'label_smoothing': 0.0,  # labels are trained on as (1 - s) y + s / 2
                'positive_weight': 1.0,  # weight of an interaction's loss; a negative has 1
                'private_learning_rate': 0.1,  # learning rate of the private user embedding
                'weight_decay': 0.0,  # L2 term of all parameters in the client's loss
                # FedRAP's terms in the client's loss: weight of the distance between the shared and
                # the private item table, and of the absolute entries of the shared one (fedrap).
                'private_distance': 0.0,
                'item_sparsity': 0.0,
                # Used by local_sgd only: the optimisers of the private and of the shared
                # parameters (private_learning_rate is the rate of the former), the number of
                # passes over the data, and interactions per minibatch (None: all in one).
                'private_optimizer': {'name': 'sgd'},
                'optimizer': {'name': 'sgd', 'learning_rate': 0.1},
                'num_epochs': 1,
                # Factor of both learning rates from one local epoch to the next.
                'learning_rate_decay': 1.0,
                # Learning rate of the item rows, relative to that of the scorer: with gradient_step
                # the item rows of an upload times this, with local_sgd each local step of them.
                'item_rate_scale': 1.0,
                'batch_size': optional(int),
                # Whether minibatches have another order in each epoch, which no attacker knows.
                'shuffle': False,
                # Share of its interactions that a client trains on in a round, drawn anew.
                'batch_share': 1.0,
                # Multiply an upload by the number of the client's examples (FedAvg).
                'weight_by_num_examples': False,
                **defences.defaults('client'),
                # dtype of training and uploads; 'float64' tests whether rounding limits an attack.
                'precision': 'float32',
                # dtype that uploads are rounded to before they are sent, 'float16' or 'bfloat16';
                # None: that of the training.
                'upload_dtype': optional(str),
            },
            'server': {
                # SGD is FedSGD with gradient_step; with local_sgd and rate 1 it is FedAvg.
                'optimizer': {'name': 'sgd', 'learning_rate': 0.1},
                # How the uploads of a round are combined: 'sum', 'mean' over the participants, or
                # 'mean_over_touched', the mean over the clients that have the item.
                'aggregate_items': 'sum',
                'aggregate_scorer': 'mean',
                'clients_per_round': optional(int),  # participants sampled each round; None: all
                'num_rounds': 1000,  # length of the training; every observed round is before it
            },
            'observation': {
                # Parts of an upload that the attacker sees, joined by '+'.
                'seen': ('items+scorer',),
                'batch_known': True,  # whether the attacker knows which items are in the batch
                # With observation.cohort: who is summed with whom. The same clients in all rounds
                # ('fixed'), other cohorts in each round ('redrawn'), or the participants of the
                # round ('sampled'; observation.cohort is then server.clients_per_round).
                'cohort_membership': 'fixed',
                # One field per defence, all switched off; `defences.DEFENCES` documents each.
                **defences.defaults('observation'),
                # With top_k_share or random_k_share: entries that are dropped from an upload are
                # added to the client's next one.
                'error_feedback': False,
                'delta': 1e-5,  # delta of the (epsilon, delta)-differential privacy reported
            },
            # What mgradinv and joint assume about private embeddings: another one in each observed
            # round ('free'), the same in all ('static'), or trained from the first on ('unrolled').
            'dynamics': {'name': ('free',)},
            'attack': {
                # Attacks and baselines, see `registry.ATTACKS`.
                'name': ('mgradinv', 'popularity', 'random'),
                'adaptive': (True,),  # whether the attacker knows the defences
                # Whether attacks that read uploads also get the popularity of the items.
                'popularity': True,
                # Victims of all seeds together, drawn among the clients; 0: every client is one.
                'num_victims': 64,
                'min_positives': 1,  # clients with fewer interactions are no victims
                'max_positives': optional(int),  # clients with more are no victims; None: no limit
                'num_gradients': (1, 2),  # T, the number of observed rounds
                'first_round': (0,),  # the first observed round, counted from 0
                'interval': (1,),  # server rounds from one observed round to the next
                # Distance between predicted and seen uploads, see `mgradinv.DISTANCES`; None:
                # 'squared_per_leaf', 'squared' if the attacker knows of noise, 'cosine_per_part' if
                # it does not know the step sizes.
                'distance': optional(str),
                # Weights of the priors in mgradinv's objective.
                'priors': {'binary': 0.0, 'norm': 0.0, 'popularity': 0.0, 'sparsity': 0.0},
                # Solver of mgradinv and joint: an optimiser by its name in optax, whose 'decay' is
                # 'cosine' or 'constant'; or 'gauss_newton', where batches are known (mgradinv:
                # in float64; joint: an iteration is 60 products with the Jacobian).
                'optimizer': {
                    'name': 'adam',
                    'learning_rate': 0.01,
                    'decay': 'cosine',
                },
                # What reads the item rows that unmix separates: an attack that reads rows,
                # 'projection', or 'replay' and 'unrolled', which separate labels in the place of
                # rows: of clients that are alike, and of clients that train from round 0 on.
                'unmix_reader': ('spectral',),
                'num_iterations': 1000,  # of the iterative attacks, per victim
                # With T > 2, mgradinv solves the first 2 steps, then 4, ..., each from the answer
                # before. The stages share num_iterations; the first has two shares. joint starts
                # with 16 rounds, whose stage has one share, and the reader unrolled with 64.
                'curriculum': True,
                'num_restarts': 1,  # random starts of mgradinv; the lowest objective is kept
                # Exact attack from whose answer mgradinv starts, without stages; None: random.
                'warm_start': optional(str),
                # Learning rate of the labels, relative to that of the private embedding.
                'label_rate_scale': 30.0,
                # What the attacker believes of the clients where it is not the truth, such as
                # ('client.private_learning_rate=0.2', 'data.negatives_per_positive=9').
                'believes': (),
                # Share of the batch's items that the attacker takes for other ones, and whether it
                # knows in which rounds a victim took part (if not: in all).
                'wrong_items': 0.0,
                'participation_known': True,
                # Whether the attacker knows the step sizes of clients that take one step: the
                # factors of the gradients of item rows and scorer in an upload. If not, exact and
                # mgradinv estimate them.
                'step_sizes_known': True,
                # Whether each attack that reads uploads also runs on the uploads of another victim,
                # scored against the labels of its own: what it finds without the victim's uploads.
                'placebo': False,
                'dtype': 'float32',  # dtype of the attacks, except the exact ones (float64)
                'stop_below': 0.0,  # objective below which mgradinv stops on a victim; 0: never
                'victims_per_call': 16,  # victims per compiled call, at most
                # Most candidates K for which exact attacks form dense [K, K] matrices.
                'max_dense_candidates': 4096,
            },
            # Fields that must not change a result.
            'run': {
                'progress': True,  # show progress bars on a terminal
                # Victims of a call that are attacked in step; None: few on a CPU, else all.
                'parallel_victims': optional(int),
                # Device memory that attacks may use, in MiB, besides data and training.
                'memory_mib': 4096,
            },
        }
    )
    return config.lock()


def refusal(error: Exception) -> str:
    r"""Why ml_collections refuses a field, in a line: its message lists the whole config.

    Example:
        >>> refusal(KeyError('No "dimm". Other fields present: "{1,\n2}"\nDid you mean "dim"?'))
        'No "dimm". Did you mean "dim"?'
    """
    text = re.sub(r'Other fields present: ".*}"', '', str(error.args[0]), flags=re.DOTALL)
    return ' '.join(text.split())


def variant(config: Config, arg: str | None) -> Config:
    """The config that `configs/x.py:arg` names: 'smoke' shrinks the experiment to seconds.

    Raises:
        ValueError: for any other `arg`.
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
    """The config with the data, model, client and observed part of RAIFLE's own experiments.

    MovieLens-100K, the first 30 users with their full histories, D = 64, hidden [128, 64, 32]. A
    client trains 20 local epochs with Adam, and the server sees the item rows of its upload.

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
    with config.unlocked():  # as in torchopt's Adam, which RAIFLE's code uses
        config.client.optimizer.eps_root = 1e-8
        config.client.private_optimizer.eps_root = 1e-8
    config.observation.seen = ('items',)
    config.attack.num_victims = 30
    return config


def with_arms(config: Config, arms: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config of a study with the given arms.

    Args:
        config: the config that all arms share.
        arms: by name of an arm, the fields that it changes, nested as in `config`. `:smoke` has
            one arm 'synthetic' that changes nothing.
    """
    with config.unlocked():
        config.arms = arms
    return config


def single_seeds(config: Config) -> list[Config]:
    """The config of each training run, with one seed and its share of the victims."""
    count, victims = config.num_seeds, config.attack.num_victims
    configs = []
    for index in range(count):
        one = config.copy_and_resolve_references()
        one.seed, one.num_seeds = config.seed + index, 1
        one.attack.num_victims = victims // count + (index < victims % count)
        configs.append(one)
    return configs
