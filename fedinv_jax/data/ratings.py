"""Explicit ratings: the scale of a data set, and ratings as labels in [0, 1]."""

from typing import NamedTuple

import numpy as np

from fedinv_jax import _validate

_TOLERANCE = 1e-4  # of a step, that rounding may explain


class Scale(NamedTuple):
    """The ratings that a user can give: `low, low + step, ..., high`.

    Attributes:
        low: the lowest rating.
        high: the highest rating.
        step: from one rating to the next: 1 for whole stars, 1/2 for half stars.

    Example:
        >>> Scale(0.5, 5.0, 0.5).grid * 9
        1.0
    """

    low: float
    high: float
    step: float

    @property
    def grid(self) -> float:
        """The distance between neighbouring labels, in (0, 1]."""
        return self.step / (self.high - self.low)


def check(scale: Scale) -> None:
    """Refuses a scale whose highest rating is no whole number of steps above the lowest.

    Raises:
        ValueError: if a number is not finite, or the steps do not lead from `low` to `high`.
    """
    for name, value in scale._asdict().items():
        _validate.check_finite(f'data.rating_scale.{name}', value)
    steps = (scale.high - scale.low) / scale.step if scale.step > 0 else 0
    if not (steps >= 1 and abs(steps - round(steps)) < _TOLERANCE):
        raise ValueError(
            f'Expected data.rating_scale={tuple(scale)} to be (lowest, highest, step), a whole '
            'number of steps apart: (1.0, 5.0, 1.0), or (0.5, 5.0, 0.5) for half stars.'
        )


def labels(ratings: np.ndarray, scale: Scale) -> np.ndarray:
    """Ratings r as labels `(r - low) / (high - low)`.

    Args:
        ratings: float `[M]`, on the scale.
        scale: of the data set.

    Returns:
        float32 `[M]` in [0, 1].

    Raises:
        ValueError: if all ratings are equal, or one is not on the scale; the message says which
            scale they have.

    Example:
        >>> labels(np.array([1, 2, 5]), Scale(1, 5, 1)).tolist()
        [0.0, 0.25, 1.0]
    """
    check(scale)
    ratings = np.asarray(ratings, np.float64)
    if len(np.unique(ratings)) < 2:
        raise ValueError(
            f"Expected several different ratings for labels='explicit', found only {ratings[:1]}. "
            'Synthetic data have several with data.synthetic.num_ratings above 1.'
        )
    steps = (ratings - scale.low) / scale.step
    off = np.abs(steps - np.clip(np.rint(steps), 0, np.rint(1 / scale.grid))) > _TOLERANCE
    if off.any():
        low, high, step = _found(ratings)
        raise ValueError(
            f'Expected ratings of {scale.low:g} to {scale.high:g} in steps of {scale.step:g} for '
            f"labels='explicit', found {ratings[off][0]:g}: set data.rating_scale to ({low:g}, "
            f'{high:g}, {step:g}), or to the scale of which these are a part.'
        )
    return (np.rint(steps) * scale.grid).astype(np.float32)


def _found(ratings: np.ndarray) -> Scale:
    """The coarsest scale in hundredths that has the ratings."""
    hundredths = np.rint(100 * np.unique(ratings)).astype(np.int64)
    step = int(np.gcd.reduce(np.diff(hundredths))) if len(hundredths) > 1 else 100
    return Scale(hundredths[0] / 100, hundredths[-1] / 100, step / 100)
