"""Neural collaborative filtering: a flax scorer on a user and an item embedding."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fedinv_jax import _validate, tree
from fedinv_jax.models import mlp
from fedinv_jax.models.from_flax import from_flax
from fedinv_jax.types import Array, Batch, Key, Model, PyTree

Initializer = Callable[..., Array]


def _he_normal(fan_in: int) -> tuple[Initializer, Initializer]:
    return nn.initializers.normal((2 / fan_in) ** 0.5), nn.initializers.zeros_init()


def _uniform(fan_in: int) -> tuple[Initializer, Initializer]:
    bound = fan_in**-0.5
    draw = nn.initializers.uniform(2 * bound)  # on [0, 2 * bound)

    def centred(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return draw(key, shape, dtype) - bound

    return centred, centred


KERNELS = {'he_normal': _he_normal, 'uniform': _uniform}
"""By name: a function from a layer's fan-in to the initialisers of its kernel and bias."""


class MLP(nn.Module):
    """The multilayer perceptron of NCF on `[p; q_i]`, one ReLU after every hidden layer.

    The first layer's kernel is stored as two blocks, `private` (for p) and `items` (for q, with
    the layer's bias). Together they are one dense layer on the concatenation; the items' block
    can be applied once where only p changes.

    Attributes:
        hidden: widths of the hidden layers.
        use_bias: whether the layers, including the output, have biases.
        kernel_init: 'he_normal', `N(0, 2 / fan_in)` with zero biases, or 'uniform', kernels and
            biases on `+-1 / sqrt(fan_in)`; the first layer's fan-in is that of both blocks.
        dropout: probability that a hidden unit is dropped in training, anew for each item.
    """

    hidden: Sequence[int]
    use_bias: bool = True
    kernel_init: str = 'he_normal'
    dropout: float = 0.0

    @nn.compact
    def __call__(self, private: Array, rows: Array, training: bool = False) -> Array:
        """Returns logits `[B]` for a private embedding `[D]` and item rows `[B, D]`."""

        def weights(name: str, before: int, width: int, fan_in: int, bias: bool) -> mlp.Layer:
            kernel_init, bias_init = KERNELS[self.kernel_init](fan_in)
            of_bias = bias_init if bias else None
            return mlp.Weights((before, width), kernel_init, of_bias, name=name)()

        dim, width = rows.shape[-1], self.hidden[0]
        fan_in = private.shape[-1] + dim
        layers = [
            mlp.first_layer(
                weights('private', private.shape[-1], width, fan_in, False),
                weights('items', dim, width, fan_in, self.use_bias),
            )
        ]
        for index, (before, width) in enumerate(itertools.pairwise((*self.hidden, 1)), start=1):
            layers.append(weights(f'layer_{index}', before, width, before, self.use_bias))
        kept = None
        if training and self.dropout:
            drop = [nn.Dropout(self.dropout, deterministic=False) for _ in self.hidden]
            units = [jnp.ones((len(rows), width), rows.dtype) for width in self.hidden]
            kept = [own(ones) for own, ones in zip(drop, units, strict=True)]
        return mlp.logits(layers, private, rows, kept)


def ncf(
    num_items: int,
    dim: int,
    hidden: Sequence[int] = (64, 32, 16),
    use_bias: bool = True,
    scale: float = 0.1,
    kernel_init: str = 'he_normal',
    dropout: float = 0.0,
) -> Model:
    """Neural collaborative filtering, `z_i = MLP([p; q_i])`.

    Args:
        num_items: N.
        dim: D.
        hidden: widths of the hidden layers, at least one.
        use_bias: whether the layers have biases.
        scale: standard deviation of the initial embeddings.
        kernel_init: 'he_normal' or 'uniform', see `MLP`.
        dropout: probability that a hidden unit is dropped in training, in [0, 1).

    Returns:
        The model, see `from_flax`; scorer leaves `private/kernel [D, H]`,
        `items/{kernel [D, H], bias [H]}`, `layer_1/{kernel, bias}`, ...

    Raises:
        ValueError: if a size is not positive, there is no hidden layer, the initialiser is unknown,
            or `dropout` is out of range.

    Example:
        >>> import jax
        >>> model = ncf(num_items=5, dim=2, hidden=(3,))
        >>> shared = model.init_shared(jax.random.key(0))
        >>> model.score(shared, jnp.ones(2), jnp.array([4])).shape
        (1,)

    References:
        He, Liao, Zhang, Nie, Hu, Chua, Neural collaborative filtering, WWW 2017,
        arXiv:1708.05031, section 3.3 (the MLP; no GMF branch).
    """
    hidden = _validate.check_widths(hidden)
    if kernel_init not in KERNELS:
        raise ValueError(f'Unknown kernel_init={kernel_init!r}. Choices: {", ".join(KERNELS)}.')
    if not 0 <= dropout < 1:
        raise ValueError(f'Expected dropout={dropout} in [0, 1).')
    module = MLP(hidden, use_bias, kernel_init, dropout)
    model = from_flax(module, num_items, dim, scale)

    def batch_score(shared: PyTree, private: PyTree, batch: Batch) -> Array:
        if batch.key is None:
            return model.score(shared, private, batch.items)
        rows = tree.take(shared['items'], batch.items)['embedding']
        parameters, rngs = {'params': shared['scorer']}, {'dropout': batch.key}
        logits = module.apply(parameters, private, rows, training=True, rngs=rngs)
        return jnp.asarray(logits)

    return model._replace(batch_score=batch_score) if dropout else model
