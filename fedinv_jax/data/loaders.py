"""Reads interaction files of many layouts, and finds or downloads known data sets."""

import codecs
import hashlib
import io
import os
import pathlib
import re
import shutil
import tempfile
import urllib.request
import warnings
import zipfile
import zlib
from http import client as http_client
from typing import NamedTuple

import numpy as np

from fedinv_jax import _validate
from fedinv_jax.data import interactions as interactions_lib

_SEPARATORS = {'TAB': '\t', "'::'": '::', "','": ',', "';'": ';', 'blanks': None}
_COLUMNS = {
    'user': ('user', 'userid', 'uid', 'reviewerid'),
    'item': ('item', 'itemid', 'iid', 'movie', 'movieid', 'asin'),
    'rating': ('rating', 'ratings', 'score', 'stars', 'overall'),
    'timestamp': ('timestamp', 'time', 'unixreviewtime'),
}
_LARGEST = {'rating': float(np.finfo(np.float32).max), 'timestamp': float(2**62)}
_DTYPES = {'user': 'i8', 'item': 'i8', 'rating': 'f8', 'timestamp': 'i8'}
# Integers such as 01 or +1, which differ from the text of their value: these ids stay text.
_NOT_CANONICAL = re.compile(rb'[\s,;:](?:[+]|-?0[0-9]|-0)')
_TIMEOUT = 60.0  # Seconds without an answer.


class Dataset(NamedTuple):
    """A known data set.

    Attributes:
        path: of the file, relative to the data folder.
        url: of the public zip archive; None: there is none.
        member: name of the file in the archive.
        md5: of the archive; None: not checked, because GroupLens updates the `latest` archives.
    """

    path: str
    url: str | None = None
    member: str | None = None
    md5: str | None = None


def _grouplens(name: str, file: str, md5: str | None = None, folder: str = '') -> Dataset:
    url = f'https://files.grouplens.org/datasets/movielens/{name}.zip'
    return Dataset(f'{name}/{file}', url, f'{folder or name}/{file}', md5)


DATASETS = {
    'amazon-instant-video': Dataset('amazon-instant-video/ratings.csv'),
    'amazon-video-games': Dataset('amazon-video-games/interactions.txt'),
    'ml-100k': _grouplens('ml-100k', 'u.data', '0e33842e24a9c977be4e0107933c0723'),
    'ml-10m': _grouplens('ml-10m', 'ratings.dat', 'ce571fd55effeba0271552578f2648bd', 'ml-10M100K'),
    'ml-1m': _grouplens('ml-1m', 'ratings.dat', 'c4d9eecfca2ab87c1945afe126590906'),
    'ml-20m': _grouplens('ml-20m', 'ratings.csv', 'cd245b17a1ae2cc31bb14903e1204af3'),
    'ml-25m': _grouplens('ml-25m', 'ratings.csv', '6b51fb2759a8657d3bfcbfc42b592ada'),
    'ml-latest': _grouplens('ml-latest', 'ratings.csv'),
    'ml-latest-small': _grouplens('ml-latest-small', 'ratings.csv'),
}


class _Layout(NamedTuple):
    separator: str  # A key of _SEPARATORS.
    width: int  # Columns of a line.
    columns: dict[str, int]  # 'user', 'item' and perhaps 'rating', 'timestamp' -> column.
    first_line: int  # Line number at which the rows start.


def read(path: str | os.PathLike[str], name: str | None = None) -> interactions_lib.Interactions:
    r"""Reads a text file of interactions, whatever its separator and header.

    | layout | example |
    |---|---|
    | separator: TAB, `::`, comma, semicolon or blanks | `u.data`, `ratings.dat`, `ratings.csv` |
    | no header: user, item, optional rating, optional timestamp | `A1 B7 5.0` |
    | a header that names user and item: any order, other columns are ignored | `userId,movieId` |
    | a RecBole header, which is typed | `user_id:token<TAB>item_id:token` |

    Blank lines are skipped; quotes are not special; timestamps are truncated to integers.

    Args:
        path: of the file, in UTF-8.
        name: of the data set; None: the file's name without suffix.

    Returns:
        The interactions; ids as in `interactions.make`.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: `path:line: Expected ..., found ...` for an empty file, a header without rows,
            a line with another number of columns, an empty id, or a rating or timestamp that is
            not a finite number.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, 'ratings.csv')
        ...     _ = path.write_text('userId,movieId,rating\n7,30,4.5\n7,4,3.0\n', 'utf-8')
        ...     read(path).item_ids
        ('4', '30')
    """
    path = pathlib.Path(path)
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    layout, body = _sniff(path, data)
    columns = _parse_integers(body, layout)
    if columns is None:
        columns = _parse_lines(path, body, layout)
    return interactions_lib.make(
        columns['user'],
        columns['item'],
        columns.get('rating'),
        columns.get('timestamp'),
        name=path.stem if name is None else name,
    )


def load(
    name: str, data_dir: str | os.PathLike[str] | None = None
) -> interactions_lib.Interactions:
    """Loads a known data set, a RecBole data set, or any file that `read` understands.

    Known names are those of `DATASETS`. A missing data set is downloaded, and the archive's
    checksum is verified, except for the `ml-latest` sets, which change.

    Args:
        name: a known name, the name of a RecBole file `<data_dir>/<name>/<name>.inter`, or a path.
        data_dir: folder of data sets; None: environment variable `FEDINV_DATA_DIR`, else
            `~/.cache/fedinv_jax`.

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
    root = pathlib.Path(
        data_dir or os.environ.get('FEDINV_DATA_DIR') or '~/.cache/fedinv_jax'
    ).expanduser()
    known = DATASETS.get(name)
    if known is None:
        candidates: dict[pathlib.Path, str | None] = {pathlib.Path(name).expanduser(): None}
    else:
        candidates = {root / known.path: name}
    candidates[root / name / f'{name}.inter'] = name
    for path, title in candidates.items():
        if path.is_file():
            return read(path, title)
    if known is None:
        raise ValueError(
            f'Unknown data set {name!r}.{_validate.hint(name, DATASETS)} '
            f'Known names: {", ".join(DATASETS)}. '
            f'There is no file {" or ".join(map(str, candidates))} either.'
        )
    _download(known, root)
    return read(root / known.path, name)


def _sniff(path: pathlib.Path, data: bytes) -> tuple[_Layout, bytes]:
    """The layout, from the first line that is not blank, and the bytes after the header."""
    match = re.search(rb'\S', data)
    if match is None:
        raise ValueError(f'{path}:1: Expected lines of user and item, found an empty file.')
    start = data.rfind(b'\n', 0, match.start()) + 1
    number = data.count(b'\n', 0, start) + 1
    end = data.find(b'\n', start) + 1 or len(data)
    line = _text(data[start:end])
    separator = next(
        (name for name in _SEPARATORS if len(_split(line, name)) > 1), next(iter(_SEPARATORS))
    )
    fields = _split(line, separator)

    names = [field.split(':')[0].strip('"\'').replace('_', '').lower() for field in fields]
    columns = {
        column: index
        for column, aliases in _COLUMNS.items()
        for index in reversed(range(len(names)))
        if names[index] in aliases
    }
    if 'user' in columns and 'item' in columns:
        if not data[end:].strip():
            raise ValueError(
                f'{path}:{number + 1}: Expected rows after the header, found only a header.'
            )
        return _Layout(separator, len(fields), columns, number + 1), data[end:]
    if any(field.endswith((':token', ':float')) for field in fields):
        raise ValueError(
            f"{path}:{number}: Expected a header with 'user_id:token' and 'item_id:token', "
            f'found {line!r}.'
        )
    if not 2 <= len(fields) <= 4:
        raise ValueError(
            f'{path}:{number}: Expected 2 to 4 columns (user, item, rating, timestamp) separated '
            f"by {', '.join(_SEPARATORS)}, or a header that names 'user' and 'item', found "
            f'{len(fields)}: {line!r}.'
        )
    columns = dict(zip(_COLUMNS, range(len(fields)), strict=False))
    return _Layout(separator, len(fields), columns, number), data[start:]


def _parse_integers(body: bytes, layout: _Layout) -> dict[str, np.ndarray] | None:
    """Columns of a file whose ids are all plain integers; None for other or malformed files."""
    if _NOT_CANONICAL.search(body) or _NOT_CANONICAL.match(b'\n' + body[:2]):
        return None
    separator = _SEPARATORS[layout.separator]
    if separator == '::':  # NumPy takes one character only.
        body, separator = body.replace(b'::', b'\x1f'), '\x1f'
    kinds = {index: _DTYPES[column] for column, index in layout.columns.items()}
    dtype = np.dtype([(str(index), kinds.get(index, 'U1')) for index in range(layout.width)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # Older NumPy only warns of an id like 1.5.
            rows = np.loadtxt(
                io.TextIOWrapper(io.BytesIO(body), 'latin-1'),
                dtype=dtype,
                delimiter=separator,
                comments=None,
                ndmin=1,
            )
    except (ValueError, Warning):
        return None
    parsed = {column: rows[str(index)] for column, index in layout.columns.items()}
    in_range = (
        (np.abs(parsed[column]) <= largest).all()
        for column, largest in _LARGEST.items()
        if column in parsed
    )
    return parsed if all(in_range) else None


def _parse_lines(path: pathlib.Path, body: bytes, layout: _Layout) -> dict[str, np.ndarray]:
    """Columns of any file, parsed line by line, so that an error can name the line."""
    parsed: dict[str, list] = {column: [] for column in layout.columns}
    for number, line in enumerate(io.BytesIO(body), layout.first_line):
        if not line.strip():
            continue
        fields = _split(_text(line), layout.separator)
        if len(fields) != layout.width:
            raise ValueError(
                f'{path}:{number}: Expected {layout.width} columns separated by '
                f'{layout.separator}, found {len(fields)}: {_text(line)!r}.'
            )
        for column, index in layout.columns.items():
            field = fields[index]
            value = _number(field, _LARGEST[column]) if column in _LARGEST else field
            if value is None or value == '':
                expected = 'a finite number' if column in _LARGEST else 'an id'
                raise ValueError(
                    f'{path}:{number}: Expected {expected} as {column} in column {index + 1}, '
                    f'found {field!r}.'
                )
            parsed[column].append(value)
    return {column: np.asarray(values) for column, values in parsed.items()}


def _number(field: str, largest: float) -> float | None:
    """The number in a field, as an int if it has only digits; None if it is no finite number."""
    try:
        value = float(field)
    except ValueError:
        return None
    if not abs(value) <= largest:
        return None
    return int(field) if field.lstrip('+-').isdigit() else value


def _text(line: bytes) -> str:
    return line.decode('utf-8', 'backslashreplace').rstrip('\r\n')


def _split(line: str, separator: str) -> list[str]:
    return [field.strip() for field in line.split(_SEPARATORS[separator])]


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
