"""Features of items: which genres, tags or words describe an item."""

import csv
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fedinv_jax.data import files, loaders

GENRES = (
    'unknown', 'Action', 'Adventure', 'Animation', "Children's", 'Comedy', 'Crime', 'Documentary',
    'Drama', 'Fantasy', 'Film-Noir', 'Horror', 'Musical', 'Mystery', 'Romance', 'Sci-Fi',
    'Thriller', 'War', 'Western',
)  # fmt: skip
"""The genres of MovieLens-100K, in the order of the flags in `u.item`."""
_ITEMS = loaders.DATASETS['ml-100k']._replace(path='ml-100k/u.item', member='ml-100k/u.item')
_MOST = 3  # features of an item that are drawn


class Features(NamedTuple):
    """Which item has which feature.

    Attributes:
        incidence: float32 `[N, F]`, 1 where an item has a feature, else 0.
        names: of the F features.
    """

    incidence: np.ndarray
    names: tuple[str, ...]


def draw(num_items: int, num_features: int, seed: int = 0) -> Features:
    """Draws one to three distinct features for each item; all are equally likely.

    Args:
        num_items: N.
        num_features: F, at least 1.
        seed: of the draws, at least 0.

    Raises:
        ValueError: if `num_features < 1`.

    Example:
        >>> draw(num_items=4, num_features=5).incidence.sum(axis=1).tolist()
        [1.0, 1.0, 1.0, 2.0]
    """
    if not num_features >= 1:
        raise ValueError(f'Expected {num_features=} >= 1.')
    rng = np.random.default_rng([seed, 0, 10])  # of no other draw, see `synthetic.generate`
    rank = rng.random((num_items, num_features)).argsort(axis=1).argsort(axis=1)
    counts = rng.integers(1, min(_MOST, num_features) + 1, num_items)
    incidence = (rank < counts[:, None]).astype(np.float32)
    return Features(incidence, tuple(map(str, range(num_features))))


def read(path: str | os.PathLike[str], item_ids: Sequence[str]) -> Features:
    r"""Reads a CSV file of lines `item,feature`; a first line of just these words is a header.

    Features are sorted by name. Items that are not among `item_ids` are left out, and so are the
    features that no other item has.

    Args:
        path: of the file, in UTF-8.
        item_ids: of the N items, see `Interactions`.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: `path:line: ...` for a line that is not of two fields; for items without
            features.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, 'genres.csv')
        ...     _ = path.write_text('item,feature\n7,war\n9,drama\n7,drama\n', 'utf-8')
        ...     read(path, ('7', '9'))
        Features(incidence=array([[1., 1.],
               [1., 0.]], dtype=float32), names=('drama', 'war'))
    """
    path = pathlib.Path(path)
    pairs = []
    for line, row in enumerate(csv.reader(io.StringIO(files.content(path).decode('utf-8'))), 1):
        if not row or (line == 1 and row == ['item', 'feature']):
            continue
        if len(row) != 2 or not all(map(str.strip, row)):
            raise ValueError(f'{path}:{line}: Expected item,feature, found {",".join(row)!r}.')
        pairs.append((row[0].strip(), row[1].strip()))
    return _of(path, pairs, item_ids)


def genres(item_ids: Sequence[str], data_dir: str | os.PathLike[str] | None = None) -> Features:
    """The genres of the items of MovieLens-100K, from `u.item` of its archive.

    Args:
        item_ids: of the N items, see `Interactions`.
        data_dir: folder of data sets, see `loaders.load`.

    Raises:
        FileNotFoundError: if the file is missing and cannot be downloaded.
        ValueError: `path:line: ...` for a line that does not end in 19 flags; for items without
            genres.
    """
    path = loaders.find(_ITEMS, data_dir)
    pairs = []
    # Titles are in Latin-1.
    for line, text in enumerate(path.read_text(encoding='latin-1').splitlines(), 1):
        fields = text.split('|')
        flags = fields[-len(GENRES) :]
        if len(fields) <= len(GENRES) or set(flags) - {'0', '1'}:
            raise ValueError(
                f'{path}:{line}: Expected an item and {len(GENRES)} flags of genres, found '
                f'{text[:80]!r}.'
            )
        pairs += [(fields[0], name) for name, flag in zip(GENRES, flags, strict=True) if flag > '0']
    return _of(path, pairs, item_ids)


def _of(path: pathlib.Path, pairs: Iterable[tuple[str, str]], item_ids: Sequence[str]) -> Features:
    """The features of the items, from pairs (item, feature)."""
    rows = {item: row for row, item in enumerate(item_ids)}
    kept = [(rows[item], feature) for item, feature in pairs if item in rows]
    names = tuple(sorted({feature for _, feature in kept}))
    columns = {name: column for column, name in enumerate(names)}
    incidence = np.zeros((len(item_ids), len(names)), np.float32)
    for row, feature in kept:
        incidence[row, columns[feature]] = 1
    without = np.flatnonzero(~incidence.any(axis=1))
    if len(without):
        raise ValueError(
            f'{path}: Expected a feature for every item, found none for {len(without)} of '
            f'{len(item_ids)}, such as item {item_ids[without[0]]}.'
        )
    return Features(incidence, names)
