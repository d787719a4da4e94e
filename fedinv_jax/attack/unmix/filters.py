"""Unmix: each client's mean upload, from the sums of cohorts that change from round to round.

Under secure aggregation the server sees `S_s = sum_c P[s, c] u_c,t(s)`, one row s for each round
and cohort, and knows P: who is in which sum. If uploads did not change between rounds, `S = P U`.
They change slowly, and regularised least squares estimates each client's mean upload,

    U = (P^T P + lambda I)^-1 P^T S,    u_v = sum_s a_vs S_s,    a_v = (P P^T + lambda I)^-1 P e_v,

a filter a_v over the sums that depends on the memberships alone. Fewer sums than clients are
enough, since few clients touch an item's row: where batches are known, each item has a system of
its own, with the columns of the clients that touch it (`by_item`). The ridge lambda minimises
generalised cross-validation of the sums, so that no truth selects it.

If uploads do change, the parameters of each round, which the server knows, tell how:
`replayed` replaces the constant upload by one that is affine in the label.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.types import Array, Key, PyTree, Sums

_RIDGES = np.logspace(-8, 2, 41)  # relative to the mean eigenvalue
_SKETCH = 32  # random projections of a sum, for the ridge of a filter
_ENTRIES = 2**22  # of the sums that one compiled call works on


def memberships(
    members: np.ndarray, num_cohorts: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Returns the matrix P `[T G, C]` of who is in which sum, float64.

    Args:
        members: int `[T, C]`, the cohort of each client; -1: in none.
        num_cohorts: G.
        weights: `[C]`, the weight of each client's upload in a sum, such as its number of
            examples; None: 1.

    Example:
        >>> memberships(np.array([[0, -1, 1], [1, 1, 0]]), 2).astype(int).tolist()
        [[1, 0, 0], [0, 0, 1], [0, 0, 1], [1, 1, 0]]
    """
    found = members[:, None] == np.arange(num_cohorts)[:, None]
    rows = found.reshape(-1, members.shape[1]).astype(np.float64)
    return rows if weights is None else rows * weights


def mixture(sums: Sums, weights: np.ndarray | None) -> np.ndarray:
    """The matrix `[T G, C]` of `memberships` for these sums."""
    return memberships(np.asarray(sums.members), num_cohorts(sums), weights)


def num_cohorts(sums: Sums) -> int:
    """G, the number of cohorts in a round."""
    return jax.tree.leaves(sums.seen[0])[0].shape[0]


def first_rounds(sums: Sums, number: int) -> Sums:
    """The sums of the first `number` of the T rounds.

    Example:
        >>> seen = [{'scorer': np.ones((1, 2))}] * 3
        >>> sums = Sums([{}] * 3, seen, np.zeros((3, 4), int), np.arange(3), np.arange(4))
        >>> first_rounds(sums, 2).members.shape
        (2, 4)
    """
    names = ('shared', 'seen', 'members', 'rounds')
    return sums._replace(**{name: getattr(sums, name)[:number] for name in names})


def ridge_solve(mixture: Array, sums: Array) -> Array:
    """Estimates `x` of `sums = mixture x + noise` by ridge regression.

    `x = (M^T M + lambda I)^-1 M^T s`. Of 41 values, lambda minimises generalised cross-validation
    `|s - M x|^2 / trace(I - H)^2`, where `H = M (M^T M + lambda I)^-1 M^T`.

    Args:
        mixture: M, float `[S, C]`; a column of zeros has the estimate 0.
        sums: float `[S, F]`; F systems that share lambda.

    Returns:
        float `[C, F]`, from one eigendecomposition of `M M^T` or `M^T M`, whichever is smaller.

    Example:
        >>> mixture = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> ridge_solve(mixture, mixture @ jnp.array([[2.0], [5.0]])).round(3).tolist()
        [[2.0], [5.0]]

    References:
        Golub, Heath, Wahba, Generalized cross-validation as a method for choosing a good ridge
        parameter, Technometrics 21(2), 1979, doi:10.1080/00401706.1979.10489751.
    """
    wide = mixture.shape[0] <= mixture.shape[1]
    gram = mixture @ mixture.T if wide else mixture.T @ mixture
    values, vectors = jnp.linalg.eigh(gram)
    own = vectors.T @ (sums if wide else mixture.T @ sums)
    values, kept = _significant(values)
    power = jnp.sum(own**2, axis=1) / (1 if wide else jnp.where(kept, values, 1))
    power = jnp.where(kept, power, 0)
    ridge = _best_ridge(values, power, jnp.sum(sums**2) - jnp.sum(power), len(sums))
    solved = vectors @ jnp.where(kept[:, None], own / (values + ridge)[:, None], 0)
    return mixture.T @ solved if wide else solved


def filters_of(mixture: Array, clients: Array, sketch: Array) -> Array:
    """Returns the filters `a_v` of clients over the sums.

    Args:
        mixture: P, float `[S, C]`.
        clients: int `[V]`, columns of P.
        sketch: float `[S, F]`, random projections of the sums, from which generalised
            cross-validation selects the ridge.

    Returns:
        float `[S, V]`; the mean upload of client v is `sum_s a_vs S_s`.
    """
    wide = mixture.shape[0] <= mixture.shape[1]
    values, vectors = jnp.linalg.eigh(mixture @ mixture.T if wide else mixture.T @ mixture)
    values, kept = _significant(values)
    basis = vectors if wide else mixture @ vectors / jnp.sqrt(jnp.where(kept, values, 1))
    power = jnp.where(kept, jnp.sum((basis.T @ sketch) ** 2, axis=1), 0)
    ridge = _best_ridge(values, power, jnp.sum(sketch**2) - jnp.sum(power), len(sketch))
    own = jnp.where(kept[:, None], basis.T @ mixture[:, clients], 0)
    return basis @ (own / (values + ridge)[:, None])


def _significant(values: Array) -> tuple[Array, Array]:
    """Eigenvalues `[r]`, 0 where they are rounding errors, and which are none, bool `[r]`."""
    kept = values > jnp.max(values) * len(values) * jnp.finfo(values.dtype).eps
    return jnp.where(kept, values, 0), kept


def _best_ridge(values: Array, power: Array, rest: Array, count: int) -> Array:
    """The ridge with the least generalised cross-validation.

    Args:
        values: eigenvalues `[r]` of `M M^T`, 0 where they are not significant.
        power: `[r]`, squared norm of the data along each eigenvector.
        rest: squared norm of the data outside of them.
        count: S, the number of sums.
    """
    positive = jnp.maximum(jnp.sum(values > 0), 1)
    ridges = jnp.asarray(_RIDGES, values.dtype) * jnp.sum(values) / positive
    left = ridges[:, None] / jnp.where(values > 0, values + ridges[:, None], 1)
    left = jnp.where(values > 0, left, 0)
    residual = jnp.sum(left**2 * power, axis=1) + jnp.maximum(rest, 0)
    free = jnp.sum(left, axis=1) + count - jnp.sum(values > 0)
    score = residual / jnp.maximum(free, jnp.finfo(values.dtype).tiny) ** 2
    return ridges[jnp.argmin(jnp.where(jnp.isfinite(score), score, jnp.inf))]


def mean_uploads(
    sums: Sums, clients: Sequence[int], key: Key, weights: np.ndarray | None = None
) -> PyTree:
    """Estimates the mean upload of clients by one filter each over whole sums.

    One pass over the sums draws the sketch for the ridge, a second one applies the filters. Both
    hold a few sums at a time on the devices, and shard their entries.

    Args:
        sums: what the server sees.
        clients: V columns of `sums.members`.
        key: PRNG key of the sketch.
        weights: `[C]`, see `memberships`.

    Returns:
        Leaves `[V, ...]` like the sums, on the host, in JAX's default float dtype; NaN for a client
        that is in no sum.

    Example:
        >>> seen = [{'scorer': np.array([[3.0]])}, {'scorer': np.array([[2.0]])}]
        >>> sums = Sums([], seen, np.array([[0, 0], [-1, 0]]), np.arange(2), np.arange(2))
        >>> mean_uploads(sums, [0, 1], jax.random.key(0))['scorer'].ravel().round(3).tolist()
        [1.0, 2.0]
    """
    mixed = mixture(sums, weights)
    length = sum(leaf[0].size for leaf in jax.tree.leaves(sums.seen[0]))
    drawn = jax.random.normal(key, (length, _SKETCH))
    step = max(_ENTRIES // (length * num_cohorts(sums)), 1)
    parts = [sums.seen[start : start + step] for start in range(0, len(sums.seen), step)]
    sketch = jnp.concatenate([_project(_flat(part), drawn) for part in parts])
    own = filters_of(jnp.asarray(mixed), jnp.asarray(clients), sketch)
    total, start = jnp.zeros((length, len(clients))), 0
    for part in parts:
        block = _flat(part)
        total = _add(total, block, own[start : start + len(block)])
        start += len(block)
    found = np.where(mixed[:, list(clients)].any(axis=0), np.asarray(total), np.nan).T
    leaves, structure = jax.tree.flatten(sums.seen[0])
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
    return jax.tree.unflatten(
        structure,
        [
            own.reshape(-1, *leaf.shape[1:])
            for own, leaf in zip(np.split(found, ends, axis=1), leaves, strict=True)
        ],
    )


def _flat(part: Sequence[PyTree]) -> Array:
    """The sums of some rounds as one matrix `[s G, L]`."""
    wide = [
        np.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(one)], axis=1)
        for one in part
    ]
    return jnp.asarray(np.concatenate(wide), jnp.result_type(float))


@jax.jit
def _project(block: Array, drawn: Array) -> Array:
    return jnp.einsum('ls,lf->sf', tree.shard_rows(block.T), tree.shard_rows(drawn))


@jax.jit
def _add(total: Array, block: Array, own: Array) -> Array:
    more = tree.shard_rows(block.T) @ own
    return total + more[: len(total)]
