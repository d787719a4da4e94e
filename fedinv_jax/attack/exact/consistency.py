"""Whether an upload is what its description says, by what an answer leaves over of it."""

import jax.numpy as jnp

from fedinv_jax.attack.exact import identifiability, label_solve
from fedinv_jax.types import Array

# Share of the entries, beyond five standard deviations each, that a ReLU may explain which rounding
# turns on or off.
_FEW, _FAR = 0.05, 25.0


def fits(residual: Array, num_unknowns: int | Array, determined: bool | Array = False) -> Array:
    """Whether noise explains what an answer leaves over, see `types.Answer.fits`.

    It does where the mean square of the entries that are not 0 is at most `label_solve.EXPLAINED`.
    That says something only where there are more of them than unknowns. Where it does not, the
    upload contradicts its description if no other labels could do better (`determined`), and if
    more than a few entries say so.

    Args:
        residual: `[M]`, whitened; 0 for padding and leaves that are left out.
        num_unknowns: labels and private numbers.
        determined: whether the labels are the only ones that may explain it.

    Returns:
        int `[]`: 1 yes, 0 no, -1 unknown.

    Example:
        >>> [fits(jnp.array(r), 2, True).item() for r in ([1.0, 1, 1], [9.0, 9, 9], [1.0, 1])]
        [1, 0, -1]
    """
    squares, size = residual**2, jnp.sum(residual != 0)
    explained = (jnp.sum(squares) <= label_solve.EXPLAINED * size) & (size > 0)
    many = jnp.sum(squares > _FAR) > _FEW * size
    return jnp.where(
        explained,
        jnp.where(size > num_unknowns, 1, -1),
        jnp.where(determined & many, 0, -1),
    )


def determined(
    gram: Array, factor: Array, where: Array, size: int | Array, grid: float = 1.0
) -> Array:
    """Whether labels on the grid that noise may explain are those of least squares, rounded.

    Labels y of least squares differ from any that leave at most `EXPLAINED` in the mean by at most
    `sqrt(EXPLAINED M (G^-1)_kk)`. Where that is below a quarter of the grid, the label solve has
    found them, or there are none.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        factor: float64 `[K, K]`, `identifiability.factor(gram)`.
        where: bool `[K]`, False for padding.
        size: M, equations.
        grid: see `known.Known`.

    Returns:
        bool `[]`.

    Example:
        >>> gram = jnp.diag(jnp.array([1e6, 1e6]))
        >>> [determined(gram, jnp.eye(2), jnp.ones(2, bool), m).item() for m in (100, 10**6)]
        [True, False]
    """
    variance = identifiability.variances(gram, factor, where)
    return jnp.all(
        jnp.where(where, label_solve.EXPLAINED * size * variance < (grid / 4) ** 2, True)
    )
