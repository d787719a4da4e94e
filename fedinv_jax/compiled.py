"""Compiled attacks, one per shape of block; they predict the time and memory of a run."""

import concurrent.futures
import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from fedinv_jax import experiment, plan, stats, tree
from fedinv_jax.types import Answer, Array, Transcript

_S = TypeVar('_S')
_T = TypeVar('_T')


class Compiled(NamedTuple):
    """A compiled attack on one shape of block.

    Attributes:
        function: `(transcripts, keys, num_iterations, count) -> answers` of the first `count`.
        seconds: predicted run time of a block.
        memory: bytes of arguments and temporaries.
        block: the block that it was tried on.
        answers: those of that block, where the attack was run to its end on it; else None.
    """

    function: Any
    seconds: float
    memory: int
    block: plan.Block
    answers: Answer | None


def shape(block: plan.Block) -> tuple:
    """What decides which compiled function a block needs, its seed and first round not among it."""
    case, setting = block.case, plan.alike(block.setting)
    padded = plan.group_of(case, block.users[0]).items.shape[1]
    catalogue = None if case.config.observation.batch_known else case.interactions.num_items
    share = case.share if setting.attack in experiment.BY_SHARE else None
    return setting, padded, block.lanes, catalogue, share


def axes(config: experiment.Config) -> Transcript:
    """`vmap` axes of a block's transcripts: one training run's parameters are not copied."""
    own = 0 if config.observation.batch_known else None
    return Transcript(
        shared={'items': own, 'scorer': None},
        seen=0,
        rounds=None,
        participated=0,
        items=own,
        slot=None,
        weights=own,
        log_odds=0,
        rows=0 if config.observation.cohort > 1 else None,
    )


def mesh() -> jax.sharding.Mesh:
    """The devices of this process, over which the lanes of a block are spread."""
    devices = jax.local_devices()
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ('victims',), auto, devices=devices)


def lanes(block: plan.Block) -> int:
    """Places of a block's call: as many on each device."""
    devices = jax.local_device_count()
    return -(-block.lanes // devices) * devices


def precision(block: plan.Block) -> contextlib.AbstractContextManager:
    """The scope of a block's arithmetic: whatever concerns it is computed within."""
    name = experiment.precision(block.case.config, block.setting.attack)
    return jax.enable_x64(name == 'float64')


def compile_(block: plan.Block, seen: Transcript, keys: Array) -> Any:
    """The compiled attack on a block, its lanes spread over `mesh`; devices do not communicate."""
    config = block.case.config
    attack = block.case.attacks[plan.alike(block.setting)].attack
    own = axes(config)

    def together(seen: Transcript, keys: Array, iterations: Array, count: Array) -> Answer:
        """Lanes in step: many small operations of the same kind."""
        del count
        return jax.vmap(attack, in_axes=(own, 0, None))(seen, keys, iterations)

    def in_turn(seen: Transcript, keys: Array, iterations: Array, count: Array) -> Answer:
        """One lane after the other, the padding not at all: few large factorisations."""

        def one(lane: Array) -> Answer:
            victim = jax.tree.map(
                lambda axis, leaf: leaf if axis is None else tree.take(leaf, lane),
                own, seen, is_leaf=lambda leaf: leaf is None,
            )  # fmt: skip
            return attack(victim, keys[lane], iterations)

        empty = jax.tree.map(
            lambda leaf: jnp.zeros((len(keys), *leaf.shape), leaf.dtype), jax.eval_shape(one, 0)
        )
        before = jax.lax.axis_index('victims') * len(keys)
        return jax.lax.fori_loop(
            0,
            jnp.clip(count - before, 0, len(keys)),
            lambda lane, all_: jax.tree.map(lambda x, new: x.at[lane].set(new), all_, one(lane)),
            empty,
        )

    spread, whole = jax.sharding.PartitionSpec('victims'), jax.sharding.PartitionSpec()
    specs = jax.tree.map(
        lambda axis: whole if axis is None else spread, own, is_leaf=lambda leaf: leaf is None
    )
    mapped = jax.jit(
        jax.shard_map(
            in_turn if alone(block) else together,
            mesh=mesh(),
            in_specs=(specs, spread, whole, whole),
            out_specs=spread,
            check_vma=False,
        )
    )
    return mapped.lower(seen, keys, config.attack.num_iterations, len(block.users)).compile()


def alone(block: plan.Block) -> bool:
    """Whether a victim's attack ends when that victim is done: no other has to wait for it."""
    return block.setting.attack in (*experiment.EXACT, *experiment.STOPPING)


def try_(function: Any, block: plan.Block, seen: Transcript, keys: Array) -> Compiled:
    """Tries what `compile_` gave: a few iterations, or to the end if it ends by itself."""
    iterations, count = block.case.config.attack.num_iterations, len(block.users)
    counted = experiment.iterates(block.setting.attack) and not alone(block)
    few = max(iterations // 50, 1) if counted else iterations
    start = time.perf_counter()
    answers = jax.block_until_ready(function(seen, keys, few, count))
    seconds = (time.perf_counter() - start) * iterations / few
    analysis = function.memory_analysis()
    memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    return Compiled(function, seconds, memory, block, answers if few == iterations else None)


def each(function: Callable[[_S], _T], arguments: Iterable[_S], workers: int) -> Iterator[_T]:
    """What a function gives for each argument, in their order, so many at a time."""
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, arguments)
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Those that this process may use: so many functions compile at a time."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(blocks: Iterable[plan.Block]) -> int:
    """How many blocks run at a time: exact attacks take a core each, lanes in step all of them.

    One, where a block is spread over several devices.
    """
    single = (*experiment.EXACT, *stats.GUESSERS)
    if jax.local_device_count() > 1:
        return 1
    return cores() if all(block.setting.attack in single for block in blocks) else 1


def run(
    compiled: Compiled, block: plan.Block, seen: Transcript, keys: Array
) -> tuple[Answer, float]:
    """The answers of a block and the seconds that they took; none is computed twice."""
    if compiled.block is block and compiled.answers is not None:
        return compiled.answers, compiled.seconds
    start = time.perf_counter()
    iterations = block.case.config.attack.num_iterations
    answers = jax.block_until_ready(compiled.function(seen, keys, iterations, len(block.users)))
    return answers, time.perf_counter() - start


def seconds(found: dict[tuple, Compiled], block: plan.Block) -> float:
    """Predicted run time of a block; that of the slowest of its setting where it is not compiled.

    A later seed may have shapes of its own.
    """
    own = shape(block)
    if own in found:
        return found[own].seconds
    same = [entry.seconds for key, entry in found.items() if key[0] == own[0]]
    return max(same or [entry.seconds for entry in found.values()])


def gigabytes(found: Iterable[Compiled]) -> float:
    """Predicted memory of the process: what it has held so far, and its largest function."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (resident + max(entry.memory for entry in found)) / 2**30
