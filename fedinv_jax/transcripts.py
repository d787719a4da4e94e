"""Transcripts as .npz files, so that captures from other systems can be attacked.

| key | shape | what it is |
|---|---|---|
| `shared/items/...` | `[S, K, ...]` | the candidates' rows of the item table that the server sent |
| `shared/<part>/...` | `[S, ...]` | the other parameters that it sent, at the kept rounds |
| `seen/items/...` | `[T, K, ...]` | the candidates' uploaded rows (what the server subtracts) |
| `seen/<part>/...` | `[T, ...]` | the other uploaded leaves, where seen |
| `rounds` | int32 `[T]` | server rounds of the uploads, increasing |
| `participated` | bool `[S]` | whether the client took part in each kept round |
| `items` | int32 `[K]` | catalogue ids of the candidates |
| `rows` | int32 `[K]` | in a cohort, item-leaf row of each candidate; absent: its own |
| `weights` | float `[S, B]` | weight of each batch entry (0: padding); absent: batch unknown |
| `slot` | int32 `[S, B]` | candidate of each batch entry; absent: all candidates in order |
| `log_odds` | float `[K]` | public popularity; zeros if none |
| `meta` | JSON text | `format`, `version`, and any keys, such as model, client, what is known |

S = T if only the observed rounds are kept, else S counts all rounds from the first to the last.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from fedinv_jax import _transcript_checks
from fedinv_jax.types import Transcript

FORMAT, VERSION = 'fedinv_jax.transcript', 1
_ARRAYS = ('rounds', 'participated', 'items', 'log_odds')
_OPTIONAL = ('weights', 'slot', 'rows')


def save(path: str | os.PathLike, transcript: Transcript, meta: Mapping[str, Any]) -> None:
    """Writes one client's transcript, atomically.

    Args:
        path: of the file; missing folders are created.
        transcript: of ONE client (no victim axis).
        meta: JSON-compatible description: model, client, what the attacker knows.
    """
    arrays = {
        f'{part}/{name}': leaf
        for part in ('shared', 'seen')
        for name, leaf in flax.traverse_util.flatten_dict(
            getattr(transcript, part), sep='/'
        ).items()
    }
    for name in (*_ARRAYS, *_OPTIONAL):
        if getattr(transcript, name) is not None:
            arrays[name] = getattr(transcript, name)
    text = json.dumps({'format': FORMAT, 'version': VERSION, **meta})
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.part')
    with open(temporary, 'wb') as file:
        np.savez(file, allow_pickle=False, meta=np.asarray(text), **arrays)
    os.replace(temporary, path)


def load(path: str | os.PathLike) -> tuple[Transcript, dict[str, Any]]:
    """Reads a transcript and its description.

    bfloat16, which NumPy stores as `|V2`, is read as such.

    Raises:
        ValueError: if the file is not such a transcript, an array is missing or of another kind,
            shapes disagree, or numbers are impossible; the message names the file and the array.
    """
    try:
        arrays = _read(path)
        meta = _meta(arrays.pop('meta', None))
        transcript = _transcript(arrays)
        _transcript_checks.check(transcript)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    return transcript, meta


def _read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a file, by name."""
    name = ''
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {}
            for name in file.files:
                arrays[name] = _native(file[name])
            return arrays
    except OSError:
        raise
    except Exception as error:
        found = 'found another kind of file, or one that was cut off'
        if name:  # the list of its arrays was read
            objects = 'Object arrays' in str(error)
            found = (
                f'{name} {"holds Python objects (text?), not numbers" if objects else "is damaged"}'
            )
        raise ValueError(
            f'expected an .npz transcript with a JSON text "meta": {found}.'
        ) from error


def _native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order, and as bfloat16 where NumPy has lost that name."""
    if array.dtype == np.dtype('V2'):
        return array.view(jnp.bfloat16)
    return array.astype(array.dtype.newbyteorder('='), copy=False)


def _meta(array: np.ndarray | None) -> dict[str, Any]:
    """The description of the client."""
    try:
        text = array.item()  # type: ignore[union-attr]
        meta = json.loads(text if isinstance(text, bytes) else str(text))
    except (AttributeError, ValueError) as error:
        raise ValueError('expected an .npz transcript with a JSON text "meta".') from error
    if not isinstance(meta, dict):
        raise ValueError('expected "meta" to be a JSON object.')
    if meta.get('format') != FORMAT or meta.get('version') != VERSION:
        raise ValueError(
            f'expected format {FORMAT!r} version {VERSION}, found '
            f'{meta.get("format")!r} version {meta.get("version")!r}.'
        )
    return meta


def _transcript(arrays: dict[str, np.ndarray]) -> Transcript:
    """The arrays in their places."""
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise ValueError(f'expected arrays {", ".join(missing)}; see transcripts.py.')
    parts: dict[str, dict] = {'shared': {}, 'seen': {}}
    for name in [name for name in arrays if '/' in name]:
        part, _, rest = name.partition('/')
        if part not in parts:
            raise ValueError(f'expected names under shared/ or seen/, found {name!r}.')
        parts[part][rest] = arrays.pop(name)
    if unknown := set(arrays) - {*_ARRAYS, *_OPTIONAL}:
        raise ValueError(
            f'unknown arrays {", ".join(sorted(unknown))}: rename them, or leave them out.'
        )
    if not parts['seen']:
        raise ValueError('expected at least one array under seen/.')
    for part, leaves in parts.items():
        _transcript_checks.check_names(part, leaves)
    trees = {k: flax.traverse_util.unflatten_dict(v, sep='/') for k, v in parts.items()}
    # Empty parts (the scorer of matrix factorisation) have no array in the file.
    trees['shared'] = {'items': {}, 'scorer': {}, **trees['shared']}
    return Transcript(**trees, **{**dict.fromkeys(_OPTIONAL), **arrays})
