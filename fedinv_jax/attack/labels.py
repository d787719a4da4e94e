"""The label solve: with the private states given, uploads are affine in the labels.

`predicted(y) = predicted(0) + A y` for one gradient of a loss like BCE or the squared error, so the
labels are a box-constrained linear least-squares problem with one optimum, and T steps stack T
systems over the same labels. That a client is affine is not known from the model but probed.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.attack import identifiability, leak, normal, quadratic
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.leak import Draw
from fedinv_jax.attack.normal import Normal
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Array, Batch, ClientUpdate, Guess, Key, Observation, PyTree

DENSE = 4096
"""Most candidates of the dense label solve, unless told otherwise; beyond, it is matrix-free."""

EXPLAINED = 4.0
"""Mean square of the whitened residual up to which noise may explain it."""

_TOLERANCE = 1e-5
_FAR = 1e6
_PHASES = (0.6180339887498949, 0.41421356237309515, 0.7320508075688772, 0.23606797749978969)


class Structure(NamedTuple):
    """How the seen upload of a client depends on its labels, on every draw.

    Attributes:
        affine: the upload of a mix of labels is the mix of the uploads.
        separable: a label moves the upload as it would alone in the batch.
        outer: names of the leaves `[a, b]` whose derivative in each label is of rank one.
        items: whether item rows are seen.
    """

    affine: bool
    separable: bool
    outer: tuple[str, ...]
    items: bool


def probe(
    client_update: ClientUpdate, observation: Observation, draws: Sequence[Draw]
) -> Structure:
    """Finds out, on random clients and labels, what the label solve may rely on.

    Args:
        client_update: the client's own update.
        observation: the channel; its `predict` is used.
        draws: random clients whose batches hold all of their rows in order (`items` None), in
            float64 as a rule: an affine client passes to 1e-5 of the upload.

    Returns:
        What holds on all draws.
    """
    evaluate = jax.jit(partial(_evaluate, client_update, observation))
    found = [_structure(*evaluate(draw)) for draw in draws]
    return Structure(
        all(one.affine for one in found),
        all(one.separable for one in found),
        tuple(name for name in found[0].outer if all(name in one.outer for one in found)),
        found[0].items,
    )


def _evaluate(
    client_update: ClientUpdate, observation: Observation, draw: Draw
) -> tuple[PyTree, PyTree, PyTree]:
    """Uploads of labels, of others and of mixes; the Jacobian; the one-item columns."""

    def upload(seen: PyTree, labels: Array) -> PyTree:
        alike = draw._replace(batch=draw.batch._replace(labels=labels))
        return leak.upload_of(client_update, observation, alike, seen)

    def alone(items: PyTree, own: PyTree, label: Array) -> PyTree:
        items, own = jax.tree.map(lambda leaf: leaf[None], (items, own))
        one = Draw(
            {**draw.shared, 'items': items}, draw.private, Batch(None, label[None], jnp.ones(1))
        )
        return leak.upload_of(client_update, observation, one, {**seen, **own})

    labels = draw.batch.labels
    seen = leak.upload_of(client_update, observation, draw)
    rows = {name: part for name, part in seen.items() if name == 'items'}
    # Others as large too, by which a bound on the upload shows.
    near = 1 - labels**2
    others = [near, 0.3 * labels + 0.7 * near, _FAR * near, 0.3 * labels + 0.7 * _FAR * near]
    uploads = jax.vmap(partial(upload, seen))(jnp.stack([labels, *others]))
    jacobian = jax.vmap(lambda tangent: jax.jvp(partial(upload, seen), (labels,), (tangent,))[1])(
        jnp.eye(len(labels))
    )
    singles = jax.vmap(
        lambda items, own, label: jax.jvp(
            partial(alone, items, own), (label,), (jnp.ones_like(label),)
        )[1]
    )(draw.shared['items'], rows, labels)
    shares = draw.batch.weights / jnp.sum(draw.batch.weights)
    return uploads, jacobian, jax.tree.map(partial(jax.vmap(jnp.multiply), shares), singles)


def _structure(uploads: PyTree, jacobian: PyTree, singles: PyTree) -> Structure:
    """What holds on one draw, of what `_evaluate` gave."""
    uploads, jacobian, singles = (
        flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, part), sep='/')
        for part in (uploads, jacobian, singles)
    )

    def close(this: np.ndarray, that: np.ndarray) -> bool:
        return bool(np.linalg.norm(this - that) <= _TOLERANCE * np.linalg.norm(that))

    def expanded(name: str) -> np.ndarray:
        """A leaf's derivatives `[K, ...]` had every label been alone."""
        if name.split('/')[0] != 'items':
            return singles[name]
        own = np.zeros_like(jacobian[name])
        index = np.arange(len(own))
        own[index, index] = singles[name][:, 0]
        return own

    return Structure(
        all(
            close(0.3 * leaf[0] + 0.7 * leaf[other], leaf[other + 1])
            for leaf in uploads.values()
            for other in (1, 3)
        ),
        all(close(expanded(name), leaf) for name, leaf in jacobian.items()),
        tuple(
            name
            for name, leaf in jacobian.items()
            if name.split('/')[0] != 'items' and leaf.ndim == 3 and min(leaf.shape[1:]) > 1
            and _rank_one(leaf)
        ),
        any(name.split('/')[0] == 'items' for name in jacobian),
    )  # fmt: skip


def _rank_one(matrices: np.ndarray) -> bool:
    if not np.all(np.isfinite(matrices)):
        return False
    values = np.linalg.svd(matrices, compute_uv=False)
    return bool(np.all(values[:, 1] <= _TOLERANCE * values[:, 0]))


def is_lossy(client_update: ClientUpdate, observation: Observation, draw: Draw) -> bool:
    """Whether the channel adds noise to a random client's upload, or leaves a part of it out.

    As the attacker knows it: by the variance, and by whether what it predicts depends on which
    entries it has seen.
    """

    @jax.jit
    def evaluate(draw: Draw) -> tuple[PyTree, PyTree, PyTree]:
        upload = leak.upload_of(client_update, observation, draw)
        nothing = jax.tree.map(jnp.zeros_like, upload)
        masked = leak.upload_of(client_update, observation, draw, nothing)
        return upload, masked, observation.variance(upload)

    upload, masked, variance = map(jax.tree.leaves, evaluate(draw))
    noisy = any(np.any(np.asarray(leaf) > 0) for leaf in variance)
    return noisy or not all(map(np.array_equal, upload, masked))


def require_affine(structure: Structure) -> None:
    """Refuses a client whose upload is not affine in the labels.

    Raises:
        ValueError: if it is not.
    """
    if not structure.affine:
        raise ValueError(
            'The label solve needs an upload that is affine in the labels: one gradient step of a '
            "loss like 'bce' or 'squared_error', and a linear channel. This client is not (several "
            "local steps, or a nonlinear optimiser or channel); use attack.name='mgradinv'."
        )


def replace_leaves(values: PyTree, names: Sequence[str], value: float) -> PyTree:
    """A tree of nested dicts with `value` all over the leaves of these names."""
    leaves = flax.traverse_util.flatten_dict(values, sep='/')
    new = {k: jnp.full_like(v, value) if k in names else v for k, v in leaves.items()}
    return flax.traverse_util.unflatten_dict(new, sep='/')


def fit(problem: Problem, guess: Guess) -> Array:
    """Mean square of the whitened residual, `[]`: about 1 or below where only noise is left."""
    return jnp.mean(tree.ravel(problem.residual(guess)) ** 2)


def solve(equations: Normal, ridge: float = 0.0) -> tuple[Array, Array, Array]:
    """Labels in the box, and binary ones.

    Where plain least squares is within 1/4 of a binary vector everywhere, that is the answer. If
    not, the box-constrained optimum is rounded, and single and pair flips lower the residual.

    Args:
        equations: of the whitened residual, which has unit variance.
        ridge: precision of a normal prior around the middle of the box, in the same unit.

    Returns:
        float `[K]` in the box; bool `[K]`; float `[K]`, how much less the whitened residual
        explains if that label is flipped (alone or with another), inf where that was not searched.
    """
    if ridge:
        gram = equations.gram + ridge * jnp.eye(len(equations.rhs), dtype=equations.rhs.dtype)
        factor, rhs = identifiability.factor(gram), equations.rhs + ridge / 2
        equations = equations._replace(gram=gram, rhs=rhs, factor=factor)
    gram, rhs, factor = equations[:3]
    known = jnp.diag(gram) > 0
    plain = quadratic.least_squares(gram, factor, rhs)
    settled = jnp.all(jnp.abs(plain - jnp.clip(jnp.round(plain), 0, 1)) < 0.25, where=known)

    def search() -> tuple[Array, Array, Array]:
        boxed = quadratic.box_least_squares(gram, rhs)
        hard, raised = quadratic.polish(gram, rhs, boxed > 0.5)
        return boxed, hard, 2 * raised

    return jax.lax.cond(
        settled,
        lambda: (jnp.clip(plain, 0, 1), plain > 0.5, jnp.full(plain.shape, jnp.inf)),
        search,
    )


def believed(equations: Normal, ridge: float = 0.0) -> Array:
    """Labels `[K]`: those of `solve`, binary where that is sure.

    Binary labels replace the rounded ones only where they explain what was seen and no other flip
    does nearly as well (25: five standard deviations); where labels are not determined, rounding
    the box's centre of all answers is the better guess.
    """
    soft, hard, raised = solve(equations, ridge)
    change = (raised > 25) & (hard != (soft > 0.5))
    binary = hard.astype(soft.dtype)
    change &= normal.fit(equations, binary) < EXPLAINED
    return jnp.where(change, binary, soft)


def label_solve(
    outer: Sequence[str] = (),
    spent: Sequence[str] = (),
    ridge: float = 0.0,
    dense: int = DENSE,
) -> Inversion:
    """The label solve as a solver: one update finds the labels of the guess's private states.

    The relaxation must be `relax.identity()`. Past `dense` candidates no matrix is formed, and
    there is no discrete step.

    Args:
        outer: see `normal.features`.
        spent: see `normal.equations`.
        ridge: see `solve`.
        dense: most candidates K of which matrices `[K, K]` are formed.

    References:
        Deng et al., ICDM 2025 (the setting); the solve is this project's own.
    """

    def update(problem: Problem, state: State) -> State:
        guess = state.guess
        if len(guess.labels) > dense:
            labels = _matrix_free(problem, guess)
            left = fit(problem, guess._replace(labels=jnp.round(labels)))
        else:
            equations = normal.equations(problem, guess, outer, spent)
            labels = believed(equations, ridge)
            left = normal.fit(equations, jnp.round(labels))
        return State(guess._replace(labels=labels), left, jnp.asarray(True), state.memory)

    def init(problem: Problem, key: Key) -> State:
        guess = problem.init(key)
        infinite = jnp.asarray(jnp.inf, guess.labels.dtype)
        return State(guess, infinite, jnp.asarray(False), ())

    return Inversion(init, update)


def _matrix_free(problem: Problem, guess: Guess) -> Array:
    """Soft labels `[K]` by products with the Jacobian only; its diagonal is estimated by probes."""
    zero = jnp.zeros_like(guess.labels)

    def residual(labels: Array) -> PyTree:
        return problem.residual(guess._replace(labels=labels))

    origin, pullback = jax.vjp(residual, zero)
    rhs = -pullback(origin)[0]

    def product(labels: Array) -> Array:
        return pullback(jax.jvp(residual, (zero,), (labels,))[1])[0]

    ranks = jnp.arange(1, len(zero) + 1)
    signs = [jnp.where((ranks * phase) % 1.0 < 0.5, -1.0, 1.0) for phase in _PHASES]
    estimate = jnp.mean(jnp.stack([sign * product(sign) for sign in signs]), 0)
    floor_ = 1e-3 * jnp.mean(jnp.abs(estimate))
    return quadratic.box_least_squares_matrix_free(product, rhs, jnp.maximum(estimate, floor_))
