"""The bytes of a data file: unpacked, known for what they are, without comments."""

import gzip
import pathlib
import re
import zlib

from fedinv_jax.data import columns, lines

_MARKS = ('#', '%', '//')
_COMMENT = re.compile(rb'^[ \t]*(?:[#%]|//).*$', re.M)
_SEPARATOR_LINE = re.compile(rb'sep=.(?=[\r\n])', re.I)  # of Excel
_CONTROL = re.compile(rb'[\x00\x02-\x08\x0e-\x19]')
_BOM = b'\xef\xbb\xbf'
# What other kinds of files begin with, and what to do about them.
_BEGINNINGS = {
    b'PAR1': 'a parquet file; write it as CSV: pandas.read_parquet(...).to_csv(..., index=False)',
    b'\xff\xfe': 'UTF-16; write it as UTF-8: iconv -f UTF-16 -t UTF-8',
    b'\xfe\xff': 'UTF-16; write it as UTF-8: iconv -f UTF-16 -t UTF-8',
    b'PK\x03\x04': 'a zip archive or a spreadsheet; unpack it, or write it as CSV',
    b'BZh': 'a bzip2 file; unpack it: bunzip2',
    b'\xfd7zXZ': 'an xz file; unpack it: unxz',
    b'\x28\xb5\x2f\xfd': 'a zstd file; unpack it: unzstd',
    b'\x89HDF': 'an HDF5 file; write it as CSV',
    b'%%MatrixMarket': 'a Matrix Market file; write a line for each entry: user, item, rating',
    b'[': "a JSON array; write an object a line: jq -c '.[]'; of an array a line: jq -r @csv",
    b'version https://git-lfs': 'the pointer of Git LFS; fetch the file that it stands for',
    b'%PDF': 'a PDF file; write it as CSV',
    b'<': 'HTML or XML; write it as CSV',
}


def content(path: pathlib.Path) -> bytes:
    """The bytes of a text file, unpacked if it is a gzip file, without a byte order mark.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is no text in UTF-8 or a broken archive; it says which kind of file.
    """
    data = path.read_bytes()
    if data.startswith(b'\x1f\x8b'):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f'{path}: Expected a whole gzip file: {error}.') from error
    data = data.replace(_BOM, b'')  # files that were joined have several
    start = data[:4096].lstrip()
    kind = next((kind for first, kind in _BEGINNINGS.items() if start.startswith(first)), None)
    if kind is None and _CONTROL.search(data[:4096]):
        kind = 'a binary file, or UTF-16; write it as text in UTF-8'
    if kind is not None:
        raise ValueError(f'{path}: Expected lines of text in UTF-8 or JSON lines, found {kind}.')
    data = _SEPARATOR_LINE.sub(b'', data, 1) if _SEPARATOR_LINE.match(data) else data
    return data if b'\n' in data else data.replace(b'\r', b'\n')


def without_comments(data: bytes) -> tuple[bytes, int]:
    """Blanks lines that begin with #, % or //, and counts them; ids may begin so where most do."""
    if not any(mark.encode() in data for mark in _MARKS):
        return data, 0
    number = len(_COMMENT.findall(data))
    last = data.rstrip().rpartition(b'\n')[2]
    if 2 * number > data.count(b'\n') and re.match(rb'([#%]|//)\S', last):
        return data, 0
    data = _with_header(data)
    return _COMMENT.subn(b'', data)


def _with_header(data: bytes) -> bytes:
    """Makes a comment right above the first row a header, where it names that row's columns."""
    above = None
    for _, end, text in lines.numbered(data):
        if text.lstrip().startswith(_MARKS):
            above = end, text.lstrip(' \t#%/')
        elif above is None:
            break
        else:
            both = [above[1], text]
            names, row = lines.split(both, lines.separator(both, quoted=False), quoted=False)
            known = {kind for name in names for kind in columns.kinds(name)}
            if len(names) != len(row) or not {'user', 'item'} <= known:
                break
            start = data.rfind(b'\n', 0, above[0] - 1) + 1
            return data[:start] + above[1].encode() + b'\n' + data[above[0] :]
    return data
