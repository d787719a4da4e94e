"""Runs a config's attacks on its victims, block by block, and writes rows, summary and report."""

import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax

from fedinv_jax import accounting, quality, simulate
from fedinv_jax.audit import (
    checks,
    compiling,
    defences,
    executor,
    files,
    knowledge,
    plan,
    progress,
    registry,
    reporting,
    run_record,
    scoring,
    threat_model,
    training,
    unmixing,
    workdir,
)
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.report import document
from fedinv_jax.report.rows import VictimRow

Log = Callable[[str], None]

_TRAINING = 0  # stream of the run's root key; `knowledge` and `unmixing` take others


def run(
    config: Config,
    folder: str,
    command: str,
    log: Log = print,
    shard: workdir.Shard = (0, 1),
    merge: bool = False,
    after: float = 0.0,
) -> document.Part | None:
    """Attacks the victims of a config; resumes where an earlier run in the folder stopped.

    Args:
        config: see `config.default_config`.
        folder: the work directory.
        command: the command line, for the report.
        log: prints a line.
        shard: `(index, count)`: this process attacks part `index` of `count` of the blocks. No row
            depends on it. Summary and report are written once all rows exist.
        merge: attack nothing, and merge the rows of all shards into one file.
        after: time of a study's later runs divided by the time of this run, for the prediction.

    Returns:
        The run's part of a report; None while rows of other shards are missing.

    Raises:
        ValueError: if the config cannot run, if the folder holds another run or another process
            writes to it, or if rows are missing when shards are merged.
    """
    if merge and not (pathlib.Path(folder) / 'config.json').exists():
        raise ValueError(f'Nothing to merge: there is no run in {folder}. Check --workdir.')
    checks.check(config)
    workdir.check_config(folder, config.to_dict())
    cases = plan.make_cases(config)
    for case in cases:  # what cannot be trained must not claim the folder
        training.make_federation(case.config, case.model, case.clients)
    hashes = [clients_lib.negatives_hash(clients_lib.negatives_of(c.clients)) for c in cases]
    data = {'negatives_sha256': hashes[0] if len(hashes) == 1 else hashes}
    described, blocks = threat_model.describe(config, cases), plan.blocks(cases)
    keys = [key for block in blocks for key in plan.keys(block)]
    path = workdir.open_or_create(folder, config.to_dict(), data)
    _check_rows(path, keys, blocks if merge else ())
    if not merge:
        log(described)
    with workdir.locked_rows(path, shard, log):
        files.clear_parts(path)
        run_record.write(path, run_record.Record(command, described, len(keys)))
        _attack_missing(path, blocks, shard, after, log)
    found = {workdir.key(row): row for row in workdir.read_rows(path)}
    rows = [found[key] for key in keys if key in found]
    if merge:
        workdir.merge(path, rows)
    if len(rows) == len(keys):
        return reporting.run(path, rows, log)
    log(f'{path}: {len(rows)} of {len(keys)} rows exist. When all shards have ended, run the same '
        'command with --merge instead of --shard to write the report (with --distributed, process '
        '0 writes it)')  # fmt: skip
    return None


def _check_rows(
    path: pathlib.Path, keys: Sequence[workdir.Key], needed: Sequence[plan.Block]
) -> None:
    """Refuses a folder's rows before anything there is changed.

    Raises:
        ValueError: for a row whose key is not in `keys`, or if rows of a needed block are missing.
    """
    found = {workdir.key(row) for row in workdir.read_rows(path)}
    if strangers := found - set(keys):
        raise ValueError(
            f'{path}: {len(strangers)} of {len(found)} rows belong to no setting of this config, '
            f'such as {min(strangers)}; another version wrote them. Choose another --workdir.'
        )
    missing = sum(not found.issuperset(plan.keys(block)) for block in needed)
    if missing:
        raise ValueError(
            f'{path}: {missing} of {len(needed)} blocks of victims are missing. Finish the '
            'shards that were stopped, then merge.'
        )


def _attack_missing(
    path: pathlib.Path,
    blocks: Sequence[plan.Block],
    shard: workdir.Shard,
    after: float,
    log: Log,
) -> None:
    """Attacks the shard's blocks whose rows are missing in the folder, and appends the rows."""
    done = {workdir.key(row) for row in workdir.read_rows(path)}
    of_config = workdir.config_hash(path)
    own = plan.part(blocks, shard)
    pending = [block for block in own if not done.issuperset(plan.keys(block))]
    if done:
        log(f'{path}: {len(done)} rows exist; {len(own) - len(pending)} of {len(own)} '
            'blocks of victims are complete and are skipped')  # fmt: skip
    for made in attack(pending, log, after * len(own) / max(len(pending), 1)):
        new = [row for row in made if workdir.key(row) not in done]
        for row in new:
            row['config_hash'] = of_config
        workdir.append_rows(path, new, shard)


def train(case: plan.Case) -> simulate.Recording:
    """Records the training run of a seed, with a progress bar.

    The recording keeps the rounds of all settings, whether their rows exist already or not. Victims
    take part in every observed round, so with fewer rounds a resumed run would train differently.
    """
    config = case.config
    settings = settings_lib.settings(config)
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
        federation = training.make_federation(config, case.model, case.clients)
        # A model that is evaluated is trained to the end.
        num_rounds = 0 if case.held is None else config.server.num_rounds
        return simulate.record(
            federation, key, case.victims, sorted(observed), sorted(between), num_rounds, update
        )


def attack(
    blocks: Sequence[plan.Block],
    log: Log,
    after: float = 0.0,
    record: Callable[[plan.Case], simulate.Recording] = train,
) -> Iterator[list[VictimRow]]:
    """Trains each seed, compiles its attacks, and yields the rows of each block.

    The rows lack `config_hash`, which `run` adds: it belongs to the config of a work directory.

    Args:
        blocks: see `plan.blocks`.
        log: prints a line.
        after: see `run`.
        record: returns the training run of a seed; it may have been recorded before.
    """
    functions: dict[tuple, executor.Compiled] = {}
    while blocks:
        case = blocks[0].case
        now = [block for block in blocks if block.case is case]
        blocks = blocks[len(now) :]
        yield from _attack_seed(now, blocks, functions, log, after, record)
        # A compiled function holds hundreds of memory maps; a Linux process may have 65,530.
        needed = {executor.shape(block) for block in blocks}
        functions = {shape: found for shape, found in functions.items() if shape in needed}


def _attack_seed(
    blocks: Sequence[plan.Block],
    later: Sequence[plan.Block],
    functions: dict[tuple, executor.Compiled],
    log: Log,
    after: float,
    record: Callable[[plan.Case], simulate.Recording],
) -> Iterator[list[VictimRow]]:
    """The rows of one seed's blocks; the recorded training is freed afterwards."""
    case, start = blocks[0].case, time.perf_counter()
    config = case.config
    recording = record(case)
    measured = recommends(case, recording)
    if measured:
        numbers = ', '.join(
            f'{name} null (no client fits it)' if value is None else f'{name} {value:.3f}'
            for name, value in measured.items()
        )
        log(f'seed {config.seed}: {config.server.num_rounds} rounds trained, {numbers}')
    number = sum(len(group.users) for group in case.clients)
    epsilon = accounting.against_server(defences.guarantees(config, number))
    separate = unmixing.separator(case, recording)
    separated = {  # once for all victims
        setting: separate(setting).seconds
        for setting in dict.fromkeys(block.setting for block in blocks)
        if registry.ATTACKS[setting.attack].reads_sums
    }
    timings = compiling.Timings(time.perf_counter() - start, after)
    of = partial(knowledge.arguments, recording, separate=separate)
    compiling.compile_all(of, blocks, later, functions, timings, log)
    weights = [executor.seconds(functions, block) for block in blocks]
    reserve = executor.memory_semaphore(config.run.memory_mib * 2**20)

    def rows(block: plan.Block) -> list[VictimRow]:
        found, made = functions[executor.shape(block)], []
        for part in executor.parts(block, found.slots):
            with executor.dtype_scope(part), reserve(found.memory):
                seen, keys = of(part, found.slots)
                answers, seconds = executor.run(found, part, seen, keys)
            truth = knowledge.truths(case, recording, part.setting, part.users)
            loss = float(recording.snapshots[part.setting.first_round].loss)
            each = seconds / len(part.users) + separated.get(part.setting, 0.0)
            shared = scoring.Run(loss, measured, epsilon, each)
            made += scoring.rows(part, answers, seen, truth, shared)
        return made

    with progress.bar(f'attacking, seed {config.seed}', config.run.progress) as update:
        for index, found in enumerate(executor.parallel_map(rows, blocks, executor.side_by_side())):
            yield found
            update(sum(weights[: index + 1]), sum(weights))


def recommends(case: plan.Case, recording: simulate.Recording) -> dict[str, float | None] | None:
    """Quality of the trained model's recommendations, see `quality`; None without held-out data."""
    if case.held is None:
        return None
    with jax.enable_x64(case.config.client.precision == 'float64'):
        end = recording.end
        measure = quality.rmse if training.is_explicit(case.config) else quality.evaluate
        return measure(case.model, end.shared, end.private, case.clients, case.held)
