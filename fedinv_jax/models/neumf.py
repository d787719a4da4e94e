"""NeuMF: generalised matrix factorisation and an MLP side by side."""

import itertools
from collections.abc import Mapping, Sequence

import flax.linen as nn

from fedinv_jax import _validate
from fedinv_jax.models import mlp
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

        def weights(name: str, before: int, width: int, fan_in: int, bias: bool) -> mlp.Layer:
            kernel_init = nn.initializers.normal((2 / fan_in) ** 0.5)
            of_bias = nn.initializers.zeros_init() if bias else None
            return mlp.Weights((before, width), kernel_init, of_bias, name=name)()

        dim, width = rows['mlp'].shape[-1], self.hidden[0]
        layers = [
            mlp.first_layer(
                weights('private', dim, width, 2 * dim, False),
                weights('items', dim, width, 2 * dim, self.use_bias),
            )
        ]
        for index, (before, width) in enumerate(itertools.pairwise(self.hidden), start=1):
            layers.append(weights(f'layer_{index}', before, width, before, self.use_bias))
        products = private['gmf'] * rows['gmf']
        before, factors = self.hidden[-1], products.shape[-1]
        fan_in = 2 * (before + factors)
        gmf = weights('gmf', factors, 1, fan_in, False)
        layers.append(weights('mlp', before, 1, fan_in, self.use_bias))
        return mlp.logits(layers, private['mlp'], rows['mlp']) + products @ gmf['kernel'][:, 0]


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
