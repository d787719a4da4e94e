"""RAIFLE's setting with defences: local training, large embeddings, item rows only.

The setting of Pham et al., NDSS 2025: the first 30 users of MovieLens-100K with their full
histories, D = 64, hidden [128, 64, 32], 20 local epochs of Adam. Every round from round 0 on is
observed. `exact_local_training.py:raifle` is the setting without defences.

The arms `dp_E` clip the whole upload to norm .05 (sensitivity .1) and add noise that gives each
single upload epsilon E at delta 1e-8. The arms `raifle_*` run RAIFLE itself, minutes for one
upload; `dp_100_long` and `dp_100_sign` attack up to 512 uploads, an hour or more each. The attacks
of all other arms take milliseconds.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_raifle.py
    ... python scripts/study.py --config=configs/study_raifle.py --arms=dp_100,raifle_dp_100

Results: docs/defences.md.
"""

from typing import Any

from fedinv_jax.audit import config as config_lib

_CLIP, _DELTA = 0.05, 1e-8
_NOISE = {100: 0.010358, 10: 0.061585, 1: 0.510031}  # by epsilon, analytic Gaussian
_LONG = (64, 128, 256, 384, 512)


def _dp(epsilon: int) -> dict[str, Any]:
    return {'observation': {'clip': _CLIP, 'noise': _NOISE[epsilon], 'delta': _DELTA}}


def _raifle(changes: dict[str, Any]) -> dict[str, Any]:
    one = {'name': ('raifle', 'popularity'), 'num_gradients': (1,)}
    return {**changes, 'attack': one, 'server': {'num_rounds': 1}}


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.raifle_setting(config_lib.default_config())
    config.server.num_rounds = 8
    config.attack.update(
        {
            'name': ('exact', 'spectral', 'summed', 'sign', 'popularity'),
            'popularity': False,
            'num_gradients': (1, 2, 4, 8),
            'interval': (1,),
        }
    )
    drift: dict[str, Any] = {'client': {'item_drift': 1.0}}
    arms: dict[str, Any] = {'none': {}, 'drift_1': drift}
    arms |= {f'dp_{epsilon}': _dp(epsilon) for epsilon in _NOISE}
    for name, fields in {
        'labels_1': {'label_epsilon': 1.0},
        'pseudo_0_2': {'pseudo_rate': 0.2},
        'top_0_01': {'top_k_share': 0.01},
        'random_0_01': {'random_k_share': 0.01},
        'levels_1': {'quantization_levels': 1},
        'rank_1': {'rank': 1},
    }.items():
        arms[name] = {'observation': fields}
    arms['cohort_8'] = {
        'observation': {'cohort': 8},
        'attack': {'name': ('spectral', 'summed', 'popularity')},
    }
    arms |= {f'raifle_dp_{epsilon}': _raifle(_dp(epsilon)) for epsilon in (100, 1)}
    arms['raifle_drift_1'] = _raifle(drift)
    long = {**_dp(100), 'server': {'num_rounds': max(_LONG)}}
    many = {'name': ('summed', 'popularity'), 'num_gradients': _LONG, 'victims_per_call': 1}
    arms['dp_100_long'] = {**long, 'attack': many}
    arms['dp_100_sign'] = {
        **long,
        'attack': {
            'name': ('sign', 'popularity'),
            'num_gradients': (max(_LONG),),
            'victims_per_call': 1,
        },
        'run': {'memory_mib': 8192},
    }
    config = config_lib.with_arms(config, arms)
    if not arg:
        return config
    config = config_lib.variant(config, arg)
    config.data.name = 'synthetic'
    config.attack.update({'name': ('spectral', 'summed', 'popularity'), 'num_gradients': (1, 2)})
    return config_lib.with_arms(config, {'dp_100': _dp(100)})
