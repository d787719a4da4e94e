"""What a file or a capture says of a client -> what an attack on its uploads is made for."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from fedinv_jax import _validate, tree
from fedinv_jax.audit import (
    attackers,
    beliefs,
    checks,
    layout,
    misfit,
    precision,
    training,
)
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config
from fedinv_jax.audit.settings import Setting
from fedinv_jax.types import Model, Transcript

SECTIONS = ('model', 'client', 'observation')
"""Sections of the config of which a description may say more."""


def target(
    config: Config,
    seen: Transcript,
    meta: Mapping[str, Any],
    make_model: Callable[[int], Model] | None = None,
) -> tuple[attackers.Target, Transcript]:
    """What the config's first attack on a transcript is made for, and the transcript that it reads.

    Args:
        config: see `config.default_config`.
        seen: the transcript.
        meta: fields of the config's `SECTIONS` that replace its own.
        make_model: `make_model(K) -> Model` with K candidates; None: that of section 'model'.

    Raises:
        TypeError, ValueError: for what no attack can be made for.
    """
    config = beliefs.believed(_described(config, seen, meta))
    if make_model is not None:
        model = make_model(len(seen.items))
    else:
        model = training.make_model(config.model, len(seen.items), _features(config, seen))
    layout.check(seen, model)
    training.make_client_update(config, model)  # refuses an optimiser's arguments
    setting = settings_lib.reading(config)[0]
    seen = _observed(seen, unrolled=setting.dynamics == 'unrolled')
    return _target(config, setting, seen, model), seen


def _features(config: Config, seen: Transcript) -> np.ndarray | None:
    """Features of a file's items, of which the model needs the number only: it has the others."""
    leaf = seen.shared['items'].get('features')
    if config.model.item_features is None or leaf is None:
        return None
    return np.ones(np.shape(leaf)[1:], np.float32)


def _described(config: Config, seen: Transcript, meta: Mapping[str, Any]) -> Config:
    """The config with what a file says of its client.

    Ids are names: the attack's catalogue is the candidates, whatever their ids.
    """
    config = configured(config, meta)
    if 'items' in seen.seen and seen.weights is None:
        raise ValueError(
            'seen/items shows which items are in the batch: expected weights (S, B), found none.'
        )
    config.observation.seen = ('+'.join(tree.names(seen.seen)),)
    config.observation.batch_known = seen.weights is not None
    checks.check(config)
    return config


def configured(config: Config, meta: Mapping[str, Any]) -> Config:
    """A copy of the config with the fields of the sections of a description.

    Raises:
        ValueError: for a field that a section lacks, or a value of another type.
    """
    config = config.copy_and_resolve_references()
    for name in meta.keys() - {'format', 'version', 'known', *SECTIONS}:  # other keys are free
        if near := _validate.hint(name, SECTIONS):
            raise ValueError(f'meta has {name!r}, which is no section.{near} Else rename it.')
    for section in SECTIONS:
        values = meta.get(section, {})
        try:
            if not isinstance(values, Mapping):
                raise TypeError(f'expected an object of fields, found {values!r:.40}.')
            values = dict(values)
            if section == 'model' and type(values.pop('num_items', 1)) is not int:
                raise TypeError(f'expected num_items to be an integer, found {meta[section]}.')
            _check_types(config_lib.default_config()[section], values)
            with config.unlocked():  # an optimiser's own arguments
                config[section].update(values)
        except (KeyError, TypeError, ValueError) as error:
            words = config_lib.refusal(error)
            raise ValueError(f'meta, section {section}: {words}') from error
    return config


def _check_types(section: Config, values: Mapping[str, Any], free: bool = False) -> None:
    """Refuses fields that the section lacks, and values of another type than its own.

    Args:
        section: of the default config, which has the types.
        values: of a file.
        free: whether the section, an optimiser's, takes fields that it lacks.
    """
    for name, value in values.items():
        if free and name not in section:
            continue
        usual = section[name]
        if isinstance(usual, Config) and isinstance(value, Mapping):
            _check_types(usual, value, free=name.endswith('optimizer'))
        elif not _is_like(value, usual, section.get_type(name)):
            usual = usual.to_dict() if isinstance(usual, Config) else usual
            like = f'like {usual!r}' if usual is not None else f'of type {section.get_type(name)}'
            raise TypeError(f'expected {name} {like}, found {value!r:.40}.')


def _is_like(value: Any, usual: Any, kind: Any) -> bool:
    """Whether a value of JSON may replace one of the config; a list is a tuple there.

    `kind` is the field's type, of which None may be a part.
    """
    if isinstance(usual, tuple):
        kinds = {type(each) for each in usual}
        return isinstance(value, list | tuple) and {type(each) for each in value} <= kinds
    kinds = set(typing.get_args(kind)) or {kind}
    return type(value) in kinds or (float in kinds and type(value) is int)


def _observed(seen: Transcript, unrolled: bool) -> Transcript:
    """The transcript with the rounds that a hypothesis needs: all in between where it unrolls."""
    at = np.asarray(seen.rounds) - int(seen.rounds[0])
    kept = len(seen.participated)
    if unrolled and kept <= at[-1]:
        raise ValueError(
            'unrolled needs the parameters of every round in between: keep shared/ of all of them, '
            "or set dynamics.name='free'."
        )
    if unrolled or kept == len(at):
        return seen
    fields = ('shared', 'participated', 'weights', 'slot')
    return dataclasses.replace(
        seen, **{name: tree.take(getattr(seen, name), at) for name in fields}
    )


def _target(config: Config, setting: Setting, seen: Transcript, model: Model) -> attackers.Target:
    """What the attack is made for: the rounds are the file's, the share of positives public."""
    return attackers.Target(
        config,
        setting.attack,
        setting.seen,
        setting.adaptive,
        setting.dynamics,
        tuple(int(round_) for round_ in seen.rounds),
        model,
        1 / (1 + config.data.negatives_per_positive),
        misfit.probe(config, model, precision.declared(seen.seen)),
    )


def num_unknowns(target: attackers.Target, seen: Transcript) -> int:
    """How many numbers are unknown."""
    init_private = attackers.make_init_private(target.config, target.model)
    hypothesis = attackers.make_dynamics(str(target.dynamics), target.rounds, init_private)
    labels = len(seen.items) * (2 if seen.weights is None else 1)
    return labels + optax.tree.size(hypothesis.init(jax.random.key(0)))
