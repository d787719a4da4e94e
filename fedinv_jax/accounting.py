"""What differential privacy a run's noise gives, by dp-accounting: against whom, and of what unit.

An epsilon means nothing without its adjacency, unit, sensitivity, number of releases and delta: a
`Guarantee` holds them all. Noise without a bound on the upload has no finite epsilon, and no noise
neither: both are inf, not an error.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

# From there on, epsilon above 5,000, the grid of privacy losses would have steps above 1.
_COARSE = 100.0
# Renyi orders for an epsilon in the thousands, beside dp-accounting's own, which begin at 1.1.
_ORDERS = [1 + 10 ** (k / 20) for k in range(-100, -20)]


class Guarantee(NamedTuple):
    """A statement of differential privacy.

    Attributes:
        mechanism: what is random.
        against: whom it holds against.
        unit: what differs between two adjacent inputs: a user's labels, a user, a label.
        adjacency: how: 'replace', or 'zero-out': the user's upload counts as zeros, where it is
            known that the user takes part.
        sensitivity: most that a release changes by, in the Euclidean norm; None where there is no
            additive noise.
        noise: its standard deviation; None likewise.
        releases: how many there are of each unit.
        sampling: how the releases that a unit is in are drawn, for people.
        delta: of (epsilon, delta); 0 where epsilon is pure.
        rdp: epsilon by Renyi accounting.
        pld: epsilon by the privacy loss distribution, which is tight; None where the accountant
            does not know the sampling.
    """

    mechanism: str
    against: str
    unit: str
    adjacency: str
    sensitivity: float | None
    noise: float | None
    releases: int
    sampling: str
    delta: float
    rdp: float
    pld: float | None

    @property
    def epsilon(self) -> float:
        """The smaller of the accountants' bounds: both hold."""
        return self.rdp if self.pld is None else min(self.rdp, self.pld)


def gaussian(
    noise: float, sensitivity: float, releases: int, delta: float
) -> tuple[float, float | None]:
    """Epsilon of so many Gaussian releases, by Renyi accounting and by privacy loss distribution.

    Two inputs whose releases differ by `sensitivity` in norm, whatever the adjacency: with noise
    `N(0, noise^2 I)` nothing but `sensitivity / noise` and the number of releases matters.

    Args:
        noise: standard deviation of an entry.
        sensitivity: largest norm of the difference.
        releases: how many, composed adaptively.
        delta: in (0, 1).

    Returns:
        Two bounds on epsilon; inf without noise or without a bound, 0 without sensitivity. The
        second is None where the first is in the thousands, which is no privacy.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> [round(float(epsilon), 2) for epsilon in gaussian(4.0, 1.0, 10, 1e-5)]
        [3.62, 3.34]
        >>> gaussian(0.0, 1.0, 10, 1e-5)
        (inf, inf)

    References:
        Mironov, Renyi differential privacy, CSF 2017, arXiv:1702.07476.
        Koskela, Jälkö, Honkela, Computing tight differential privacy guarantees using FFT, AISTATS
        2020, arXiv:1906.03049.
    """
    if not (noise >= 0 and sensitivity >= 0 and releases >= 0 and 0 < delta < 1):
        raise ValueError(
            f'Expected {noise=} >= 0, {sensitivity=} >= 0, {releases=} >= 0 and {delta=} in (0, 1).'
        )
    if not sensitivity or not releases:
        return 0.0, 0.0
    if not noise or math.isinf(sensitivity):
        return math.inf, math.inf
    # Slow to import, and most runs need none of it.
    import dp_accounting
    from dp_accounting import pld, rdp

    plain = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    event = dp_accounting.GaussianDpEvent(noise / sensitivity)
    orders = [*_ORDERS, *rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS]
    by_rdp = _epsilon(rdp.RdpAccountant(orders, plain), event, releases, delta)
    # The composition of Gaussian releases is one Gaussian release; its losses are around
    # shift^2 / 2, and a grid finer than 1e-5 of that would not fit the memory.
    shift = sensitivity / noise * math.sqrt(releases)
    if shift > _COARSE:
        return by_rdp, None
    accountant = pld.PLDAccountant(plain, max(1e-4, 1e-5 * shift**2))
    by_pld = _epsilon(accountant, dp_accounting.GaussianDpEvent(1 / shift), 1, delta)
    return by_rdp, by_pld


def sampled(
    noise: float, sensitivity: float, releases: int, delta: float, population: int, sample: int
) -> float:
    """Epsilon of Gaussian releases of a secret sample of fixed size, by Renyi accounting.

    Each release is of `sample` of `population` units, drawn without replacement, and one unit is
    replaced by another. Who is in the sample must be unknown to the attacker.

    Args:
        noise: see `gaussian`.
        sensitivity: see `gaussian`, of replacing one unit of the sample.
        releases: see `gaussian`.
        delta: see `gaussian`.
        population: how many units there are.
        sample: how many of them a release is of.

    Returns:
        A bound on epsilon, at most that of `gaussian`.

    References:
        Wang, Balle, Kasiviswanathan, Subsampled Renyi differential privacy and analytical moments
        accountant, AISTATS 2019, arXiv:1808.00087.
    """
    bounds = gaussian(noise, sensitivity, releases, delta)
    whole = min(bound for bound in bounds if bound is not None)
    if sample >= population or math.isinf(whole) or not whole:
        return whole
    import dp_accounting
    from dp_accounting import rdp

    replace = dp_accounting.NeighboringRelation.REPLACE_ONE
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        population, sample, dp_accounting.GaussianDpEvent(noise / sensitivity)
    )
    accountant = rdp.RdpAccountant(neighboring_relation=replace)
    return min(whole, _epsilon(accountant, event, releases, delta))


def _epsilon(accountant: Any, event: Any, releases: int, delta: float) -> float:
    return float(accountant.compose(event, releases).get_epsilon(delta))


def against_server(found: Sequence[Guarantee]) -> dict[str, Any] | None:
    """The guarantee of least epsilon against the server, for a row; None where none is finite.

    Returns:
        `{'epsilon', 'delta', 'against', 'unit', 'adjacency', 'sensitivity', 'releases'}`, as in
        `Guarantee`: an epsilon of one label and one of a user are not of one kind.
    """
    finite = [
        each
        for each in found
        if each.against.startswith('the server') and math.isfinite(each.epsilon)
    ]
    if not finite:
        return None
    least = min(finite, key=lambda each: each.epsilon)
    names = ('epsilon', 'delta', 'against', 'unit', 'adjacency', 'sensitivity', 'releases')
    return {name: getattr(least, name) for name in names}


def describe(guarantee: Guarantee) -> str:
    """One line for people."""
    shown = 'inf' if math.isinf(guarantee.epsilon) else f'{guarantee.epsilon:.3g}'
    words = f'epsilon = {shown} ({guarantee.mechanism}; against {guarantee.against}; unit: '
    words += f'{guarantee.unit}, {guarantee.adjacency}'
    if guarantee.noise is not None:
        bound = guarantee.sensitivity
        words += (
            f'; delta = {guarantee.delta:g}, sensitivity '
            f'{"unbounded: uploads are not clipped" if math.isinf(bound or 0) else f"{bound:g}"}, '
            f'noise {guarantee.noise:g}, {guarantee.releases} rounds, sampling: '
            f'{guarantee.sampling}; RDP {guarantee.rdp:.3g}'
        )
        words += '' if guarantee.pld is None else f', PLD {guarantee.pld:.3g}'
    return words + ')'
