"""Transcript files from a config's simulation, and attacks on anyone's transcript file."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from fedinv_jax import build, experiment, observe, plan, runner, transcripts, tree, workdir
from fedinv_jax.experiment import Config


def save_transcript(config: Config, path: str, log: runner.Log = print) -> None:
    """Writes what the server saw of the config's first victim in its first setting.

    Args:
        config: see `experiment.default_config`.
        path: of the .npz file, in the format of `transcripts`.
        log: prints a line.
    """
    case = plan.make_case(config)
    reading = [setting for setting in experiment.settings(config) if setting.dynamics is not None]
    if not reading:
        raise ValueError(
            f'Expected attack.name={config.attack.name} to have one that reads uploads.'
        )
    setting = reading[0]
    user = case.victims[0]
    seen, _ = runner.transcript(case, runner.train(case), setting, user)
    client, known = config.client.to_dict(), config.attack.private_rate is None
    if not known:
        del client['private_rate']
    meta = {
        'model': {**config.model.to_dict(), 'num_items': case.interactions.num_items},
        'client': client,
        'known': {'batch': config.observation.batch_known, 'step_sizes': known},
    }
    transcripts.save(path, seen, meta)
    log(
        f'{path}: {setting.num_gradients} uploads of one client, rounds '
        f'{", ".join(map(str, setting.rounds))}, {"+".join(setting.seen)} seen'
    )


def attack_transcript(
    config: Config, path: str, folder: str, log: runner.Log = print
) -> dict[str, Any]:
    """Attacks a transcript file, without the simulator and without the truth.

    Model and client are those of the file's description, where it has them; the rest is the
    config's. Writes `answer.json` in the folder.

    Args:
        config: see `experiment.default_config`; its first hypothesis is used.
        path: of the .npz file.
        folder: the work directory.
        log: prints a line.

    Returns:
        `items`: candidate ids; `scores`; `interactions`: ids of those recovered as interactions;
        `private`: the embedding at the first observed round; `objective`.

    Raises:
        ValueError: if the file is malformed, lacks the rounds that `unrolled` needs, or no finite
            objective was met.
    """
    seen, meta = transcripts.load(path)
    config = config.copy_and_resolve_references()
    description = dict(meta.get('model', {}))
    num_items = description.pop('num_items', int(np.max(seen.items)) + 1)
    for section, values in (('model', description), ('client', meta.get('client', {}))):
        if unknown := sorted(set(values) - set(config[section])):
            raise ValueError(f'{path}: unknown fields of {section} in meta: {", ".join(unknown)}.')
        config[section].update(values)
    model = build.make_model(config.model, num_items)
    name, rounds = config.dynamics.name[0], [int(round_) for round_ in seen.rounds]
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
    hypothesis = build.make_dynamics(name, rounds, model)
    view = observe.share(*tree.names(seen.seen))
    attack = build.make_mgradinv(config, model, hypothesis, view)
    log(
        f'{path}: {len(rounds)} uploads, rounds {", ".join(map(str, rounds))}, '
        f'{len(seen.items)} candidates, {"+".join(seen.seen)} seen, '
        f'batch {"unknown" if seen.weights is None else "known"}'
    )
    key = jax.random.key(config.seed)
    answer = jax.device_get(jax.jit(attack)(seen, key, config.attack.num_iterations))
    if not np.isfinite(answer.objective):
        raise ValueError(f'{path}: the objective is not finite; check shared/ and seen/ for NaN.')
    result = {
        'items': seen.items.tolist(),
        'scores': [round(float(score), 4) for score in answer.scores],
        'interactions': seen.items[answer.labels].tolist(),
        'private': jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), answer.private),
        'objective': float(answer.objective),
    }
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    workdir.write(out / 'answer.json', json.dumps(result) + '\n')
    log(
        f'{len(result["interactions"])} of {len(seen.items)} candidates recovered as interactions, '
        f'objective {result["objective"]:.2e}; {out / "answer.json"}'
    )
    return result
