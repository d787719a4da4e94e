"""Whether the arrays of a transcript are those of a model: names and shapes, before anything runs.

Every message names the array, what was expected and what was found.
"""

from collections.abc import Mapping

import jax
import numpy as np

from fedinv_jax import _transcript_checks, _validate, tree
from fedinv_jax.types import Model, Transcript


def check(transcript: Transcript, model: Model) -> None:
    """The model's own names and shapes in `shared/`, and some of them in `seen/`.

    Args:
        transcript: of one client.
        model: its recommender, with the candidates as its catalogue.

    Raises:
        ValueError: for the first array that is missing, unknown, or of another shape.
    """
    parameters = jax.eval_shape(model.init_shared, jax.random.key(0))
    leaves = zip(tree.names(parameters), jax.tree.leaves(parameters), strict=True)
    shapes = {name: leaf.shape for name, leaf in leaves}
    for part, axis in (('shared', len(transcript.participated)), ('seen', len(transcript.rounds))):
        found = _transcript_checks.leaves(transcript, part)
        _check_names(part, found, shapes)
        for name in (name for name in shapes if name in found):
            expected = (axis, *shapes[name])
            if found[name].shape != expected:
                raise ValueError(
                    f'expected {part}/{name} of shape {expected}, found {found[name].shape}'
                    f'{_hint(expected, found[name].shape)}.'
                )


def _check_names(
    part: str, found: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    for name in found:
        if name not in shapes:
            raise ValueError(
                f'{part}/{name} is no parameter of the model.{_validate.hint(name, shapes)} '
                f'It has {", ".join(shapes)}. Buffers, which no model trains, are to be left out.'
            )
    missing = [name for name in shapes if name not in found]
    if part == 'shared' and missing:
        raise ValueError(
            f'expected shared/{missing[0]} of shape (S, {", ".join(map(str, shapes[missing[0]]))}),'
            ' found no such array: the model needs all of its shared parameters.'
        )


def _hint(expected: tuple[int, ...], found: tuple[int, ...]) -> str:
    """What may have happened, as a question; empty where nothing comes to mind."""
    if found == (expected[0], *expected[:0:-1]):
        return '; transposed? (nn.Linear keeps [out, in], the model [in, out])'
    if len(found) == len(expected) and np.prod(found) == np.prod(expected):
        return '; reshaped?'
    return ''
