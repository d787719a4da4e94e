"""Step sizes of a client that takes one step: factors of its gradients, one for each part.

A client uploads `size_part * gradient_part`, the parts being item rows and scorer. An attacker that
does not know the sizes predicts gradients, and takes the factors of least squares.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import distances
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Batch, ClientUpdate, Guess, PyTree

Sizes = dict[str, Array]
"""The step size `[]` of each part that is seen: 'items', 'scorer'."""


def parts(seen: PyTree) -> tuple[str, ...]:
    """Names of the parts of an upload that have leaves.

    Example:
        >>> parts({'items': {'embedding': jnp.zeros((2, 3))}, 'scorer': {}})
        ('items',)
    """
    return tuple(dict.fromkeys(name.split('/')[0] for name in tree.names(seen)))


def fit(predicted: PyTree, seen: PyTree) -> Sizes:
    """The step sizes of least squares: `<seen, predicted> / |predicted|^2` of each part.

    Args:
        predicted: gradients, of one step or of several; in units of the noise, if it is known.
        seen: uploads, in the same structure and units.

    Returns:
        float `[]` by part; 1 where a gradient and an upload have no positive product: step sizes
        are positive.

    Example:
        >>> gradient = {'items': jnp.array([3.0, 4.0]), 'scorer': jnp.array([1.0])}
        >>> upload = {'items': jnp.array([6.0, 8.0]), 'scorer': jnp.array([0.5])}
        >>> {name: round(size.item(), 6) for name, size in fit(gradient, upload).items()}
        {'items': 2.0, 'scorer': 0.5}
    """

    def size(part: str) -> Array:
        product = optax.tree.vdot(seen[part], predicted[part])
        square = distances.floor(distances.squared_norm(predicted[part]))
        return jnp.where(product > 0, product / square, 1)

    return {part: size(part) for part in parts(seen)}


def estimating(problem: Problem, seen: PyTree) -> Problem:
    """The problem whose answers hold the step sizes `fit` of their predictions."""

    def answer(guess: Guess, value: Array) -> Answer:
        sizes = fit(problem.predict(guess), seen)
        return problem.answer(guess, value)._replace(step_sizes=sizes)

    return problem._replace(answer=answer)


def stepped(
    client_update: ClientUpdate, sizes: Mapping[str, Array], differences: bool = False
) -> ClientUpdate:
    """Returns a client that uploads its gradients times the step sizes.

    Args:
        client_update: uploads gradients.
        sizes: by part; a part that is not named has 1.
        differences: whether the client sends weights, so that uploads have the rounding of these.

    Example:
        >>> sizes = {'items': jnp.array(80.0), 'scorer': jnp.array(0.5)}
        >>> client = stepped(lambda shared, private, batch: (shared, private), sizes)
        >>> one = {'items': {'embedding': jnp.ones(2)}, 'scorer': {'bias': jnp.ones(1)}}
        >>> jax.tree.map(lambda leaf: leaf.tolist(), client(one, None, None)[0])
        {'items': {'embedding': [80.0, 80.0]}, 'scorer': {'bias': [0.5]}}
    """

    def times(part: str, leaf: Array) -> Array:
        return leaf * jnp.asarray(sizes.get(part, 1.0)).astype(leaf.dtype)

    def client(shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        upload, private = client_update(shared, private, batch)
        upload = {
            part: jax.tree.map(lambda leaf, part=part: times(part, leaf), leaves)
            for part, leaves in upload.items()
        }
        if differences:
            upload = jax.tree.map(lambda w, step: w - (w - step), shared, upload)
        return upload, private

    return client
