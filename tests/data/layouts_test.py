"""One data set in many layouts: each reads to the same interactions, or is refused by name.

Each layout is in the shape of a public report of a recommender library that read it wrongly.
"""

import csv
import datetime
import gzip
import io
import json

import pytest

from fedinv_jax.data import loaders
from tests.data.helpers import NUM_ITEMS, NUM_USERS, ROWS, contents, iso, pick, text

EXPECTED = sorted((u, i, float(r), int(t)) for u, i, r, t in ROWS)
SEPARATORS = ['\t', ' ', '|', '::', ';', ',']
HEADER = ['User-ID', 'ISBN', 'Book-Rating', 'Date']


@pytest.fixture
def read(tmp_path):
    def read(content, name='file.csv', **how):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return loaders.read(path, **how)

    return read


def comma(row):
    return row[2].replace('.', ',')


def mail(row, zone='+0000'):
    hours = int(zone) // 100
    time = datetime.datetime.fromtimestamp(int(row[3]) + 3600 * hours, datetime.UTC)
    return time.strftime(f'%a %b %d %H:%M:%S {zone} %Y')


def quoted(rows):
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator='\n').writerows(rows)
    return file.getvalue()


LAYOUTS = {
    'plain': text(ROWS),
    'header': text(ROWS, header=['userId', 'movieId', 'rating', 'timestamp']),
    'byte order mark': '\ufeff' + text(ROWS, header=HEADER),
    'byte order mark without a header': '\ufeff' + text(ROWS),
    'mixed case, blanks': text(ROWS, header=[' User ID ', 'Movie Id', 'RATING', 'Time Stamp']),
    'CRLF': text(ROWS, end='\r\n'),
    'CR': text(ROWS, end='\r'),
    'no end of the last line': text(ROWS)[:-1],
    'blank lines': '\n\n' + text(ROWS, end='\n \n'),
    'comments': '# from x\n% more\n' + text(ROWS[:9]) + '# here too\n' + text(ROWS[9:]),
    'more comments than rows are sampled': '# c\n' * 150 + text(ROWS),
    'header in a comment': '# item user time rating\n' + text(pick(1, 0, 3, 2), ' '),
    'header glued to its mark': '# c\n#item,user,time,rating\n' + text(pick(1, 0, 3, 2)),
    'KONECT': '% bip unweighted\n% 200 20 40\n' + text(ROWS, ' '),
    'index of pandas': text(
        [[str(index), *row] for index, row in enumerate(ROWS)],
        header=['', 'userId', 'movieId', 'rating', 'timestamp'],
    ),
    'quoted': quoted([HEADER, *ROWS]),
    'quoted without a header': quoted(ROWS),
    'other columns, quoted lines in them': quoted(
        [['title', 'uid', 'sku', 'stars', 'ts'], *[['A, "b"\n1,2', *row] for row in ROWS]]
    ),
    'RecBole': text(
        pick(0, 1, 3, 2, lambda row: 'a b'),
        '\t',
        ['user_id:token', 'item_id:token', 'timestamp:float', 'rating:float', 'x:token_seq'],
    ),
    'Amazon 2015': text(
        pick(lambda row: 'US', 0, lambda row: f'R{row[0]}', 1, lambda row: 'a, b', 2, iso),
        '\t',
        ['marketplace', 'customer_id', 'review_id', 'product_id', 'product_title', 'star_rating',
         'review_date'],
    ),
    'JSON lines': '\n'.join(
        json.dumps({'title': 'x, "y"', 'reviewerID': u, 'images': [{}], 'asin': i,
                    'overall': float(r), 'unixReviewTime': int(t), 'reviewTime': '05 13, 2014'})
        for u, i, r, t in ROWS
    ),
    'JSON lines with inner objects': '\n'.join(
        json.dumps({'user': {'id': int(row[0]), 'name': 'x'}, 'business': {'id': row[1]},
                    'stars': float(row[2]), 'date': iso(row)})
        for row in ROWS
    ),
    'Foursquare, dates of mails': text(
        pick(0, 1, lambda row: '40.7', lambda row: '-74.0', 2, mail),
        header=['userId', 'venueId', 'latitude', 'longitude', 'stars', 'utcTimestamp'],
    ),
    'Goodreads': '\n'.join(
        json.dumps({'user_id': row[0], 'book_id': row[1], 'rating': float(row[2]),
                    'date_added': mail(row, '-0700'), 'shelves': ['read']})
        for row in ROWS
    ),
    'Netflix': text(pick(0, 2, 3, 1), header=['Cust_Id', 'Rating', 'Timestamp', 'Movie_Id']),
    'BeerAdvocate': text(pick(1, 3, 2, 0), '\t', ['beer/beerId', 'review/time', 'review/overall',
                                                 'review/userId']),
    'plural names': text(ROWS, header=['users', 'items', 'ratings', 'timestamps']),
    'separator of Excel': 'sep=;\r\n' + text(ROWS, ';', HEADER, end='\r\n'),
    'rows without content': ';;\n' + text(ROWS[:9], ';') + ';;;;;\n' + text(ROWS[9:], ';') + ';;\n',
    'files joined with their marks': '\ufeff' + text(ROWS[:9]) + '\ufeff' + text(ROWS[9:]),
    'header with units': text(
        ROWS, header=['user id (hashed)', 'movie id [imdb]', 'rating (1-5)', 'time (s)']
    ),
    'counts of likes': text(
        pick(0, 1, 2, 3, lambda row: str(int(row[1]) % 3)),
        header=['user', 'item', 'stars', 'time', 'likes'],
    ),
    'comments of C': '// from x\n' + text(ROWS),
    'TAB among blanks': ''.join(f'{u}\t{i} {r}  {t}\n' for u, i, r, t in ROWS),
    'gzip': gzip.compress(text(ROWS).encode()),
    # The names of the columns, words above values: several of a kind, one of which parses.
    'KuaiRec': text(
        pick(0, 1, lambda row: '9000', lambda row: '13 May', 3, 2),
        header=['user_id', 'video_id', 'play_duration', 'time', 'timestamp', 'watch_ratio'],
    ),
    'a better name whose values are none': text(
        pick(0, 1, lambda row: 'good', 2, lambda row: '8pm', 3),
        header=['user', 'item', 'rating', 'stars', 'timestamp', 'date'],
    ),
    'users beside sessions': text(
        [['s1', *row] for row in ROWS],
        header=['session_id', 'user_id', 'parent_asin', 'score', 'unix_time'],
    ),
}  # fmt: skip
LAYOUTS |= {
    f'{name}, separated by {separator!r}': text(rows, separator, header)
    for separator in SEPARATORS
    for name, rows, header in [
        ('plain', ROWS, None),
        ('header', ROWS, HEADER),
        ('exchanged, with a header', pick(1, 0, 3, 2), ['item', 'user', 'time', 'rating']),
        ('separators at the end', [[*row, ''] for row in ROWS], None),
        ('dates', pick(0, 1, 2, iso), None),
        ('dates with a zone', pick(0, 1, 2, lambda row: iso(row, '+00:00')), None),
    ]
}
LAYOUTS |= {
    f'{name}, separated by {separator!r}': text(rows, separator, header)
    for separator in SEPARATORS
    for name, rows, header in [
        ('decimal commas', pick(0, 1, comma, 3), None),
        ('decimal commas first', pick(comma, 1, 0, 3), ['rating', 'item', 'user', 'time']),
        ('dates and times', pick(0, 1, 2, lambda row: iso(row, '', ' ')), None),
    ]
    if (separator, name) != (' ', 'dates and times') and (separator != ',' or name[:3] == 'dat')
}


# Failed, layout by layout, on the reader before: 414 users for 40, products for users, times for
# items, a header as a row. The mutants that fail: blanks before commas, no decimal commas, the
# first alias whether or not its values parse, no byte order mark, the csv module's quotes off.
@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts_read_to_the_same_interactions(read, name):
    data = read(LAYOUTS[name])
    assert sorted(contents(data)) == EXPECTED
    assert (data.source.num_rows, data.source.num_users) == (len(ROWS), NUM_USERS)
    assert data.source.warnings == ()


@pytest.mark.parametrize('separator', SEPARATORS)
def test_fewer_columns(read, separator):
    ids = sorted((u, i) for u, i, *_ in ROWS)
    for rows in (pick(0, 1), pick(0, 1, 2), pick(0, 1, 3), pick(0, 1, iso)):
        data = read(text(rows, separator))
        assert sorted((u, i) for u, i, *_ in contents(data)) == ids
        assert ('rating' in data.source.layout.columns) == (rows == pick(0, 1, 2))
    # A last column of times is no rating, in whatever unit.
    data = read(text(pick(0, 1, lambda row: row[3] + '123'), separator))
    assert data.source.span[0].startswith('2014-05-1')


def test_the_newest_row_is_the_last_whatever_the_order_of_rows(read):
    newest_first = read(text(pick(0, 1, 3, rows=ROWS[::-1]), '\t'))
    assert sorted((u, i, t) for u, i, _, t in contents(newest_first)) == sorted(
        (u, i, t) for u, i, _, t in EXPECTED
    )


# Headers of two columns, and of names that nobody knows.
@pytest.mark.parametrize(
    'header', [['user_id', 'business_id'], ['userID', 'friendID'], ['uid', 'x'], ['what', 'asin']]
)
def test_headers_of_two_columns(read, header):
    data = read(text(pick(0, 1), header=header))
    assert (data.num_users, data.num_items, len(data.users)) == (NUM_USERS, NUM_ITEMS, len(ROWS))


# Failed on: rows of label 0 as interactions; the later row of a pair whatever its label.
@pytest.mark.parametrize('name', ['label', 'click', 'is_click', 'LABEL:float'])
def test_labels_of_zero_are_no_interactions(read, name):
    lines = '1 7 1 5', '1 7 0 6', '1 8 0 7', '2 9 1.0 8', '3 9 0 9'
    rows = [line.split() for line in lines]
    data = read(text(rows, header=['user_id', 'item_id', name, 'timestamp']))
    assert contents(data) == [('1', '7', 1, 5), ('2', '9', 1, 8)]
    assert data.user_ids == ('1', '2', '3')
    assert data.item_ids == ('7', '9')
    assert data.source.warnings == ('3 of 5 rows have no label above 0: they do not count',)
    named = read(text(rows), columns=('user', 'item', 'label', 'timestamp'))
    assert contents(named) == contents(data)
    data = read(text(rows), columns=('user', 'item', 'rating', 'timestamp'))
    assert len(data.users) == 4
    truths = 'user,item,click\n1,7,true\n1,8,False\n'
    assert read(truths).item_ids == ('7',)


def test_columns_and_header_are_what_is_said(read):
    exchanged = text(pick(1, 0, 3, 2))
    data = read(exchanged, columns=('item', 'user', 'timestamp', 'rating'))
    assert sorted(contents(data)) == EXPECTED
    assert data.source.layout.named_by == 'data.columns'
    data = read(text(pick(2, 1, 0, 2, 3)), columns=('_', 'item', 'user', 'rating', 'timestamp'))
    assert sorted(contents(data)) == EXPECTED
    # A header is told from rows without being asked, and whatever its names.
    for header in (['kunde', 'produkt', 'note', 'zeit'], HEADER):
        data = read(text(ROWS, header=header), columns=('user', 'item', 'rating', 'timestamp'))
        assert sorted(contents(data)) == EXPECTED
    assert read('a,b\nc,d\n', columns=('user', 'item'), header=True).user_ids == ('c',)
    assert read('user,item\nc,d\n', header=False).user_ids == ('c', 'user')
    # Columns behind the last that is named are not read.
    assert read('1,2,x,y,z\n', columns=('user', 'item')).item_ids == ('2',)


def test_ids_that_begin_like_comments(read):
    data = read(text(pick(lambda row: '#' + row[0], 1, 2)))
    assert (data.num_users, data.user_ids[0]) == (NUM_USERS, '#1')
    assert data.source.layout.num_comments == 0


REFUSED = {
    'time in the second column': (text(pick(0, 3, 1)), "column 2 .*'user', 'timestamp', 'item'"),
    'date in the second column': (
        text(pick(0, iso, 1, lambda row: '0')), r"times in column 2 .*'timestamp', 'item'\)"
    ),
    'time first': (text(pick(3, 0, 1)), r"column 1 .*'timestamp', 'user', 'item'"),
    'time before the rating': (text(pick(0, 1, 3, 2)), r"'timestamp', 'rating'\)"),
    'five columns': (text([[*row, 'x'] for row in ROWS]), r'found 5, with times in column 4'),
    'no items': (text(pick(0, 3)), 'A file needs a column of users and a column of items'),
    'compact dates': (
        text(pick(0, lambda row: f'201405{int(row[1]) % 28 + 1:02}', 1)), 'times in column 2'
    ),
    'places': (text(pick(0, 1, lambda row: '45.1', lambda row: '-73.98')), 'does not hold times'),
    'numbers of rows': (
        text([[str(index), *row[:2]] for index, row in enumerate(ROWS)]),
        r'distinct user ids in \d+ rows .*data\.columns',
    ),
    'ids that never come back': (
        text([[f'{index}', row[1]] for index, row in enumerate(ROWS)], header=['line', 'item_id']),
        'distinct user ids',
    ),
    'exchanged, of Amazon': (
        text(pick(lambda row: f'B0000000{row[1]:0>2}', lambda row: f'AUSER00000{row[0]}X', 2, 3)),
        r"look like those of items \('B0.*data\.columns=\('item', 'user', 'rating', 'timestamp'\)",
    ),
    'exchanged, by their words': (
        text(pick(lambda row: f'item_{row[1]}', lambda row: f'user_{row[0]}')), "'item', 'user'"
    ),
    'exchanged, by the users alone': (
        text(pick(1, lambda row: f'user{row[0]}')), 'column 2 look like those of users'
    ),
    'exchanged, by order': (text(pick(1, 0, 3)), r"rows go by column 2.*'item', 'user', 'times"),
    'exchanged, newest first': (text(pick(1, 0, 2, 3, rows=ROWS[::-1])), 'rows go by column 2'),
    'equal as numbers': (
        text([['01' if row[0] == '1' and row[1] > '2' else row[0], *row[1:]] for row in ROWS]),
        r"user id in one spelling, found '01' and '1'",
    ),
    'equal as floats': (
        text([[row[0], row[1] + '.0' * (row[0] > '2'), row[2]] for row in ROWS]),
        r"item id in one spelling, found '\d+' and '\d+.0'",
    ),
    'header of numbers': (text(ROWS, header=['0', '1', '2', '3']), r'data\.header'),
    'header of unknown names': (
        text(ROWS, header=['kunde', 'produkt', 'note', 'zeit']),
        r":1: .*'kunde, produkt, note, zeit', where no name of user and item .*data\.columns",
    ),
    'unknown names above text': (
        text(pick(lambda row: 'u' + row[0], lambda row: 'x' + row[1]), header=['kunde', 'ware']),
        r"'kunde, ware', where no name of user and item is known",
    ),
    'users without an id': (
        text([['s1', 'NA', row[1]] for row in ROWS], header=['session_id', 'user_id', 'item_id']),
        r":2: Expected an id as user in column 2, found 'NA'. Leave such lines out",
    ),
    'thousands': (text(pick(0, 1, lambda row: '1,234'), ';'), 'may be thousands or decimals'),
    'a word for a rating': (
        text(pick(0, 1, lambda row: 'buy')), r"rating in column 3, found 'buy'. .*data\.columns"
    ),
    'dates and numbers': (text(pick(0, 1, 2, iso)) + text(ROWS[:1]), 'Expected a date like'),
    'ratings for items': (text(pick(0, 2, 3)), r"Expected item ids, found the number '\d\.5'"),
    'numbers of rows for ratings': (
        text([[*row[:2], str(1000 + index)] for index, row in enumerate(ROWS)]),
        'distinct whole numbers in as many rows',
    ),
    'nanoseconds': (text(pick(0, 1, lambda row: row[3] + '0' * 9)), 'and more, as times are'),
    'a column that never changes': (text(pick(0, 1, 2, lambda row: '0')), 'found 0 in every row'),
    'no label above 0': ('user,item,label\n1,2,0\n', 'Expected a label above 0'),
    'dates of other kinds': (
        text(pick(0, 1, 2, lambda row: '05/13/2014')), 'Dates are read as 2014-05-13 or'
    ),
    'a quote that is not closed': (
        text(pick(0, 1, rows=ROWS[:5])) + '1,"80\n' + text(pick(0, 1, rows=ROWS[5:])),
        r'file.csv:6: Expected a quoted field to end',
    ),
    'names of rows of R': (
        text([[str(index), *row] for index, row in enumerate(ROWS)], header=HEADER),
        ':2: Expected 4 columns separated by .*found 5',
    ),
    'JSON array': (json.dumps([{'user': 1, 'item': 2}]), r'found a JSON array; .*jq'),
    'JSON over several lines': (json.dumps({'user': 1}, indent=1), ':1: Expected a JSON object a'),
    'Python instead of JSON': (str({'user': 1, 'item': 2}), ':1: Expected a JSON object a line'),
    'JSON without a key': (
        '{"user": 1, "item": 2}\n{"user": 1}\n', ":2: Expected an id as item in column 2, found ''"
    ),
    'JSON of unknown keys': ('{"a": 1, "b": 2}\n', "found 'a, b', where no name of user"),
    'parquet': (b'PAR1\0\0', 'found a parquet file; write it as CSV'),
    'UTF-16': (text(ROWS).encode('utf-16'), 'found UTF-16; .*iconv'),
    'UTF-16 without a mark': (text(ROWS).encode('utf-16-le'), 'a binary file, or UTF-16'),
    'zip': (b'PK\3\4\0', 'found a zip archive'),
    'pickle': (b'\x80\4\x95\0\0', 'found a binary file'),
    'a page': ('<!DOCTYPE html>\n', 'found HTML'),
    'Matrix Market': ('%%MatrixMarket matrix\n3 3 1\n1 1 1\n', 'Matrix Market'),
    'half a gzip file': (gzip.compress(text(ROWS).encode())[:40], 'Expected a whole gzip file'),
    'a pointer of Git LFS': ('version https://git-lfs.github.com/spec/v1\noid 1\n', 'Git LFS'),
    'PDF': ('%PDF-1.4\n1 0 obj\n', 'found a PDF file'),
    'bytes of no text': (bytes(range(1, 256)) * 3, 'found a binary file'),
    'JSON arrays a line': (''.join(f'[{u}, {i}]\n' for u, i, *_ in ROWS), 'jq -r @csv'),
    'JSON with lists': (
        '{"user": 1, "item": [2, 3]}\n', r"found '\[...\]'. Write a line for each interaction"
    ),
    'a line for each user': (
        ''.join(' '.join([u, *[i for v, i, *_ in ROWS if v == u]]) + '\n' for u in '123456789'),
        r'Expected a line for each interaction.*found 9, 10, 11 columns separated by blanks',
    ),
    'a line for each value': (
        ''.join(f'review/userId: {u}\nreview/score: {r}\n\n' for u, _, r, _ in ROWS),
        'Expected a line for each interaction',
    ),
    'places among the columns': (
        text(pick(0, iso, lambda row: f'30.{row[1]}', lambda row: '-97.8', 1), '\t'),
        r"such as data.columns=\('user', 'timestamp', '_', '_', 'item'\)",
    ),
    'tags for ratings': (
        text(pick(0, 1, lambda row: 'funny', 3), '::'),
        r"found 'funny'. .*data.columns=\('user', 'item', '_', 'timestamp'\)",
    ),
    'numbers of rows for users': (
        text([[str(index), *row[:2]] for index, row in enumerate(ROWS)]),
        r"data.columns=\('_', 'user', 'item'\)",
    ),
    'users as a spreadsheet rounds them': (
        text(pick(lambda row: f'1.2{row[0]}E+17', 1)), r"user ids, found the number '1.2\d+E\+17'"
    ),
    'ratings for users': (
        text(pick(lambda row: str(int(row[3]) % 3 + 1), 0, 1)),
        r"user ids, found only numbers of 1 to 3, as .*data.columns=\('_', 'user', 'item'\)",
    ),
    'ratings second': (
        text(pick(0, lambda row: str(int(row[3]) % 2), 1)),
        r"item ids, found only numbers of 0 to 1, as .*data.columns=\('user', '_', 'item'\)",
    ),
    'counts in the first row': (
        f'{NUM_USERS} 40 {len(ROWS)}\n' + text(pick(0, 1, 2), ' '),
        f'numbers of users, items and rows: {NUM_USERS}, 40, {len(ROWS)}. Remove that row',
    ),
    'rows without times': (
        text(pick(0, 1, 2, lambda row: row[3] if row[1] > '2' else '')),
        r"found ''. Dates .*data.columns=\('user', 'item', 'rating'\)",
    ),
    'comments alone': ('# a\n# b\n', 'found only comments'),
}  # fmt: skip


# Failed, one by one, on the reader before, which read most of them without a word.
@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_is_refused(read, name):
    content, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        read(content)
    assert 'file.csv' in str(error.value)


def test_what_is_named_is_not_refused(read):
    ids = [['1', f'x{index}'] for index in range(10)] + [['2', 'x10'], ['01', 'x11']]
    data = read(text(ids), columns=('user', 'item'))
    assert data.num_users == 3
    odd = ' '.join(data.source.warnings)
    assert 'found 12 distinct item ids in 12 rows' in odd
    assert "found '01' and '1'" in odd
    content, _ = REFUSED['exchanged, by order']
    assert read(content, columns=('user', 'item', 'timestamp')).num_users == NUM_ITEMS


# Failed before, when nothing was said of columns that `data.columns` or a header names.
def test_what_is_odd_in_named_columns_is_warned_of(read):
    exchanged = read(text(ROWS), columns=('user', 'item', 'timestamp', 'rating'))
    (warning,) = exchanged.source.warnings
    assert 'Expected ratings, found 140' in warning
    (warning,) = read(text(pick(0, 2, 1)), columns=('user', 'item', 'rating')).source.warnings
    assert "Expected item ids, found the number '" in warning
    ids = text(pick(lambda row: f'1.2{row[0]}E+17', 1), header=['user', 'item'])
    (warning,) = read(ids).source.warnings
    assert 'Expected user ids, found the number' in warning
    (warning,) = read(text(pick(0, 1)), header=True, columns=('user', 'item')).source.warnings
    assert "the header looks like a row: '1, 28'" in warning
    (warning,) = read(text(pick(0, 1), header=['user', 'item']), header=False).source.warnings
    assert "the first row looks like a header: 'user, item'" in warning


# Failed before: rows of label 0 were interactions without a word.
def test_a_label_beside_a_rating_is_warned_of(read):
    rows = pick(0, 1, 2, lambda row: str(int(row[1]) % 2))
    data = read(text(rows, header=['user', 'item', 'rating', 'is_click']))
    (warning,) = data.source.warnings
    assert "'is_click' is not read, as there is a rating" in warning
    assert len(data.users) == len(ROWS)
    assert read(text(rows), columns=('user', 'item', '_', 'label')).source.num_interactions < 200


def test_one_time_for_all_is_warned_of(read):
    (warning,) = read(text(pick(0, 1, 2, lambda row: '1400000000'))).source.warnings
    assert warning == (
        'every row has the time 1400000000, hence no interaction of a user is the last'
    )


# Failed before: a time of 0 was the first of its user without a word.
@pytest.mark.parametrize(('time', 'place'), [('0', 'first'), ('-1', 'first'), ('9' * 12, 'last')])
def test_times_that_are_none_are_warned_of(read, time, place):
    (warning,) = read(text([*ROWS, ['1', '77', '5', time]])).source.warnings
    assert warning == (
        f'1 of {len(ROWS) + 1} times are not of our days as the others are, such as {time}: they '
        f'count as the {place}'
    )


def test_names_that_are_numbers_are_names(read):
    rows = pick(0, lambda row: 'ABBA' if row[1] > '2' else '3.5', 2)
    assert read(text(rows)).source.warnings == ()


def test_suggestions_do_not_grow_with_the_columns(read):
    with pytest.raises(ValueError, match=r"data.columns=\('user', 'item'\)") as error:
        read(','.join(map(str, range(9999))))
    assert len(str(error.value)) < 600


def test_what_a_header_names_is_warned_of(read):
    rows = [[row[0], f'x{index}'] for index, row in enumerate(ROWS)]
    (warning,) = read(text(rows, header=['user', 'item'])).source.warnings
    assert f'found {len(ROWS)} distinct item ids in {len(ROWS)} rows (column 2)' in warning


def test_rows_by_item_without_times_are_warned_of(read):
    (warning,) = read(text(pick(1, 0, 2))).source.warnings
    assert (
        "rows go by column 2, as if it held the users. Set data.columns=('item', 'user'" in warning
    )
    assert read(text(pick(0, 1, 2))).source.warnings == ()


# Failed on messages with whole lines.
@pytest.mark.parametrize(
    'content',
    [
        '1,' + 'x' * 9999 + ',3,4,5,6\n',
        '1,2,' + 'x' * 9999 + '\n',
        '1,2\n' + 'x' * 9999 + '\n',
        '{"' + 'x' * 9999 + '\n',
        '{"' + 'x' * 9999 + '": 1}\n',
        'x' * 9999 + ',y\n1,2\n',
        '1,2\n1,"' + 'x' * 200_000 + '\n',
        '\0' * 9999,
    ],
)
def test_no_message_has_more_than_200_characters_of_a_line(read, content):
    with pytest.raises(ValueError, match=r'Expected') as error:
        read(content)
    assert 'x' * 201 not in str(error.value)
    assert len(str(error.value).replace(str(error.value).split(': ')[0], '')) < 700


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        (('user', 'itme'), r"Unknown data.columns='itme'. Did you mean 'item'"),
        (('user', 'rating'), "to name 'user' and 'item' once"),
        (('user', 'item', 'item'), "to name 'user' and 'item' once"),
        (('user', 'item', 'label', 'rating'), "at most one of 'rating' and 'label'"),
        (('user', 'item', '_', '_', 'rating'), r'Expected 5 columns, .*found 4'),
        ('user', 'to be names'),
    ],
)
def test_columns_that_cannot_be(read, columns, message):
    with pytest.raises(ValueError, match=message):
        read(text(ROWS), columns=columns)
