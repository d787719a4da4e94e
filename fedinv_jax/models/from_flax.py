"""A recommender from a flax module."""

from collections.abc import Mapping

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.models import embeddings
from fedinv_jax.types import Array, Key, Model, PyTree


def from_flax(
    module: nn.Module, num_items: int, dim: int | Mapping[str, int], scale: float = 0.1
) -> Model:
    """Makes a recommender from a flax module `module(private [D], rows [B, D]) -> logits [B]`.

    Shared parameters: `{'items': {'embedding': [N, D]}, 'scorer': the module's parameters}`;
    private: the user embedding `[D]`. If `dim` names several embeddings, such as
    `{'gmf': 8, 'mlp': 16}`, the items and the user have one of each, and the module gets dicts of
    them. Embeddings start from `N(0, scale^2)`.

    Args:
        module: a linen module without mutable state or randomness.
        num_items: N.
        dim: D, or by name the D of each embedding.
        scale: standard deviation of the initial embeddings.

    Returns:
        The model; parameters are float32.

    Raises:
        ValueError: if a size is not positive, or `scale` negative or not finite; at `init_shared`,
            if the module has state (BatchNorm) or draws random numbers (dropout); at `score`, if
            the logits are not `[B]`.

    Example:
        >>> class Dot(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, private, rows):
        ...         return rows @ (private * self.param('scale', nn.initializers.ones, ()))
        >>> model = from_flax(Dot(), num_items=3, dim=2)
        >>> tree.names(model.init_shared(jax.random.key(0)))
        ('items/embedding', 'scorer/scale')
    """
    sizes = dict(dim) if isinstance(dim, Mapping) else {'embedding': dim}
    for size in sizes.values():
        embeddings.check(scale, num_items=num_items, dim=size)
    alone = not isinstance(dim, Mapping)

    def normal(key: Key, *shape: int) -> PyTree:
        keys = [key] if alone else jax.random.split(key, len(sizes))
        return {
            name: embeddings.normal(own, scale, *shape, size)
            for own, (name, size) in zip(keys, sizes.items(), strict=True)
        }

    def inputs(parameters: PyTree) -> PyTree:
        return parameters['embedding'] if alone else parameters

    def init_shared(key: Key) -> PyTree:
        items_key, scorer_key = jax.random.split(key)
        zeros = {name: jnp.zeros(size) for name, size in sizes.items()}
        rows = {name: jnp.zeros((1, size)) for name, size in sizes.items()}
        variables = _init(module, scorer_key, inputs(zeros), inputs(rows))
        return {'items': normal(items_key, num_items), 'scorer': variables.get('params', {})}

    def init_private(key: Key) -> PyTree:
        return inputs(normal(key))

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        rows = inputs(tree.take(shared['items'], items))
        logits = jnp.asarray(module.apply({'params': shared['scorer']}, private, rows))
        if logits.shape != jax.tree.leaves(rows)[0].shape[:1]:
            raise ValueError(
                f'{type(module).__name__} returned logits {logits.shape} for '
                f'{len(jax.tree.leaves(rows)[0])} items: one number an item is needed, [B]; '
                'take [..., 0] of a layer of one output.'
            )
        return logits

    return Model(init_shared, init_private, score)


def _init(module: nn.Module, key: Key, private: PyTree, rows: PyTree) -> PyTree:
    """The module's variables; refuses state and randomness, which an attacker cannot replay."""
    name = type(module).__name__
    try:
        variables = dict(module.init(key, private, rows))
        module.apply(variables, private, rows)
        state = sorted(set(variables) - {'params'})
    except flax.errors.InvalidRngError as error:
        raise ValueError(
            f'{name} draws random numbers (dropout?): set deterministic=True, as the score of a '
            'client must be a function of its parameters.'
        ) from error
    except flax.errors.ModifyScopeVariableError:
        variables, state = {}, ['batch_stats']
    if state:
        raise ValueError(
            f'{name} has state besides its parameters ({", ".join(state)}): a client would send '
            'statistics of its batch. Use a layer without state, such as LayerNorm in the place of '
            'BatchNorm.'
        )
    return variables
