"""Differential privacy of a run's noise, computed by dp-accounting.

An epsilon has no meaning without its adversary, adjacency, unit, sensitivity, number of releases
and delta; a `Guarantee` holds all of them. Without noise, or without a bound on the upload, epsilon
is inf, which is not an error.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

# Largest shift for a privacy loss distribution. Epsilon is above 5,000 from there on, and the grid
# of privacy losses would have steps above 0.1.
_COARSE = 100.0
# Renyi orders for an epsilon in the thousands; dp-accounting's own orders begin at 1.1.
_ORDERS = [1 + 10 ** (k / 20) for k in range(-100, -20)]


class Guarantee(NamedTuple):
    """A statement of differential privacy.

    Attributes:
        mechanism: the source of randomness, as text.
        against: the adversary, as text.
        unit: what differs between two adjacent inputs: a user's labels, a user, a label.
        adjacency: how the unit differs: 'replace', or 'zero-out': the user's upload is replaced by
            zeros, and the adversary knows that the user takes part.
        sensitivity: largest change of a release, in the Euclidean norm; None without additive
            noise.
        noise: standard deviation of the noise; None without additive noise.
        releases: number of releases of each unit.
        sampling: how the units of a release are drawn, as text.
        delta: of (epsilon, delta); 0 for a pure epsilon.
        rdp: epsilon by Renyi accounting.
        pld: epsilon by the privacy loss distribution, which is tight; None if the accountant does
            not support the sampling, or if epsilon is in the thousands.
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
        """The smaller of the accountants' two bounds, which are both valid."""
        return self.rdp if self.pld is None else min(self.rdp, self.pld)


def gaussian(
    noise: float, sensitivity: float, releases: int, delta: float
) -> tuple[float, float | None]:
    """Epsilon of Gaussian releases, by Renyi accounting and by the privacy loss distribution.

    The releases of two adjacent inputs differ by at most `sensitivity` in norm, for any adjacency.
    With noise `N(0, noise^2 I)`, epsilon depends on `sensitivity / noise`, `releases` and `delta`.

    Args:
        noise: standard deviation of the noise on an entry.
        sensitivity: largest norm of the difference.
        releases: number of releases, composed adaptively.
        delta: in (0, 1).

    Returns:
        Two upper bounds on epsilon; inf if `noise` is 0 or `sensitivity` inf, 0 if `sensitivity` or
        `releases` is 0. The second is None if the first is in the thousands, which is no privacy.

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
    # Imported here, because the import is slow and most runs do not need it.
    import dp_accounting
    from dp_accounting import pld, rdp

    plain = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    event = dp_accounting.GaussianDpEvent(noise / sensitivity)
    orders = [*_ORDERS, *rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS]
    by_rdp = _epsilon(rdp.RdpAccountant(orders, plain), event, releases, delta)
    # Gaussian releases compose to one Gaussian release. Its privacy losses are around shift^2 / 2;
    # a grid with steps below 1e-5 shift^2 would not fit into memory.
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

    Each release is computed from `sample` of `population` units, drawn without replacement.
    Adjacent inputs differ by the replacement of one unit. The attacker must not know which units
    are in the sample.

    Args:
        noise: see `gaussian`.
        sensitivity: see `gaussian`, of replacing one unit of the sample.
        releases: see `gaussian`.
        delta: see `gaussian`.
        population: number of units.
        sample: number of units in each release.

    Returns:
        An upper bound on epsilon, not above that of `gaussian`.

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
    """Returns the guarantee against the server with the smallest epsilon, for a victim row.

    Returns:
        `{'epsilon', 'delta', 'against', 'unit', 'adjacency', 'sensitivity', 'releases'}`, see
        `Guarantee`, since epsilons of different units are not comparable; None if no epsilon is
        finite.
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
    """Returns one line of text that states the guarantee."""
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
