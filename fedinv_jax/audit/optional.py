"""Flags of config fields that may be None: `--config.observation.clip=None` switches one off."""

import re
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser


class _Parser(flags.ArgumentParser):
    """Reads `None`, and everything else as another parser does."""

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self._parser = parser

    def parse(self, argument: Any) -> Any:
        """The value of an argument; a field's own value stays as it is."""
        return None if argument in ('None', 'none') else self._parser.parse(argument)

    def flag_type(self) -> str:
        """What the flag takes, for `--help`."""
        return f'{self._parser.flag_type()} or None'


_PARSERS: dict[type, flags.ArgumentParser] = {
    bool: flags.BooleanParser(),
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    str: flags.ArgumentParser(),
    tuple: tuple_parser.TupleParser(),
}
for _kind, _parser in _PARSERS.items():
    config_flags.register_flag_parser(parser=_Parser(_parser))(_kind | None)


def flag_type(kind: type) -> Any:
    """The type under which `--config.x=None` is read too, of a field of this one.

    Example:
        >>> flag_type(int), flag_type(bool), flag_type(dict)
        (int | None, bool | None, <class 'dict'>)
    """
    return kind | None if kind in _PARSERS else kind


_KINDS = {
    'Non-boolean argument': 'True or False',
    'invalid literal for int': 'an integer',
    'could not convert string to float': 'a number',
}


def plain(error: str) -> str:
    """What absl says of a flag of the wrong type, in plain words; other errors as they are.

    Example:
        >>> plain("flag --config.seed=x: invalid literal for int() with base 10: 'x'")
        'Expected --config.seed=x to be an integer.'
    """
    found = re.match(rf'flag (--[^=]*=.*?): .*?({"|".join(_KINDS)})', error)
    return f'Expected {found[1]} to be {_KINDS[found[2]]}.' if found else error
