"""Statistics of a metric over victims: confidence intervals, and a test of paired differences."""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats

from fedinv_jax.report.rows import ConfidenceInterval

_RESAMPLES = 2000


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    """The values, float64; None becomes NaN."""
    return np.array([np.nan if value is None else value for value in values], float)


def confidence_interval(
    values: Iterable[float | None],
    seeds: Sequence[int] | None = None,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> ConfidenceInterval:
    """Mean of the defined values with its 95% confidence interval.

    With one seed: the percentile bootstrap over victims. With G seeds, the victims of a seed are
    not independent: `mean +- t_{G-1} s` with the cluster-robust standard error of the mean,
    `s^2 = G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2 / n^2`. For seeds of equal size this is
    the t-interval of the seeds' means.

    Args:
        values: one number per victim; None, NaN or infinite where undefined.
        seeds: seed of each victim; None: all have the same seed.
        limits: smallest and largest possible value; the interval is clipped to them.

    Returns:
        `{'mean', 'low', 'high', 'undefined'}`: three floats, or three None if no value is defined,
        and the number of undefined values. If all defined values are equal, low = high = mean. The
        bootstrap's seed is fixed: equal values give equal intervals.

    Example:
        >>> confidence_interval([0.5, None, 0.5])
        {'mean': 0.5, 'low': 0.5, 'high': 0.5, 'undefined': 1}

    References:
        Cameron and Miller, A practitioner's guide to cluster-robust inference, Journal of Human
        Resources 50(2), 2015, pp. 317-372, doi:10.3368/jhr.50.2.317.
    """
    numbers = _numbers(values)
    known = np.isfinite(numbers)
    defined, undefined = numbers[known], int(np.sum(~known))
    clusters = np.zeros(defined.size) if seeds is None else np.asarray(seeds)[known]
    if not defined.size:
        return {'mean': None, 'low': None, 'high': None, 'undefined': undefined}
    mean, low, high = (float(defined[0]),) * 3
    if np.ptp(defined) > 0:
        mean = float(np.mean(defined))
        several = len(np.unique(clusters)) > 1
        ends = _clustered(defined, clusters) if several else _bootstrap(defined)
        low, high = (float(end) for end in np.clip(ends, *limits))
    return {'mean': mean, 'low': low, 'high': high, 'undefined': undefined}


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    bounds = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=200,
        method='percentile',
        rng=np.random.default_rng(0),
    ).confidence_interval
    return bounds.low, bounds.high


def _clustered(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    error, freedom = _clustered_error(values, clusters)
    half = scipy.stats.t.ppf(0.975, freedom) * error
    return np.mean(values) - half, np.mean(values) + half


def _clustered_error(values: np.ndarray, clusters: np.ndarray) -> tuple[float, int]:
    """The cluster-robust standard error of the mean, and its degrees of freedom."""
    sums = [np.sum(values[clusters == one] - np.mean(values)) for one in np.unique(clusters)]
    count = len(sums)
    error = np.sqrt(count / (count - 1) * np.sum(np.square(sums))) / values.size
    return float(error), count - 1


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values, or None."""
    numbers = _numbers(values)
    defined = numbers[np.isfinite(numbers)]
    return float(np.mean(defined)) if defined.size else None


def paired_p(values: Iterable[float | None], seeds: Sequence[int]) -> float | None:
    """Two-sided p-value of the hypothesis that the mean paired difference is 0.

    With several seeds: a t-test with the cluster-robust standard error of `confidence_interval`.
    With one seed: a permutation test of the mean that flips the signs of the differences (all
    combinations, or 9,999 drawn with a fixed seed).

    Args:
        values: one difference per victim; None where undefined.
        seeds: seed of each victim.

    Returns:
        The p-value; 1 if there is one victim or all differences are 0, None if none is defined.

    Example:
        >>> paired_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0] * 6)
        0.03125
    """
    numbers = _numbers(values)
    known = np.isfinite(numbers)
    defined, clusters = numbers[known], np.asarray(seeds)[known]
    if not defined.size:
        return None
    if defined.size == 1 or not np.any(defined):
        return 1.0
    if len(np.unique(clusters)) == 1:
        flipped = scipy.stats.permutation_test(
            (defined,),
            np.mean,
            permutation_type='samples',
            n_resamples=9999,
            rng=np.random.default_rng(0),
        )
        return float(flipped.pvalue)
    error, freedom = _clustered_error(defined, clusters)
    if error == 0:
        return 0.0
    return float(2 * scipy.stats.t.sf(abs(np.mean(defined)) / error, freedom))
