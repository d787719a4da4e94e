"""Small recommenders of the kinds that people run, most of which the package does not have.

Each has the K rows of one client's batch for its item table.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedinv_jax import models, tree
from fedinv_jax.types import Array, InitPrivate, Key, Model, PyTree

Make = Callable[[int, int, float, Sequence[int]], Model]
"""`make(num_items, dim, scale, hidden) -> Model`; linear models do not use `hidden`."""


class GMF(nn.Module):
    """Generalised matrix factorisation `h . (p * q_i) (+ b)`, NCF's other branch."""

    use_bias: bool = False

    @nn.compact
    def __call__(self, private: Array, rows: Array) -> Array:
        """Logits `[B]` of a private embedding `[D]` and item rows `[B, D]`."""
        return nn.Dense(1, use_bias=self.use_bias, name='output')(rows * private)[..., 0]


class NeuMF(nn.Module):
    """GMF on the first half of each embedding plus an MLP on the second."""

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, private: Array, rows: Array) -> Array:
        """Logits `[B]` of a private embedding `[2 D]` and item rows `[B, 2 D]`."""
        half = len(private) // 2
        gmf = GMF(name='gmf')(private[:half], rows[:, :half])
        return gmf + models.MLP(self.hidden, name='mlp')(private[half:], rows[:, half:])


class ItemTower(nn.Module):
    """A linear item tower, or one with a ReLU layer before it; the dot product of both sides."""

    hidden: Sequence[int] = ()

    @nn.compact
    def __call__(self, private: Array, rows: Array) -> Array:
        """Logits `[B]` of the user tower's output `[D]` and item rows `[B, D]`."""
        x, width = rows, rows.shape[-1]
        for layer, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, name=f'layer_{layer}')(x))
        return nn.Dense(width, use_bias=False, name='output')(x) @ private


def _behind(
    model: Model, init_private: InitPrivate, user: Callable[[PyTree], tuple[Array, Array | float]]
) -> Model:
    """A model whose private state is a tree: `user(private)` is a vector and a user's bias."""

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        vector, bias = user(private)
        return model.score(shared, vector, items) + bias

    return Model(model.init_shared, init_private, score)


def _normals(scales: dict[str, tuple[float, tuple[int, ...]]]) -> InitPrivate:
    """Draws private leaves from `N(0, scale^2)`, given scale and shape by name."""

    def init_private(key: Key) -> PyTree:
        keys = jax.random.split(key, len(scales))
        return {
            name: scale * jax.random.normal(own, shape, jnp.float32)
            for own, (name, (scale, shape)) in zip(keys, scales.items(), strict=True)
        }

    return init_private


def _mf_user_bias(num_items: int, dim: int, scale: float, hidden: Sequence[int]) -> Model:
    init = _normals({'embedding': (scale, (dim,)), 'bias': (scale, ())})
    base = models.matrix_factorization(num_items, dim, scale=scale)
    return _behind(base, init, lambda private: (private['embedding'], private['bias']))


def _pfedrec(num_items: int, dim: int, scale: float, hidden: Sequence[int]) -> Model:
    init = _normals({'kernel': (dim**-0.5, (dim, 1)), 'bias': (0.1, (1,))})
    base = models.matrix_factorization(num_items, dim, scale=scale)
    return _behind(base, init, lambda private: (private['kernel'][:, 0], private['bias'][0]))


def _two_tower(num_items: int, dim: int, scale: float, hidden: Sequence[int]) -> Model:
    init = _normals({'embedding': (scale, (dim,)), 'kernel': (dim**-0.5, (dim, dim))})
    base = models.from_flax(ItemTower(), num_items, dim, scale)
    return _behind(base, init, lambda private: (private['embedding'] @ private['kernel'], 0.0))


def _two_tower_tanh(num_items: int, dim: int, scale: float, hidden: Sequence[int]) -> Model:
    init = _normals(
        {'embedding': (scale, (dim,)), 'kernel': (dim**-0.5, (dim, dim)), 'bias': (scale, (dim,))}
    )

    def user(private: PyTree) -> tuple[Array, float]:
        return jnp.tanh(private['embedding'] @ private['kernel'] + private['bias']), 0.0

    return _behind(models.from_flax(ItemTower(hidden), num_items, dim, scale), init, user)


MODELS: dict[str, Make] = {
    'mf': lambda n, dim, scale, hidden: models.matrix_factorization(n, dim, scale=scale),
    'gmf': lambda n, dim, scale, hidden: models.from_flax(GMF(), n, dim, scale),
    'ncf': lambda n, dim, scale, hidden: models.ncf(n, dim, hidden, scale=scale),
    'two_tower': _two_tower,
    'mf_item_bias': lambda n, dim, scale, hidden: models.matrix_factorization(n, dim, True, scale),
    'ncf_no_bias': lambda n, dim, scale, hidden: models.ncf(n, dim, hidden, False, scale),
    'neumf': lambda n, dim, scale, hidden: models.from_flax(NeuMF(hidden), n, 2 * dim, scale),
    'mf_user_bias': _mf_user_bias,
    'two_tower_output': lambda n, dim, scale, hidden: models.from_flax(ItemTower(), n, dim, scale),
    'pfedrec': _pfedrec,
    'gmf_bias': lambda n, dim, scale, hidden: models.from_flax(GMF(True), n, dim, scale),
    'two_tower_tanh': _two_tower_tanh,
}


def parts(model: Model) -> tuple[tuple[str, ...], ...]:
    """What a server may look at of this model's uploads: item rows and scorer, or one of them."""
    names = tree.names(jax.eval_shape(model.init_shared, jax.random.key(0)))
    if not any(name.startswith('scorer/') for name in names):
        return (('items',),)
    return (('items', 'scorer'), ('scorer',), ('items',))
