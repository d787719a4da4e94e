"""Symmetries of a client: private states of another sign that upload the same for other labels.

Matrix factorisation with BCE uploads the same for labels y and private state p as for `1 - y` and
`-p`, as `1 - sigmoid(z) = sigmoid(-z)`; so do others (GMF, a private linear head). No attack can
distinguish the two. Which models do is not known from their names: two random clients tell.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.attack.exact.probing import Draw, upload_of
from fedinv_jax.types import ClientUpdate, Observation

_TOLERANCE = 1e-6
_MOST_LEAVES = 6  # of a private state, of which all patterns of signs are tried


def flips(
    client_update: ClientUpdate, observation: Observation, draws: Sequence[Draw]
) -> tuple[str, ...]:
    """Which leaves of the private state change sign in a symmetry that exchanges the labels.

    Args:
        client_update: the client's own update.
        observation: the channel and what is seen behind it.
        draws: random clients, in float64; the upload must be the same on all of them.

    Returns:
        For each symmetry a description, as 'y -> 1 - y, p -> -p'; of a private state of several
        leaves with their names. A private state of more than 6 leaves is flipped as a whole only.

    Example:
        >>> def update(shared, private, batch):
        ...     logits = shared['items'] @ private
        ...     errors = jax.nn.sigmoid(logits) - batch.labels
        ...     return {'items': jnp.outer(errors, private)}, private
        >>> from fedinv_jax import observe
        >>> from fedinv_jax.types import Batch
        >>> key = jax.random.key(0)
        >>> draw = Draw({'items': jax.random.normal(key, (4, 2))}, jnp.array([1.0, -2.0]),
        ...             Batch(None, jnp.array([0.0, 1.0, 0.3, 0.6]), jnp.ones(4)))
        >>> flips(update, observe.chain(), [draw])
        ('y -> 1 - y, p -> -p',)
    """
    leaves, structure = jax.tree.flatten(draws[0].private)
    names = tree.names(draws[0].private) if len(leaves) > 1 else ('p',)
    whole = (-1.0,) * len(leaves)
    patterns = itertools.product((1.0, -1.0), repeat=len(leaves))
    tried = list(patterns)[1:] if len(leaves) <= _MOST_LEAVES else [whole]

    def same(draw: Draw, signs: tuple[float, ...]) -> bool:
        flipped = draw._replace(
            private=jax.tree.map(jnp.multiply, draw.private, jax.tree.unflatten(structure, signs)),
            batch=draw.batch._replace(labels=1 - draw.batch.labels),
        )
        pair = [
            np.asarray(tree.ravel(upload_of(client_update, observation, one)))
            for one in (draw, flipped)
        ]
        return bool(np.linalg.norm(pair[0] - pair[1]) <= _TOLERANCE * np.linalg.norm(pair[0]))

    return tuple(
        'y -> 1 - y, '
        + ', '.join(f'{name} -> -{name}' for name, s in zip(names, signs, strict=True) if s < 0)
        for signs in tried
        if all(same(draw, signs) for draw in draws)
    )
