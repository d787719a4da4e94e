"""A recommender from a flax module, linen or NNX."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import flax.errors
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.models import embeddings
from fedinv_jax.types import Array, Key, Model, PyTree

if TYPE_CHECKING:
    from flax import nnx


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

    def init_scorer(key: Key, private: PyTree, rows: PyTree) -> PyTree:
        return _init(module, key, private, rows).get('params', {})

    def apply(scorer: PyTree, private: PyTree, rows: PyTree) -> Array:
        return jnp.asarray(module.apply({'params': scorer}, private, rows))

    return _recommender(type(module).__name__, init_scorer, apply, num_items, dim, scale)


def from_nnx(
    make: 'Callable[[nnx.Rngs], Any]',
    num_items: int,
    dim: int | Mapping[str, int],
    scale: float = 0.1,
) -> Model:
    """Makes a recommender from a flax NNX module, as `from_flax` does from a linen module.

    Args:
        make: `make(rngs) -> module`, whose call is `module(private [D], rows [B, D]) -> [B]`. All
            its variables must be `nnx.Param`.
        num_items: N.
        dim: D, or by name the D of each embedding.
        scale: standard deviation of the initial embeddings.

    Returns:
        The model; parameters are float32. Names in the scorer are those of the module's attributes.

    Raises:
        ValueError: as `from_flax`; here state and randomness are refused at once.

    Example:
        >>> from flax import nnx
        >>> class Dot(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.scale = nnx.Param(jnp.ones(()))
        ...     def __call__(self, private, rows):
        ...         return rows @ (private * self.scale)
        >>> model = from_nnx(Dot, num_items=3, dim=2)
        >>> tree.names(model.init_shared(jax.random.key(0)))
        ('items/embedding', 'scorer/scale')
    """
    from flax import nnx  # it reads the environment when it is imported

    made = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    name = type(made).__name__
    graph, *states = nnx.split(made, nnx.Param, ...)
    kinds = {type(variable) for _, variable in nnx.to_flat_state(states[1])}
    if any(issubclass(kind, nnx.RngState) for kind in kinds):
        _refuse_randomness(name)
    if kinds:
        _refuse_state(name, sorted(kind.__name__ for kind in kinds))

    def init_scorer(key: Key, private: PyTree, rows: PyTree) -> PyTree:
        del private, rows
        state = nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))
        leaves = flax.traverse_util.flatten_dict(state)
        return flax.traverse_util.unflatten_dict(
            {tuple(map(str, path)): leaf for path, leaf in leaves.items()}
        )

    def apply(scorer: PyTree, private: PyTree, rows: PyTree) -> Array:
        state = nnx.split(made, nnx.Param, ...)[1]
        leaves = flax.traverse_util.flatten_dict(scorer)
        paths = flax.traverse_util.flatten_dict(nnx.to_pure_dict(state))
        own = {path: leaves[tuple(map(str, path))] for path in paths}
        nnx.replace_by_pure_dict(state, flax.traverse_util.unflatten_dict(own))
        return jnp.asarray(nnx.merge(graph, state)(private, rows))

    return _recommender(name, init_scorer, apply, num_items, dim, scale)


def _recommender(
    name: str,
    init_scorer: Callable[[Key, PyTree, PyTree], PyTree],
    apply: Callable[[PyTree, PyTree, PyTree], Array],
    num_items: int,
    dim: int | Mapping[str, int],
    scale: float,
) -> Model:
    """The recommender of a scorer `apply(parameters, private, rows)` of that name."""
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
        scorer = init_scorer(scorer_key, inputs(zeros), inputs(rows))
        return {'items': normal(items_key, num_items), 'scorer': scorer}

    def init_private(key: Key) -> PyTree:
        return inputs(normal(key))

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        rows = inputs(tree.take(shared['items'], items))
        logits = apply(shared['scorer'], private, rows)
        if logits.shape != jax.tree.leaves(rows)[0].shape[:1]:
            raise ValueError(
                f'{name} returned logits {logits.shape} for '
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
        _refuse_randomness(name, error)
    except flax.errors.ModifyScopeVariableError:
        variables, state = {}, ['batch_stats']
    if state:
        _refuse_state(name, state)
    return variables


def _refuse_randomness(module: str, error: Exception | None = None) -> NoReturn:
    raise ValueError(
        f'{module} draws random numbers (dropout?): set deterministic=True, as the score of a '
        'client must be a function of its parameters.'
    ) from error


def _refuse_state(module: str, state: Sequence[str]) -> NoReturn:
    raise ValueError(
        f'{module} has state besides its parameters ({", ".join(state)}): a client would send '
        'statistics of its batch. Use a layer without state, such as LayerNorm in the place of '
        'BatchNorm.'
    )
