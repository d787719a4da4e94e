"""Which column of a file is what: by `data.columns`, by names of a header, or by position."""

import re
from collections.abc import Mapping, Sequence

from fedinv_jax import _validate
from fedinv_jax.data import values

NAMES = ('user', 'item', 'rating', 'label', 'timestamp', '_')
"""What a column may be called. A `label` is a rating whose zeros are no interactions; `_`: none."""

_ORDER = ('user', 'item', 'rating', 'timestamp')  # of columns without names
_MOST = 20  # columns in a message
# Names of users and items in order of preference, each followed by one of `_ENDINGS` or none.
_STEMS = {
    'user': (
        'user', 'u', 'reviewer', 'customer', 'client', 'member', 'visitor', 'person', 'account',
        'profile', 'listener', 'viewer', 'reader', 'buyer', 'shopper', 'consumer', 'subscriber',
        'player', 'student', 'learner', 'rater', 'worker', 'household', 'device', 'cookie', 'steam',
        'msno', 'cust', 'usr', 'session',
    ),
    'item': (
        'item', 'i', 'mid', 'pid', 'vid', 'bid', 'nid', 'parentasin', 'asin', 'product', 'goods',
        'movie', 'film', 'video', 'book', 'isbn', 'business', 'biz', 'artist', 'track', 'song',
        'music', 'album', 'venue', 'poi',
        'place', 'spot', 'location', 'restaurant', 'hotel', 'recipe', 'news', 'article', 'story',
        'document', 'doc', 'joke', 'anime', 'manga', 'game', 'app', 'show', 'program', 'content',
        'course', 'sku', 'merchandise', 'offer', 'listing', 'job', 'playlist', 'channel', 'podcast',
        'photo', 'pin', 'repo', 'paper', 'beer', 'wine', 'media', 'post', 'tweet', 'page', 'url',
        'stock', 'gmap', 'bookmark', 'question',
        'friend', 'group', 'ad', 'event', 'gid', 'title',
    ),
}  # fmt: skip
_ENDINGS = ('id', '', 'ids', 'no', 'nr', 'number', 'num', 'key', 'code', 'idx', 'index', 'uuid',
            'uri', 'hash', 'name', 'title')  # fmt: skip
_ALIASES = {
    'rating': (
        'rating', 'ratings', 'score', 'stars', 'star', 'overall', 'starrating', 'bookrating',
        'userrating', 'movierating', 'itemrating', 'reviewrating', 'reviewscore', 'ratingscore',
        'ratingvalue', 'reviewoverall', 'rate', 'grade', 'preference', 'weight', 'count', 'counts',
        'plays', 'playcount', 'listens', 'listencount', 'watchratio', 'frequency',
    ),
    'label': (
        'label', 'labels', 'click', 'clicks', 'clicked', 'isclick', 'isclicked', 'like', 'liked',
        'islike', 'purchase', 'purchased', 'ispurchase', 'buy', 'isbuy', 'conversion', 'converted',
        'feedback',
    ),
    'timestamp': (
        'timestamp', 'timestamps', 'ts', 'time', 'unixreviewtime', 'unixtime', 'unixtimestamp',
        'unix', 'epoch', 'timestampms', 'timems', 'datetime', 'date', 'reviewtime', 'reviewdate',
        'reviewtimestamp', 'eventtime', 'eventdate', 'eventtimestamp', 'createdat', 'created',
        'createtime', 'creationtime', 'ratingtime', 'ratingtimestamp', 'ratingdate', 'ratedat',
        'clicktime', 'checkintime', 'utctime', 'utctimestamp', 'localtime', 'interactiontime',
        'visittime', 'updatedat', 'listenedat', 'playedat', 'dateadded', 'purchasedate',
        'orderdate',
    ),
}  # fmt: skip
_RANKS: dict[str, dict[str, int]] = {
    **{
        kind: {
            stem + ending: len(_ENDINGS) * place + rank
            for place, stem in reversed(list(enumerate(stems)))
            for rank, ending in reversed(list(enumerate(_ENDINGS)))
        }
        for kind, stems in _STEMS.items()
    },
    **{kind: {name: rank for rank, name in enumerate(own)} for kind, own in _ALIASES.items()},
}


def check(columns: Sequence[str]) -> None:
    """Refuses what `data.columns` cannot be.

    Raises:
        ValueError: for an unknown name, one that is there twice, or a user or item that is missing.

    Example:
        >>> check(('item', 'user', '_', 'timestamp'))
    """
    if isinstance(columns, str):
        raise ValueError(f"Expected data.columns={columns!r} to be names, as in ('user', 'item').")
    for name in columns:
        _validate.lookup('data.columns', name, NAMES)
    named = [name for name in columns if name != '_']
    one_rating = not {'rating', 'label'} <= set(named)
    if len(set(named)) < len(named) or not {'user', 'item'} <= set(named) or not one_rating:
        raise ValueError(
            f"Expected data.columns={tuple(columns)} to name 'user' and 'item' once, at most one "
            "of 'rating' and 'label', and 'timestamp' at most once; '_' skips a column."
        )


def kinds(name: str) -> dict[str, int]:
    """What a name of a header may stand for, each with its rank: lower is surer.

    Upper case, blanks, hyphens, what is in brackets, the plural s of users and items and a RecBole
    type do not count; of a nested key, `a.b` or `a/b`, the last part alone may be known.

    Example:
        >>> list(kinds('User-ID')), list(kinds('review.business_id:token')), list(kinds('genre'))
        (['user'], ['item'], [])
    """
    plain = re.sub(r'[(\[].*?[)\]]', '', name.split(':')[0])
    for part in (plain, re.split('[./]', plain)[-1]):
        word = re.sub(r'[\W_]', '', part).lower()
        found = {kind: ranks[word] for kind, ranks in _RANKS.items() if word in ranks}
        single = word.removesuffix('s')
        found = found or {kind: _RANKS[kind][single] for kind in _STEMS if single in _RANKS[kind]}
        if found:
            return found
    return {}


def by_name(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns that a header's names tell, as far as they do.

    Of several names of one kind the best known counts whose fields are what they should be. Of two
    columns of which one is known, the other is the other.

    Args:
        names: of the header.
        rows: a few of the rows below.

    Returns:
        'user', 'item', 'rating' or 'label', 'timestamp' -> index of a column.

    Example:
        >>> by_name(['time', 'uid', 'movie', 'timestamp'], [['8pm', '1', '2', '30']])
        {'user': 1, 'item': 2, 'timestamp': 3}
    """
    ranked = [(rank, index, kind) for index, name in enumerate(names)
              for kind, rank in kinds(name).items()]  # fmt: skip
    found = {}
    for kind in _RANKS:
        own = [index for _, index, other in sorted(ranked) if other == kind]
        parsed = [index for index in own if _fits(kind, [row[index] for row in rows])]
        if own:
            found[kind] = (parsed or own)[0]
    if 'rating' in found:
        found.pop('label', None)
    if len(names) == 2 and len({'user', 'item'} & found.keys()) == 1:
        known = 'user' if 'user' in found else 'item'
        if len(found) == 1:
            found['item' if known == 'user' else 'user'] = 1 - found[known]
    return found


def by_position(where: str, rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns of rows without a header: user, item, then perhaps rating, perhaps timestamp.

    A last column of times is the timestamp.

    Args:
        where: file and line, for the message.
        rows: a few, of 2 to 4 columns.

    Returns:
        As `by_name`.

    Raises:
        ValueError: for another number of columns, or times elsewhere; it says what to set.

    Example:
        >>> by_position('x.csv:1', [['1', '80', '1400003125'], ['1', '49', '1400006236']])
        {'user': 0, 'item': 1, 'timestamp': 2}
    """
    width = len(rows[0])
    columns = list(zip(*rows, strict=True))
    times = [index for index in range(width) if values.are_times(columns[index])]
    if 2 <= width <= 4 and times in ([], [width - 1]) and (width > 2 or not times):
        named = ['user', 'item', *['rating'] * (width == 4), 'timestamp'] if times else _ORDER
        found = dict(zip(named, range(width), strict=False))
        whole = [values.number(field) for field in columns[-1]]
        if width < 4 or times or all(value is None or value == value // 1 for value in whole):
            return found
        problem = f'column 4, which does not hold times ({values.show(columns[3][0])})'
    else:
        places = [f'column {index + 1} ({values.show(columns[index][0])})' for index in times]
        problem = f'{width}' + f', with times in {", ".join(places)}' * bool(times)
    broken = [index for index in range(width) if any(map(values.is_broken, columns[index]))]
    no_ids = dict.fromkeys(broken if width > 4 else (), '_')
    raise ValueError(
        f'{where}: Expected 2 to 4 columns in the order user, item, rating, timestamp, or a header '
        f'that names them, found {problem}: {values.show(",".join(rows[0]))}. '
        f'{suggestion(width, no_ids | dict.fromkeys(times[:1], "timestamp"))}'
    )


def suggestion(width: int, known: Mapping[int, str] | None = None) -> str:
    """What to set where a file does not tell its columns.

    Args:
        width: number of columns.
        known: what some of them are, by index.

    Example:
        >>> suggestion(4, {0: '_'})
        "Say what the columns are, such as data.columns=('_', 'user', 'item') ('_' skips one)."
    """
    names = {index: name for index, name in (known or {}).items() if index < _MOST}
    free = [index for index in range(min(width, _MOST)) if index not in names]
    missing = [name for name in ('user', 'item') if name not in names.values()]
    if len(free) < len(missing):
        return (
            'A file needs a column of users and a column of items; if they are these, set '
            "data.columns=('user', 'item')."
        )
    if len(free) == 3 and free[:2] == [0, 1] and len(missing) == 2:
        missing.append('rating')
    names |= dict(zip(free, missing, strict=False))
    last = max(index for index, name in names.items() if name != '_')
    shown = tuple(names.get(index, '_') for index in range(last + 1))
    return f"Say what the columns are, such as data.columns={shown} ('_' skips one)."


def _fits(kind: str, fields: Sequence[str]) -> bool:
    """Whether fields are numbers, or times, where a column of that kind has to hold them."""
    if kind in ('user', 'item'):
        return True
    numbers = all(values.number(field) is not None for field in fields)
    if kind == 'timestamp':
        return numbers or all(values.seconds(field) is not None for field in fields)
    truths = all(field.lower() in ('true', 'false') for field in fields)
    return numbers or (kind == 'label' and truths)
