"""Transcript files from a config's simulation, and attacks on anyone's transcript file."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from fedinv_jax import transcripts, tree
from fedinv_jax.audit import (
    attackers,
    beliefs,
    described,
    files,
    knowledge,
    misfit,
    plan,
    registry,
    runner,
    scoring,
    training,
)
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config
from fedinv_jax.types import Answer, Transcript


def save_transcript(config: Config, path: str, log: runner.Log = print) -> None:
    """Writes what the server saw of the config's first victim, with the most gradients (T).

    Args:
        config: see `config.default_config`.
        path: of the .npz file, in the format of `transcripts`.
        log: prints a line.
    """
    _check_labels(config)
    case = plan.make_case(config_lib.single_seeds(config)[0])
    setting = max(settings_lib.reading(config), key=lambda each: each.num_gradients)
    if registry.ATTACKS[setting.attack].reads_sums:
        raise ValueError(
            '--save_transcript needs an attack on the uploads of one client; '
            f'{setting.attack} reads sums of many.'
        )
    seen = knowledge.transcript(case, runner.train(case), setting, case.victims[0])
    transcripts.save(path, seen, _description(config, case.interactions.num_items))
    log(
        f'{path}: {setting.num_gradients} uploads of one client, rounds '
        f'{", ".join(map(str, setting.rounds))}, {"+".join(setting.seen)} seen'
    )


def _description(config: Config, num_items: int) -> dict[str, Any]:
    """What a transcript file says of the client that it was taken from."""
    config = beliefs.believed(config)
    usual = config_lib.default_config()
    return {
        'model': {**config.model.to_dict(), 'num_items': num_items},
        'client': config.client.to_dict(),
        'observation': {
            name: value
            for name, value in config.observation.items()
            if name == 'noise'
            or (name not in ('seen', 'batch_known') and value != usual.observation[name])
        },
        'known': {'batch': config.observation.batch_known},
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
        `private`: the embedding at the first observed round, or None; `objective`; where the
        attack makes a certificate, `certified` and `margin` as well. `fits`: whether the uploads
        are what the file says of the client, None if unknown; where they are not, `would_fit` says
        what would, None where nothing that was tried does.

    Raises:
        ValueError: if the file is malformed, lacks the rounds that `unrolled` needs, or no finite
            objective was met.
    """
    _check_labels(config)
    seen, target = _read(config, path)
    config = target.config
    choice = registry.ATTACKS[target.attack].make(target)
    dtype = settings_lib.dtype(config, target.attack)
    log(
        f'{path}: {_summary(target, seen)}, attacked by {target.attack} ({choice.solver}, '
        f'{dtype}); {optax.tree.size(seen.seen)} numbers seen : '
        f'{described.num_unknowns(target, seen)} unknown'
    )
    if choice.why:
        log(f'{target.attack}: {choice.why}')
    with jax.enable_x64(dtype == 'float64'):
        seen = tree.cast_floats(seen, np.dtype(dtype))
        solve = misfit.solver(target, choice)
        answer = solve(seen)
        if not np.isfinite(answer.objective):
            raise ValueError(
                f'{path}: no answer of {target.attack} has a finite objective. Look for huge '
                "numbers in shared/ and seen/, or set attack.dtype='float64'."
            )
        result = _result(seen, answer)
        # A system that can absorb any upload fits whatever is changed.
        if answer.fits is not None and answer.fits < 1:
            tried = _is_overdetermined(target, seen)
            change = misfit.explanation(target, seen, solve) if tried else None
            result |= {'fits': False} if change else {}
            result['would_fit'] = change
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    files.write(out / 'answer.json', json.dumps(result) + '\n')
    log(
        f'{len(result["interactions"])} of {len(seen.items)} candidates taken for interactions, '
        f'objective {result["objective"]:.2e}; {out / "answer.json"}'
    )
    log(f'{path}: {_verdict(result)}')
    return result


def _check_labels(config: Config) -> None:
    """Refuses explicit ratings: a file does not describe their scale."""
    if training.is_explicit(config):
        raise ValueError(
            'Transcript files describe clients with binary labels: they need '
            "data.labels='implicit'."
        )


def _verdict(result: Mapping[str, Any]) -> str:
    """Whether the uploads fit, and what would fit, in words."""
    if result['fits'] is None:
        return 'whether the uploads fit what the file says of the client cannot be told'
    if result['fits']:
        return 'the uploads fit what the file says of the client'
    change = result['would_fit']
    advice = (
        f'what would fit: {change}'
        if change
        else 'no single change that was tried fits (sign, factor, layout of kernels, L2 term, '
        'momentum, precision, loss, sent weights); minibatches and local epochs are described in '
        'client (local_sgd, num_epochs, batch_size)'
    )
    return (
        'the uploads do NOT fit what the file says of the client, and the answer is not to be '
        f'relied on; {advice}'
    )


def _is_overdetermined(target: attackers.Target, seen: Transcript) -> bool:
    return optax.tree.size(seen.seen) > described.num_unknowns(target, seen)


def _read(config: Config, path: str) -> tuple[Transcript, attackers.Target]:
    """A file's transcript, and what an attack on it is made for.

    Raises:
        ValueError: with the path, for what no attack can be made for.
    """
    seen, meta = transcripts.load(path)
    try:
        target, seen = described.target(config, seen, meta)
    except (TypeError, ValueError) as error:
        whose = '' if 'model' in meta else " (meta describes no model: this is about the config's)"
        raise ValueError(f'{path}: {error}{whose}') from error
    return seen, target


def _summary(target: attackers.Target, seen: Transcript) -> str:
    """What a file holds and what is assumed of it, in words."""
    return (
        f'{len(target.rounds)} uploads, rounds {", ".join(map(str, target.rounds))}, '
        f'{len(seen.items)} candidates, {"+".join(seen.seen)} seen, '
        f'batch {"unknown" if seen.weights is None else "known"}, step size '
        f'{target.config.client.private_learning_rate:g}, hypothesis {target.dynamics}'
    )


def _result(seen: Transcript, answer: Answer) -> dict[str, Any]:
    """An answer as `answer.json` has it; no private state where it is not finite."""
    private = jax.tree.map(np.asarray, answer.private)
    known = all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(private))
    result = {
        'items': seen.items.tolist(),
        'scores': [round(float(score), 4) for score in answer.scores],
        'interactions': seen.items[answer.labels].tolist(),
        'private': jax.tree.map(np.ndarray.tolist, private) if known else None,
        'objective': float(answer.objective),
    }
    result['fits'] = scoring.fits_of(answer.fits)
    if answer.step_sizes is not None:
        result['step_sizes'] = {
            name: float(np.mean(size)) for name, size in answer.step_sizes.items()
        }
    if answer.certificate is not None:
        result['certified'] = bool(answer.certificate.certified)
        result['locally_unique'] = bool(answer.certificate.locally_unique)
        result['margin'] = float(answer.certificate.margin)
    return result
