"""NeuMF: generalised matrix factorisation and an MLP side by side."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from fedinv_jax import _validate
from fedinv_jax.models.from_flax import from_flax
from fedinv_jax.types import Array, Model


class NeuMF(nn.Module):
    """`h · [p^G ∘ q^G_i; MLP(p^M, q^M_i)] + b`.

    The first layer of the MLP is stored as in `ncf.MLP`, the output's kernel as two blocks, `gmf`
    and `mlp`.

    Attributes:
        hidden: widths of the MLP's layers, each with a ReLU.
        use_bias: whether the layers, including the output, have biases.
    """

    hidden: Sequence[int]
    use_bias: bool = True

    @nn.compact
    def __call__(self, private: Mapping[str, Array], rows: Mapping[str, Array]) -> Array:
        """Returns logits `[B]` for embeddings 'gmf' and 'mlp', `[D]`, and rows `[B, D]`."""

        def dense(name: str, width: int, fan_in: int, use_bias: bool) -> nn.Dense:
            kernel_init = nn.initializers.normal((2 / fan_in) ** 0.5)
            return nn.Dense(width, use_bias, kernel_init=kernel_init, name=name)

        before, fan_in = self.hidden[0], private['mlp'].shape[-1] + rows['mlp'].shape[-1]
        x = dense('private', before, fan_in, False)(private['mlp'])
        x = nn.relu(x + dense('items', before, fan_in, self.use_bias)(rows['mlp']))
        for layer, width in enumerate(self.hidden[1:], start=1):
            x = nn.relu(dense(f'layer_{layer}', width, before, self.use_bias)(x))
            before = width
        products = private['gmf'] * rows['gmf']
        fan_in = 2 * (before + products.shape[-1])
        logits = dense('gmf', 1, fan_in, False)(products) + dense('mlp', 1, fan_in, self.use_bias)(
            x
        )
        return jnp.asarray(logits[..., 0])


def neumf(
    num_items: int,
    dim: int,
    hidden: Sequence[int] = (64, 32, 16),
    use_bias: bool = True,
    scale: float = 0.1,
) -> Model:
    """NeuMF, `z_i = h · [p^G ∘ q^G_i; MLP(p^M, q^M_i)] + b`.

    Items and users have two embeddings each: leaves `items/{gmf, mlp} [N, D]`, private
    `{'gmf': [D], 'mlp': [D]}`; scorer leaves `private/kernel`, `items/{kernel, bias}`,
    `layer_1/...`, and the output's `gmf/kernel` and `mlp/{kernel, bias}`. A row of `items/gmf`
    uploads a multiple of `h^G ∘ p^G`.

    Args:
        num_items: N.
        dim: D, of each of the embeddings.
        hidden: widths of the MLP's layers, at least one.
        use_bias: whether the layers have biases.
        scale: standard deviation of the initial embeddings.

    Returns:
        The model, see `from_flax`.

    Raises:
        ValueError: if a size is not positive, or there is no hidden layer.

    Example:
        >>> import jax
        >>> model = neumf(num_items=5, dim=2, hidden=(3,))
        >>> shared = model.init_shared(jax.random.key(0))
        >>> model.score(shared, model.init_private(jax.random.key(1)), None).shape
        (5,)

    References:
        He, Liao, Zhang, Nie, Hu, Chua, Neural collaborative filtering, WWW 2017, arXiv:1708.05031,
        equation 12.
    """
    return from_flax(
        NeuMF(_validate.check_widths(hidden), use_bias), num_items, {'gmf': dim, 'mlp': dim}, scale
    )
