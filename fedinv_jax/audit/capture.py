"""Transcript files from a config's simulation, and attacks on anyone's transcript file."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from fedinv_jax import transcripts, tree
from fedinv_jax.audit import attackers, checks, files, plan, registry, runner, training
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config
from fedinv_jax.audit.settings import Setting
from fedinv_jax.types import Answer, Transcript


def save_transcript(config: Config, path: str, log: runner.Log = print) -> None:
    """Writes what the server saw of the config's first victim, with the most gradients (T).

    Args:
        config: see `config.default_config`.
        path: of the .npz file, in the format of `transcripts`.
        log: prints a line.
    """
    case = plan.make_case(config_lib.single_seeds(config)[0])
    setting = max(settings_lib.reading(config), key=lambda each: each.num_gradients)
    seen = runner.transcript(case, runner.train(case), setting, case.victims[0])
    transcripts.save(path, seen, _description(config, case.interactions.num_items))
    log(
        f'{path}: {setting.num_gradients} uploads of one client, rounds '
        f'{", ".join(map(str, setting.rounds))}, {"+".join(setting.seen)} seen'
    )


def _description(config: Config, num_items: int) -> dict[str, Any]:
    """What a transcript file says of the client that it was taken from."""
    client = config.client.to_dict()
    known = config.attack.private_learning_rate is None and config.attack.learning_rate is None
    if not known:
        del client['private_learning_rate'], client['optimizer']
    usual = config_lib.default_config()
    return {
        'model': {**config.model.to_dict(), 'num_items': num_items},
        'client': client,
        'observation': {
            name: value
            for name, value in config.observation.items()
            if name == 'noise'
            or (name not in ('seen', 'batch_known') and value != usual.observation[name])
        },
        'known': {'batch': config.observation.batch_known, 'step_sizes': known},
    }


def attack_transcript(
    config: Config, path: str, folder: str, log: runner.Log = print
) -> dict[str, Any]:
    """Attacks a transcript file, without the simulator and without the truth.

    Model, client and noise are those of the file's description, where it has them. Of the config,
    `seed`, the first attack that reads uploads, the first hypothesis and the solver's fields of
    `attack` are used: what was seen, of which rounds and which batch is the file's. Writes
    `answer.json` in the folder.

    Args:
        config: see `config.default_config`.
        path: of the .npz file.
        folder: the work directory.
        log: prints a line.

    Returns:
        `items`: candidate ids; `scores`; `interactions`: ids of those recovered as interactions;
        `private`: the embedding at the first observed round; `objective`; where the attack makes
        a certificate, `certified` and `margin` as well.

    Raises:
        ValueError: if the file is malformed, lacks the rounds that `unrolled` needs, or no finite
            objective was met.
    """
    seen, meta = transcripts.load(path)
    config, num_items = _described(config, path, seen, meta)
    setting = settings_lib.reading(config)[0]
    seen = _observed(path, seen, unrolled=setting.dynamics == 'unrolled')
    target = _target(config, setting, seen, num_items)
    choice = registry.ATTACKS[setting.attack].make(target)
    dtype = settings_lib.dtype(config, setting.attack)
    log(
        f'{path}: {_summary(target, seen)}, attacked by {setting.attack} ({choice.solver}, '
        f'{dtype}); {_counts(target, seen)}'
    )
    if choice.why:
        log(f'{setting.attack}: {choice.why}')
    key = jax.random.key(config.seed)
    with jax.enable_x64(dtype == 'float64'):
        seen = tree.cast_floats(seen, np.dtype(dtype))
        answer = jax.device_get(jax.jit(choice.attack)(seen, key, config.attack.num_iterations))
    if not np.isfinite(answer.objective):
        raise ValueError(f'{path}: the objective is not finite; check shared/ and seen/ for NaN.')
    result = _result(seen, answer)
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    files.write(out / 'answer.json', json.dumps(result) + '\n')
    log(
        f'{len(result["interactions"])} of {len(seen.items)} candidates taken for interactions, '
        f'objective {result["objective"]:.2e}; {out / "answer.json"}'
    )
    return result


def _described(
    config: Config, path: str, seen: Transcript, meta: Mapping[str, Any]
) -> tuple[Config, int]:
    """The config with what a file says of its client, and the number of items."""
    config = config.copy_and_resolve_references()
    model = dict(meta.get('model', {}))
    num_items = model.pop('num_items', int(np.max(seen.items)) + 1)
    described = {name: meta.get(name, {}) for name in ('client', 'observation')}
    for section, values in {'model': model, **described}.items():
        try:
            config[section].update(values)
        except (KeyError, TypeError) as error:
            raise ValueError(f'{path}: meta, section {section}: {error}') from error
    config.observation.seen = ('+'.join(tree.names(seen.seen)),)
    config.observation.batch_known = seen.weights is not None
    checks.check(config)
    return config, num_items


def _observed(path: str, seen: Transcript, unrolled: bool) -> Transcript:
    """The transcript with the rounds that a hypothesis needs: all in between where it unrolls."""
    at = np.asarray(seen.rounds) - int(seen.rounds[0])
    kept = len(seen.participated)
    if unrolled and kept <= at[-1]:
        raise ValueError(f'{path}: unrolled needs the parameters of every round in between.')
    if unrolled or kept == len(at):
        return seen
    fields = ('shared', 'participated', 'weights', 'slot')
    return dataclasses.replace(
        seen, **{name: tree.take(getattr(seen, name), at) for name in fields}
    )


def _target(config: Config, setting: Setting, seen: Transcript, num_items: int) -> attackers.Target:
    """What the attack is made for: the rounds are the file's, the share of positives public."""
    model = training.make_model(config.model, num_items)
    return attackers.Target(
        config,
        setting.attack,
        setting.seen,
        setting.adaptive,
        setting.dynamics,
        tuple(int(round_) for round_ in seen.rounds),
        model,
        1 / (1 + config.data.negatives_per_positive),
        functools.partial(attackers.probe, config, model),
    )


def _summary(target: attackers.Target, seen: Transcript) -> str:
    """What a file holds and what is assumed of it, in words."""
    return (
        f'{len(target.rounds)} uploads, rounds {", ".join(map(str, target.rounds))}, '
        f'{len(seen.items)} candidates, {"+".join(seen.seen)} seen, '
        f'batch {"unknown" if seen.weights is None else "known"}, step size '
        f'{target.config.client.private_learning_rate:g}, hypothesis {target.dynamics}'
    )


def _counts(target: attackers.Target, seen: Transcript) -> str:
    """How many numbers were seen, and how many are unknown."""
    init_private = attackers.make_init_private(target.config, target.model)
    hypothesis = attackers.make_dynamics(str(target.dynamics), target.rounds, init_private)
    labels = len(seen.items) * (2 if seen.weights is None else 1)
    unknown = labels + optax.tree.size(hypothesis.init(jax.random.key(0)))
    return f'{optax.tree.size(seen.seen)} numbers seen : {unknown} unknown'


def _result(seen: Transcript, answer: Answer) -> dict[str, Any]:
    """An answer as `answer.json` has it."""
    result = {
        'items': seen.items.tolist(),
        'scores': [round(float(score), 4) for score in answer.scores],
        'interactions': seen.items[answer.labels].tolist(),
        'private': jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), answer.private),
        'objective': float(answer.objective),
    }
    if answer.certificate is not None:
        result['certified'] = bool(answer.certificate.certified)
        result['margin'] = float(answer.certificate.margin)
    return result
