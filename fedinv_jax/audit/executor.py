"""Compiles and runs attacks, one function per shape of block; measures their time and memory."""

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


# Tracing holds the interpreter lock: traced one after the other, the first function compiles while
# the second is traced.
_tracing = threading.Lock()

_ENTRIES = 2**10  # entries x steps that a CPU attacks in step; the intermediates fit its caches

# `(block, slots) -> transcripts, keys` of the block's victims, padded to that many slots.
Arguments = Callable[[plan.Block, int], tuple[Transcript, Array]]


class Compiled(NamedTuple):
    """A compiled attack on one shape of block.

    Attributes:
        function: `(transcripts, keys, num_iterations, count) -> answers` of the first `count`
            victims.
        slots: number of victims in a call, at most a block's and as many as `run.memory_mib`
            allows.
        memory: bytes of arguments and temporaries of a call, on each device.
        seconds: predicted run time of a call.
        warm_up_block: the part of a block on which the function was first run.
        answers: the answers of that first run if it was complete; else None.
    """

    function: Any
    slots: int
    memory: int
    seconds: float = math.nan
    warm_up_block: plan.Block | None = None
    answers: Answer | None = None


def shape(block: plan.Block) -> tuple:
    """The key of the compiled function that a block needs; seed and first round are not in it."""
    case, setting = block.case, plan.attack_setting(block.setting)
    padded = plan.group_of(case, block.users[0]).items.shape[1]
    catalogue = None if case.config.observation.batch_known else case.interactions.num_items
    share = case.share if registry.ATTACKS[setting.attack].knows_share else None
    return setting, padded, block.size, catalogue, share


def parallel_victims(most: int | None, slots: int, entries: int) -> int:
    """Number of victims that a device attacks in step.

    Args:
        most: `run.parallel_victims`; None: as many as fit the caches of a CPU; on other devices,
            all victims of a call.
        slots: victims of the call on this device.
        entries: entries of a victim's batch times observed steps.

    Example:
        >>> parallel_victims(4, slots=16, entries=100), parallel_victims(4, slots=2, entries=100)
        (4, 2)
    """
    if most is None and jax.default_backend() == 'cpu':
        most = _ENTRIES // entries
    return max(min(slots if most is None else most, slots), 1)


def dtype_scope(block: plan.Block) -> contextlib.AbstractContextManager:
    """The context in which a block is compiled and run: it sets the block's float dtype."""
    name = settings.dtype(block.case.config, block.setting.attack)
    return jax.enable_x64(name == 'float64')


def options(attack: str) -> dict[str, int | str] | None:
    """XLA's compiler options for an attack; None for the defaults.

    On a CPU, exact attacks spend their time in LAPACK: with fewer optimisations they compile in
    half the time and run as fast. Sums in float64 need no tree reduction.
    """
    if jax.default_backend() != 'cpu' or registry.ATTACKS[attack].family != 'exact':
        return None
    return {**compilation.options(), 'xla_disable_hlo_passes': 'tree_reduction_rewriter'}


def compile_(block: plan.Block, arguments: Arguments, limit: float, workers: int = 1) -> Compiled:
    """The compiled attack on a block, its victims sharded over devices that do not communicate.

    A call takes as many victims as fit into a worker's share of the memory, and at least one.

    Args:
        block: any block of the shape.
        arguments: gives the arguments of a call; called for one victim, to know the shapes.
        limit: bytes of arguments and temporaries that all workers together may use on a device.
        workers: how many blocks run at a time.

    Raises:
        ValueError: if one victim needs more than the limit.
    """
    devices = jax.local_device_count()
    seen, keys = arguments(block._replace(users=block.users[:1]), 1)
    own = simulate.axes(seen)
    slots = devices * -(-block.size // devices)
    candidates, iterations = seen.log_odds.shape[1], block.case.config.attack.num_iterations
    entries = candidates * block.setting.num_gradients
    in_step = parallel_victims(block.case.config.run.parallel_victims, slots // devices, entries)
    while True:
        repeat = partial(tree.take_along, axes=(own, 0), index=np.zeros(slots, int))
        shapes = jax.eval_shape(repeat, (seen, keys))
        with _tracing:
            lowered = _mapped(block, own, in_step).lower(*shapes, iterations, len(block.users))
        function = lowered.compile(options(block.setting.attack))
        analysis = function.memory_analysis()
        memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
        if memory <= (limit if slots == devices else limit / workers):
            return Compiled(function, slots, memory)
        if slots == devices:
            raise ValueError(
                f'{block.setting.attack} on one victim of {candidates} candidates needs '
                f'{memory / 2**20:.0f} MiB, of {limit / 2**20:.0f} that run.memory_mib allows. '
                'Raise run.memory_mib, let exact attacks form smaller matrices '
                '(attack.max_dense_candidates), or leave out clients with many '
                'interactions (data.max_positives).'
            )
        less = max(memory * workers / limit, 2.0)
        slots = devices * max(int(slots / less / devices), 1)
        in_step = max(min(int(in_step / less), slots // devices), 1)


def _mapped(block: plan.Block, own: Transcript, parallel_victims: int) -> Any:
    """The attack on all slots of a call, sharded over the devices."""
    choice = block.case.attacks[plan.attack_setting(block.setting)]

    def part(seen: Transcript, keys: Array, iterations: Array, count: Array) -> Answer:
        """Attacks the victims of one device."""
        count = count - jax.lax.axis_index('victims') * len(keys)
        if choice.batched is not None:
            return batching.stream(
                choice.batched, seen, own, keys, iterations, count, parallel_victims
            )
        # One after the other: large factorisations, or a search that ends by its own criterion.
        return tree.map_first(
            lambda slot: choice.attack(tree.take_along(seen, own, slot), keys[slot], iterations),
            len(keys),
            count,
        )

    return over_devices(part, own)


def over_devices(part: Callable[..., Any], own: Transcript) -> Any:
    """`part(seen, keys, iterations, count)` compiled, with the victims sharded over the devices.

    Args:
        part: attacks the victims of one device; its answers have a leading axis of victims.
        own: the victims' axis of each leaf of the transcripts; None for a leaf that all share.

    Returns:
        The function of the victims `[V]` of all devices, where the number of devices divides V;
        every device gets the same `iterations` and `count`.
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
    """Runs a compiled attack once to time it: a few iterations, or all where time is not linear."""
    iterations, part = block.case.config.attack.num_iterations, parts(block, made.slots)[0]
    whole = settings.ends_by_itself(block.case.config, block.setting.attack)
    few = iterations if whole else max(iterations // 50, 1)
    seen, keys = arguments(part, made.slots)
    start = time.perf_counter()
    answers = jax.block_until_ready(made.function(seen, keys, few, len(part.users)))
    seconds = (time.perf_counter() - start) * iterations / few
    return made._replace(
        seconds=seconds, warm_up_block=part, answers=answers if few == iterations else None
    )


def parts(block: plan.Block, slots: int) -> list[plan.Block]:
    """The block split into calls of at most `slots` victims."""
    users = block.users
    return [
        block._replace(users=users[start : start + slots]) for start in range(0, len(users), slots)
    ]


def parallel_map(
    function: Callable[[_S], _T], arguments: Iterable[_S], threads: int
) -> Iterator[_T]:
    """`map(function, arguments)` in several threads; the results come in order."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        yield from pool.map(function, arguments)
    finally:
        pool.shutdown(cancel_futures=True)


def memory_semaphore(memory: float) -> Callable[[float], contextlib.AbstractContextManager]:
    """`reserve(part)`: a context that waits until `part` of the memory is free, and holds it.

    Threads are served in the order in which they ask; otherwise a large request could wait for
    ever.

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
    """Number of CPU cores that this process may use: as many functions compile at a time."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side() -> int:
    """How many blocks run at a time: on one CPU device, one per core, as no block uses them all."""
    alone = jax.local_device_count() > 1 or jax.default_backend() != 'cpu'
    return 1 if alone else cores()


def run(made: Compiled, part: plan.Block, seen: Transcript, keys: Array) -> tuple[Answer, float]:
    """The answers of a call and the seconds that it took; a complete first run is reused."""
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
    """Predicted run time of a block.

    A later seed may have shapes that are not compiled yet; the slowest shape of the same setting
    is taken then.
    """
    own = shape(block)
    same = [own] if own in found else [key for key in found if key[0] == own[0]]
    return max(found[key].seconds * len(parts(block, found[key].slots)) for key in same or found)


def gigabytes(found: Iterable[Compiled], workers: int, limit: float) -> float:
    """Predicted memory of the process in GiB: its peak so far plus its largest concurrent calls."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    calls = min(workers * max(entry.memory for entry in found), limit)
    return (resident + calls) / 2**30
