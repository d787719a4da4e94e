"""A problem against arithmetic: residual, answer and start."""

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import observe, types
from fedinv_jax.attack import distances, objective
from tests.helpers import KEY, B, D, T, make_client, make_hypothesis, make_problem, make_transcript


# Failed on: division by the squared norm of what was seen.
def test_residual_is_the_squared_distance():
    view = ('items', 'scorer')
    transcript, _, _ = make_transcript('ncf', view, 'gradient_step')
    problem = objective.problem(
        transcript,
        make_client('ncf', 'gradient_step'),
        observe.share(*view),
        make_hypothesis('ncf', 'unrolled'),
        distances.squared_distance,
    )
    guess = problem.init(KEY)
    squares = distances.squared_norm(problem.residual(guess))
    np.testing.assert_allclose(problem.objective(guess), squares / T, rtol=1e-5)
    predicted = problem.predict(guess)
    assert jax.tree.structure(predicted) == jax.tree.structure(transcript.seen)
    by_hand = 0
    for t in range(T):
        p, s = ([leaf[t] for leaf in jax.tree.leaves(x)] for x in (predicted, transcript.seen))
        top = sum(np.sum((a - b) ** 2) for a, b in zip(p, s, strict=True))
        by_hand += top / sum(np.sum(b**2) for b in s) / T
    np.testing.assert_allclose(problem.objective(guess), by_hand, rtol=1e-5)


# Failed on: labels not decoded.
def test_answer():
    transcript, _, _ = make_transcript('mf', ('items',), 'gradient_step')
    labels, latent = jnp.array([-2.0, 3.0, 0.1, -9.0]), jnp.arange(6.0).reshape(2, D)
    problem = make_problem(transcript, 'mf', ('items',), 'gradient_step', 'free')
    answer = problem.answer(types.Guess(labels, None, latent), jnp.ones(()))
    np.testing.assert_allclose(answer.scores, 1 / (1 + np.exp(-labels)), rtol=1e-5)
    np.testing.assert_array_equal(answer.labels, [False, True, True, False])
    np.testing.assert_array_equal(answer.private, latent[0])
    # A positive of an unknown batch is a member with label 1.
    unknown = transcript.replace(weights=None)
    problem = make_problem(unknown, 'mf', ('items',), 'gradient_step', 'free')
    answer = problem.answer(types.Guess(labels, -labels, latent), jnp.ones(()))
    product = 1 / (1 + np.exp(-labels)) / (1 + np.exp(labels))
    np.testing.assert_allclose(answer.scores, product, rtol=1e-5)


def test_start():
    transcript, _, _ = make_transcript('mf', ('items',), 'gradient_step')
    problem = make_problem(transcript, 'mf', ('items',), 'gradient_step', 'free', label_scale=0.0)
    guess = problem.init(KEY)
    np.testing.assert_allclose(jax.nn.sigmoid(guess.labels), np.full(B, 0.5), rtol=1e-6)
    assert guess.weights is None
    unknown = transcript.replace(weights=None)
    problem = make_problem(unknown, 'mf', ('items',), 'gradient_step', 'free')
    guess = problem.init(KEY)
    assert guess.weights.shape == (B,)
    assert float(jnp.max(jnp.abs(guess.weights - guess.labels))) > 1e-3
