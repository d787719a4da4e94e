"""Single fields of a file: numbers, dates, text that is shown in a message."""

import datetime
import math
import re
from collections.abc import Sequence
from email import utils as email_utils

LONGEST = 200
"""Most characters of a line in a message."""

_DATE = re.compile(r'\d{4}([-/])\d\d\1\d\d($|[T ])', re.ASCII)
_DAY_FIRST = re.compile(r'(Mon|Tue|Wed|Thu|Fri|Sat|Sun),? .*\d\d:\d\d', re.ASCII)
_COMPACT_DATE = re.compile(r'(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])', re.ASCII)
_DECIMAL_COMMA = re.compile(r'[+-]?\d*,\d+', re.ASCII)
_BROKEN = re.compile(r'[+-]?\d*[.,]\d*([1-9]\d*|E[+]\d+)', re.ASCII)
_THOUSANDS = re.compile(r'[+-]?[1-9]\d{0,2}(,\d{3})+', re.ASCII)
# Seconds since 1970 of 1995-01-01 and 2040-01-01, and how many of a unit are a second.
_FIRST, _LAST = 788_918_400, 2_208_988_800
_UNITS = (1, 1_000, 1_000_000)


def show(text: str) -> str:
    """The text in quotes, cut to what a message may have of a line.

    Example:
        >>> show('a' * 1000)[-3:], len(show('a' * 1000))
        ('aa…', 200)
    """
    shown = repr(text)
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + '…'


def number(field: str) -> float | None:
    """The number in a field, as an int if it has only digits; None if it is no finite number.

    A decimal comma is one where it cannot part thousands.

    Example:
        >>> number('4.0'), number('7'), number('4,5'), number('4,500'), number('nan')
        (4.0, 7, 4.5, None, None)
    """
    if ',' in field and _DECIMAL_COMMA.fullmatch(field) and not _THOUSANDS.fullmatch(field):
        field = field.replace(',', '.')
    try:
        value = float(field)
    except ValueError:
        return None
    if not abs(value) < float('inf') or '_' in field:
        return None
    return int(field) if field.lstrip('+-').isdigit() else value


def is_decimal_comma(field: str) -> bool:
    """Whether a field is a number with a decimal comma.

    Example:
        >>> is_decimal_comma('4,5'), is_decimal_comma('1;4')
        (True, False)
    """
    return bool(_DECIMAL_COMMA.fullmatch(field))


def is_thousands(field: str) -> bool:
    """Whether commas in a number may part thousands.

    Example:
        >>> is_thousands('4,500'), is_thousands('4,5')
        (True, False)
    """
    return bool(_THOUSANDS.fullmatch(field))


def is_broken(field: str) -> bool:
    """Whether a field is a number that no id is: one with a fraction, or rounded by a spreadsheet.

    Example:
        >>> is_broken('4.5'), is_broken('1.23E+12'), is_broken('4.0'), is_broken('4')
        (True, True, False, False)
    """
    return bool(_BROKEN.fullmatch(field))


def seconds(field: str) -> int | None:
    """Seconds since 1970 of a date; None if the field is none.

    Dates are those of ISO 8601, with or without time, and those of mails, which begin with a day of
    the week. A date without a zone is taken for UTC; fractions are cut.

    Example:
        >>> seconds('2014-05-13T17:45:25.125Z'), seconds('2014-05-13'), seconds('1400003125')
        (1400003125, 1399939200, None)
        >>> seconds('Tue May 13 17:45:25 +0000 2014'), seconds('13/05/2014')
        (1400003125, None)
    """
    if _DAY_FIRST.match(field):
        parts = email_utils.parsedate_tz(field)
        return parts and email_utils.mktime_tz((*parts[:9], parts[9] or 0))
    if not _DATE.match(field):
        return None
    try:
        found = datetime.datetime.fromisoformat(
            field.replace('/', '-').removesuffix('UTC').rstrip()
        )
    except ValueError:
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return int(found.timestamp() // 1)


def unit(number: float) -> int | None:
    """How many of a time's units are a second: 1, 1000 or a million; None: no time of our days.

    Example:
        >>> unit(1400003125), unit(1400003125000), unit(80)
        (1, 1000, None)
    """
    return next((each for each in _UNITS if _FIRST <= number / each <= _LAST), None)


def days(number: float) -> tuple[float, float]:
    """First and last time of our days in the unit of a time; no bounds if it is none of them.

    Example:
        >>> days(1400003125000), days(80)
        ((788918400000, 2208988800000), (-inf, inf))
    """
    per_second = unit(number)
    if per_second is None:
        return -math.inf, math.inf
    return _FIRST * per_second, _LAST * per_second


def are_times(fields: Sequence[str]) -> bool:
    """Whether all of some fields are dates, or seconds, milli- or microseconds since 1970.

    Only what lies between 1995 and 2040 counts: other numbers may be ids.

    Example:
        >>> are_times(['1400003125', '1400006236.5']), are_times(['20200705']), are_times(['80'])
        (True, True, False)
    """
    if not fields:
        return False
    if all(seconds(field) is not None for field in fields):
        return True
    if all(map(_COMPACT_DATE.fullmatch, fields)):
        return True
    numbers = [number(field) for field in fields]
    units = {None if value is None else unit(value) for value in numbers}
    return len(units) == 1 and None not in units


def show_time(time: int) -> str:
    """A time for people: a date in UTC if it is one of our days, else the number.

    Example:
        >>> show_time(1400003125), show_time(30)
        ('2014-05-13 17:45:25', '30')
    """
    per_second = unit(time)
    if per_second is None:
        return str(time)
    found = datetime.datetime.fromtimestamp(time // per_second, datetime.UTC)
    return found.strftime('%Y-%m-%d %H:%M:%S')
