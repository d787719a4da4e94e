"""A capture: what a server sent and what its clients returned, as files in a folder.

`integrations/` has writers for other people's training code; docs/capture.md describes the files:

    capture.json                            what is known of the training, see `FIELDS`
    rounds/000003/sent.npz                  what the server sent, by the framework's own names
    rounds/000003/clients/alice.npz         what client 'alice' returned
    rounds/000003/sums/first.npz            the mean of what several clients returned

A file is written as a whole or not at all, so that a training that was stopped leaves a capture.
"""

import json
import pathlib
import urllib.parse
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fedinv_jax import _validate

FORMAT, VERSION = 'fedinv_jax.capture', 1
SUFFIXES = ('.npz', '.safetensors')
KINDS = ('returned', 'delta', 'gradient')
"""What clients return: weights, `returned - sent`, or a gradient."""
FIELDS: dict[str, tuple[type, ...]] = {
    'framework': (str,),  # free text
    'model': (str,),  # 'ncf', ...; without it the model is recognised by names and shapes
    'item_leaves': (list,),  # names of the arrays with a row for each item
    'user_first': (bool,),  # whether a concatenated first layer has the user embedding first
    'loss': (str,),  # 'bce', 'bpr', ...
    'reduction': (str,),  # of the loss over a batch: 'mean' or 'sum'
    'optimizer': (str,),  # the clients': 'sgd', 'adam', ...
    'learning_rate': (int, float),  # of what is shared
    'private_learning_rate': (int, float),  # of what is not; without it the same
    'momentum': (int, float),
    'weight_decay': (int, float),
    'local_epochs': (int,),
    'batch_size': (int, type(None)),  # of minibatches; null: the whole batch is one
    'negatives_per_positive': (int,),
    'resample_negatives': (bool,),  # whether a client draws other negatives in each round
}
"""The fields of capture.json, all optional, with the types of their values."""


class Capture(NamedTuple):
    """An opened capture; arrays are read where they are used.

    Attributes:
        folder: of the files.
        known: the fields of capture.json.
        clients: by client id, the rounds in which the client returned something, increasing.
        sums: by round, the names of the means of several clients.
    """

    folder: pathlib.Path
    known: Mapping[str, Any]
    clients: Mapping[str, tuple[int, ...]]
    sums: Mapping[int, tuple[str, ...]]


class Exchange(NamedTuple):
    """What one client was sent and returned in one round.

    Attributes:
        sent: arrays by the framework's names.
        returned: arrays by the framework's names, of the kind `kind`.
        kind: one of `KINDS`.
        num_examples: of the client; None if not recorded.
        items: int `[B]`, the items of the client's batch; None if not recorded.
    """

    sent: dict[str, np.ndarray]
    returned: dict[str, np.ndarray]
    kind: str
    num_examples: int | None
    items: np.ndarray | None


class Sum(NamedTuple):
    """What several clients returned in one round, under secure aggregation.

    Attributes:
        exchange: what each of them was sent, and the mean of what they returned.
        clients: their ids.
        weights: float `[n]`, of the clients in the mean; None: 1.
    """

    exchange: Exchange
    clients: tuple[str, ...]
    weights: np.ndarray | None


def read(folder: str | pathlib.Path) -> Capture:
    """Opens a capture.

    Args:
        folder: of the files.

    Raises:
        ValueError: if the folder is no capture, a field of capture.json is unknown or of another
            type, or no client returned anything.
    """
    folder = pathlib.Path(folder)
    known = _known(folder / 'capture.json')
    clients: dict[str, tuple[int, ...]] = {}
    for round_, name in _files(folder, 'clients'):
        clients[name] = (*clients.get(name, ()), round_)
    sums: dict[int, tuple[str, ...]] = {}
    for round_, name in _files(folder, 'sums'):
        sums[round_] = (*sums.get(round_, ()), name)
    if not clients and not sums:
        raise ValueError(
            f'{folder}: expected rounds/NUMBER/clients/ID.npz or sums/NAME.npz, found none.'
        )
    return Capture(folder, known, clients, sums)


def _files(folder: pathlib.Path, part: str) -> list[tuple[int, str]]:
    """The rounds and names of all files of 'clients' or 'sums', by round and name."""
    found = []
    for path in folder.glob(f'rounds/*/{part}/*'):
        if path.suffix not in SUFFIXES:
            continue
        name = path.parts[-3]
        if not name.isdigit():
            raise ValueError(f'{path}: expected rounds/NUMBER/{part}/, found {name!r}.')
        found.append((int(name), urllib.parse.unquote(path.stem)))
    return sorted(found)


def _known(path: pathlib.Path) -> dict[str, Any]:
    """The fields of capture.json."""
    if not path.is_file():
        raise ValueError(f'{path.parent} is no capture: expected a file capture.json in it.')
    try:
        known = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path}: expected JSON: {error}.') from error
    if not isinstance(known, dict) or known.pop('format', None) != FORMAT:
        raise ValueError(f'{path}: expected an object with "format": "{FORMAT}".')
    if (version := known.pop('version', None)) != VERSION:
        raise ValueError(f'{path}: expected "version": {VERSION}, found {version!r}.')
    for name, value in known.items():
        kinds = _validate.lookup(f'field of {path}', name, FIELDS)
        if type(value) not in kinds:
            of = ' or '.join(kind.__name__ for kind in kinds)
            raise ValueError(f'{path}: expected {name} of type {of}, found {value!r:.40}.')
    return known


def exchange(capture: Capture, client: str, round_: int) -> Exchange:
    """What a client was sent and returned in a round.

    Rows that a client's file leaves out are as they were sent; of a difference or a gradient, zero.

    Raises:
        ValueError: for a file that is damaged, or arrays that do not belong together.
    """
    path = _place(capture, round_) / 'clients' / urllib.parse.quote(client, safe='')
    found, more = _exchange(_found(path), ('num_examples', 'items'))
    count, items = more.get('num_examples'), more.get('items')
    return found._replace(num_examples=None if count is None else int(count), items=items)


def sum_of(capture: Capture, name: str, round_: int) -> Sum:
    """What several clients returned in a round, see `exchange`.

    Raises:
        ValueError: as `exchange`; for a sum that does not say whose it is, or weights that are not
            positive numbers.
    """
    path = _found(_place(capture, round_) / 'sums' / urllib.parse.quote(name, safe=''))
    found, more = _exchange(path, ('clients', 'weights', 'num_examples', 'items'))
    clients = tuple(map(str, more.get('clients', np.zeros(0)).ravel()))
    if not clients or len(set(clients)) < len(clients):
        raise ValueError(f'{path}: expected an array clients, the ids of those in the sum.')
    weights = more.get('weights')
    if weights is not None and not _positive(weights, len(clients)):
        raise ValueError(f'{path}: expected weights, a positive number for each of its clients.')
    return Sum(found, clients, weights)


def _positive(weights: np.ndarray, size: int) -> bool:
    numbers = weights.dtype.kind in 'iuf' and weights.shape == (size,)
    return numbers and bool(np.all(np.isfinite(weights) & (weights > 0)))


def _place(capture: Capture, round_: int) -> pathlib.Path:
    return capture.folder / 'rounds' / f'{round_:06d}'


def _exchange(path: pathlib.Path, more: Sequence[str]) -> tuple[Exchange, dict[str, np.ndarray]]:
    """What a file says was sent and returned, and its arrays named `more`."""
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in ('sent', 'rows', *KINDS)}
    single: dict[str, np.ndarray] = {}
    for name, leaf in _arrays(path).items():
        part, slash, rest = name.partition('/')
        if slash and part in parts:
            parts[part][rest] = leaf
        else:
            single[_validate.lookup(f'array of {path}', name, more)] = leaf
    kinds = [kind for kind in KINDS if parts[kind]]
    if len(kinds) != 1:
        raise ValueError(
            f'{path}: expected arrays of one of {", ".join(f"{kind}/" for kind in KINDS)}, '
            f'found {", ".join(kinds) or "none"}.'
        )
    sent = {**_arrays(_found(path.parents[1] / 'sent')), **parts['sent']}
    returned = parts[kinds[0]]
    for name, rows in parts['rows'].items():
        if name not in returned or name not in sent:
            raise ValueError(f'{path}: rows/{name} is of an array that was not sent and returned.')
        whole = np.array(sent[name]) if kinds[0] == 'returned' else np.zeros_like(sent[name])
        if returned[name].shape != (len(rows), *whole.shape[1:]) or not _within(rows, len(whole)):
            raise ValueError(f'{path}: rows/{name} does not fit {kinds[0]}/{name}.')
        whole[rows] = returned[name]
        returned[name] = whole
    return Exchange(sent, returned, kinds[0], None, None), single


def _within(rows: np.ndarray, size: int) -> bool:
    return rows.ndim == 1 and rows.dtype.kind in 'iu' and bool(np.all((rows >= 0) & (rows < size)))


def _found(stem: pathlib.Path) -> pathlib.Path:
    """The file of that name, in one of the formats."""
    paths = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    return next((path for path in paths if path.exists()), paths[0])


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file; bfloat16, which NumPy stores as V2, by its name."""
    if path.suffix == '.safetensors':
        return _tensors(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: _native(file[name]) for name in file.files}
    except FileNotFoundError as error:
        raise ValueError(f'{path}: this file is missing.') from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path}: expected an .npz of numbers: {error}.') from error


def _tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file of safetensors."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ValueError(
            f'{path}: reading .safetensors needs the package safetensors: pip install safetensors.'
        ) from error
    try:
        found: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
        return found
    except Exception as error:  # a class of its own, which is in Rust
        raise ValueError(f'{path}: expected a file of safetensors: {error}.') from error


def _native(leaf: np.ndarray) -> np.ndarray:
    if leaf.dtype == np.dtype('V2'):
        return leaf.view(ml_dtypes.bfloat16)
    return leaf.astype(leaf.dtype.newbyteorder('='), copy=False)


def exchanges(capture: Capture, client: str) -> Iterator[Exchange]:
    """What a client was sent and returned, round by round."""
    return (exchange(capture, client, round_) for round_ in capture.clients[client])
