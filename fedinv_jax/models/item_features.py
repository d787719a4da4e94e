"""Items that are described by features: an item row is the mean of feature rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import item_table, tree
from fedinv_jax.types import Array, Batch, Key, Model, PyTree

ROWS = 'feature_rows'
"""Name of the feature rows among the scorer's parameters."""


def with_item_features(model: Model, incidence: Any) -> Model:
    """The recommender `model` on items whose rows are means of feature rows.

    `q_i = sum_f A_if e_f`, `A_if = a_if / sum_f a_if`, so that what leaves the device is

    `dL/de_f = sum_i A_if c_i dz_i/dq_i`, `c_i = dL/dz_i`:

    of the coefficients `c` of a batch only `A' c`. They are determined where the rows of A of the
    batch are linearly independent, and never if it has more items than there are features. A
    feature of each item's own (a column of the identity matrix) gives the item a row of its own.

    Shared parameters: `{'items': {'features': a [N, F]}, 'scorer': {..., 'feature_rows': the item
    leaves of model [F, ...]}}`. The matrix a is public and no parameter: its gradient is 0, a
    factor of one of its rows changes nothing, and only the scorer is to be uploaded,
    `observe.share('scorer')`.

    Args:
        model: with an item table of F rows, which become the feature rows.
        incidence: a, numbers >= 0 `[N, F]`, 1 where an item has a feature; others are weights.

    Returns:
        The model of N items.

    Raises:
        ValueError: if the incidence is no matrix of numbers >= 0, an item has no feature, the
            model's table has not F rows, or its private state has an item table.

    Example:
        >>> from fedinv_jax import models
        >>> flags = [[1, 1, 0], [0, 0, 1]]
        >>> model = with_item_features(models.matrix_factorization(num_items=3, dim=1), flags)
        >>> shared = model.init_shared(jax.random.key(0))
        >>> shared['scorer']['feature_rows']['embedding'] = jnp.array([[1.0], [3.0], [5.0]])
        >>> model.score(shared, jnp.array([2.0]), None).tolist()
        [4.0, 10.0]

    References:
        Kula, Metadata embeddings for user and item cold-start recommendations, 2015,
        arXiv:1507.08439 (LightFM; there the sum of the feature rows).
    """
    flags = np.asarray(incidence, np.float32)
    if flags.ndim != 2 or not np.all(np.isfinite(flags) & (flags >= 0)):
        raise ValueError(
            f'Expected an incidence of numbers >= 0, [N, F], got {flags.dtype} {list(flags.shape)}.'
        )
    without = np.flatnonzero(flags.sum(axis=1) == 0)
    if len(without):
        raise ValueError(
            f'{len(without)} of {len(flags)} items have no feature, such as item {without[0]}: '
            'give each at least one.'
        )
    shared, private = (
        jax.eval_shape(init, jax.random.key(0)) for init in (model.init_shared, model.init_private)
    )
    sizes = {len(leaf) for leaf in jax.tree.leaves(shared['items'])}
    if sizes != {flags.shape[1]}:
        raise ValueError(
            f'Expected a model with a row for each of {flags.shape[1]} features, got {sizes} rows.'
        )
    if item_table.has_items(private):
        raise ValueError(
            'A model with a private item table has a row for each item there: it cannot have a row '
            'for each feature.'
        )

    def init_shared(key: Key) -> PyTree:
        own = model.init_shared(key)
        scorer = {**own['scorer'], ROWS: own['items']}
        return {'items': {'features': jnp.asarray(flags)}, 'scorer': scorer}

    def of_items(shared: PyTree, items: Array | None) -> PyTree:
        """The shared parameters of `model`, with rows of items in the place of features."""
        weights = jax.lax.stop_gradient(tree.take(shared['items'], items)['features'])
        total = jnp.sum(jnp.abs(weights), axis=1, keepdims=True)
        weights /= jnp.where(total > 0, total, 1)
        scorer = {name: part for name, part in shared['scorer'].items() if name != ROWS}
        rows = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), shared['scorer'][ROWS])
        return {'items': rows, 'scorer': scorer}

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        return model.score(of_items(shared, items), private, None)

    if model.batch_score is None:
        return Model(init_shared, model.init_private, score)
    inner = model.batch_score

    def batch_score(shared: PyTree, private: PyTree, batch: Batch) -> Array:
        return inner(of_items(shared, batch.items), private, batch._replace(items=None))

    return Model(init_shared, model.init_private, score, batch_score)
