"""Layouts, error texts and the search for known data sets; never the network."""

import gzip
import hashlib
import io
import os
import pathlib
import urllib.error
import urllib.request
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from fedinv_jax.data import clients, files, interactions, loaders, parsing, provenance, sniffing

_INTER = 'item_id:token\tnote:token_seq\tuser_id:token\ttimestamp:float\trating:float\n'
_LAYOUTS = {
    'u.data': '10\t7\t5\t30\n9\t7\t3\t20\n9\t30\t4\t10\n',
    'ratings.dat': '10::7::5::30\n9::7::3::20\n9::30::4::10\n',
    'ratings.csv': 'userId,movieId,rating,timestamp\n10,7,5.0,30\n9,7,3.0,20\n9,30,4.0,10\n',
    'x.inter': _INTER + '7\ta b, c\t10\t30\t5.0\n7\t\t9\t20.0\t3\n30\t-\t9\t1e1\t4\n',
    'semicolon.txt': '10;7;5;30\n9;7;3;20\n9;30;4;10\n',
    'blanks.txt': '10 7  5 30\n 9 7 3 20 \n9   30 4 10\n',
    'crlf.csv': '\ufeff10,7,5.0,30\r\n9,7,3.0,20\r\n\r\n9,30,4.0,10',
    'quoted.csv': '\n"User_ID", "Item_ID", "rating", "x", "timestamp"\n'
    '10,7,5,,30\n9,7,3,,20\n9,30,4,,10\n\n',
}


@pytest.fixture
def write(tmp_path):
    def write(text, name='file.txt'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.mark.parametrize('name', _LAYOUTS)
def test_layouts(write, name):
    data = loaders.read(write(_LAYOUTS[name], name))
    assert data.user_ids == ('9', '10')
    assert data.item_ids == ('7', '30')
    assert data.users.tolist() == [0, 0, 1]
    assert data.items.tolist() == [1, 0, 0]
    assert data.ratings.tolist() == [4, 3, 5]
    assert data.timestamps.tolist() == [10, 20, 30]
    assert data.name == pathlib.Path(name).stem


def test_fewer_columns_and_text_ids(write):
    data = loaders.read(write('u2,b\nu10,a\nu2,a\n'), name='mine')
    assert data.user_ids == ('u10', 'u2')
    assert data.ratings.tolist() == [1, 1, 1]
    assert data.timestamps.tolist() == [1, 0, 2]
    assert data.name == 'mine'
    assert loaders.read(write('1 2 3.5\n')).ratings.tolist() == [3.5]
    assert loaders.read(write('user_id\titem_id\n1\t2\n')).item_ids == ('2',)
    # The first of two columns of one meaning counts.
    assert loaders.read(write('userId,uid,itemId\n1,x,2\n')).user_ids == ('1',)


def test_ids_keep_their_text(write):
    data = loaders.read(write('01,0005\n2,5\n+3,6\n'), columns=('user', 'item'))
    assert data.user_ids == ('+3', '01', '2')
    assert data.item_ids == ('0005', '5', '6')
    assert loaders.read(write('01 2\n2 2\n')).user_ids == ('01', '2')
    assert loaders.read(write(b'caf\xe9,2\n')).user_ids == ('caf\\xe9',)


_NAMED = ('user', 'item', 'rating', 'timestamp')
_FIELD = strategies.sampled_from(['0', '1', '12', '-3', '01', '-0', '+4', '1.0', 'x', '1 2', ''])
_VALUE = strategies.sampled_from(['1', '2.5', '1e2', '-1', '03', 'nan', 'inf', '1e39', 'x', ''])


@hypothesis.given(
    strategies.lists(strategies.tuples(_FIELD, _FIELD, _VALUE, _VALUE), min_size=1, max_size=4),
    strategies.sampled_from(['\t', '::', ',', ';', ' ']),
)
@hypothesis.settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_fast_path_agrees_with_the_exact_one(tmp_path, rows, separator):
    # Mutant that fails: no `_NOT_CANONICAL`.
    path = tmp_path / 'rows.txt'
    path.write_text('\n'.join(separator.join(row) for row in [('7', '8', '1', '1'), *rows]))

    def outcome(read):
        try:
            data = read(path)
        except ValueError as error:
            return str(error)
        arrays = (data.users, data.items, data.ratings, data.timestamps)
        return [array.tolist() for array in arrays], data.user_ids, data.item_ids

    def read(path):
        return loaders.read(path, columns=_NAMED)

    assert outcome(read) == outcome(_read_line_by_line)


def _read_line_by_line(path):
    layout, body = sniffing.sniff(path, path.read_bytes(), _NAMED)
    columns = parsing._lines(path, body, layout)
    rest = columns.get('rating'), columns.get('timestamp')
    return interactions.make(columns['user'], columns['item'], *rest)


@pytest.mark.parametrize(
    'name', ['u.data', 'ratings.dat', 'ratings.csv', 'semicolon.txt', 'blanks.txt', 'crlf.csv']
)
def test_integers_take_the_fast_path(write, name):
    path = write(_LAYOUTS[name], name)
    layout, body = sniffing.sniff(path, files.content(path))
    assert len(parsing._integers(body, layout)['user']) == 3


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', r'file.txt:1: Expected lines of user and item, found an empty file'),
        (' \n\n', r'file.txt:1: .* found an empty file'),
        ('userId,movieId,rating\n\n', r':2: Expected rows after the header, found only a header'),
        ('1\n2\n', r":1: Expected 2 to 4 columns .* found 1: '1'"),
        ('1,2,3,4,5\n', r":1: Expected 2 to 4 columns .* found 5: '1,2,3,4,5'"),
        ('1\t2\t3\n1\t2\n', r":2: Expected 3 columns separated by TAB, found 2: '1\\t2'"),
        ('1::2\n\n1::2::3\n', r":3: Expected 2 columns separated by '::', found 3"),
        ('1;2\n1,3\n', r":2: Expected 2 columns separated by ';', found 1: '1,3'"),
        ('1 2\n1 2 3\n', r':2: Expected 2 columns separated by blanks, found 3'),
        ('1,2,x\n', r":1: Expected a finite number as rating in column 3, found 'x'"),
        ('user,what,rating\n1,2,3\n', r":1: .* found 'user, what, rating', where no name of item"),
        ('1,2,3\n1,3,nan\n', r":2: Expected a finite number as rating in column 3, found 'nan'"),
        ('1,2,3\n1,3,-inf\n', r":2: Expected a finite number as rating .* found '-inf'"),
        ('1,2,3\n1,3,1e39\n', r":2: Expected a finite number as rating .* found '1e39'"),
        ('1,2,3\n1,3,\n', r":2: Expected a finite number as rating in column 3, found ''"),
        ('1,2,3,4\n1,3,3,x\n', r":2: Expected a finite number as timestamp in column 4, found 'x'"),
        ('userId,itemId\n1,2\n,3\n', r":3: Expected an id as user in column 1, found ''"),
        ('rating,item,user\n5,2,1\nx,2,1\n', r":3: .* as rating in column 1, found 'x'"),
        (
            'uid:token\tx:token\ty:float\n1\t2\t3\n',
            r":1: Expected a header that names .* found 'uid:token, x:token, y:float', where no",
        ),
    ],
)
def test_errors_say_where_and_what(write, text, message):
    with pytest.raises(ValueError, match=message):
        loaders.read(write(text))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nothing\.csv'):
        loaders.read(tmp_path / 'nothing.csv')


# Failed on the reader that kept no record of it.
def test_how_a_file_was_read(write):
    data = loaders.read(write(_LAYOUTS['x.inter'], 'x.inter'))
    source = data.source
    assert source.num_interactions == 3
    assert source.layout.columns == {'user': 2, 'item': 0, 'rating': 4, 'timestamp': 3}
    assert (source.num_rows, source.num_users, source.num_items) == (3, 2, 2)
    assert provenance.describe(source) == [
        ('file', 'x.inter: 3 rows, 2 users, 2 items, times 10 to 30'),
        (
            'columns',
            "user = column 3 ('user_id:token'), item = column 1 ('item_id:token'), rating = column "
            "5 ('rating:float'), timestamp = column 4 ('timestamp:float'); separated by TAB; from "
            "the header; not read: 'note:token_seq'",
        ),
        ('first row', "user '10', item '7', rating '5.0', timestamp '30'"),
    ]
    assert interactions.take(data, data.users == 0).source is source
    text = dict(
        provenance.describe(loaders.read(write('# c\n1,7\n'), columns=('item', 'user')).source)
    )
    assert text['file'].endswith('1 users, 1 items, no times: the order of the rows counts')
    assert 'from data.columns; 1 lines skipped as comments' in text['columns']
    lines = '{"user": 1, "item": 2, "date": "2014-05-13T17:45:25Z"}\n'
    text = dict(provenance.describe(loaders.read(write(lines)).source))
    assert text['columns'].endswith('JSON lines; from its keys')
    assert text['file'].endswith('times 2014-05-13 17:45:25 to 2014-05-13 17:45:25')
    assert interactions.make([1], [2]).source is None
    repeated = provenance.describe(loaders.read(write('1 2\n1 2\n1 3\n')).source)
    assert repeated[0][1].startswith('file.txt: 3 rows of 2 interactions, 1 users, 2 items')


# Finding data sets.


def test_data_dir_then_environment_then_cache(tmp_path, write, monkeypatch):
    for folder, user in (('given', 1), ('environment', 2), ('home/.cache/fedinv_jax', 3)):
        write(f'{user}\t1\t1\t1\n', f'{folder}/ml-100k/u.data')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('FEDINV_DATA_DIR', str(tmp_path / 'environment'))
    assert loaders.load('ml-100k', tmp_path / 'given').user_ids == ('1',)
    assert loaders.load('ml-100k').user_ids == ('2',)
    monkeypatch.delenv('FEDINV_DATA_DIR')
    data = loaders.load('ml-100k')
    assert data.user_ids == ('3',)
    assert data.name == 'ml-100k'


def test_recbole_folder_and_plain_path(tmp_path, write):
    write(_LAYOUTS['x.inter'], 'mine/mine.inter')
    write(_LAYOUTS['x.inter'], 'ml-1m/ml-1m.inter')
    assert loaders.load('mine', tmp_path).name == 'mine'
    assert loaders.load('ml-1m', tmp_path).name == 'ml-1m'
    assert loaders.load(str(write('1 2\n', 'some.txt')), tmp_path).name == 'some'
    path = write(gzip.compress(b'7 8\n'), 'some.csv.gz')
    data = loaders.load(str(path), tmp_path, ('item', 'user'), False)
    assert (data.name, data.user_ids) == ('some', ('8',))


# Failed on a guess: a column of items that all look like times is no guess here.
def test_the_columns_of_known_data_sets_are_known(tmp_path, write):
    write('1 1400000000\n1 1400000001\n', 'amazon-video-games/interactions.txt')
    assert loaders.load('amazon-video-games', tmp_path).item_ids[0] == '1400000000'
    data = loaders.load('amazon-video-games', tmp_path, ('item', 'user'))
    assert data.source.layout.columns == {'user': 1, 'item': 0}


def test_unknown_name(tmp_path):
    message = r"Unknown data set 'ml100k'. Did you mean 'ml-100k' or .* Known names: amazon-instant"
    with pytest.raises(ValueError, match=message) as error:
        loaders.load('ml100k', tmp_path)
    assert str(tmp_path / 'ml100k' / 'ml100k.inter') in str(error.value)


def _archive(member, text='1\t1\t5\t1\n'):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('README', 'no data')
        archive.writestr(member, text)
    return file.getvalue()


@pytest.fixture
def serve(monkeypatch):
    """Serves bytes, or raises an error, instead of the network; the md5 is as it should be."""
    requests = []

    def serve(content, md5=None):
        def urlopen(url, timeout):
            requests.append(url)
            if isinstance(content, Exception):
                raise content
            return io.BytesIO(content)

        monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
        if not isinstance(content, Exception):
            md5 = md5 or hashlib.md5(content).hexdigest()
            entry = loaders.DATASETS['ml-100k']._replace(md5=md5)
            monkeypatch.setitem(loaders.DATASETS, 'ml-100k', entry)
        return requests

    return serve


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


def test_download(tmp_path, serve):
    requests = serve(_archive('ml-100k/u.data'))
    root = tmp_path / 'cache' / 'deep'
    assert loaders.load('ml-100k', root).ratings.tolist() == [5]
    assert loaders.load('ml-100k', root).ratings.tolist() == [5]
    assert requests == ['https://files.grouplens.org/datasets/movielens/ml-100k.zip']
    assert _files(root) == ['ml-100k', 'ml-100k/u.data']


@pytest.mark.parametrize(
    ('content', 'md5', 'message'),
    [
        (_archive('ml-100k/u.data'), 'feed', 'Expected md5 feed of https://.*, found [0-9a-f]{32}'),
        (b'<html>', None, r'Expected a zip archive with ml-100k/u.data at https://.*not a zip'),
        (_archive('other'), None, r'Expected a zip archive with ml-100k/u.data .*no item named'),
    ],
)
def test_bad_download_leaves_nothing(tmp_path, serve, content, md5, message):
    # Mutants that fail: no md5 check; a temporary folder that stays.
    serve(content, md5)
    with pytest.raises(ValueError, match=message):
        loaders.load('ml-100k', tmp_path)
    assert _files(tmp_path) == []


@pytest.mark.parametrize('error', [urllib.error.URLError('no route'), TimeoutError('too slow')])
def test_no_network(tmp_path, serve, error):
    serve(error)
    with pytest.raises(FileNotFoundError, match=r'no route|too slow') as caught:
        loaders.load('ml-1m', tmp_path / 'cache')
    text = str(caught.value)
    assert str(tmp_path / 'cache' / 'ml-1m' / 'ratings.dat') in text
    assert 'https://files.grouplens.org/datasets/movielens/ml-1m.zip' in text
    assert 'FEDINV_DATA_DIR' in text
    assert _files(tmp_path) == []


def test_no_public_archive(tmp_path, serve):
    requests = serve(AssertionError('nothing to ask for'))
    message = r'Expected .*amazon-video-games/interactions.txt, and there is no public archive'
    with pytest.raises(FileNotFoundError, match=message):
        loaders.load('amazon-video-games', tmp_path)
    assert requests == []


def test_table_of_datasets():
    assert list(loaders.DATASETS) == sorted(loaders.DATASETS)
    for name, entry in loaders.DATASETS.items():
        assert entry.path.startswith(f'{name}/')
        assert (entry.url is None) == (entry.member is None)
        assert entry.md5 is None or len(entry.md5) == 32


# Real data.


@pytest.mark.parametrize(
    ('name', 'counts'),
    [
        ('ml-100k', (943, 1682, 100_000)),
        ('amazon-instant-video', (8072, 11_830, 63_836)),
        ('amazon-video-games', (31_013, 23_715, 287_107)),
    ],
)
def test_real_data(name, counts):
    root = os.environ.get('FEDINV_DATA_DIR')
    if root is None:
        pytest.skip('FEDINV_DATA_DIR is not set')
    if not pathlib.Path(root, loaders.DATASETS[name].path).is_file():
        pytest.skip(f'{loaders.DATASETS[name].path} is not in FEDINV_DATA_DIR')
    data = loaders.load(name)
    assert (data.num_users, data.num_items, len(data.users)) == counts
    if name == 'ml-100k':
        groups = clients.build(data)
        assert sum(len(group.users) for group in groups) == 943
        padded = sum(group.weights.size for group in groups)
        used = sum(int(np.sum(group.weights)) for group in groups)
        assert 1 - used / padded <= 0.25
