"""Labels and private states from item rows, on uploads that the float64 reference computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import tree
from fedinv_jax.attack import inversion
from fedinv_jax.attack.exact import alignment
from fedinv_jax.types import Guess
from tests.attack.exact.helpers import (
    DEGENERATE,
    ROWS,
    assert_recovered,
    attacked,
    degenerate_row_client,
    ncf,
    one_step,
    row_client,
    row_problem,
)
from tests.helpers import KEY, D, all_finite, assert_close

pytestmark = pytest.mark.usefixtures('float64')
WIDTH = 0.9


@functools.partial(jax.jit, static_argnames='name')
def compiled(transcript, key, guess, width, iterations, name):
    start = row_problem(name, transcript)._replace(init=lambda key: guess)
    return inversion.invert(start, alignment.direction_search(transcript, width), key, iterations)


def direction_search(
    transcript, key=KEY, labels=None, latent=None, width=WIDTH, name='ncf', iterations=60
):
    """From private states of zero, if no others are given."""
    steps = len(transcript.weights)
    labels = jnp.zeros(ROWS) if labels is None else labels
    guess = Guess(labels, None, jnp.zeros((steps, D)) if latent is None else jnp.asarray(latent))
    width = jnp.broadcast_to(width, (steps,)).astype(float)
    return compiled(transcript, key, guess, width, jnp.asarray(iterations), name=name)


def test_search_finds_labels_and_private_states():
    transcript, labels, privates = row_client(steps=2, seed=1)
    answer = direction_search(transcript)
    np.testing.assert_array_equal(answer.labels, labels)
    np.testing.assert_allclose(answer.private, privates[0], atol=1e-5)
    assert float(answer.objective) < 1e-12


# The start is the problem's: with a stencil as wide as it is far, few iterations do.
def test_search_from_a_rough_state():
    transcript, labels, privates = row_client(steps=2, seed=1)
    approximate_recovery = privates + 0.02 * np.random.default_rng(0).normal(size=privates.shape)
    widths = np.linalg.norm(approximate_recovery - privates, axis=-1)
    near, far = (
        direction_search(
            transcript,
            latent=approximate_recovery,
            labels=labels.astype(float),
            width=w,
            iterations=8,
        )
        for w in (widths, 100 * widths)
    )
    np.testing.assert_allclose(near.private, privates[0], atol=1e-4)
    assert np.max(np.abs(far.private - privates[0])) > 1e-3


# F3: (1 - y, -p) explains the rows as well. Around p = 0 a stencil tells the two apart by
# rounding only, so that it is the machine's which of them the search ends at.
def test_search_of_matrix_factorisation_ends_at_the_truth_or_its_flip():
    for seed in range(3):
        transcript, labels, privates = row_client('mf', seed=seed)
        answer = direction_search(transcript, name='mf')
        flipped = bool(answer.labels[0]) != bool(labels[0])
        np.testing.assert_array_equal(answer.labels ^ flipped, labels > 0)
        sign = -1 if flipped else 1
        np.testing.assert_allclose(sign * answer.private, privates[0], atol=1e-5)


def test_vmap_equals_loop():
    clients = [row_client('mf', seed=seed)[0] for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *clients)
    keys = jax.random.split(KEY)
    attack = functools.partial(direction_search, name='mf', iterations=4)
    both = jax.vmap(attack)(stacked, keys)
    for v, one in enumerate(clients):
        alone = attack(one, keys[v])
        assert_close(jax.tree.map(lambda leaf, v=v: leaf[v], both), alone, atol=1e-8)


def test_padding_is_never_an_interaction():
    transcript, labels, _ = row_client(steps=2, seed=3, real=22)
    answer = direction_search(transcript)
    np.testing.assert_array_equal(answer.labels, labels)
    np.testing.assert_array_equal(answer.scores[22:], 0)


@pytest.mark.parametrize('which', DEGENERATE)
def test_degenerate_clients(which):
    transcript, labels, _ = degenerate_row_client(which)
    answer = direction_search(transcript)
    assert all_finite(answer)
    assert np.all((answer.scores >= 0) & (answer.scores <= 1))
    assert which != 'no_weights' or not np.any(answer.labels)
    if which in ('all_negative', 'one_positive', 'duplicates'):
        np.testing.assert_array_equal(answer.labels, labels)


def test_float32():
    transcript, _, _ = row_client('mf', seed=1)
    with jax.enable_x64(False):
        transcript = tree.cast_floats(transcript, np.float32)
        found = jax.eval_shape(
            lambda transcript: direction_search(transcript, name='mf'), transcript
        )
    assert (found.scores.dtype, found.private.dtype) == (jnp.float32, jnp.float32)


def test_refuses():
    transcript, _, _ = row_client()
    with pytest.raises(ValueError, match='width=0'):
        alignment.direction_search(transcript, 0)


@pytest.mark.slow
def test_recovers_every_label():
    with jax.enable_x64(False):
        model = ncf(6, (16, 12))
        member, found = attacked(model, one_step(model), ('items',))
    assert member.solver == 'aligned'
    assert_recovered(found)
