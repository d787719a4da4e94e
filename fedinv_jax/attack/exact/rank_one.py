"""The exact attack on a leaf that mixes the multiples of one vector: items described by features.

Where an item row is a known mixture of feature rows, `q_i = sum_f A_if e_f`, a score
`z_i = <u, q_i> + ...` uploads for the feature rows `sum_i c_i a_i ⊗ u = (A' c) ⊗ u`, with
`c_i = dL/dz_i` and u a function of the private state. The leaf is of rank one, and `A' c` up to a
factor is all that it says of the labels: it determines c where the rows of A are independent.
"""

from collections.abc import Sequence

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import item_rows, problems, row_lines
from fedinv_jax.attack.exact.known import Attack, Draw, Known, Uploads
from fedinv_jax.types import Answer, Array, Certificate, Guess, Key, PyTree, Transcript

_TOLERANCE = 1e-5
_RANK = 1e-11  # eigenvalues of the scaled Gram matrix, relative to the largest, that count
_SURE = 100.0  # multiples of the rounding from which on a coefficient is not 0


def find(upload: Uploads, draws: Sequence[Draw]) -> str | None:
    """Name of a leaf `[F, D]` that is `sum_i c_i a_i ⊗ u`, a_i the same for all private states.

    Args:
        upload: of the linear client, `sum_i y_i dz_i/dtheta` and what it adds to its loss.
        draws: random clients; each is tried with the private states of all, and with a small one,
            where it depends on the item which ReLUs are on.
    """

    @jax.jit
    def columns(draw: Draw) -> PyTree:
        def of(labels: Array) -> PyTree:
            return upload(draw._replace(batch=draw.batch._replace(labels=labels)))

        none = of(jnp.zeros_like(draw.batch.labels))
        each = jax.vmap(of)(jnp.eye(len(draw.batch.labels)))
        return jax.tree.map(jnp.subtract, each, none)

    privates = [draw.private for draw in draws]
    privates.append(jax.tree.map(lambda leaf: 0.03 * leaf, privates[0]))
    found: set[str] | None = None
    for draw in draws:
        each = [columns(draw._replace(private=private)) for private in privates]
        leaves = [flax.traverse_util.flatten_dict(dict(one), sep='/') for one in each]
        names = {
            name
            for name in leaves[0]
            if name.split('/')[0] != 'items' and _is_mixture([one[name] for one in leaves])
        }
        found = names if found is None else found & names
    return min(found) if found else None


def _is_mixture(columns: Sequence[Array]) -> bool:
    """Whether columns `[K, F, D]` are `a_i ⊗ u` with the same a_i for each private state."""
    if columns[0].ndim != 3 or min(columns[0].shape[1:]) < 2:
        return False
    profiles = []
    for one in columns:
        matrix = np.asarray(one).reshape(-1, one.shape[2])
        if not np.all(np.isfinite(matrix)) or not np.any(matrix):
            return False
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        if values[1] > _TOLERANCE * values[0]:
            return False
        profiles.append(left[:, 0])
    return all(1 - abs(profiles[0] @ other) < _TOLERANCE**2 for other in profiles[1:])


def rank_one(known: Known) -> Attack:
    """The coefficients `c` up to a factor, by least squares, and the labels by their sides.

    The leaf's singular vectors are u and `A' c`, and A is predicted for any private state. A
    coefficient that A does not determine has the value of the least-squares solution of least norm,
    if there is such an item. Steps are added up, each with the sign that agrees with those before
    it. Which of the two sides is that of the interactions is not seen: as a rule the smaller one,
    see `item_rows.spectral`. So no answer is certified; the rank is that of A.

    Raises:
        ValueError: if the client uploads no leaf of this kind.
    """
    linear = known.linear
    if linear is None or linear.mixture is None:
        raise ValueError('rank_one needs a leaf of known mixtures of multiples of one vector.')
    name = linear.mixture
    client = known._replace(client_update=linear.client_update, structure=linear.structure)

    def leaf_of(view: PyTree) -> Array:
        return flax.traverse_util.flatten_dict(dict(view), sep='/')[name]

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        seen, where = leaf_of(row_lines.of_loss(known, transcript)), candidates.mask(transcript)
        problem = problems.free_problem(client, transcript)
        latent = problem.init(jax.random.key(0)).latent

        def predicted(labels: Array) -> Array:
            return leaf_of(problem.predict(Guess(labels, None, latent)))

        none = jnp.zeros(transcript.items.shape, seen.dtype)
        origin = predicted(none)
        along = _direction(predicted(none + 1) - origin)

        def column(one: Array) -> Array:  # [T, F]
            return jnp.einsum('tfd,td->tf', predicted(one) - origin, along)

        matrix = tree.map_chunks(column, jnp.eye(len(none), dtype=seen.dtype))  # [K, T, F]
        matrix = jnp.where(where[:, None, None], matrix, 0)
        mixed = jnp.einsum('tfd,td->tf', seen, _direction(seen))
        solved = jax.vmap(_solve, in_axes=(1, 0, None))(matrix, mixed, known.rounding)
        coefficients, ranks, off = solved
        units = coefficients / item_rows.positive(jnp.max(jnp.abs(coefficients), axis=1))[:, None]
        total = jnp.zeros_like(none)
        for unit in units:
            total += unit * jnp.where(total @ unit < 0, -1, 1)
        total *= item_rows.smaller_side(total, where, known.positives)
        size = item_rows.positive(jnp.sqrt(jnp.mean(total**2, where=where & (total != 0))))
        scores = jnp.where(where, 0.5 + jnp.arctan(jnp.nan_to_num(total / size)) / jnp.pi, 0)
        zero, no = jnp.zeros((), seen.dtype), jnp.asarray(False)
        count = jnp.zeros((), ranks.dtype)
        return Answer(
            scores,
            (total > 0) & where,
            None,
            jnp.mean(off),
            Certificate(no, no, zero, zero, jnp.max(ranks), count),
        )

    return attack


def _direction(leaf: Array) -> Array:
    """The first right singular vectors `[T, D]` of matrices `[T, F, D]`."""
    size = jnp.max(jnp.abs(leaf), axis=(1, 2), keepdims=True)
    scaled = leaf / item_rows.positive(size)
    return jnp.linalg.eigh(jnp.einsum('tfd,tfe->tde', scaled, scaled))[1][..., -1]


def _solve(matrix: Array, mixed: Array, rounding: float) -> tuple[Array, Array, Array]:
    """Coefficients `[K]` of one step with `A' c = mixed`, for A `[K, F]`.

    Returns:
        The coefficients, 0 where rounding may explain them; the rank of A, and the share of `mixed`
        that no coefficients explain.
    """
    norms = jnp.linalg.norm(matrix, axis=1)
    scaled = matrix / item_rows.positive(norms)[:, None]
    values, vectors = jnp.linalg.eigh(scaled @ scaled.T)
    counted = values > _RANK * jnp.max(values)
    inverse = jnp.where(counted, 1 / jnp.where(counted, values, 1), 0)
    solved = vectors @ (inverse * (vectors.T @ (scaled @ mixed)))
    size = jnp.linalg.norm(mixed)
    error = _SURE * rounding * size * jnp.sqrt(vectors**2 @ inverse)
    left = jnp.sum((mixed - solved @ scaled) ** 2) / item_rows.positive(size**2)
    solved = jnp.where(jnp.abs(solved) > error, solved / item_rows.positive(norms), 0)
    return solved, jnp.sum(counted & (values > 0)), left
