"""Transcript files from a config's simulation, and attacks on anyone's transcript file."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from fedinv_jax import transcripts, tree
from fedinv_jax.audit import attackers, checks, plan, runner, training, workdir
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit.config import Config


def save_transcript(config: Config, path: str, log: runner.Log = print) -> None:
    """Writes what the server saw of the config's first victim, with the most gradients (T).

    Args:
        config: see `config.default_config`.
        path: of the .npz file, in the format of `transcripts`.
        log: prints a line.
    """
    case = plan.make_case(config_lib.single_seeds(config)[0])
    setting = max(_reading(config), key=lambda each: each.num_gradients)
    user = case.victims[0]
    seen = runner.transcript(case, runner.train(case), setting, user)
    client = config.client.to_dict()
    known = config.attack.private_rate is None and config.attack.learning_rate is None
    if not known:
        del client['private_rate'], client['optimizer']
    usual = config_lib.default_config()
    meta = {
        'model': {**config.model.to_dict(), 'num_items': case.interactions.num_items},
        'client': client,
        'observation': {
            name: value
            for name, value in config.observation.items()
            if name == 'noise'
            or (name not in ('seen', 'batch_known') and value != usual.observation[name])
        },
        'known': {'batch': config.observation.batch_known, 'step_sizes': known},
    }
    transcripts.save(path, seen, meta)
    log(
        f'{path}: {setting.num_gradients} uploads of one client, rounds '
        f'{", ".join(map(str, setting.rounds))}, {"+".join(setting.seen)} seen'
    )


def _reading(config: Config) -> list[config_lib.Setting]:
    """The settings of attacks that read uploads, at least one."""
    reading = [setting for setting in config_lib.settings(config) if setting.dynamics is not None]
    if not reading:
        raise ValueError(
            f'Expected attack.name={config.attack.name} to have one that reads uploads.'
        )
    return reading


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
    config = config.copy_and_resolve_references()
    description = dict(meta.get('model', {}))
    num_items = description.pop('num_items', int(np.max(seen.items)) + 1)
    described = {name: meta.get(name, {}) for name in ('client', 'observation')}
    for section, values in {'model': description, **described}.items():
        try:
            config[section].update(values)
        except (KeyError, TypeError) as error:
            raise ValueError(f'{path}: meta, section {section}: {error}') from error
    config.observation.seen = ('+'.join(tree.names(seen.seen)),)
    config.observation.batch_known = seen.weights is not None
    checks.check(config)
    model = training.make_model(config.model, num_items)
    setting = _reading(config)[0]._replace(num_gradients=len(seen.rounds))
    name, rounds = setting.dynamics, [int(round_) for round_ in seen.rounds]
    if name == 'unrolled' and len(seen.participated) <= rounds[-1] - rounds[0]:
        raise ValueError(f'{path}: unrolled needs the parameters of every round in between.')
    if name != 'unrolled' and len(seen.participated) > len(rounds):
        at = seen.rounds - rounds[0]
        seen = dataclasses.replace(
            seen,
            **{
                field: tree.take(getattr(seen, field), at)
                for field in ('shared', 'participated', 'weights', 'slot')
            },
        )
    hypothesis = attackers.make_dynamics(
        str(name), rounds, attackers.make_init_private(config, model)
    )
    view = attackers.make_observation(config, setting.seen, setting.adaptive)
    probe = functools.partial(attackers.probe, config, model)
    if setting.attack == 'mgradinv':  # of rounds at any distance from each other
        choice = attackers.make_mgradinv(config, setting, model, hypothesis, view, probe)
    else:
        choice = attackers.make_exact(config, setting, probe)
    precision = config_lib.precision(config, setting.attack)
    numbers = optax.tree.size(seen.seen)
    labels = len(seen.items) * (2 if seen.weights is None else 1)
    unknown = labels + optax.tree.size(hypothesis.init(jax.random.key(0)))
    log(
        f'{path}: {len(rounds)} uploads, rounds {", ".join(map(str, rounds))}, '
        f'{len(seen.items)} candidates, {"+".join(seen.seen)} seen, '
        f'batch {"unknown" if seen.weights is None else "known"}, step size '
        f'{config.client.private_rate:g}, hypothesis {name}, {choice.solver}, {precision}; '
        f'{numbers} numbers seen : {unknown} unknown'
    )
    if choice.why:
        log(f'{setting.attack}: {choice.why}')
    key = jax.random.key(config.seed)
    with jax.enable_x64(precision == 'float64'):
        seen = tree.cast_floats(seen, np.dtype(precision))
        answer = jax.device_get(jax.jit(choice.attack)(seen, key, config.attack.num_iterations))
    if not np.isfinite(answer.objective):
        raise ValueError(f'{path}: the objective is not finite; check shared/ and seen/ for NaN.')
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
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    workdir.write(out / 'answer.json', json.dumps(result) + '\n')
    log(
        f'{len(result["interactions"])} of {len(seen.items)} candidates recovered as interactions, '
        f'objective {result["objective"]:.2e}; {out / "answer.json"}'
    )
    return result
