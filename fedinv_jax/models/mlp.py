"""A multilayer perceptron with one output, and derivatives that use that it has one.

With one output z, each layer's backward signal is the loss's slope `c = dl/dz`, a scalar of each
item, times the logit's own slope `v_l`, which depends on the parameters alone. A gradient of the
layer's kernel is then `sum_i c_i h_i v_i^T`. An attacker who differentiates this once more, in c
and in the private embedding, needs one product `R v_i` with the upload's residual R for both, and
none to propagate through the `v_l`: a ReLU's mask is constant almost everywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fedinv_jax.types import Array

Layer = Mapping[str, Array]
"""Kernels and, where a layer has one, the bias; see `logits`."""


class Weights(nn.Module):
    """The kernel `shape` of a layer and its bias, if it has one, with the names of `nn.Dense`."""

    shape: tuple[int, int]
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self) -> Layer:
        """Returns `kernel` and `bias`, float32."""
        found = {'kernel': self.param('kernel', self.kernel_init, self.shape, jnp.float32)}
        if self.bias_init is not None:
            found['bias'] = self.param('bias', self.bias_init, self.shape[1:], jnp.float32)
        return found


def first_layer(private: Layer, items: Layer) -> Layer:
    """The first layer of `logits`, from the weights of its two blocks."""
    return {**items, 'items': items['kernel'], 'private': private['kernel']}


@jax.custom_jvp
def logits(
    layers: Sequence[Layer], private: Array, rows: Array, kept: Sequence[Array] | None = None
) -> Array:
    """`z_i = MLP([p; q_i])` with a ReLU behind every layer but the last.

    Args:
        layers: first `{'private': [D, H_1], 'items': [D, H_1], 'bias': [H_1]}`, the two blocks of
            one kernel, then `{'kernel': [H_l, H_l+1], 'bias': [H_l+1]}`; the last has width 1.
            Biases may be left out.
        private: p, `[D]`.
        rows: q, `[B, D]`.
        kept: factors of the hidden units, `[B, H_l]` for each layer but the last (dropout); not
            differentiated. None: 1.

    Returns:
        Logits `[B]`, of the dtype of the arguments. First and second derivatives are those of
        automatic differentiation, with fewer operations.

    Example:
        >>> first = {'private': jnp.ones((1, 2)), 'items': jnp.ones((1, 2))}
        >>> layers = [first, {'kernel': jnp.array([[1.0], [2.0]])}]
        >>> logits(layers, jnp.ones(1), jnp.array([[1.0], [-3.0]])).tolist()
        [6.0, 0.0]
    """
    return _forward(layers, private, rows, kept)[1]


def _forward(
    layers: Sequence[Layer], private: Array, rows: Array, kept: Sequence[Array] | None
) -> tuple[list[Array], Array]:
    """The hidden units `[B, H_l]` of every layer but the last, and the logits `[B]`."""
    first, *rest = layers
    x, hidden = private @ first['private'] + rows @ first['items'], []
    for index, layer in enumerate(rest):
        x = jax.nn.relu(x + layers[index].get('bias', 0))
        hidden.append(x if kept is None else kept[index] * x)
        # A product with one column is a sum of products: libraries are slow at it.
        last = index == len(rest) - 1
        x = jnp.sum(hidden[-1] * layer['kernel'][:, 0], 1) if last else hidden[-1] @ layer['kernel']
    return hidden, x + rest[-1].get('bias', 0)


def _slopes(
    layers: Sequence[Layer], hidden: Sequence[Array], kept: Sequence[Array] | None
) -> list[Array]:
    """`v_l = dz / dx_l`, `[B, H_l]`, x_l before the ReLU, for every layer but the last."""
    found: list[Array] = []
    for index in reversed(range(len(hidden))):
        kernel = layers[index + 1]['kernel']
        slope = found[-1] @ kernel.T if found else kernel[:, 0]
        slope = jnp.where(hidden[index] > 0, slope, 0)
        found.append(slope if kept is None else kept[index] * slope)
    return found[::-1]


def _tangent(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The derivative of `logits` in a direction, as a function that is transposed cheaply.

    Written with `v_i dW^T` before the product with `h_i`: its transpose scales h_i, not v_i, by
    c_i, and v_i is constant where the result is differentiated again.
    """
    layers, private, rows, kept = primals
    moved, private_moved, rows_moved, _ = tangents
    hidden, z = _forward(layers, private, rows, kept)
    slopes, total = _slopes(layers, hidden, kept), jnp.zeros_like(z)

    def there(tangent: Any) -> bool:
        return not isinstance(tangent, SymbolicZero)

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=1)

    first, slope = layers[0], slopes[0]
    if there(private_moved):
        total += slope @ (private_moved @ first['private'])
    if there(moved[0]['private']):
        total += slope @ (private @ moved[0]['private'])
    if there(rows_moved):
        total += inner(rows_moved, slope @ first['items'].T)
    if there(moved[0]['items']):
        total += inner(rows, slope @ moved[0]['items'].T)
    for below, slope, layer in zip(hidden[:-1], slopes[1:], moved[1:-1], strict=True):
        if there(layer['kernel']):
            total += inner(below, slope @ layer['kernel'].T)
    for slope, layer in zip(slopes, moved[:-1], strict=True):
        if 'bias' in layer and there(layer['bias']):
            total += slope @ layer['bias']
    if there(moved[-1]['kernel']):
        total += jnp.sum(hidden[-1] * moved[-1]['kernel'][:, 0], axis=1)
    if 'bias' in moved[-1] and there(moved[-1]['bias']):
        total += moved[-1]['bias']
    return z, total


logits.defjvp(_tangent, symbolic_zeros=True)
