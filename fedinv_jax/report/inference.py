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
    users: Sequence[int] | None = None,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> ConfidenceInterval:
    """Mean of the defined values with its 95% confidence interval.

    With one seed: the percentile bootstrap over victims. With G seeds, the victims of a seed are
    not independent: `mean +- t_{G-1} s` with the cluster-robust standard error of the mean,
    `s^2 = G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2 / n^2`. For seeds of equal size this is
    the t-interval of the seeds' means. Neither are the rows of a user in several seeds: with
    `users`, `s^2` is that of seeds plus that of users less that of (seed, user), if it is larger.

    Args:
        values: one number per victim; None, NaN or infinite where undefined.
        seeds: seed of each victim; None: all have the same seed.
        users: user of each victim; None: all differ.
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
        Cameron, Gelbach, Miller, Robust inference with multiway clustering, Journal of Business and
        Economic Statistics 29(2), 2011, doi:10.1198/jbes.2010.07136 (seeds and users).
    """
    numbers = _numbers(values)
    known = np.isfinite(numbers)
    defined, undefined = numbers[known], int(np.sum(~known))
    clusters = _clusters(seeds, users, known)
    if not defined.size:
        return {'mean': None, 'low': None, 'high': None, 'undefined': undefined}
    mean, low, high = (float(defined[0]),) * 3
    if np.ptp(defined) > 0:
        mean = float(np.mean(defined))
        several = len(np.unique(clusters[0])) > 1
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


def _clusters(
    seeds: Sequence[int] | None, users: Sequence[int] | None, known: np.ndarray
) -> np.ndarray:
    """Seed and user of the known victims, `[2, n]`; users are numbered if they are not given."""
    count = len(known)
    ways = [np.zeros(count) if seeds is None else seeds, range(count) if users is None else users]
    return np.array([np.asarray(way)[known] for way in ways])


def _clustered(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    error, freedom = _clustered_error(values, clusters)
    half = scipy.stats.t.ppf(0.975, freedom) * error
    return np.mean(values) - half, np.mean(values) + half


def _clustered_error(values: np.ndarray, clusters: np.ndarray) -> tuple[float, int]:
    """The cluster-robust standard error of the mean, and its degrees of freedom."""
    apart = values - np.mean(values)

    def variance(keys: np.ndarray) -> float:
        _, group = np.unique(keys, axis=1, return_inverse=True)
        sums = np.bincount(group.ravel(), apart)
        return len(sums) / (len(sums) - 1) * np.sum(sums**2) if len(sums) > 1 else 0.0

    by_seed, by_user, by_both = map(variance, (clusters[:1], clusters[1:], clusters))
    error = np.sqrt(max(by_seed, by_seed + by_user - by_both)) / values.size
    return float(error), len(np.unique(clusters[0])) - 1


def proportion_interval(
    values: Iterable[bool | float | None],
    seeds: Sequence[int] | None = None,
    users: Sequence[int] | None = None,
) -> ConfidenceInterval:
    """Share of victims that are 1, with its 95% Wilson interval.

    A share of 0 or 1 has an interval, too: `n` victims cannot exclude a rate of about `3 / n`. A
    user with several rows counts once. With G seeds, the number of victims is
    `p (1 - p) / s^2 (z / t_{G-1})^2` for the share p and its cluster-robust standard error s (the
    number divided by the design effect, and by what G - 1 degrees of freedom cost), at most n.

    Args:
        values: 0 or 1 per victim; None where undefined.
        seeds: see `confidence_interval`.
        users: see `confidence_interval`.

    Returns:
        See `confidence_interval`.

    Example:
        >>> found = proportion_interval([1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        >>> found['mean'], round(found['low'], 3), found['high']
        (1.0, 0.722, 1.0)

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, Journal of the
        American Statistical Association 22(158), 1927, doi:10.1080/01621459.1927.10502953.
        Korn and Graubard, Confidence intervals for proportions with small expected number of
        positive counts estimated from survey data, Survey Methodology 24(2), 1998, pp. 193-201.
    """
    numbers = _numbers(values)
    known = np.isfinite(numbers)
    defined, undefined = numbers[known], int(np.sum(~known))
    if not defined.size:
        return {'mean': None, 'low': None, 'high': None, 'undefined': undefined}
    clusters = _clusters(seeds, users, known)
    share = float(np.mean(defined))
    size, z = float(len(np.unique(clusters[1]))), scipy.stats.norm.ppf(0.975)
    if 0 < share < 1 and len(np.unique(clusters[0])) > 1:
        error, freedom = _clustered_error(defined, clusters)
        wide = error * scipy.stats.t.ppf(0.975, freedom) / z
        size = min(size, share * (1 - share) / wide**2) if wide else size
    z2 = z**2
    middle = (share + z2 / (2 * size)) / (1 + z2 / size)
    half = np.sqrt(z2 * (share * (1 - share) + z2 / (4 * size)) / size) / (1 + z2 / size)
    low, high = np.clip((middle - half, middle + half), 0, 1)
    return {
        'mean': share,
        'low': 0.0 if share == 0 else float(low),
        'high': 1.0 if share == 1 else float(high),
        'undefined': undefined,
    }


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values of a family of tests; None is no test.

    `p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))` for the ordered p-values of m tests. Rejecting
    where `p' < .05` makes at most one false rejection in the family with probability .05.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
        Statistics 6(2), 1979, pp. 65-70.
    """
    tests = sorted((p, index) for index, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for place, (p, index) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - place) * p))
        adjusted[index] = largest
    return adjusted


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values, or None."""
    numbers = _numbers(values)
    defined = numbers[np.isfinite(numbers)]
    return float(np.mean(defined)) if defined.size else None


def paired_p(
    values: Iterable[float | None], seeds: Sequence[int], users: Sequence[int] | None = None
) -> float | None:
    """Two-sided p-value of the hypothesis that the mean paired difference is 0.

    With several seeds: a t-test with the cluster-robust standard error of `confidence_interval`.
    With one seed: a permutation test of the mean that flips the signs of the differences (all
    combinations, or 9,999 drawn with a fixed seed).

    Args:
        values: one difference per victim; None where undefined.
        seeds: seed of each victim.
        users: user of each victim; None: all differ.

    Returns:
        The p-value; 1 if there is one victim or all differences are 0, None if none is defined.

    Example:
        >>> paired_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0] * 6)
        0.03125
    """
    numbers = _numbers(values)
    known = np.isfinite(numbers)
    defined, clusters = numbers[known], _clusters(seeds, users, known)
    if not defined.size:
        return None
    if defined.size == 1 or not np.any(defined):
        return 1.0
    if len(np.unique(clusters[0])) == 1:
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
