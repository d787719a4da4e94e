"""What a transcript's arrays must be, whatever the model: names, dtypes, shapes, numbers.

Every message names the array, what was expected and what was found.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.types import Transcript

# Parts of the names under which PyTorch, Flax and their optimisers keep what nobody trains.
_BUFFERS = {
    'num_batches_tracked', 'running_mean', 'running_var', 'batch_stats',
    'step', 'count', 'opt_state', 'momentum_buffer', 'exp_avg', 'exp_avg_sq',
}  # fmt: skip
_FOLDERS = ('items', 'scorer')  # of a model's shared parameters
# By name, the number of axes and the kinds of NumPy dtypes.
_ARRAYS = {
    'rounds': (1, 'iu'), 'participated': (1, 'biu'), 'items': (1, 'iu'), 'rows': (1, 'iu'),
    'slot': (2, 'iu'), 'weights': (2, 'biuf'), 'log_odds': (1, 'iuf'),
}  # fmt: skip
_KINDS = {'iu': 'integers', 'biu': 'booleans', 'biuf': 'numbers', 'iuf': 'numbers'}


def check_names(part: str, leaves: Mapping[str, np.ndarray]) -> None:
    """Names of `shared/` or `seen/` that form a tree of trained parameters.

    Raises:
        ValueError: for a buffer, or an array that is a folder of others too.
    """
    for name, leaf in leaves.items():
        if not all(name.split('/')):
            raise ValueError(f'expected a name between the slashes of {part}/{name}.')
        if _BUFFERS & set(name.replace('.', '/').split('/')):
            raise ValueError(
                f'{part}/{name} is a buffer or a step count, which no model trains: '
                'leave it out of the file.'
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            counts = leaf.dtype.kind in 'biu'
            advice = ': leave step counts and other buffers out of the file' if counts else ''
            raise ValueError(
                f'expected {part}/{name} of floating-point numbers, found {_kind(leaf)}{advice}.'
            )
        if any(other.startswith(f'{name}/') for other in leaves):
            raise ValueError(f'{part}/{name} is an array, and a folder of arrays as well.')
        if name.split('/')[0] not in _FOLDERS:
            raise ValueError(
                f'{part}/{name} is neither of an item nor of the scorer: expected it under '
                f'{" or ".join(f"{part}/{each}/" for each in _FOLDERS)}, by its name in the model.'
            )


def check(transcript: Transcript) -> None:
    """Arrays that agree with each other, of numbers that are possible.

    Raises:
        ValueError: for the first that is not.
    """
    _check_kinds(transcript)
    _check_steps(transcript)
    _check_shapes(transcript)
    _check_finite(transcript)
    _check_batches(transcript)
    _check_uploads(transcript)


def _kind(array: np.ndarray) -> str:
    """A dtype for people; text is shown."""
    if array.dtype.kind in 'US':
        first = f' ({array.flat[0]!s:.40}, ...)' if array.size else ''
        return f'text{first}'
    return str(array.dtype)


def _check_kinds(transcript: Transcript) -> None:
    for name, (ndim, kinds) in _ARRAYS.items():
        value = getattr(transcript, name)
        if value is None:
            continue
        floating = 'f' in kinds and jnp.issubdtype(value.dtype, jnp.floating)  # bfloat16 as well
        if value.dtype.kind not in kinds and not floating:
            advice = ': number the items 0, 1, ... and keep the list' if name == 'items' else ''
            raise ValueError(f'expected {name} of {_KINDS[kinds]}, found {_kind(value)}{advice}.')
        if value.ndim != ndim:
            raise ValueError(f'expected {name} of {ndim} axes, found {value.shape}.')
    if np.any(transcript.participated.astype(int) & ~1):
        raise ValueError('expected participated to hold 0 and 1 only.')


def _check_steps(transcript: Transcript) -> None:
    rounds, kept = transcript.rounds.astype(int), len(transcript.participated)
    if len(rounds) < 1 or np.any(np.diff(rounds) < 1):
        raise ValueError('expected rounds to be one or more, increasing.')
    steps, span = len(rounds), int(rounds[-1] - rounds[0]) + 1
    if kept not in (steps, span):
        sizes = ' or '.join(map(str, sorted({steps, span})))
        raise ValueError(f'expected participated [S] with S = {sizes}, not {kept}.')


def _check_shapes(transcript: Transcript) -> None:
    count, kept = len(transcript.items), len(transcript.participated)
    if not count:
        raise ValueError('expected items to hold one or more candidates.')
    for name in ('rows', 'slot'):
        value = getattr(transcript, name)
        if value is not None and np.any((value < 0) | (value >= count)):
            raise ValueError(
                f'expected {name} to hold places in items, 0 to {count - 1}, found {np.min(value)} '
                f'to {np.max(value)}.'
            )
    if transcript.slot is not None and transcript.weights is None:
        raise ValueError('expected weights beside slot.')
    batch = count if transcript.slot is None else transcript.slot.shape[-1]
    expected = {'log_odds': (count,), 'weights': (kept, batch), 'slot': (kept, batch)}
    expected['rows'] = (count,)
    for name, shape in expected.items():
        value = getattr(transcript, name)
        if value is not None and value.shape != shape:
            raise ValueError(f'expected {name} of shape {shape}, found {value.shape}.')
    for part, length in (('shared', kept), ('seen', len(transcript.rounds))):
        for name, leaf in leaves(transcript, part).items():
            shape = (length, count) if name.startswith('items/') else (length,)
            if leaf.shape[: len(shape)] != shape:
                turned = leaf.ndim > 2 and leaf.swapaxes(1, 2).shape[: len(shape)] == shape
                raise ValueError(
                    f'expected {part}/{name} to begin with {shape}, found {leaf.shape}'
                    f'{"; transposed?" if turned else "."}'
                )


def leaves(transcript: Transcript, part: str) -> dict[str, np.ndarray]:
    """The arrays of 'shared' or 'seen', by name."""
    whole = getattr(transcript, part)
    return dict(zip(tree.names(whole), jax.tree.leaves(whole), strict=True))


def _check_finite(transcript: Transcript) -> None:
    numbers = {
        f'{part}/{name}': leaf
        for part in ('shared', 'seen')
        for name, leaf in leaves(transcript, part).items()
    }
    for name in ('weights', 'log_odds'):
        if getattr(transcript, name) is not None:
            numbers[name] = getattr(transcript, name)
    for name, value in numbers.items():
        wrong = ~np.isfinite(value.astype(float))
        if np.any(wrong):
            first = [int(index) for index in np.argwhere(wrong)[0]]
            raise ValueError(
                f'expected {name} to be finite, found {np.sum(wrong)} of {wrong.size} numbers NaN '
                f'or infinite, the first at {first}.'
            )


def _check_batches(transcript: Transcript) -> None:
    items, weights = transcript.items, transcript.weights
    if np.any(items < 0):
        raise ValueError(f'expected items of ids 0 and above, found {np.min(items)}.')
    if weights is not None and np.any(weights < 0):
        raise ValueError(f'expected weights of 0 and above, found {np.min(weights):g}.')
    if weights is not None and not np.all(np.any(weights > 0, axis=1)):
        raise ValueError('expected a positive weight in every round: 0 is padding.')
    used = np.arange(len(items))  # padding may repeat an item
    if weights is not None:
        slots = np.broadcast_to(used, weights.shape) if transcript.slot is None else transcript.slot
        used = np.unique(slots[weights > 0])
    ids, counts = np.unique(items[used], return_counts=True)
    if transcript.rows is None and np.any(counts > 1):
        raise ValueError(
            f'items names {ids[np.argmax(counts)]} {np.max(counts)} times: name each candidate '
            'once, and say with slot which candidate each batch entry is.'
        )


def _check_uploads(transcript: Transcript) -> None:
    uploads = leaves(transcript, 'seen').values()
    zero = np.all([~np.any(leaf.reshape(len(leaf), -1), axis=1) for leaf in uploads], axis=0)
    if np.any(zero):
        rounds = ', '.join(map(str, transcript.rounds[zero][:5]))
        raise ValueError(
            f'seen/ is all zeros at round {rounds}: nothing was uploaded there, or it was lost on '
            'the way (a gradient read before the backward pass, a difference of a model with '
            'itself).'
        )
