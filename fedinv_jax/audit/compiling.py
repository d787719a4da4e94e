"""Compiles the attacks of a seed and runs each once, to predict the time and memory of a run."""

import time
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import NamedTuple

from fedinv_jax.audit import executor, plan, progress


class Timings(NamedTuple):
    """Measured times from which the rest of a run is predicted.

    Attributes:
        training: seconds that the training of one seed took.
        after: time of a study's later runs divided by the time of this run; 0 if there are none.
    """

    training: float
    after: float


def compile_all(
    arguments: executor.Arguments,
    blocks: Sequence[plan.Block],
    later: Sequence[plan.Block],
    functions: dict[tuple, executor.Compiled],
    timings: Timings,
    log: Callable[[str], None],
) -> None:
    """Adds a compiled attack to `functions` for each new shape of block, and logs a prediction.

    Args:
        arguments: gives the arguments of a call, see `executor.Arguments`.
        blocks: the blocks of one seed.
        later: the blocks of later seeds, included in the predicted time.
        functions: compiled attacks by shape; changed in place.
        timings: measured times.
        log: prints a line.
    """
    first, start = not functions, time.perf_counter()
    new: dict[tuple, plan.Block] = {}
    for block in blocks:
        if executor.shape(block) not in functions:
            new.setdefault(executor.shape(block), block)
    seed = blocks[0].case.config.seed
    if new:
        log(f'seed {seed}: compiling {_functions(new)} and running each once ...')
    functions |= dict(zip(new, _warmed_up(arguments, list(new.values())), strict=True))
    seconds = time.perf_counter() - start
    predicted = _predicted([*blocks, *later], functions, timings.training)
    log(f'seed {seed}: compiled {_functions(new)} in {seconds:.1f} s; {predicted.text}')
    total = predicted.seconds
    if timings.after and first:  # the later runs train and compile too
        total += timings.after * (seconds + timings.training + total)
        log(f'whole study, estimated from operation counts: about {progress.duration(total)} more')
    if total > 3600:
        log(
            'warning: this takes more than an hour. Fewer victims (attack.num_victims) or '
            'iterations (attack.num_iterations) make it shorter. A stopped run resumes when the '
            'same command is started again.'
        )


def _functions(new: Sized) -> str:
    return f'{len(new)} function{"s" * (len(new) != 1)}'


def _warmed_up(
    arguments: executor.Arguments, blocks: Sequence[plan.Block]
) -> list[executor.Compiled]:
    """The compiled attack of each block, after a first run on the block's first victims."""
    if not blocks:
        return []
    config, workers = blocks[0].case.config, executor.side_by_side()
    limit = config.run.memory_mib * 2**20
    reserve = executor.memory_semaphore(limit)

    def compile_(block: plan.Block) -> executor.Compiled:
        with executor.dtype_scope(block):
            return executor.compile_(block, arguments, limit, workers)

    def warm_up(pair: tuple[executor.Compiled, plan.Block]) -> executor.Compiled:
        with executor.dtype_scope(pair[1]), reserve(pair[0].memory):
            return executor.warm_up(*pair, arguments)

    def all_of(what: str, found: Iterable[executor.Compiled]) -> list[executor.Compiled]:
        done = []
        with progress.bar(what, config.run.progress) as update:
            update(0, len(blocks))
            for one in found:
                done.append(one)
                update(len(done), len(blocks))
        return done

    made = all_of('compiling', executor.parallel_map(compile_, blocks, executor.cores()))
    pairs = zip(made, blocks, strict=True)
    return all_of('first runs', executor.parallel_map(warm_up, pairs, workers))


class _Prediction(NamedTuple):
    """Predicted seconds, and a sentence with time and memory for the log."""

    seconds: float
    text: str


def _predicted(
    blocks: Sequence[plan.Block], functions: dict[tuple, executor.Compiled], training: float
) -> _Prediction:
    """Predicted time of the blocks and of the training of each further seed, and their memory."""
    config, workers = blocks[0].case.config, executor.side_by_side()
    seeds = len({block.case.config.seed for block in blocks})
    seconds = sum(executor.seconds(functions, block) for block in blocks) / workers
    seconds += training * (seeds - 1)
    memory = executor.gigabytes(functions.values(), workers, config.run.memory_mib * 2**20)
    text = (
        f'predicted: {progress.duration(seconds)} for {len(blocks)} blocks of up to '
        f'{config.attack.victims_per_call} victims{f", {seeds} seeds" if seeds > 1 else ""}; '
        f'{memory:.1f} GiB of memory'
    )
    return _Prediction(seconds, text)
