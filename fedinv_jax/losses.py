"""Losses of one interaction; a batch's weighted mean is taken by the client."""

import jax

from fedinv_jax.types import Array


def bce(logits: Array, labels: Array) -> Array:
    r"""Binary cross-entropy with logits, `softplus(z) - y z`.

    Its gradient in z, `sigmoid(z) - y`, is affine in y: so are the uploads of one gradient step.

    Args:
        logits: float `[B]`.
        labels: float `[B]` in [0, 1]; fractions are allowed (relaxed labels).

    Returns:
        float `[B]`, in nats.

    Example:
        >>> bce(jax.numpy.zeros(2), jax.numpy.array([0.0, 1.0])).round(4).tolist()
        [0.6930999755859375, 0.6930999755859375]
    """
    return jax.nn.softplus(logits) - labels * logits


def squared_error(logits: Array, labels: Array) -> Array:
    """Squared error `(z - y)^2`, for explicit ratings (`labels='ratings'`).

    Args:
        logits: float `[B]`, the predicted rating itself.
        labels: float `[B]`.

    Returns:
        float `[B]`.

    Example:
        >>> squared_error(jax.numpy.array([0.5]), jax.numpy.array([1.0])).tolist()
        [0.25]
    """
    return (logits - labels) ** 2
