"""What an attacker believes of the clients, where that is not the truth."""

import ast
from typing import Any

from fedinv_jax import _validate
from fedinv_jax.audit.config import Config

SECTIONS = ('client', 'observation', 'data')
"""Sections of the config that describe the clients."""


def believed(config: Config) -> Config:
    """The config as the attacker believes it: with the values of `attack.believes`.

    Attacks are made for this config, and the clients train by the true one.

    Raises:
        ValueError: for an entry that is not `section.field=value`, a field that does not exist, or
            a value of another type.

    Example:
        >>> config = Config({'client': {'num_epochs': 5}, 'attack': {'believes': ()}})
        >>> config.attack.believes = ('client.num_epochs=1',)
        >>> believed(config).client.num_epochs, config.client.num_epochs
        (1, 5)
    """
    copy = config.copy_and_resolve_references()
    copy.attack.believes = ()
    for entry in config.attack.believes:
        field, value = parse(entry)
        *sections, name = field.split('.')
        section: Any = copy
        for each in sections:
            section = _known(section, each, field)[each]
        try:
            _known(section, name, field)[name] = value
        except TypeError as error:
            raise ValueError(f'{field}={value!r} is not possible. {error}') from error
    return copy


def _known(section: Any, name: str, field: str) -> Config:
    """The section itself, if it has something called `name`, of the field `field`."""
    names = section if isinstance(section, Config) else ()
    if name not in names:
        raise ValueError(f'The config has no field {field!r}.{_validate.hint(name, names)}')
    return section


def parse(entry: str) -> tuple[str, Any]:
    """The field and the value of an entry; a value that is no Python literal is a name.

    Raises:
        ValueError: for another form, or a section that does not describe the clients.

    Example:
        >>> parse('client.private_learning_rate=0.2'), parse('client.loss=squared_error')[1]
        (('client.private_learning_rate', 0.2), 'squared_error')
    """
    field, equals, text = map(str.strip, str(entry).partition('='))
    if not equals or field.split('.')[0] not in SECTIONS or '.' not in field:
        raise ValueError(
            f"Expected {entry!r} to be like 'client.num_epochs=1', a field of "
            f'{", ".join(SECTIONS)}.'
        )
    try:
        return field, ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return field, text
