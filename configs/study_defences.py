"""Defences: leakage at each strength, against the model's hit rate and NDCG.

Federated NCF (D = 16, hidden [16, 8]) on MovieLens-100K, all 943 users, trained for 160 rounds with
each defence. An upload is the client's gradient times the number of its examples, and the attacker
sees all of it. There are 30 victims with 40 to 58 interactions over 3 seeds; the gradients are 10
rounds apart, from round 10 on. Some attackers know the defence and some do not; none uses
popularity as a prior. Each arm is a defence of one strength; docs/defences.md lists the families.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_defences.py
    ... python scripts/study.py --config=configs/study_defences.py --arms=none,noise_3

`:recipes` runs the attacks of the literature where a defence stops the others; an arm takes
minutes. Results: docs/defences.md.
"""

from collections.abc import Mapping
from typing import Any

from fedinv_jax.audit import config as config_lib

_CLIP = 20.0  # about the median norm of an upload
_ONE = ('exact', 'spectral', 'summed', 'sign', 'mgradinv', 'popularity')
_RECIPES = ('dlg', 'imia', 'inverting_gradients', 'raifle', 'tgias_ro', 'popularity')
_ROWS = ('spectral', 'summed', 'sign', 'mgradinv', 'popularity')  # for sums over several clients


def _seen(**fields: Any) -> dict[str, Any]:
    return {'observation': fields}


def _both(**fields: Any) -> dict[str, Any]:
    """Changes of an arm with attackers that know the defence and attackers that do not."""
    return {'observation': fields, 'attack': {'adaptive': (True, False)}}


def _cohort(size: int, names: tuple[str, ...] = _ROWS, **fields: Any) -> Mapping[str, Any]:
    return {
        'observation': {'cohort': size, **fields},
        'attack': {'name': names, 'num_iterations': 300},
    }


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None, 'recipes' or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 3
    config.data.update({'name': 'ml-100k', 'leave_one_out': True, 'ties': 'random'})
    config.model.update({'dim': 16, 'hidden': (16, 8), 'scale': 0.03})
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.02})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.1
    config.server.num_rounds = 160
    config.attack.update(
        {
            'name': _ONE,
            'popularity': False,
            'num_victims': 30,
            'min_positives': 40,
            'max_positives': 58,
            'victims_per_call': 10,
            'num_gradients': (1, 2, 4, 8),
            'first_round': (10,),
            'interval': (10,),
            'num_iterations': 500,
        }
    )
    arms: dict[str, Any] = {'none': {}}
    arms |= {f'clip_{c:g}': _seen(clip=c) for c in (_CLIP, 0.1)}
    arms |= {f'noise_{s:g}': _both(clip=_CLIP, noise=s) for s in (1.0, 3.0, 10.0, 30.0)}
    # `_both` adds blind attackers, where not knowing the defence may mislead an attack.
    arms |= {'labels_2': _seen(label_epsilon=2.0), 'labels_1': _both(label_epsilon=1.0)}
    arms['pseudo_0.4'] = _both(pseudo_rate=0.4)
    arms |= {f'top_{s:g}': _seen(top_k_share=s) for s in (0.1, 0.001)} | {
        'top_0.01': _both(top_k_share=0.01)
    }
    arms |= {f'random_{s:g}': _seen(random_k_share=s) for s in (0.1, 0.01, 0.001)}
    # With error feedback: consecutive rounds from the start, so that dropped entries are followed.
    followed = {'attack': {'first_round': (0,), 'interval': (1,)}}
    arms['top_feedback_0.01'] = _seen(top_k_share=0.01, error_feedback=True) | followed
    arms['random_feedback_0.01'] = _seen(random_k_share=0.01, error_feedback=True) | followed
    arms |= {'levels_1': _seen(quantization_levels=1), 'rank_1': _seen(rank=1)}
    arms['only_items'] = _seen(uploaded=('items',), seen=('items',))
    arms['only_scorer'] = _seen(uploaded=('scorer',), seen=('scorer',))
    arms['only_scorer']['attack'] = {'name': ('exact', 'mgradinv', 'popularity')}
    # Five local steps: in the first step the rows have not moved, and the penalty is zero.
    steps = {'name': 'local_sgd', 'num_epochs': 5}
    arms |= {f'drift_{w:g}': {'client': {**steps, 'item_drift': w}} for w in (0.0, 1.0)}
    arms |= {f'cohort_{n}': _cohort(n) for n in (2, 8)}
    # Half of the clients take part in each round: a cohort's sum is over other members each time.
    arms['cohort_8_half'] = {**_cohort(8), 'server': {'clients_per_round': 471}}
    rows_only = ('spectral', 'summed', 'sign', 'popularity')
    arms |= {f'cohort_{n}': _cohort(n, rows_only) for n in (32, 128)}
    arms |= {
        f'sum_noise_{s:g}': _cohort(32, rows_only, clip=_CLIP, sum_noise=s)
        for s in (1.0, 3.0, 30.0)
    }
    # Field names of a config cannot contain a dot.
    arms = {name.replace('.', '_'): changes for name, changes in arms.items()}
    config = config_lib.with_arms(config, arms)
    if not arg:
        return config
    if arg == 'recipes':  # adaptive only
        config.attack.update({'name': _RECIPES, 'num_gradients': (1, 8)})
        feedback = ('top_feedback_0_01', 'random_feedback_0_01')
        kept = ('noise_3', 'noise_10', 'random_0_01', 'random_0_001', 'top_0_01', 'top_0_001')
        attacks: dict[str, Any] = {name: {} for name in (*kept, 'labels_1')}
        attacks |= {name: arms[name]['attack'] for name in feedback}
        # A sum has the unknowns of all members: one gradient and fewer iterations save time.
        sums = {'num_gradients': (1,), 'num_iterations': 100}
        attacks['sum_noise_1'] = {**sums, 'name': ('imia', 'raifle', 'tgias_ro', 'popularity')}
        attacks['cohort_128'] = {**sums, 'name': ('imia', 'tgias_ro', 'popularity')}
        names = ('dlg', 'inverting_gradients', 'tgias_ro', 'popularity')  # these read no rows
        attacks['only_scorer'] = {'name': names}
        return config_lib.with_arms(
            config,
            {
                name: {'observation': arms[name]['observation'], 'attack': own}
                for name, own in attacks.items()
            },
        )
    config = config_lib.variant(config, arg)
    config.data.name = 'synthetic'
    config.server.num_rounds = 30
    config.attack.update({'name': ('exact', 'spectral', 'popularity'), 'min_positives': 1,
                          'max_positives': None, 'adaptive': (True,)})  # fmt: skip
    return config_lib.with_arms(config, {'none': {}, 'noise_3': _seen(clip=_CLIP, noise=3.0)})
