"""Speed of MGradInv in victim-iterations per second, against PyTorch, a loop and the arithmetic.

One victim-iteration is one value and gradient of the objective for one victim, with all T
gradients, and one Adam step. Useful operations are counted by formula (multiply and add = 2). Let
m be the number of weights after the first layer and m_q = D H_1 those of the first layer's item
block; Q W_q is constant and not counted. The operations for one item at one step are

    always:                forward 2 m, slopes of the logit 2 m (`models.mlp`);
    if the scorer is seen: kernel gradients 2 m + 2 m_q, products of the residual with the slopes
                           2 m + 2 m_q, and the reverse of the forward pass 2 m;
    if the items are seen: slopes times the item block, 2 m_q.

They are compared with the rate of 1,024 x 1,024 float32 matrix products in the same process.
PyTorch, batched over victims and compiled, runs `peers/torch_mgradinv.py` in an environment of its
own (`make .venv-torch/.installed`) on the same victims, and must find the same objective and
gradient; the two run alternately.

    python benchmarks/mgradinv.py [--torch=.venv-torch/bin/python] [--json=out.json]
    python benchmarks/mgradinv.py --grow=victims   (or items, num_gradients, interval, devices)
"""

import concurrent.futures
import functools
import itertools
import json
import math
import multiprocessing
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from benchmarks import peer
from fedinv_jax import client, losses, models, observe, tree
from fedinv_jax.attack import batching, distances, dynamics, inversion, objective
from fedinv_jax.attack.batching import Batched
from fedinv_jax.audit import executor, process, run_record
from fedinv_jax.types import Batch, Guess, Transcript

_DIM = flags.DEFINE_integer('dim', 32, 'D')
_HIDDEN = flags.DEFINE_list('hidden', ['64', '32', '16'], 'Widths of the hidden layers.')
_SEEN = flags.DEFINE_string('seen', 'items+scorer', 'Parts of an upload that the server sees.')
_STEPS = flags.DEFINE_integer('num_gradients', 2, 'T')
_SECONDS = flags.DEFINE_float('seconds', 1.0, 'Approximate time of one timed call.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Number of timed calls; the median is reported.')
_TORCH = flags.DEFINE_string('torch', None, 'The Python of an environment that has PyTorch.')
_GROW = flags.DEFINE_enum(
    'grow', None, ['victims', 'items', 'num_gradients', 'interval', 'devices'],
    'Print how time and memory grow with this quantity instead; devices are emulated on the CPU.',
)  # fmt: skip
_JSON = flags.DEFINE_string('json', None, 'Also write the numbers to this file.')

# (items in a batch, victims) of each line of the table.
_SIZES = ((50, 32), (200, 32), (1682, 8))
# By quantity that grows, the values of all quantities: items in a batch, victims, T, interval and
# devices.
_COLUMNS = ('items', 'victims', 'num_gradients', 'interval', 'devices')
_GROWTH = {
    'victims': [(50, 4**k, 2, None, 1) for k in range(7)],
    'items': [(items, 8, 2, None, 1) for items in (50, 100, 200, 400, 800, 1682)],
    'num_gradients': [(200, 16, steps, None, 1) for steps in (1, 2, 4, 8, 16)],
    'interval': [(50, 16, 2, interval, 1) for interval in (1, 4, 16, 64)],
    'devices': [(50, 64, 2, None, devices) for devices in (1, 2, 4, 8)],
}


def head() -> tuple[int, list[int]]:
    """D and the widths of the hidden layers."""
    return _DIM.value, [int(width) for width in _HIDDEN.value]


def weights() -> tuple[int, int]:
    """Numbers of weights: m after the first layer, m_q of the first layer's item block."""
    dim, hidden = head()
    return sum(a * b for a, b in itertools.pairwise([*hidden, 1])), dim * hidden[0]


def useful_operations(items: int, steps: int, seen: tuple[str, ...]) -> float:
    """Floating-point operations of one victim-iteration, see the module's docstring."""
    deep, first = weights()
    per_item = 4 * deep + 2 * first * ('items' in seen)
    per_item += (6 * deep + 4 * first) * ('scorer' in seen)
    return steps * items * per_item


def matrix_rate(size: int = 1024, products: int = 20) -> float:
    """Floating-point operations per second of matrix products, median of the repeats."""
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda a: jax.lax.fori_loop(0, products, lambda _, b: a @ b * 1e-3, a))
    return 2 * size**3 * products / median_time(lambda: product(matrix))


def median_time(call) -> float:
    """Seconds of a call: the median of the repeats, after one call that is not counted."""
    times = []
    for _ in range(_REPEATS.value + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def axes() -> Transcript:
    """The victims' axis of each field of a transcript; all victims share the scorer."""
    return Transcript(
        shared={'items': 0, 'scorer': None}, seen=0, rounds=None, participated=None, items=None,
        slot=None, weights=None, log_odds=None,
    )  # fmt: skip


class Victims(NamedTuple):
    """V random clients: transcripts, true labels `[V, K]`, `problem(transcript)`, keys `[V]`."""

    transcripts: Transcript
    labels: jax.Array
    problem: Callable[[Transcript], objective.Problem]
    keys: jax.Array


def make(
    items: int, victims: int, steps: int, interval: int | None, seen: tuple[str, ...]
) -> Victims:
    """Victims with `steps` observed gradients, `interval` rounds apart if p is replayed."""
    key = jax.random.key(0)
    model = models.ncf(items, *head())
    update = client.gradient_step(model, losses.bce, private_learning_rate=0.1)
    channel = observe.share(*seen)
    kept = 1 + (steps - 1) * (interval or 1)
    rounds = jnp.arange(0, kept, interval or 1)
    scorer_key, victim_key, start_key = jax.random.split(key, 3)
    scorer = jax.vmap(model.init_shared)(jax.random.split(scorer_key, kept))['scorer']
    if interval is None:
        hypothesis = dynamics.free(model.init_private, steps)
    else:
        hypothesis = dynamics.unrolled(model.init_private, rounds.tolist())
    truth = dynamics.unrolled(model.init_private, rounds.tolist())

    def transcript(key: jax.Array) -> tuple[Transcript, jax.Array]:
        table_key, private_key, label_key = jax.random.split(key, 3)
        table = jax.vmap(model.init_shared)(jax.random.split(table_key, kept))['items']
        shared = {'items': table, 'scorer': scorer}
        labels = (jax.random.uniform(label_key, (items,)) < 0.2) * 1.0
        batches = Batch(None, jnp.tile(labels, (kept, 1)), jnp.ones((kept, items)))
        private = model.init_private(private_key)
        uploads = truth.rollout(update, private, shared, batches, jnp.ones(kept, bool))
        found = Transcript(
            shared=shared,
            seen=jax.vmap(lambda upload: channel.observe(upload, (), key)[0])(uploads),
            rounds=rounds,
            participated=jnp.ones(kept, bool),
            items=jnp.arange(items),
            slot=None,
            weights=jnp.ones((kept, items)),
            log_odds=jnp.zeros(items),
        )
        return found, labels

    keys = jax.random.split(victim_key, victims)
    transcripts, labels = jax.jit(jax.vmap(transcript, out_axes=(axes(), 0)))(keys)

    def problem(transcript: Transcript) -> objective.Problem:
        distance = distances.squared_distance_per_leaf
        return objective.problem(transcript, update, channel, hypothesis, distance)

    return Victims(transcripts, labels, problem, jax.random.split(start_key, victims))


def descent(problem) -> Batched:
    """MGradInv with Adam on the problem."""
    return Batched(lambda seen, *_: (problem(seen), inversion.descent(optax.adam(0.1))))


def in_step(victims: Victims) -> dict[str, float]:
    """Victim-iterations per second as in a run, seconds to compile, and bytes of a call.

    On a CPU few victims run in step, and one call runs on each core at the same time. On other
    devices all victims run in step; several devices share the victims of a call.
    """
    transcripts, keys = victims.transcripts, victims.keys
    workers = min(executor.side_by_side(), len(keys))
    devices = jax.local_device_count()
    on_each = -(-(len(keys) // workers) // devices)
    slots = devices * on_each
    steps = jax.tree.leaves(transcripts.seen)[0].shape[1]
    parallel_victims = executor.parallel_victims(None, on_each, transcripts.items.shape[-1] * steps)
    own = descent(victims.problem)

    def attack(seen: Transcript, keys: jax.Array, iterations: jax.Array, count: jax.Array):
        return batching.stream(own, seen, axes(), keys, iterations, count, parallel_victims).scores

    parts = np.resize(np.arange(len(keys)), (workers, slots))  # padded with the first victims
    blocks = [(tree.take_along(transcripts, axes(), part), keys[part]) for part in parts]
    start = time.perf_counter()
    function = executor.over_devices(attack, axes()).lower(*blocks[0], 1, on_each).compile()
    compiling = time.perf_counter() - start

    def call(iterations: int) -> list[jax.Array]:
        def one(block: tuple[Transcript, jax.Array]) -> jax.Array:
            return jax.block_until_ready(function(*block, iterations, on_each))

        return list(executor.parallel_map(one, blocks, workers))

    pilot = median_time(lambda: call(10)) / 10
    iterations = max(int(_SECONDS.value / pilot), 10)
    seconds = median_time(lambda: call(iterations))
    rate = min(workers * slots, len(keys)) * iterations / seconds
    memory = function.memory_analysis()
    return {
        'rate': rate,
        'parallel_victims': parallel_victims,
        'workers': workers,
        'compile_seconds': compiling,
        'bytes': memory.temp_size_in_bytes + memory.argument_size_in_bytes,
    }


def looped(victims: Victims) -> float:
    """Victim-iterations per second of a loop over victims, without vmap."""
    pairs = [
        (tree.take_along(victims.transcripts, axes(), v), key) for v, key in enumerate(victims.keys)
    ]
    attack = jax.jit(functools.partial(batching.run, descent(victims.problem)))
    one = attack.lower(*pairs[0], 1).compile()
    pilot = median_time(lambda: one(*pairs[0], 10)) / 10
    iterations = max(int(_SECONDS.value / len(pairs) / pilot), 10)
    seconds = median_time(lambda: [one(*pair, iterations) for pair in pairs])
    return len(pairs) * iterations / seconds


def in_torch(victims: Victims) -> dict[str, Any]:
    """Victim-iterations per second of PyTorch, and the differences of value and gradient."""

    def start(transcript: Transcript, key: jax.Array) -> tuple[Guess, jax.Array, Guess]:
        own = victims.problem(transcript)
        guess = own.init(key)
        return guess, *jax.value_and_grad(own.objective)(guess)

    transcripts, count = victims.transcripts, len(victims.keys)
    started = jax.jit(jax.vmap(start, in_axes=(axes(), 0)))
    guess, value, slope = started(transcripts, victims.keys)
    arrays = {
        **peer.named('scorer', transcripts.shared['scorer']),
        **peer.named('seen', transcripts.seen),
        'items': transcripts.shared['items']['embedding'],
        'labels': guess.labels,
        'private': guess.latent,
    }
    rate, iterations, found = 0.0, 3, {}
    for _ in range(2):  # the first run determines how many iterations take `--seconds`
        found = peer.run(_TORCH.value, 'torch_mgradinv.py', arrays, f'--iterations={iterations}')
        rate = count * iterations / float(np.median(found['seconds']))
        iterations = max(int(_SECONDS.value * rate / count), 3)
    own = {'value': value, 'labels': slope.labels, 'private': slope.latent}
    off = {name: peer.gap(leaf, found[name]) for name, leaf in own.items()}
    if max(off.values()) > 1e-4:
        raise ValueError(f'PyTorch computes other values; relative differences: {off}')
    version, threads = str(found['version']), int(found['threads'])
    return {
        'rate': rate,
        'compiling': float(found['first']),
        'version': version,
        'threads': threads,
        'differences': off,
    }


def table() -> dict[str, Any]:
    """Measures and prints the rates at several batch sizes."""
    seen, rate = tuple(_SEEN.value.split('+')), matrix_rate()
    print(f'matrix products: {rate / 1e9:.0f} GFLOP/s')
    found = []
    for items, victims in _SIZES:
        arguments = make(items, victims, _STEPS.value, None, seen)
        row: dict[str, Any] = {'items': items, 'victims': victims}
        row |= in_step(arguments)
        row['loop'] = looped(arguments)
        row['share'] = row['rate'] * useful_operations(items, _STEPS.value, seen) / rate
        text = (
            f'B={items:<5} V={victims:<3} {row["parallel_victims"]} in step, '
            f'{row["rate"]:7.0f} victim-iterations/s, '
            f'{row["share"]:.0%} of the matrix-product rate, '
            f'{row["rate"] / row["loop"]:.1f} times a loop over victims'
        )
        if _TORCH.value:
            row['torch'] = in_torch(arguments)
            text += (
                f', {row["rate"] / row["torch"]["rate"]:.1f} times PyTorch '
                f'({row["torch"]["rate"]:.0f})'
            )
        print(text, flush=True)
        found.append(row)
    return {'matrix_rate': rate, 'table': found}


def point(size: tuple) -> dict[str, Any]:
    """The measurements of one size."""
    items, victims, steps, interval, _ = size
    arguments = make(items, victims, steps, interval, tuple(_SEEN.value.split('+')))
    return in_step(arguments)


def point_on_cpu_devices(size: tuple) -> dict[str, Any]:
    """`point` in a new process, whose CPU is split into several JAX devices."""
    flags.FLAGS(sys.argv)
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', size[-1])
    return point(size)


def growth(name: str) -> dict[str, Any]:
    """Measures and prints how time and memory grow with a quantity, with fitted exponents."""
    found = []
    for size in _GROWTH[name]:
        if size[-1] == 1:
            measured = point(size)
        else:
            spawn = multiprocessing.get_context('spawn')
            with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
                measured = pool.submit(point_on_cpu_devices, size).result()
        row = {**dict(zip(_COLUMNS, size, strict=True)), **measured}
        row['seconds'] = row['victims'] / row['rate']
        found.append(row)
        print(
            f'{name} {row[name]:<5} {1e3 * row["seconds"]:9.3f} ms per iteration, '
            f'{row["parallel_victims"]} in step, '
            f'{row["bytes"] / 2**20:8.1f} MiB, compiled in {row["compile_seconds"]:.1f} s',
            flush=True,
        )
    exponents = {}
    for what in ('seconds', 'bytes'):
        x, y = ([math.log(row[column]) for row in found] for column in (name, what))
        exponents[what] = float(np.polyfit(x[-4:], y[-4:], 1)[0])
    print('exponents over the last four sizes:', exponents)
    return {'growth': name, 'rows': found, 'exponents': exponents}


def main(argv: list[str]) -> None:
    """Prints the table, or how time and memory grow with one quantity."""
    process.configure()
    del argv
    logging.set_verbosity(logging.WARNING)
    print(run_record.versions())
    found = growth(_GROW.value) if _GROW.value else table()
    if _JSON.value:
        record = {**found, **run_record.versions()}
        pathlib.Path(_JSON.value).write_text(json.dumps(record, indent=1) + '\n', 'utf-8')


if __name__ == '__main__':
    app.run(main)
