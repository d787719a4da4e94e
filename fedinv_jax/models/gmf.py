"""Generalised matrix factorisation."""

import flax.linen as nn
import jax.numpy as jnp

from fedinv_jax.models.from_flax import from_flax
from fedinv_jax.types import Array, Model


class GMF(nn.Module):
    """`h · (p ∘ q_i) + b`; kernel `h` from `N(0, 1 / D)`.

    Attributes:
        use_bias: whether there is an output bias b.
    """

    use_bias: bool = True

    @nn.compact
    def __call__(self, private: Array, rows: Array) -> Array:
        """Returns logits `[B]` for a private embedding `[D]` and item rows `[B, D]`."""
        output = nn.Dense(
            1, self.use_bias, kernel_init=nn.initializers.lecun_normal(), name='output'
        )
        return jnp.asarray(output(private * rows)[..., 0])


def gmf(num_items: int, dim: int, use_bias: bool = True, scale: float = 0.1) -> Model:
    """Generalised matrix factorisation, `z_i = h · (p ∘ q_i) + b`.

    Scorer leaves `output/{kernel [D, 1], bias [1]}`; private: the user embedding p `[D]`. An item
    row uploads a multiple of `h ∘ p`. As in matrix factorisation, item rows do not distinguish
    `(y, p)` from `(1 - y, -p)` while b is 0.

    Args:
        num_items: N.
        dim: D.
        use_bias: whether there is an output bias.
        scale: standard deviation of the initial embeddings.

    Returns:
        The model, see `from_flax`.

    Raises:
        ValueError: see `from_flax`.

    Example:
        >>> import jax
        >>> model = gmf(num_items=5, dim=2)
        >>> shared = model.init_shared(jax.random.key(0))
        >>> model.score(shared, jnp.zeros(2), jnp.array([4])).tolist()
        [0.0]

    References:
        He, Liao, Zhang, Nie, Hu, Chua, Neural collaborative filtering, WWW 2017, arXiv:1708.05031,
        equation 9.
    """
    return from_flax(GMF(use_bias), num_items, dim, scale)
