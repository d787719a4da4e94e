"""Compiled attacks, one per shape of block; they predict the time and memory of a run."""

import concurrent.futures
import contextlib
import math
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from fedinv_jax import compilation, simulate, tree
from fedinv_jax.attack import batching
from fedinv_jax.audit import plan, registry, settings
from fedinv_jax.types import Answer, Array, Transcript

_S = TypeVar('_S')
_T = TypeVar('_T')


# Two threads would take twice the time for it: one begins to compile meanwhile.
_tracing = threading.Lock()

_ENTRIES = 2**10  # of batches and steps that a CPU attacks in step: what they make fits its caches

# `(victims, slots) -> transcripts, keys`, of the first victims, padded to so many.
Arguments = Callable[[plan.Block, int], tuple[Transcript, Array]]


class Compiled(NamedTuple):
    """A compiled attack on one shape of block.

    Attributes:
        function: `(transcripts, keys, num_iterations, count) -> answers` of the first `count`.
        slots: victims of a call: of a block, as many as `run.memory_mib` allows at a time.
        memory: bytes of arguments and temporaries of a call, on a device.
        seconds: predicted run time of a call.
        warm_up_block: the part of a block that it was tried on.
        answers: those of that part, where the attack was run to its end on it; else None.
    """

    function: Any
    slots: int
    memory: int
    seconds: float = math.nan
    warm_up_block: plan.Block | None = None
    answers: Answer | None = None


def shape(block: plan.Block) -> tuple:
    """What decides which compiled function a block needs, its seed and first round not among it."""
    case, setting = block.case, plan.attack_setting(block.setting)
    padded = plan.group_of(case, block.users[0]).items.shape[1]
    catalogue = None if case.config.observation.batch_known else case.interactions.num_items
    share = case.share if registry.ATTACKS[setting.attack].knows_share else None
    return setting, padded, block.size, catalogue, share


def parallel_victims(most: int | None, slots: int, entries: int) -> int:
    """Victims that a device attacks in step.

    Args:
        most: `run.parallel_victims`; None: as many as fit the caches of a CPU, all of a call
            elsewhere.
        slots: victims of the call on this device.
        entries: of a victim's batch, times the steps.

    Example:
        >>> parallel_victims(4, slots=16, entries=100), parallel_victims(4, slots=2, entries=100)
        (4, 2)
    """
    if most is None and jax.default_backend() == 'cpu':
        most = _ENTRIES // entries
    return max(min(slots if most is None else most, slots), 1)


def dtype_scope(block: plan.Block) -> contextlib.AbstractContextManager:
    """The scope of a block's arithmetic: whatever concerns it is computed within."""
    name = settings.dtype(block.case.config, block.setting.attack)
    return jax.enable_x64(name == 'float64')


def options(attack: str) -> dict[str, int | str] | None:
    """How XLA compiles an attack: on a CPU most of an exact one's time is spent in libraries.

    It compiles in half the time then and runs as fast; sums in float64 need no tree.
    """
    if jax.default_backend() != 'cpu' or registry.ATTACKS[attack].family != 'exact':
        return None
    return {**compilation.options(), 'xla_disable_hlo_passes': 'tree_reduction_rewriter'}


def compile_(block: plan.Block, arguments: Arguments, limit: float, workers: int = 1) -> Compiled:
    """The compiled attack on a block, its victims spread over devices that do not communicate.

    A call takes as many victims as fit into a worker's share of the memory, or one victim.

    Args:
        block: any of its shape.
        arguments: what it is called with; of one victim here, for the shapes.
        limit: most bytes of arguments and temporaries of all workers, on a device.
        workers: how many blocks run at a time.

    Raises:
        ValueError: if those of one victim are more.
    """
    devices = jax.local_device_count()
    seen, keys = arguments(block._replace(users=block.users[:1]), 1)
    own = simulate.axes(seen)
    slots = devices * -(-block.size // devices)
    candidates, iterations = seen.log_odds.shape[1], block.case.config.attack.num_iterations
    entries = candidates * block.setting.num_gradients
    own_lanes = parallel_victims(block.case.config.run.parallel_victims, slots // devices, entries)
    while True:
        repeat = partial(tree.take_along, axes=(own, 0), index=np.zeros(slots, int))
        shapes = jax.eval_shape(repeat, (seen, keys))
        with _tracing:
            lowered = _mapped(block, own, own_lanes).lower(*shapes, iterations, len(block.users))
        function = lowered.compile(options(block.setting.attack))
        analysis = function.memory_analysis()
        memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
        if memory <= (limit if slots == devices else limit / workers):
            return Compiled(function, slots, memory)
        if slots == devices:
            raise ValueError(
                f'{block.setting.attack} on one victim of {candidates} candidates needs '
                f'{memory / 2**20:.0f} MiB, of {limit / 2**20:.0f} that run.memory_mib allows. '
                'Raise it, let exact attacks form smaller matrices '
                '(attack.max_dense_candidates), or leave out clients with many '
                'interactions (data.max_positives).'
            )
        less = max(memory * workers / limit, 2.0)
        slots = devices * max(int(slots / less / devices), 1)
        own_lanes = max(min(int(own_lanes / less), slots // devices), 1)


def _mapped(block: plan.Block, own: Transcript, parallel_victims: int) -> Any:
    """The attack on the places of a call, by device."""
    choice = block.case.attacks[plan.attack_setting(block.setting)]

    def part(seen: Transcript, keys: Array, iterations: Array, count: Array) -> Answer:
        """The victims of one device."""
        count = count - jax.lax.axis_index('victims') * len(keys)
        if choice.batched is not None:
            return batching.stream(
                choice.batched, seen, own, keys, iterations, count, parallel_victims
            )
        # One after the other: few large factorisations, or a search with an end of its own.
        return tree.map_first(
            lambda place: choice.attack(tree.take_along(seen, own, place), keys[place], iterations),
            len(keys),
            count,
        )

    return over_devices(part, own)


def over_devices(part: Callable[..., Any], own: Transcript) -> Any:
    """`part(seen, keys, iterations, count)`, compiled, each device with its own of the victims.

    Args:
        part: of the victims of one device; its answers have an axis of them in front.
        own: axes of the transcripts: what has none is the same for all.

    Returns:
        The same of the victims `[V]` of all devices, whose number must divide V; `iterations` and
        `count` reach each device as they are.
    """
    shard_rows, whole = jax.sharding.PartitionSpec('victims'), jax.sharding.PartitionSpec()
    specs = jax.tree.map(
        lambda axis: whole if axis is None else shard_rows, own, is_leaf=lambda leaf: leaf is None
    )
    return jax.jit(
        jax.shard_map(
            part,
            mesh=tree.device_mesh('victims'),
            in_specs=(specs, shard_rows, whole, whole),
            out_specs=shard_rows,
            check_vma=False,
        )
    )


def warm_up(made: Compiled, block: plan.Block, arguments: Arguments) -> Compiled:
    """Tries what `compile_` gave: a few iterations, or to the end if it ends by itself."""
    iterations, part = block.case.config.attack.num_iterations, parts(block, made.slots)[0]
    spec = registry.ATTACKS[block.setting.attack]
    counted = spec.iterates and not spec.ends_by_itself
    few = max(iterations // 50, 1) if counted else iterations
    seen, keys = arguments(part, made.slots)
    start = time.perf_counter()
    answers = jax.block_until_ready(made.function(seen, keys, few, len(part.users)))
    seconds = (time.perf_counter() - start) * iterations / few
    return made._replace(
        seconds=seconds, warm_up_block=part, answers=answers if few == iterations else None
    )


def parts(block: plan.Block, slots: int) -> list[plan.Block]:
    """The victims of a block call by call."""
    users = block.users
    return [
        block._replace(users=users[start : start + slots]) for start in range(0, len(users), slots)
    ]


def parallel_map(
    function: Callable[[_S], _T], arguments: Iterable[_S], threads: int
) -> Iterator[_T]:
    """What a function gives for each argument, in their order, in so many threads."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        yield from pool.map(function, arguments)
    finally:
        pool.shutdown(cancel_futures=True)


def memory_semaphore(memory: float) -> Callable[[float], contextlib.AbstractContextManager]:
    """`reserve(part)`: the scope in which a thread has that part of the memory; it waits for it.

    First come, first served: else a large part would wait for ever.

    Example:
        >>> reserve = memory_semaphore(100)
        >>> with reserve(60):
        ...     pass
    """
    turn, freed, left = threading.Lock(), threading.Condition(), [memory]

    @contextlib.contextmanager
    def reserve(part: float) -> Iterator[None]:
        with turn, freed:
            freed.wait_for(lambda: part <= left[0])
            left[0] -= part
        try:
            yield
        finally:
            with freed:
                left[0] += part
                freed.notify_all()

    return reserve


def cores() -> int:
    """Those that this process may use: so many functions compile at a time."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side() -> int:
    """How many blocks run at a time: on a CPU one on each core, which no single block fills."""
    alone = jax.local_device_count() > 1 or jax.default_backend() != 'cpu'
    return 1 if alone else cores()


def run(made: Compiled, part: plan.Block, seen: Transcript, keys: Array) -> tuple[Answer, float]:
    """The answers of a call and the seconds that they took; none is computed twice."""
    warm_up_block = made.warm_up_block
    same = (
        warm_up_block is not None
        and warm_up_block.case is part.case
        and warm_up_block[1:] == part[1:]
    )
    if same and made.answers is not None:
        return made.answers, made.seconds
    start = time.perf_counter()
    iterations = part.case.config.attack.num_iterations
    answers = jax.block_until_ready(made.function(seen, keys, iterations, len(part.users)))
    return answers, time.perf_counter() - start


def seconds(found: dict[tuple, Compiled], block: plan.Block) -> float:
    """Predicted run time of a block; that of the slowest of its setting where it is not compiled.

    A later seed may have shapes of its own.
    """
    own = shape(block)
    same = [own] if own in found else [key for key in found if key[0] == own[0]]
    return max(found[key].seconds * len(parts(block, found[key].slots)) for key in same or found)


def gigabytes(found: Iterable[Compiled], workers: int, limit: float) -> float:
    """Predicted memory of the process: what it has held so far, and its largest calls."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    calls = min(workers * max(entry.memory for entry in found), limit)
    return (resident + calls) / 2**30
