"""What the tests of files share: the rows of one data set, to be written in many layouts."""

import datetime

import numpy as np


def make_rows():
    """User, item, rating, time as text, by user and time; 20 users, about 10 items of 40 each."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(1, 21):
        items = rng.choice(40, 8 + user % 5, replace=False) + 1
        times = np.sort(rng.integers(1_400_000_000, 1_401_000_000, len(items)))
        ratings = rng.integers(1, 11, len(items)) / 2
        rows += [
            [str(user), str(item), str(rating), str(time)]
            for item, rating, time in zip(items, ratings, times, strict=True)
        ]
    return rows


ROWS = make_rows()
NUM_USERS, NUM_ITEMS = 20, len({row[1] for row in ROWS})


def text(rows, separator=',', header=None, end='\n'):
    """Rows as the text of a file."""
    lines = [separator.join(row) for row in ([header] if header else []) + list(rows)]
    return ''.join(line + end for line in lines)


def pick(*columns, rows=ROWS):
    """Some columns of the rows, by index, or a function of the row."""
    return [[c(row) if callable(c) else row[c] for c in columns] for row in rows]


def iso(row, zone='Z', between='T'):
    """The row's time as a date."""
    time = datetime.datetime.fromtimestamp(int(row[3]), datetime.UTC)
    return time.strftime(f'%Y-%m-%d{between}%H:%M:%S{zone}')


def contents(data):
    """What was read, comparable: (user, item, rating, time) of every interaction."""
    return [
        (data.user_ids[user], data.item_ids[item], float(rating), int(time))
        for user, item, rating, time in zip(
            data.users, data.items, data.ratings, data.timestamps, strict=True
        )
    ]
