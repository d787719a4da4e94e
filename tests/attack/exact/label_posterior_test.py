"""Marginals of binary labels against sums over all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.attack.exact import identifiability, label_posterior, label_solve, normal_equations

marginals = jax.jit(label_posterior.marginals)


def exact_marginals(columns, seen, log_odds):
    """By enumeration, and the likeliest labels."""
    every = np.array(list(itertools.product((0, 1), repeat=len(log_odds))))
    score = every @ log_odds - np.sum((every @ columns - seen) ** 2, axis=1) / 2
    weights = np.exp(score - score.max())
    return weights @ every / weights.sum(), every[np.argmax(score)]


def scarce_equations(seed, count=50):
    """20 equations of noise 1, in one vector and two leaves of outer products, and the labels."""
    rng = np.random.default_rng(seed)
    flat = 1e4 * rng.normal(size=(count, 8))
    factors = {
        name: (rng.normal(size=(count, 1, 2)), 1e4 * rng.normal(size=(count, 1, 3)))
        for name in 'ab'
    }
    y = (rng.random(count) < 0.15).astype(float)
    outer = {
        name: rng.normal(size=(1, 2, 3)) - np.einsum('k,kta,ktb->tab', y, *factors[name])
        for name in 'ba'
    }
    own = np.zeros((count, 0))
    columns = jax.tree.map(jnp.asarray, normal_equations.Features(own, flat, factors))
    origin = jax.tree.map(
        jnp.asarray, normal_equations.Entries(own, rng.normal(size=8) - y @ flat, {})
    )
    origin = origin._replace(outer={name: jnp.asarray(leaf) for name, leaf in outer.items()})
    gram = normal_equations.gram(columns)
    rhs, factor = -normal_equations.transposed(columns, origin), identifiability.factor(gram)
    return normal_equations.Normal(gram, rhs, factor, columns, origin, 20), y


# Failed on mutants: what was seen with the other sign; leaves in the order they are given in;
# the marginals whatever they leave; no marginals.
@pytest.mark.slow
def test_the_likelier_labels_where_equations_are_scarce():
    solved = 0
    for seed in range(8):
        with jax.enable_x64():
            equations, y = scarce_equations(seed)
            plain = label_solve.estimate(equations)
            found = label_posterior.estimate(equations, jnp.full(len(y), -1.7))
            left = [normal_equations.fit(equations, jnp.round(each)) for each in (plain, found)]
            # Odds that mislead: what they make likely must not replace what fits.
            misled = label_posterior.estimate(equations, jnp.where(y > 0.5, -1e12, 1e12))
            bad = normal_equations.fit(equations, jnp.round(misled))
        assert left[1] <= left[0]
        assert bad <= left[0]
        exact = np.array_equal(np.asarray(found) > 0.5, y > 0.5)
        assert exact == bool(left[1] < label_solve.EXPLAINED)
        solved += exact and bool(left[0] > label_solve.EXPLAINED)
    assert solved >= 5


# Failed on mutants: the cavity's mean left out; the noise that never falls.
def test_half_as_many_equations_as_labels_determine_them():
    solved = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        columns, y = 1e4 * rng.normal(size=(40, 20)), rng.random(40) < 0.2
        seen = y @ columns + rng.normal(size=20)
        with jax.enable_x64():
            found, left = marginals(*map(jnp.asarray, (columns, seen, np.full(40, -1.4))))
        exact = np.array_equal(np.asarray(found) > 0.5, y)
        assert exact == bool(left < 4)  # it knows
        solved += exact
    assert solved >= 6


# Failed on mutant: the prior's odds left out.
def test_the_prior_decides_what_no_equation_tells():
    log_odds = np.array([-2.0, 0.5, 3.0, -0.5])
    columns = np.zeros((4, 2))
    columns[3] = [50.0, -20.0]
    with jax.enable_x64():
        found, _ = marginals(*map(jnp.asarray, (columns, columns[3], log_odds)))
    np.testing.assert_allclose(found[:3], 1 / (1 + np.exp(-log_odds[:3])), atol=1e-6)
    assert found[3] > 0.5


def test_loud_noise_gives_the_marginals_of_enumeration():
    rng = np.random.default_rng(3)
    columns, y = rng.normal(size=(10, 30)), rng.random(10) < 0.3
    seen, log_odds = y @ columns + rng.normal(size=30), rng.normal(size=10)
    expected, _ = exact_marginals(columns, seen, log_odds)
    with jax.enable_x64():
        found, _ = marginals(*map(jnp.asarray, (columns, seen, log_odds)))
    np.testing.assert_allclose(found, expected, atol=0.2)


@pytest.mark.parametrize(
    ('columns', 'seen'),
    [
        pytest.param(np.zeros((5, 3)), np.zeros(3), id='zero'),
        pytest.param(np.ones((5, 3)), 2 * np.ones(3), id='identical'),
        pytest.param(np.ones((5, 3)), np.array([1e6, -1e6, 0.0]), id='impossible'),
        pytest.param(np.ones((5, 3)), np.array([np.nan, 0, 0]), id='not finite'),
    ],
)
def test_degenerate_equations_stay_finite(columns, seen):
    with jax.enable_x64():
        found, _ = marginals(*map(jnp.asarray, (columns, seen, np.full(5, -1.0))))
    assert np.all((found >= 0) & (found <= 1))


def test_padding_is_no_interaction_and_changes_nothing():
    rng = np.random.default_rng(0)
    columns, log_odds = 100 * rng.normal(size=(8, 5)), np.full(8, -1.0)
    seen = columns[2] + columns[5]
    with jax.enable_x64():
        found, left = marginals(*map(jnp.asarray, (columns, seen, log_odds)))
        padded, same = marginals(
            jnp.asarray(np.vstack([columns, np.zeros((3, 5))])),
            jnp.asarray(seen),
            jnp.asarray(np.append(log_odds, np.full(3, -np.inf))),
        )
    np.testing.assert_allclose(padded[:8], found, atol=1e-12)
    np.testing.assert_array_equal(padded[8:], 0)
    assert float(left) == pytest.approx(float(same), abs=5e-8)


def test_vmap_is_a_loop():
    rng = np.random.default_rng(1)
    columns, log_odds = 100 * rng.normal(size=(3, 9, 4)), rng.normal(size=(3, 9))
    seen = columns[:, 1] + columns[:, 4]
    with jax.enable_x64():
        args = tuple(map(jnp.asarray, (columns, seen, log_odds)))
        together, _ = jax.vmap(label_posterior.marginals)(*args)
        loop = [marginals(*(arg[i] for arg in args))[0] for i in range(3)]
    np.testing.assert_allclose(together, loop, atol=1e-9)
