"""Secure aggregation when cohorts change: leakage against rounds, size, noise and quality.

Matrix factorisation (`mf_`) and NCF (`ncf_`), D = 16, on MovieLens-100K, all 943 users, trained to
recommend: AdamW on the server, clients that train their embeddings, uploads times the number of
examples. The server sees sums over cohorts: the participants of a round (`sampled`, 1,024 rounds),
or all clients in cohorts that are drawn anew in each round (`redrawn`) or stay (`fixed`; 160
rounds). Noise on the sum has a standard deviation of .1 to 30 on each entry, after clipping to 20.
There are 30 victims with 40 to 58 interactions over 3 seeds; the rounds are those from the first
one on. An arm is a model, a membership, the size of a cohort, the noise, and whether the batches
are known; the attacks that search for all clients at once (`joint`, for NCF the reader `unrolled`)
take longer and have arms of their own, with noise and in large fixed cohorts at the largest T only.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_secure_aggregation.py
    ... python scripts/study.py --config=configs/study_secure_aggregation.py --arms=mf_sampled_128

`:short` trains for 256 rounds only: what fewer rounds and noise cost together. `:long` runs `joint`
on 128 rounds of the same 128 clients behind noise 3, for 10 victims of one training run.

Results: docs/defences.md.
"""

from typing import Any

from fedinv_jax.audit import config as config_lib

_CLIP = 20.0  # as in study_defences
_NOISES = (0.0, 0.1, 0.3, 1.0, 3.0)
_MORE = (10.0, 30.0)  # how much noise 1,024 rounds need, and what it costs
_SIZES = (128, 32, 8)
_ROUNDS = {'sampled': (1, 8, 64, 256, 1024), 'redrawn': (1, 8, 64), 'fixed': (1, 8, 64)}
_AT_ONCE: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    'mf': ('_joint', {'sampled': (16, 32, 64), 'redrawn': (4, 8), 'fixed': (8, 32)}),
    'ncf': ('_unrolled', {'sampled': (64, 256), 'fixed': (64,)}),
}
_MODELS: dict[str, dict[str, Any]] = {
    'mf': {
        'model': {'name': 'matrix_factorization'},
        'server': {'optimizer': {'learning_rate': 0.01, 'weight_decay': 1.0}},
    },
    'ncf': {'model': {'name': 'ncf'}, 'server': {}},
}


def _arm(
    model: str,
    membership: str,
    size: int,
    noise: float,
    known: bool = True,
    at_once: bool = False,
    clip: bool = False,
) -> tuple[str, dict[str, Any]]:
    """The name and the changes of an arm; noise comes with a clip."""
    name = f'{model}_{membership}_{size}' + (f'_noise_{noise:g}' if noise else '_clip' * clip)
    name += ('' if known else '_unknown') + (_AT_ONCE[model][0] if at_once else '')
    server = dict(_MODELS[model]['server'])
    if membership == 'sampled':
        server |= {'num_rounds': 1024, 'clients_per_round': size}
    if not known:
        attack, read = 'unmix', 'replay' if model == 'ncf' else 'projection'
    elif model == 'ncf':
        attack, read = 'unmix', 'unrolled' if at_once else 'replay'
    else:
        attack, read = 'joint' if at_once else 'unmix', 'spectral'
    steps = (_AT_ONCE[model][1] if at_once else _ROUNDS)[membership]
    many = membership == 'fixed' and size > 32
    changes = {
        'model': _MODELS[model]['model'],
        'server': server,
        'observation': {
            'cohort': size,
            'cohort_membership': membership,
            'batch_known': known,
            **({'clip': _CLIP, 'sum_noise': noise} if noise or clip else {}),
        },
        'attack': {
            'name': (
                *(('spectral', 'summed') if membership == 'fixed' and not at_once else (attack,)),
                'popularity',
            ),
            'unmix_reader': (read,),
            'num_gradients': steps[-1:] if at_once and (noise or many) else steps,
        },
    }
    return name.replace('.', '_'), changes  # field names of a config cannot contain a dot


def _arms() -> dict[str, dict[str, Any]]:
    """The arms: those of 128 sampled clients, which are the most common in practice, first."""
    found = [
        _arm(model, 'sampled', 128, noise, known)
        for noise in _NOISES
        for model in _MODELS
        for known in (True, False)
    ]
    found += [_arm(model, 'sampled', 128, noise) for noise in _MORE for model in _MODELS]
    found += [_arm(model, 'sampled', 128, 0.0, clip=True) for model in _MODELS]
    found += [
        _arm(model, 'sampled', 128, noise, at_once=True)
        for model in _MODELS
        for noise in (_NOISES if model == 'mf' else (0.0, 1.0))
    ]
    for membership in ('redrawn', 'sampled', 'fixed'):
        for size in _SIZES:
            for model in _MODELS:
                found += [_arm(model, membership, size, noise) for noise in (0.0, 1.0)]
                if membership != 'fixed':
                    found.append(_arm(model, membership, size, 0.0, known=False))
            if membership == 'redrawn':
                found += [_arm('mf', membership, size, noise, at_once=True) for noise in (0.0, 1.0)]
            elif membership == 'fixed':
                found += [_arm(model, membership, size, 0.0, at_once=True) for model in _MODELS]
                found += [_arm('mf', membership, size, noise, at_once=True) for noise in (1.0, 3.0)]
    return dict(found)


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None, 'short', 'long' or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 3
    config.data.update({'name': 'ml-100k', 'leave_one_out': True, 'ties': 'random'})
    config.model.update({'dim': 16, 'hidden': (16, 8), 'scale': 0.03})
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.02})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.1
    config.server.num_rounds = 160
    config.observation.seen = ('items',)
    config.attack.update(
        {
            'popularity': False,
            'num_victims': 30,
            'min_positives': 40,
            'max_positives': 58,
            'num_iterations': 600,  # of joint
        }
    )
    config.dynamics.name = ('unrolled',)
    if arg == 'long':
        config.num_seeds, config.attack.num_victims = 1, 10
        name, changes = _arm('mf', 'fixed', 128, 3.0, at_once=True)
        changes['attack']['num_gradients'] = (128,)
        return config_lib.with_arms(config, {name: changes})
    if arg == 'short':
        arms = dict(_arm('mf', 'sampled', 128, noise) for noise in (*_NOISES, *_MORE))
        for arm in arms.values():
            arm['server']['num_rounds'], arm['attack']['num_gradients'] = 256, (64, 256)
        return config_lib.with_arms(config, arms)
    config = config_lib.with_arms(config, _arms())
    if not arg:
        return config
    config = config_lib.variant(config, arg)
    config.data.name, config.server.num_rounds = 'synthetic', 12
    config.attack.update({'min_positives': 1, 'max_positives': None})
    arms = dict([_arm('mf', 'redrawn', 8, 0.0), _arm('ncf', 'redrawn', 8, 1.0, known=False)])
    for arm in arms.values():
        arm['attack']['num_gradients'] = (1, 8)
    return config_lib.with_arms(config, arms)
