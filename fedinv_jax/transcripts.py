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
import jax
import numpy as np

from fedinv_jax.types import Transcript

FORMAT, VERSION = 'fedinv_jax.transcript', 1
_ARRAYS = ('rounds', 'participated', 'items', 'log_odds')
_OPTIONAL = {'weights': 2, 'slot': 2, 'rows': 1}
"""Number of axes by name."""


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

    Raises:
        ValueError: if the file is not a transcript, an array is missing, or shapes disagree; the
            message names the file and the array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        meta = json.loads(str(arrays.pop('meta')))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f'{path}: expected an .npz transcript with a JSON text "meta".') from error
    if not isinstance(meta, dict):
        raise ValueError(f'{path}: expected "meta" to be a JSON object.')
    if meta.get('format') != FORMAT or meta.get('version') != VERSION:
        raise ValueError(
            f'{path}: expected format {FORMAT!r} version {VERSION}, found '
            f'{meta.get("format")!r} version {meta.get("version")!r}.'
        )
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise ValueError(f'{path}: expected arrays {", ".join(missing)}; see transcripts.py.')
    parts: dict[str, dict] = {'shared': {}, 'seen': {}}
    for name in [name for name in arrays if '/' in name]:
        part, _, rest = name.partition('/')
        if part not in parts:
            raise ValueError(f'{path}: expected names under shared/ or seen/, found {name!r}.')
        parts[part][rest] = arrays.pop(name)
    if unknown := set(arrays) - {*_ARRAYS, *_OPTIONAL}:
        raise ValueError(f'{path}: unknown arrays {", ".join(sorted(unknown))}.')
    if not parts['seen']:
        raise ValueError(f'{path}: expected at least one array under seen/.')
    trees = {k: flax.traverse_util.unflatten_dict(v, sep='/') for k, v in parts.items()}
    # Empty parts (the scorer of matrix factorisation) have no array in the file.
    trees['shared'] = {'items': {}, 'scorer': {}, **trees['shared']}
    transcript = Transcript(**trees, **{**dict.fromkeys(_OPTIONAL), **arrays})
    _check(path, transcript)
    return transcript, meta


def _check(path: str | os.PathLike, transcript: Transcript) -> None:
    """Raises an error that names the first array with a wrong shape or wrong values."""
    for name, ndim in {**dict.fromkeys(_ARRAYS, 1), **_OPTIONAL}.items():
        value = getattr(transcript, name)
        if value is not None and value.ndim != ndim:
            raise ValueError(f'{path}: expected {name} of {ndim} axes, found {value.shape}.')
    rows = transcript.rows
    if rows is not None and np.any((rows < 0) | (rows >= len(transcript.items))):
        raise ValueError(f'{path}: expected rows to index the {len(transcript.items)} items.')
    slot = transcript.slot
    if slot is not None and transcript.weights is None:
        raise ValueError(f'{path}: expected weights beside slot.')
    if slot is not None and np.any((slot < 0) | (slot >= len(transcript.items))):
        raise ValueError(f'{path}: expected slot to index the {len(transcript.items)} items.')
    steps, candidates = len(transcript.rounds), len(transcript.items)
    kept = len(transcript.participated)
    span = int(transcript.rounds[-1] - transcript.rounds[0]) + 1 if steps else 0
    if steps < 1 or np.any(np.diff(transcript.rounds) < 1):
        raise ValueError(f'{path}: expected rounds to be one or more, increasing.')
    if kept not in (steps, span):
        raise ValueError(
            f'{path}: expected participated [S] with S = {steps} or {span}, not {kept}.'
        )
    batch = candidates if transcript.slot is None else transcript.slot.shape[-1]
    expected = {'log_odds': (candidates,), 'weights': (kept, batch), 'slot': (kept, batch)}
    expected['rows'] = (candidates,)
    for name, shape in expected.items():
        value = getattr(transcript, name)
        if value is not None and value.shape != shape:
            raise ValueError(f'{path}: expected {name} of shape {shape}, found {value.shape}.')
    for part, length in (('shared', kept), ('seen', steps)):
        for where, leaf in jax.tree_util.tree_leaves_with_path(getattr(transcript, part)):
            name = jax.tree_util.keystr(where, simple=True, separator='/')
            shape = (length, candidates) if name.split('/')[0] == 'items' else (length,)
            if leaf.shape[: len(shape)] != shape:
                raise ValueError(
                    f'{path}: expected {part}/{name} to begin with {shape}, found {leaf.shape}.'
                )
