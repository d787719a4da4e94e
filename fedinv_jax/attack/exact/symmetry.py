"""Symmetries of a client: private states of another sign that upload the same for other labels.

Matrix factorisation with BCE uploads the same for labels y and private state p as for `1 - y` and
`-p`, as `1 - sigmoid(z) = sigmoid(-z)`; so do others (GMF, a private linear head). No attack can
distinguish the two. Which models do is not known from their names: two random clients tell.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.types import Array, PyTree

_TOLERANCE = 1e-6
_MOST_LEAVES = 6  # of a private state, of which all patterns of signs are tried

Client = tuple[Callable[[PyTree, Array], PyTree], PyTree, Array]
"""`(upload, private, labels)`: `upload(private, labels)` is what is seen of one random client."""


def flips(clients: Sequence[Client]) -> tuple[str, ...]:
    """Which leaves of the private state change sign in a symmetry that exchanges the labels.

    Args:
        clients: random ones, in float64; a symmetry leaves the uploads of all of them unchanged.

    Returns:
        A description of each symmetry, as 'y -> 1 - y, p -> -p'; a private state of several leaves
        has their names in place of p, one of more than 6 leaves is flipped as a whole only.

    Example:
        >>> items = jax.random.normal(jax.random.key(0), (4, 2))
        >>> def upload(private, labels):
        ...     return jnp.outer(jax.nn.sigmoid(items @ private) - labels, private)
        >>> flips([(upload, jnp.array([1.0, -2.0]), jnp.array([0.0, 1.0, 0.3, 0.6]))])
        ('y -> 1 - y, p -> -p',)
    """
    leaves, structure = jax.tree.flatten(clients[0][1])
    names = tree.names(clients[0][1]) if len(leaves) > 1 else ('p',)
    patterns = list(itertools.product((1.0, -1.0), repeat=min(len(leaves), _MOST_LEAVES)))[1:]
    tried = patterns if len(leaves) <= _MOST_LEAVES else [(-1.0,) * len(leaves)]

    def same(client: Client, signs: tuple[float, ...]) -> bool:
        upload, private, labels = client
        flipped = jax.tree.map(jnp.multiply, private, jax.tree.unflatten(structure, signs))
        one, other = upload(private, labels), upload(flipped, 1 - labels)
        one, other = (np.asarray(tree.ravel(seen)) for seen in (one, other))
        return bool(np.linalg.norm(one - other) <= _TOLERANCE * np.linalg.norm(one))

    return tuple(
        'y -> 1 - y, '
        + ', '.join(f'{name} -> -{name}' for name, s in zip(names, signs, strict=True) if s < 0)
        for signs in tried
        if all(same(client, signs) for client in clients)
    )
