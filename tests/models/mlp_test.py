"""First and second derivatives of the multilayer perceptron, against automatic differentiation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.models import mlp

_DIM, _BATCH = 3, 6


def _plain(layers, private, rows, kept=None):
    """The same network, one line a layer, without a rule of its own."""
    first, *rest = layers
    x = private @ first['private'] + rows @ first['items'] + first.get('bias', 0)
    for index, layer in enumerate(rest):
        x = jax.nn.relu(x) * (1 if kept is None else kept[index])
        x = x @ layer['kernel'] + layer.get('bias', 0)
    return x[:, 0]


def _arguments(hidden, use_bias, dropped, key=0):
    """Random layers, private embedding, rows and factors of the hidden units."""
    rng = np.random.default_rng(key)
    widths = (*hidden, 1)
    layers = [
        {'private': rng.normal(size=(_DIM, widths[0])), 'items': rng.normal(size=(_DIM, widths[0]))}
    ]
    layers += [{'kernel': rng.normal(size=pair)} for pair in itertools.pairwise(widths)]
    if use_bias:
        layers = [
            {**layer, 'bias': rng.normal(size=w)} for layer, w in zip(layers, widths, strict=True)
        ]
    kept = [2.0 * rng.integers(2, size=(_BATCH, width)) for width in hidden] if dropped else None
    return jax.tree.map(
        jnp.asarray, (layers, rng.normal(size=_DIM), rng.normal(size=(_BATCH, _DIM)), kept)
    )


def _agree(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected
    )


CASES = pytest.mark.parametrize(
    ('hidden', 'use_bias', 'dropped'),
    [((4,), False, False), ((5, 4), True, False), ((5, 4, 2), True, True), ((4, 3), False, True)],
)


# Failed on mutants: slopes without the mask, without the factors of dropped units, and a rule
# without the rows, without the first bias, without the last layer.
@CASES
def test_first_derivatives(hidden, use_bias, dropped):
    with jax.enable_x64():
        *point, kept = _arguments(hidden, use_bias, dropped)
        direction = _arguments(hidden, use_bias, dropped, key=1)[:3]
        _agree(mlp.logits(*point, kept), _plain(*point, kept))

        def both(network):
            def loss(layers, private, rows):
                return jnp.sum(jnp.sin(network(layers, private, rows, kept)))

            tangent = jax.jvp(lambda *a: network(*a, kept), tuple(point), tuple(direction))[1]
            return tangent, jax.grad(loss, (0, 1, 2))(*point)

        _agree(both(mlp.logits), both(_plain))


# The attacker's derivative: of a function of the loss's gradient, in the labels and in p.
# Failed on the mutant that stops the derivative at the hidden units.
@CASES
def test_derivatives_of_a_gradient(hidden, use_bias, dropped):
    with jax.enable_x64():
        layers, private, rows, kept = _arguments(hidden, use_bias, dropped)
        labels = jnp.arange(_BATCH) % 2 + 0.3

        def slope(network):
            def loss(layers, rows, private, labels):
                z = network(layers, private, rows, kept)
                return jnp.mean(jax.nn.softplus(z) - labels * z)

            def upload(private, labels):
                return jax.grad(loss, (0, 1))(layers, rows, private, labels)

            def distance(private, labels):
                return sum(
                    jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(upload(private, labels))
                )

            reverse = jax.grad(distance, (0, 1))(private, labels)
            forward = jax.jacfwd(upload, (0, 1))(private, labels)
            return reverse, forward, jax.hessian(distance, (0, 1))(private, labels)

        _agree(slope(mlp.logits), slope(_plain))


# What the rule is for. Failed on the plain network in its place, which needs 1.3 times as many.
def test_derivatives_of_a_gradient_need_fewer_operations():
    def flops(network):
        layers, private, rows, _ = _arguments((64, 32, 16), True, False)
        rows = jnp.tile(rows, (20, _DIM))
        layers[0]['items'] = jnp.tile(layers[0]['items'], (_DIM, 1))

        def distance(private, labels):
            def loss(layers, rows):
                z = network(layers, private, rows)
                return jnp.mean(jax.nn.softplus(z) - labels * z)

            return sum(
                jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss, (0, 1))(layers, rows))
            )

        compiled = (
            jax.jit(jax.grad(distance, (0, 1))).lower(private, jnp.zeros(len(rows))).compile()
        )
        return compiled.cost_analysis()['flops']

    assert flops(mlp.logits) < 0.85 * flops(_plain)
