"""Epsilon against published values and closed forms; noise against its calibration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from fedinv_jax import accounting, observe, server


def analytic(noise, sensitivity, delta):
    """Epsilon of one Gaussian release: Balle and Wang, ICML 2018, arXiv:1805.06530, theorem 8."""
    shift = sensitivity / noise

    def excess(epsilon):
        one = scipy.stats.norm.cdf(shift / 2 - epsilon / shift)
        return one - math.exp(epsilon) * scipy.stats.norm.cdf(-shift / 2 - epsilon / shift) - delta

    return scipy.optimize.brentq(excess, 0, 50)


# dp-accounting's own tests: rdp_privacy_accountant_test.test_compute_epsilon_delta_gaussian
# (noise 4.530877117 is (1, 1e-6)-DP) and pld_privacy_accountant_test.test_gaussian_basic
# (three releases with noise sqrt 3 are (1, .126936)-DP).
def test_gaussian_published_values():
    assert accounting.gaussian(4.530877117, 1, 1, 1e-6)[0] == pytest.approx(1, abs=1e-5)
    assert accounting.gaussian(math.sqrt(3), 1, 3, 0.126936)[1] == pytest.approx(1, abs=1e-3)


# Failed on: the sensitivity left out; `releases` without its root.
@pytest.mark.parametrize('releases', [1, 7, 160])
@pytest.mark.parametrize('scale', [1.0, 20.0])
def test_gaussian_tight_value_is_the_analytic_one(releases, scale):
    by_rdp, by_pld = accounting.gaussian(3 * scale * math.sqrt(releases), scale, releases, 1e-5)
    assert by_pld == pytest.approx(analytic(3, 1, 1e-5), rel=1e-3)
    assert by_rdp >= by_pld


def test_gaussian_edge_cases():
    assert accounting.gaussian(0.0, 1, 3, 1e-5) == (math.inf, math.inf)
    assert accounting.gaussian(1.0, math.inf, 3, 1e-5) == (math.inf, math.inf)
    assert accounting.gaussian(1.0, 0.0, 3, 1e-5) == (0.0, 0.0)
    assert accounting.gaussian(1.0, 1, 0, 1e-5) == (0.0, 0.0)
    # Exact, by dp_accounting.get_epsilon_gaussian: 14940.5. Failed on: orders from 1.1.
    wide = accounting.gaussian(3.0, 40.0, 160, 1e-5)
    assert 14940.5 < wide[0] < 1.01 * 14940.5
    assert wide[1] is None
    huge = accounting.gaussian(1e-4, 1, 100, 1e-5)
    assert 1e8 < huge[0] < math.inf
    assert huge[1] is None
    for arguments in ((-1, 1, 1, 1e-5), (1, -1, 1, 1e-5), (1, 1, -1, 1e-5), (1, 1, 1, 0.0)):
        with pytest.raises(ValueError, match='Expected noise='):
            accounting.gaussian(*arguments)


# dp-accounting composes it itself here, with the replaced unit's sensitivity of 1.
def test_a_secret_sample_helps():
    whole = min(accounting.gaussian(4.0, 1, 50, 1e-5))
    part = accounting.sampled(4.0, 1, 50, 1e-5, 1000, 10)
    assert 0 < part < whole / 5
    assert accounting.sampled(4.0, 1, 50, 1e-5, 1000, 1000) == whole
    assert accounting.sampled(0.0, 1, 50, 1e-5, 1000, 10) == math.inf


# The noise that is added against the noise that is accounted for, on a sum and on a mean of it:
# n squared standardised entries are chi-square with n degrees of freedom, and both ends of their
# 1 - 1e-6 interval bound the sum (error rate 1e-6 each). Failed on: noise times 1.02; the mean's
# noise taken for the sum's (divided by the number of clients twice).
CLIP, NOISE, CLIENTS, SIZE = 0.5, 2.0, 8, 50_000


def standardised(how):
    """Noise of an aggregate of clients that upload nothing but noise, over its expectation."""
    stage = observe.chain(observe.clip_by_global_norm(CLIP), observe.add_gaussian_noise(NOISE))
    zeros = {'items': jnp.zeros((1, 1)), 'scorer': jnp.zeros(SIZE)}
    keys = jax.random.split(jax.random.key(3), CLIENTS)
    uploads = jax.vmap(lambda key: stage.observe(zeros, stage.init(zeros), key)[0])(keys)
    nothing = jnp.zeros((CLIENTS, 1), int)
    seen = server.Uploads(uploads, nothing, nothing > 0, jnp.ones(CLIENTS, bool))
    total = server.accumulate(server.zero_total(zeros), seen)
    aggregate = server.average(total, {'items': 'sum', 'scorer': how})
    # Calibrated to the sensitivity of one client's part of that aggregate.
    multiplier = NOISE / (2 * CLIP)
    sensitivity = 2 * CLIP / (1 if how == 'sum' else CLIENTS)
    expected = multiplier * sensitivity * math.sqrt(CLIENTS)
    return np.asarray(aggregate['scorer'], np.float64) / expected


@pytest.mark.parametrize('how', ['sum', 'mean'])
def test_noise_is_what_is_accounted_for(how):
    statistic = np.sum(standardised(how) ** 2)
    low, high = scipy.stats.chi2.ppf([5e-7, 1 - 5e-7], SIZE)
    assert low < statistic < high
