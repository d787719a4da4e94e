"""Every model, with BCE and with BPR: what the exact attack and MGradInv find in its uploads.

MovieLens-100K, D = 16, FedSGD with AdamW on the server; clients train their private parameters at
rate 1 and multiply uploads by their number of examples. 64 victims of 40 to 58 interactions are
attacked at rounds 0 and 100, with one, two and four gradients. What is seen: item rows, and where
the model has a shared scorer, both; the scorer alone where it has a layer that multiplies a private
embedding (the scorer of GMF uploads D + 1 numbers). An arm is a model and a loss.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/models.py
    ... python scripts/study.py --config=configs/models.py --arms=gmf_bce

On one core, an arm takes one to five minutes with the exact attack and popularity (training with
BPR most of it: pairs are B^2), and hours with MGradInv. NCF's item rows alone, `ncf_items_*`, take
seconds a victim, with four gradients 10 to 20: 8 victims. Expected: all labels from one gradient
of item rows. Results: docs/models.md.
"""

from typing import Any

from fedinv_jax.audit import config as config_lib

_ROWS, _BOTH = ('items',), ('items+scorer', 'items')
# What is seen of each model.
_MODELS = {
    'matrix_factorization': _ROWS,
    'gmf': _BOTH,
    'ncf': ('scorer', 'items+scorer'),
    'neumf': ('scorer', *_BOTH),
    'pfedrec': _ROWS,
    'fedrap': _ROWS,
    'lightgcn': _ROWS,
    'two_tower': _ROWS,
}
_LOSSES = ('bce', 'bpr')

# Items of one to three features of F, drawn at random: the rows of features are in the scorer.
_FEATURES = (('matrix_factorization', 'bce'), ('matrix_factorization', 'bpr'), ('ncf', 'bce'))


def _with_features(model: str, loss: str, size: int) -> dict[str, Any]:
    return {
        'model': {'name': model, 'item_features': 'random', 'num_features': size},
        'client': {'loss': loss},
        'observation': {'uploaded': ('scorer',), 'seen': ('scorer',)},
    }


def _arm(model: str, loss: str, terms: bool = False) -> dict[str, Any]:
    client: dict[str, Any] = {'loss': loss}
    if terms:  # as in FedRAP's code
        client |= {'private_distance': 0.1, 'item_sparsity': 0.1}
    return {'model': {'name': model}, 'client': client, 'observation': {'seen': _MODELS[model]}}


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.update({'name': 'ml-100k', 'leave_one_out': True, 'ties': 'random'})
    config.data.max_positives = 120
    config.model.scale = 0.03
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.server.num_rounds = 160
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.02})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.1
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity'),
            'num_gradients': (1, 2, 4),
            'first_round': (0, 100),
            'num_iterations': 2000,
            'min_positives': 40,
            'max_positives': 58,
        }
    )
    config.attack.priors.sparsity = 1e-3
    arms = {f'{model}_{loss}': _arm(model, loss) for model in _MODELS for loss in _LOSSES}
    arms['fedrap_terms_bce'] = _arm('fedrap', 'bce', terms=True)
    for loss in _LOSSES:  # `aligned` takes seconds a victim
        few = {'attack': {'num_victims': 8, 'num_gradients': (1, 4)}}
        rows = {'observation': {'seen': _ROWS}}
        arms[f'ncf_items_{loss}'] = _arm('ncf', loss) | rows | few
    for model, loss in _FEATURES:
        for size in (20, 400):
            arms[f'{model}_{size}_features_{loss}'] = _with_features(model, loss, size)
    if arg != 'smoke':
        return config_lib.variant(config_lib.with_arms(config, arms), arg)
    config = config_lib.variant(config, arg)
    config.data.update({'name': 'synthetic', 'max_positives': 10})
    config.model.update({'dim': 4, 'hidden': (8,)})
    config.server.num_rounds = 4
    config.attack.update({'num_victims': 2, 'num_iterations': 3, 'num_gradients': (1,)})
    config.attack.update({'min_positives': 1, 'max_positives': None})
    once = {
        f'{model}_{loss}': arms[f'{model}_{loss}']
        for model, loss in zip(_MODELS, 4 * _LOSSES, strict=True)
    }
    for arm in once.values():
        arm['observation'] = {'seen': arm['observation']['seen'][:1]}
    once['features_bpr'] = _with_features('matrix_factorization', 'bpr', 20)
    return config_lib.with_arms(config, once)
