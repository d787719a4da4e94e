"""Runs a config's attack on its victims, block by block, and writes rows, summary and report."""

import json
import pathlib
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import (
    build,
    experiment,
    figures,
    metrics,
    plan,
    progress,
    report,
    simulate,
    stats,
    tree,
    workdir,
)
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.experiment import Config, Setting
from fedinv_jax.types import Answer, Array, GroundTruth, PyTree, Transcript

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
    case = plan.make_case(config)
    negatives = clients_lib.negatives_of(case.clients)
    data = {'negatives_sha256': clients_lib.negatives_hash(negatives)}
    threat_model = experiment.threat_model(config, case.model, case.clients, case.victims)
    path = workdir.open_(folder, config.to_dict(), data)
    log(threat_model)
    done = {plan.key(row) for row in workdir.read_rows(path)}
    blocks = plan.blocks(case)
    pending = [block for block in blocks if not plan.keys(case, block) <= done]
    if done:
        log(f'{path}: {len(done)} rows are there; {len(blocks) - len(pending)} of {len(blocks)} '
            'blocks of victims are complete and skipped')  # fmt: skip
    if pending:
        for rows in attack(case, pending, log):
            workdir.append_rows(path, [row for row in rows if plan.key(row) not in done])
    return finish(case, path, threat_model, command, log)


class Compiled(NamedTuple):
    """A compiled attack on one shape of block.

    Attributes:
        function: `(transcripts, keys, num_iterations) -> answers`.
        seconds: predicted run time of a block.
        memory: bytes of arguments and temporaries.
    """

    function: Callable[..., Answer]
    seconds: float
    memory: int


def attack(case: plan.Case, blocks: Sequence[plan.Block], log: Log) -> Iterator[list[workdir.Row]]:
    """Trains once, compiles once per shape, and yields the rows of each block."""
    config = case.config
    recording = train(case)
    judge = jax.jit(jax.vmap(evaluate))
    with jax.enable_x64(config.attack.precision == 'float64'):
        compiled = compile_all(case, recording, blocks, log)
        weights = [compiled[_shape(case, block)].seconds for block in blocks]
        with progress.bar('attacking', config.run.progress) as update:
            for index, block in enumerate(blocks):
                seen, truths, keys = _arguments(case, recording, block)
                start = time.perf_counter()
                function = compiled[_shape(case, block)].function
                answers = jax.block_until_ready(function(seen, keys, config.attack.num_iterations))
                seconds = (time.perf_counter() - start) / config.attack.block
                values = jax.device_get(judge(answers, seen.seen, truths))
                yield [
                    _row(case, block.setting, user, tree.take((values, truths), lane), seconds)
                    for lane, user in enumerate(block.users)
                ]
                update(sum(weights[: index + 1]), sum(weights))


def compile_all(
    case: plan.Case, recording: simulate.Recording, blocks: Sequence[plan.Block], log: Log
) -> dict[tuple, Compiled]:
    """One compiled attack per shape of block; a few iterations of each predict the run."""
    config, start = case.config, time.perf_counter()
    iterations = config.attack.num_iterations
    few = max(iterations // 50, 1)
    compiled: dict[tuple, Compiled] = {}
    with progress.bar('compiling', config.run.progress) as update:
        for index, block in enumerate(blocks):
            shape = _shape(case, block)
            if shape not in compiled:
                seen, _, keys = _arguments(case, recording, block)
                function = _compile(case, block.setting, seen, keys)
                begin = time.perf_counter()
                jax.block_until_ready(function(seen, keys, few))
                analysis = function.memory_analysis()
                compiled[shape] = Compiled(
                    function,
                    (time.perf_counter() - begin) * iterations / few,
                    analysis.temp_size_in_bytes + analysis.argument_size_in_bytes,
                )
            update(index + 1, len(blocks))
    predicted = sum(compiled[_shape(case, block)].seconds for block in blocks)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = (resident + max(entry.memory for entry in compiled.values())) / 2**30
    log(
        f'compiled {len(compiled)} functions in {time.perf_counter() - start:.1f} s; predicted: '
        f'{progress.duration(predicted)} for {len(blocks)} blocks of up to '
        f'{config.attack.block} victims, {memory:.1f} GiB'
    )
    if predicted > 3600:
        log(
            'warning: that is more than an hour; fewer victims (attack.num_victims) or iterations '
            '(attack.num_iterations) shorten it, and a stopped run goes on when started again'
        )
    return compiled


def train(case: plan.Case) -> simulate.Recording:
    """The one training run that serves every setting, with progress.

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
    return simulate.transcript(
        recording,
        user,
        setting.rounds,
        setting.seen,
        every_round=setting.dynamics == 'unrolled',
        batch_known=case.config.observation.batch_known,
        log_odds=clients_lib.log_odds(counts, others),
    )


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
        'ok': ok,
        'seen_ok': jnp.all(jnp.stack(finite)),
    }


def finish(
    case: plan.Case, folder: pathlib.Path, threat_model: str, command: str, log: Log
) -> dict[str, Any]:
    """Summary, figures and report from the rows in the folder."""
    order = {
        (plan.label(case, block.setting), user): index
        for index, (block, user) in enumerate(
            (block, user) for block in plan.blocks(case) for user in block.users
        )
    }
    rows = sorted(workdir.read_rows(folder), key=lambda row: order[plan.key(row)])
    summary = stats.summarize(rows)
    workdir.write(folder / 'summary.json', json.dumps(summary, indent=1, allow_nan=False) + '\n')
    (folder / 'figures').mkdir(exist_ok=True)
    drawn = figures.draw(rows, summary, folder / 'figures')
    text = report.markdown(
        str(case.config), summary, drawn, threat_model, command, workdir.versions()
    )
    workdir.write(folder / 'report.md', text)
    log(report.table(summary, ('auc', 'f1', 'exact')))
    log(f'{folder}/report.md, summary.json, victims.jsonl, figures/')
    return summary


def _compile(case: plan.Case, setting: Setting, seen: Transcript, keys: Array) -> Any:
    """The compiled attack on one block: `(transcripts, keys, num_iterations) -> answers`."""
    attack = build.make_attack(case.config, setting, case.model, case.share)
    axes = _axes(case.config.observation.batch_known)
    block = jax.jit(jax.vmap(attack, in_axes=(axes, 0, None)))
    return block.lower(seen, keys, case.config.attack.num_iterations).compile()


def _shape(case: plan.Case, block: plan.Block) -> tuple:
    """What decides which compiled function a block needs."""
    setting, user = block.setting, block.users[0]
    group = next(g for g, group in enumerate(case.clients) if user in group.users)
    interval = setting.interval if setting.dynamics == 'unrolled' else None
    return (setting._replace(first_round=0, interval=interval), group)


def _axes(batch_known: bool) -> Transcript:
    """`vmap` axes of a block's transcripts: one training run's parameters are not copied."""
    own = 0 if batch_known else None
    return Transcript(
        shared={'items': own, 'scorer': None},
        seen=0,
        rounds=None,
        participated=0,
        items=own,
        slot=None,
        weights=own,
        log_odds=0,
    )


def _arguments(
    case: plan.Case, recording: simulate.Recording, block: plan.Block
) -> tuple[Transcript, GroundTruth, Array]:
    """A block's transcripts, truths and keys, padded to the block's size with its first victim."""
    config = case.config
    users = block.users + block.users[:1] * (config.attack.block - len(block.users))
    pairs = [transcript(case, recording, block.setting, user) for user in users]
    axes = _axes(config.observation.batch_known)
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
    dtype = jnp.dtype(config.attack.precision)
    return tree.cast_floats(transcripts_, dtype), tree.cast_floats(truths, dtype), keys


def _row(
    case: plan.Case, setting: Setting, user: int, judged: tuple[dict, GroundTruth], seconds: float
) -> workdir.Row:
    """One victim's row; undefined numbers are null."""
    values, truth = judged
    group = next(group for group in case.clients if user in group.users)
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
        'metrics': {name: _number(value) for name, value in values['metrics'].items()},
    }
    if user in case.victims[:_EXAMPLES]:
        where = truth.weights > 0
        row['scores'] = [round(float(x), 4) for x in values['scores'][where]]
        row['truth'] = [int(x > 0) for x in truth.labels[where]]
    return row


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
