"""Speed of MGradInv: victim-iterations a second, and the share of the matrix-product rate reached.

One victim-iteration is one value and gradient of the objective for one victim, with all T
gradients, and one Adam step. Useful operations are counted by formula (multiply and add = 2). Let
m be the number of weights behind the first layer and m_q = D H_1 those of its item block; Q W_q is
constant and not counted. Of one item at one step,

    always:              forward 2 m, signals sent back 2 m, and the reverse of both 4 m: 8 m;
    if the scorer is seen: kernel gradients 2 m + 2 m_q, and their reverse 4 m + 2 m_q;
    if the items are seen: rows' gradients 2 m_q, and their reverse 2 m_q.

The matrix-product rate is that of 1,024 x 1,024 float32 products in the same process.

    python benchmarks/attack.py [--items=200] [--victims=32] [--num_gradients=2] [--json=out.json]
"""

import itertools
import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax
from absl import app, flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fedinv_jax import client, losses, models, observe, workdir
from fedinv_jax.attack import distances, dynamics, inversion, objective
from fedinv_jax.types import Batch, Transcript

_DIM = flags.DEFINE_integer('dim', 16, 'D')
_HIDDEN = flags.DEFINE_list('hidden', ['64', '32', '16'], 'Widths of the hidden layers.')
_ITEMS = flags.DEFINE_integer('items', 200, 'B, items in a batch.')
_VICTIMS = flags.DEFINE_integer('victims', 32, 'Victims in one compiled call.')
_STEPS = flags.DEFINE_integer('num_gradients', 2, 'T')
_ITERATIONS = flags.DEFINE_integer('iterations', 200, 'Iterations of one timed call.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed calls; the median counts.')
_JSON = flags.DEFINE_string('json', None, 'Also write the numbers to this file.')


def useful_operations(seen: tuple[str, ...]) -> float:
    """Floating-point operations of one victim-iteration, see the module's text."""
    hidden = [int(width) for width in _HIDDEN.value]
    deep = sum(a * b for a, b in itertools.pairwise([*hidden, 1]))
    first = _DIM.value * hidden[0]
    per_item = 8 * deep + 4 * first * ('items' in seen)
    per_item += (6 * deep + 4 * first) * ('scorer' in seen)
    return _STEPS.value * _ITEMS.value * per_item


def matrix_rate(size: int = 1024, products: int = 20) -> float:
    """Floating-point operations a second of float32 matrix products, median of the repeats."""
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda a: jax.lax.fori_loop(0, products, lambda _, b: a @ b * 1e-3, a))
    product(matrix).block_until_ready()
    rates = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        product(matrix).block_until_ready()
        rates.append(2 * size**3 * products / (time.perf_counter() - start))
    return statistics.median(rates)


def make_attack(seen: tuple[str, ...], key: jax.Array):
    """The compiled attack on `victims` random clients, and its compile time in seconds."""
    steps, victims, items = _STEPS.value, _VICTIMS.value, _ITEMS.value
    model = models.ncf(items, _DIM.value, [int(width) for width in _HIDDEN.value])
    update = client.gradient_step(model, losses.bce, private_rate=0.1)
    channel = observe.share(*seen)
    scorer = jax.vmap(model.init_shared)(jax.random.split(key, steps))['scorer']

    def transcript(key: jax.Array) -> Transcript:
        table_key, private_key, label_key = jax.random.split(key, 3)
        table = jax.vmap(model.init_shared)(jax.random.split(table_key, steps))['items']
        shared = {'items': table, 'scorer': scorer}
        labels = jnp.tile((jax.random.uniform(label_key, (items,)) < 0.2) * 1.0, (steps, 1))
        batches = Batch(None, labels, jnp.ones((steps, items)))
        hypothesis = dynamics.static(model.init_private)
        uploads = hypothesis.rollout(
            update, hypothesis.init(private_key), shared, batches, jnp.ones(steps, bool)
        )
        return Transcript(
            shared=shared,
            seen=jax.vmap(lambda upload: channel.observe(upload, (), key)[0])(uploads),
            rounds=jnp.arange(steps),
            participated=jnp.ones(steps, bool),
            items=jnp.arange(items),
            slot=None,
            weights=jnp.ones((steps, items)),
            log_odds=jnp.zeros(items),
        )

    axes = Transcript(
        shared={'items': 0, 'scorer': None},
        seen=0,
        rounds=0,
        participated=0,
        items=0,
        slot=None,
        weights=0,
        log_odds=0,
    )
    transcripts = jax.jit(jax.vmap(transcript, out_axes=axes))(jax.random.split(key, victims))

    def attack(transcript: Transcript, key: jax.Array) -> jax.Array:
        problem = objective.problem(
            transcript,
            update,
            channel,
            dynamics.free(model.init_private, steps),
            distances.squared_distance_per_leaf,
        )
        solver = inversion.descent(optax.adam(0.1))
        return inversion.invert(problem, solver, key, _ITERATIONS.value).scores

    start = time.perf_counter()
    compiled = (
        jax.jit(jax.vmap(attack, in_axes=(axes, 0)))
        .lower(transcripts, jax.random.split(key, victims))
        .compile()
    )
    seconds = time.perf_counter() - start
    return lambda: compiled(transcripts, jax.random.split(key, victims)), seconds


def main(argv: list[str]) -> None:
    """Prints the rates for each part of the upload that may be seen."""
    del argv
    logging.set_verbosity(logging.WARNING)
    rate = matrix_rate()
    print(f'matrix products: {rate / 1e9:.0f} GFLOP/s; {workdir.versions()}')
    results = []
    for seen in (('items', 'scorer'), ('scorer',), ('items',)):
        attack, seconds = make_attack(seen, jax.random.key(0))
        jax.block_until_ready(attack())
        times = []
        for _ in range(_REPEATS.value):
            start = time.perf_counter()
            jax.block_until_ready(attack())
            times.append(time.perf_counter() - start)
        speed = _VICTIMS.value * _ITERATIONS.value / statistics.median(times)
        share = speed * useful_operations(seen) / rate
        print(
            f'T={_STEPS.value} D={_DIM.value} hidden={",".join(_HIDDEN.value)} B={_ITEMS.value} '
            f'V={_VICTIMS.value} {"+".join(seen):<13} {speed:6.0f} victim-iterations/s, '
            f'{share:.0%} of the matrix-product rate, compiled in {seconds:.1f} s'
        )
        results.append({'seen': seen, 'rate': speed, 'share': share, 'compile_seconds': seconds})
    if _JSON.value:
        record = {'matrix_rate': rate, 'results': results, **workdir.versions()}
        pathlib.Path(_JSON.value).write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    app.run(main)
