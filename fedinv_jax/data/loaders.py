"""Reads interaction files of many layouts, and finds or downloads known data sets."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from http import client as http_client
from typing import NamedTuple

import numpy as np

from fedinv_jax import _validate
from fedinv_jax.data import columns as columns_lib
from fedinv_jax.data import files, parsing, plausibility, provenance, sniffing, values
from fedinv_jax.data import interactions as interactions_lib

_TIMEOUT = 60.0  # Seconds without an answer.


class Dataset(NamedTuple):
    """A known data set.

    Attributes:
        path: of the file, relative to the data folder.
        url: of the public zip archive; None: there is none.
        member: name of the file in the archive.
        md5: of the archive; None: not checked, because GroupLens updates the `latest` archives.
        columns: of the file, see `read`; None: its header names them.
    """

    path: str
    url: str | None = None
    member: str | None = None
    md5: str | None = None
    columns: tuple[str, ...] | None = None


_RATINGS = ('user', 'item', 'rating', 'timestamp')


def _grouplens(name: str, file: str, md5: str | None = None, folder: str = '') -> Dataset:
    url = f'https://files.grouplens.org/datasets/movielens/{name}.zip'
    columns = None if file.endswith('.csv') else _RATINGS
    return Dataset(f'{name}/{file}', url, f'{folder or name}/{file}', md5, columns)


DATASETS = {
    'amazon-instant-video': Dataset('amazon-instant-video/ratings.csv', columns=_RATINGS),
    'amazon-video-games': Dataset('amazon-video-games/interactions.txt', columns=('user', 'item')),
    'ml-100k': _grouplens('ml-100k', 'u.data', '0e33842e24a9c977be4e0107933c0723'),
    'ml-10m': _grouplens('ml-10m', 'ratings.dat', 'ce571fd55effeba0271552578f2648bd', 'ml-10M100K'),
    'ml-1m': _grouplens('ml-1m', 'ratings.dat', 'c4d9eecfca2ab87c1945afe126590906'),
    'ml-20m': _grouplens('ml-20m', 'ratings.csv', 'cd245b17a1ae2cc31bb14903e1204af3'),
    'ml-25m': _grouplens('ml-25m', 'ratings.csv', '6b51fb2759a8657d3bfcbfc42b592ada'),
    'ml-latest': _grouplens('ml-latest', 'ratings.csv'),
    'ml-latest-small': _grouplens('ml-latest-small', 'ratings.csv'),
}


def read(
    path: str | os.PathLike[str],
    name: str | None = None,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
) -> interactions_lib.Interactions:
    r"""Reads a text file of interactions, whatever its separator and header.

    | layout | example |
    |---|---|
    | separator: TAB, `::`, `;`, `|`, comma or blanks | `u.data`, `ratings.dat`, `ratings.csv` |
    | no header: user, item, optional rating, optional timestamp | `A1 B7 5.0` |
    | a header that names user and item: any order, other columns are ignored | `userId,movieId` |
    | a RecBole header, which is typed | `user_id:token<TAB>item_id:token` |
    | JSON lines, with inner objects | `{"user": {"id": 7}, "asin": "B7", "stars": 4}` |

    The separator is one that gives the first lines the same number of columns. Numbers may have a
    decimal comma, times may be ISO 8601 dates, fields may be quoted, the file may be gzipped. Blank
    lines and lines that begin with # or % are skipped; timestamps are truncated to integers. A
    column `label` or `click` is a rating whose rows of 0 are not interactions.

    Args:
        path: of the file, in UTF-8.
        name: of the data set; None: the file's name without suffix.
        columns: what each column is, from the first on: names of `columns.NAMES`; None: as the
            header or the positions say.
        header: whether the first line is a header; None: where it looks like one.

    Returns:
        The interactions; ids as in `interactions.make`, and `source`, how the file was read.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: `path:line: Expected ..., found ...` for an empty file, a header without rows,
            a line with another number of columns, an empty id, or a rating or timestamp that is
            not a finite number; for guessed columns that cannot be what they were taken for.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, 'ratings.csv')
        ...     _ = path.write_text('userId,movieId,rating\n7,30,4.5\n7,4,3.0\n', 'utf-8')
        ...     read(path).item_ids
        ('4', '30')
    """
    path = pathlib.Path(path)
    if columns is not None:
        columns_lib.check(columns)
    layout, body = sniffing.sniff(path, files.content(path), columns, header)
    parsed = parsing.parse(path, body, layout)
    counts = parsed['label'] > 0 if 'label' in parsed else None
    made = interactions_lib.make(
        parsed['user'],
        parsed['item'],
        parsed.get('rating', parsed.get('label')),
        parsed.get('timestamp'),
        name=pathlib.Path(path.name.removesuffix('.gz')).stem if name is None else name,
        where=counts,
    )
    ids = {'user': made.user_ids, 'item': made.item_ids}
    odd = plausibility.check(path, layout, parsed, ids)
    if counts is not None and not counts.any():
        raise ValueError(f'{path}: Expected a label above 0, found none in {len(counts)} rows.')
    if counts is not None and not counts.all():
        odd.append(
            f'{np.sum(~counts)} of {len(counts)} rows have no label above 0: they do not count'
        )
        made = interactions_lib.drop_unused_items(made)
    times, span = parsed.get('timestamp'), None
    if times is not None:
        span = values.show_time(int(times.min())), values.show_time(int(times.max()))
    source = provenance.Source(
        path.name,
        layout,
        len(parsed['user']),
        len(made.users),
        len(ids['user']),
        len(ids['item']),
        span,
        tuple(odd),
    )
    return dataclasses.replace(made, source=source)


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
) -> interactions_lib.Interactions:
    """Loads a known data set, a RecBole data set, or any file that `read` understands.

    Known names are those of `DATASETS`. A missing data set is downloaded, and the archive's
    checksum is verified, except for the `ml-latest` sets, which change.

    Args:
        name: a known name, the name of a RecBole file `<data_dir>/<name>/<name>.inter`, or a path.
        data_dir: folder of data sets; None: environment variable `FEDINV_DATA_DIR`, else
            `~/.cache/fedinv_jax`.
        columns: see `read`; None: as the known data set has them.
        header: see `read`.

    Returns:
        The interactions.

    Raises:
        FileNotFoundError: if the data is missing and cannot be downloaded.
        ValueError: for an unknown name, a malformed file, or a download with a wrong checksum.

    Example:
        >>> load('ml-100', data_dir='nowhere')  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ValueError: Unknown data set 'ml-100'. Did you mean 'ml-100k', 'ml-10m', 'ml-1m'?
    """
    root = data_folder(data_dir)
    known = DATASETS.get(name)
    if known is None:
        candidates: dict[pathlib.Path, str | None] = {pathlib.Path(name).expanduser(): None}
    else:
        candidates = {root / known.path: name}
    candidates[root / name / f'{name}.inter'] = name
    for path, title in candidates.items():
        if path.is_file():
            own = known.columns if known and path == root / known.path else None
            return read(path, title, columns or own, header)
    if known is None:
        raise ValueError(
            f'Unknown data set {name!r}.{_validate.hint(name, DATASETS)} '
            f'Known names: {", ".join(DATASETS)}. '
            f'There is no file {" or ".join(map(str, candidates))} either.'
        )
    return read(find(known, data_dir), name, columns or known.columns, header)


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The folder of data sets, see `load`."""
    given = data_dir or os.environ.get('FEDINV_DATA_DIR') or '~/.cache/fedinv_jax'
    return pathlib.Path(given).expanduser()


def find(dataset: Dataset, data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The path of a data set's file, downloaded if it is missing.

    Raises:
        FileNotFoundError: if the file is missing and cannot be downloaded.
        ValueError: for a download with a wrong checksum.
    """
    root = data_folder(data_dir)
    if not (root / dataset.path).is_file():
        _download(dataset, root)
    return root / dataset.path


def _download(dataset: Dataset, root: pathlib.Path) -> None:
    """Downloads an archive and extracts the data set's file, atomically."""
    target = root / dataset.path
    if dataset.url is None or dataset.member is None:
        raise FileNotFoundError(
            f'Expected {target}, and there is no public archive to download it from. Put the '
            'file there, or set FEDINV_DATA_DIR (data_dir) to the folder that holds it.'
        )
    try:
        with urllib.request.urlopen(dataset.url, timeout=_TIMEOUT) as response:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix='.download-') as folder:
                archive = pathlib.Path(folder, 'archive.zip')
                with archive.open('wb') as file:
                    shutil.copyfileobj(response, file, 1 << 20)
                _extract(dataset, archive, pathlib.Path(folder, 'member'))
                target.parent.mkdir(exist_ok=True)
                os.replace(pathlib.Path(folder, 'member'), target)
    except (OSError, http_client.HTTPException) as error:
        raise FileNotFoundError(
            f'Expected {target}, and {dataset.url} could not be downloaded to it ({error}). '
            f'Fetch that archive elsewhere and put its member {dataset.member} at {target}, or set '
            'FEDINV_DATA_DIR (data_dir) to the folder that holds the data.'
        ) from error


def _extract(dataset: Dataset, archive: pathlib.Path, to: pathlib.Path) -> None:
    """Checks the checksum of an archive and writes the data set's member to a file."""
    with archive.open('rb') as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if dataset.md5 not in (None, found):
        raise ValueError(
            f'Expected md5 {dataset.md5} of {dataset.url}, found {found}: the download is damaged '
            'or another archive. Nothing was kept; try again.'
        )
    try:
        with (
            zipfile.ZipFile(archive) as zipped,
            zipped.open(dataset.member or '') as member,
            to.open('wb') as out,
        ):
            shutil.copyfileobj(member, out, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ValueError(
            f'Expected a zip archive with {dataset.member} at {dataset.url}: {error}.'
        ) from error
