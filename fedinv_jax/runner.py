"""Runs a config's attack on its victims, block by block, and writes rows, summary and report."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import (
    build,
    compiled,
    experiment,
    figures,
    metrics,
    plan,
    progress,
    report,
    simulate,
    stats,
    threat,
    tree,
    workdir,
)
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.experiment import Config, Setting
from fedinv_jax.types import Answer, Array, Certificate, GroundTruth, PyTree, Transcript

Log = Callable[[str], None]

# Victims whose scores are kept in their rows, for a figure.
_EXAMPLES = 4
# Randomness by purpose: one stream each, folded into the run's root key.
_TRAINING, _ATTACK = 0, 1


def run(config: Config, folder: str, command: str, log: Log = print) -> dict[str, Any]:
    """Attacks the victims of a config; goes on where an earlier run in the folder stopped.

    Args:
        config: see `experiment.default_config`.
        folder: the work directory.
        command: the command line, for the report.
        log: prints a line.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ValueError: for a config that cannot run, or a folder of another run.
    """
    cases = plan.make_cases(config)
    hashes = [clients_lib.negatives_hash(clients_lib.negatives_of(c.clients)) for c in cases]
    data = {'negatives_sha256': hashes[0] if len(hashes) == 1 else hashes}
    threat_model = threat.describe(config, cases)
    path = workdir.open_(folder, config.to_dict(), data)
    log(threat_model)
    done = {plan.key(row) for row in workdir.read_rows(path)}
    blocks = plan.blocks(cases)
    pending = [block for block in blocks if not done.issuperset(plan.keys(block))]
    if done:
        log(f'{path}: {len(done)} rows are there; {len(blocks) - len(pending)} of {len(blocks)} '
            'blocks of victims are complete and skipped')  # fmt: skip
    for rows in attack(pending, log):
        workdir.append_rows(path, [row for row in rows if plan.key(row) not in done])
    return finish(config, blocks, path, threat_model, command, log)


def attack(blocks: Sequence[plan.Block], log: Log) -> Iterator[list[workdir.Row]]:
    """Seed by seed: trains, compiles what is new, and yields the rows of each block."""
    functions: dict[tuple, compiled.Compiled] = {}
    while blocks:
        case = blocks[0].case
        now = [block for block in blocks if block.case is case]
        blocks = blocks[len(now) :]
        yield from _attack_seed(now, blocks, functions, log)


def _attack_seed(
    blocks: Sequence[plan.Block],
    later: Sequence[plan.Block],
    functions: dict[tuple, compiled.Compiled],
    log: Log,
) -> Iterator[list[workdir.Row]]:
    """The rows of one seed's blocks; its training is in memory only meanwhile."""
    case, start = blocks[0].case, time.perf_counter()
    config = case.config
    recording = train(case)
    training = time.perf_counter() - start
    compile_all(recording, blocks, later, functions, training, log)
    weights = [compiled.seconds(functions, block) for block in blocks]
    with progress.bar(f'attacking, seed {config.seed}', config.run.progress) as update:
        for index, block in enumerate(blocks):
            with compiled.precision(block):
                seen, truths, keys = _arguments(recording, block)
                function = functions[compiled.shape(block)]
                answers, seconds = compiled.run(function, block, seen, keys)
                values = jax.device_get(_judge(answers, seen.seen, truths))
            yield [
                _row(block, user, tree.take((values, truths), lane), seconds / config.attack.block)
                for lane, user in enumerate(block.users)
            ]
            update(sum(weights[: index + 1]), sum(weights))


def compile_all(
    recording: simulate.Recording,
    blocks: Sequence[plan.Block],
    later: Sequence[plan.Block],
    functions: dict[tuple, compiled.Compiled],
    training: float,
    log: Log,
) -> None:
    """Adds the attacks of the blocks' shapes; trying each predicts the rest of the run.

    Args:
        recording: of the blocks' seed.
        blocks: of one seed.
        later: those of later seeds, whose time counts too.
        functions: by shape; grows.
        training: seconds that the training of a seed took.
        log: prints a line.
    """
    config, before, start = blocks[0].case.config, len(functions), time.perf_counter()
    with progress.bar('compiling', config.run.progress) as update:
        for index, block in enumerate(blocks):
            shape = compiled.shape(block)
            if shape not in functions:
                with compiled.precision(block):
                    seen, _, keys = _arguments(recording, block)
                    functions[shape] = compiled.compile_(block, seen, keys)
            update(index + 1, len(blocks))
    left = [*blocks, *later]
    seeds = len({block.case.config.seed for block in left})
    predicted = sum(compiled.seconds(functions, block) for block in left) + training * (seeds - 1)
    log(
        f'seed {config.seed}: compiled {len(functions) - before} functions in '
        f'{time.perf_counter() - start:.1f} s; predicted: {progress.duration(predicted)} for '
        f'{len(left)} blocks of up to {config.attack.block} victims'
        f'{f" of {seeds} seeds" if seeds > 1 else ""}, '
        f'{compiled.gigabytes(functions.values()):.1f} GiB'
    )
    if predicted > 3600:
        log(
            'warning: that is more than an hour; fewer victims (attack.num_victims) or iterations '
            '(attack.num_iterations) shorten it, and a stopped run goes on when started again'
        )


def train(case: plan.Case) -> simulate.Recording:
    """The training run that serves every setting of a seed, with progress.

    It keeps the rounds of all settings, done or not: victims take part in every observed round,
    so a run that went on after a stop would otherwise train differently.
    """
    config = case.config
    settings = experiment.settings(config)
    observed = {round_ for setting in settings for round_ in setting.rounds}
    between = {
        round_
        for setting in settings
        if setting.dynamics == 'unrolled'
        for round_ in range(setting.rounds[0], setting.rounds[-1])
    }
    key = jax.random.fold_in(jax.random.key(config.seed), _TRAINING)
    with (
        progress.bar('training', config.run.progress) as update,
        jax.enable_x64(config.client.precision == 'float64'),
    ):
        federation = build.make_federation(config, case.model, case.clients)
        return simulate.record(
            federation, key, case.victims, sorted(observed), sorted(between), update
        )


def transcript(
    case: plan.Case, recording: simulate.Recording, setting: Setting, user: int
) -> tuple[Transcript, GroundTruth]:
    """What the server holds of a victim in a setting, and the truth."""
    first, last = np.searchsorted(case.interactions.users, [user, user + 1])
    counts = case.counts.copy()
    counts[case.interactions.items[first:last]] -= 1
    others = case.num_users - 1
    seen, truth = simulate.transcript(
        recording,
        user,
        setting.rounds,
        setting.seen,
        every_round=setting.dynamics == 'unrolled',
        batch_known=case.config.observation.batch_known,
        log_odds=clients_lib.log_odds(counts, others),
    )
    if case.config.observation.batch_known and 'items' in seen.seen:
        # The channel's noise falls on padding too, which no client has.
        real = seen.weights[0] > 0
        rows = jax.tree.map(
            lambda leaf: np.where(real.reshape(-1, *(1,) * (leaf.ndim - 2)), leaf, 0),
            seen.seen['items'],
        )
        seen = dataclasses.replace(seen, seen={**seen.seen, 'items': rows})
    return seen, truth


def evaluate(answer: Answer, seen: PyTree, truth: GroundTruth) -> dict[str, Any]:
    """One victim's numbers; a failed attack counts as an answer that knows nothing."""
    ok = jnp.isfinite(answer.objective) & jnp.all(jnp.isfinite(answer.scores))
    counted = Answer(
        jnp.where(ok, answer.scores, 0.5),
        answer.labels & ok,
        jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.nan), answer.private),
        answer.objective,
    )
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(seen)]
    return {
        'metrics': metrics.evaluate(counted, truth),
        'drift': metrics.drift(tree.take(truth.private, 0), tree.take(truth.private, -1)),
        'objective': answer.objective,
        'scores': counted.scores,
        'certificate': answer.certificate,
        'ok': ok,
        'seen_ok': jnp.all(jnp.stack(finite)),
    }


_judge = jax.jit(jax.vmap(evaluate))


def finish(
    config: Config,
    blocks: Sequence[plan.Block],
    folder: pathlib.Path,
    threat_model: str,
    command: str,
    log: Log,
) -> dict[str, Any]:
    """Summary, figures and report from the rows in the folder."""
    keys = (key for block in blocks for key in plan.keys(block))
    order = {key: index for index, key in enumerate(keys)}
    rows = sorted(workdir.read_rows(folder), key=lambda row: order[plan.key(row)])
    summary = stats.summarize(rows)
    workdir.write(folder / 'summary.json', json.dumps(summary, indent=1, allow_nan=False) + '\n')
    (folder / 'figures').mkdir(exist_ok=True)
    drawn = figures.draw(rows, summary, folder / 'figures')
    text = report.markdown(str(config), summary, drawn, threat_model, command, workdir.versions())
    workdir.write(folder / 'report.md', text)
    log(report.table(summary, ('auc', 'f1', 'exact')))
    for line in report.certificates(summary):
        log(line)
    log(f'{folder}/report.md, summary.json, victims.jsonl, figures/')
    return summary


def _arguments(
    recording: simulate.Recording, block: plan.Block
) -> tuple[Transcript, GroundTruth, Array]:
    """A block's transcripts, truths and keys, padded to the block's size with its first victim."""
    case, config = block.case, block.case.config
    users = block.users + block.users[:1] * (config.attack.block - len(block.users))
    pairs = [transcript(case, recording, block.setting, user) for user in users]
    axes = compiled.axes(config.observation.batch_known)
    transcripts_ = jax.tree.map(
        lambda axis, *leaves: (
            leaves[0] if axis is None else jax.tree.map(lambda *x: np.stack(x), *leaves)
        ),
        axes,
        *[pair[0] for pair in pairs],
        is_leaf=lambda leaf: leaf is None,
    )
    truths = jax.tree.map(lambda *leaves: np.stack(leaves), *[pair[1] for pair in pairs])
    key = jax.random.fold_in(jax.random.key(config.seed), _ATTACK)
    keys = jax.vmap(lambda user: jax.random.fold_in(key, user))(jnp.asarray(users))
    # The solver's precision; uploads keep the values that the client sent.
    dtype = jnp.dtype(experiment.precision(config, block.setting.attack))
    return tree.cast_floats(transcripts_, dtype), tree.cast_floats(truths, dtype), keys


def _row(
    block: plan.Block, user: int, judged: tuple[dict, GroundTruth], seconds: float
) -> workdir.Row:
    """One victim's row; undefined numbers are null."""
    case, setting, _ = block
    values, truth = judged
    group = plan.group_of(case, user)
    place = int(np.flatnonzero(group.users == user)[0])
    reason = None if values['ok'] else (
        'the objective is not finite' if values['seen_ok'] else 'the upload is not finite'
    )  # fmt: skip
    row = {
        'schema': 1,
        **plan.columns(case, setting),
        'user': user,
        'user_id': case.interactions.user_ids[user],
        'num_positives': int(group.num_positives[place]),
        'num_negatives': int(group.num_negatives[place]),
        'status': 'ok' if reason is None else 'failed',
        'reason': reason,
        'drift': _number(values['drift']) if setting.num_gradients > 1 else None,
        'seconds': seconds,
        'objective': _number(values['objective']),
        **_certificate(case, setting, values['certificate'], values['ok'], truth),
        'metrics': {name: _number(value) for name, value in values['metrics'].items()},
    }
    if user in case.victims[:_EXAMPLES]:
        where = truth.weights > 0
        row['scores'] = [round(float(x), 4) for x in values['scores'][where]]
        row['truth'] = [int(x > 0) for x in truth.labels[where]]
    return row


def _certificate(
    case: plan.Case, setting: Setting, found: Certificate | None, ok: bool, truth: GroundTruth
) -> workdir.Row:
    """A row's columns of its certificate; null where the attack makes none."""
    if found is None:
        return dict.fromkeys(stats.CERTIFICATE)
    return {
        'certified': bool(found.certified and ok),
        'margin': _number(found.margin),
        'noise': _number(found.noise),
        'rank': int(found.rank) if np.isfinite(found.rank) else None,
        'determined': int(found.determined),
        'unknowns': int(np.sum(truth.weights > 0)) + plan.num_private(case, setting),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
