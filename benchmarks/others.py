r"""Speed of the exact attacks, in milliseconds per user, and of the training, in rounds per second.

The exact attacks solve one client after the other, in float64, with one compiled call on each core;
they are compared with a loop that makes one call per client. A round of the training has 512 of
4,096 clients, 50 items per batch and 20,000 items; it is compared with a loop over the clients.
PyTorch, batched over clients and compiled, runs `peers/torch_others.py` in an environment of its
own on the same clients, and must find the same labels and parameters; it makes no certificates.
The training is also compared with fedjax (`peers/fedjax_rounds.py`) and Flower in one process
(`peers/flower_rounds.py`), each in its own environment. Ours and a peer run alternately, `--pairs`
times; the ratios' median and range are printed. A peer is given the participants of a round, and
spends no time on choosing them.

The useful operations (multiply and add = 2) are compared with the rate of 1,024 x 1,024 matrix
products of the same dtype in the same process. For a user with K items, where m is the number of
weights after the first layer and m_q = D H_1 that of the first layer's item block, they are

    closed_form:  K^2 F for the Gram matrix, of which half is computed, K^3 / 3 for its factor and
                  K (4 m + 2 m_q) for the derivatives; F is the sum of a + b over the kernels
                  [a, b] after the embeddings, plus the number of other weights;
    spectral:     K D^2 + 2 K D (the D x D eigenvectors are not counted);
    sign:         K (4 (m + m_q) + 2 D);
    training:     6 (m + m_q) per item, forward and backward.

    python benchmarks/others.py [--torch=VENV/bin/python] [--json=out.json]
    python benchmarks/others.py --only=training --pairs=5 \
        --fedjax=.venv-fedjax/bin/python --flower=.venv-flower/bin/python
"""

import functools
import itertools
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from benchmarks import mgradinv, peer
from fedinv_jax import client, losses, models, observe, server, train, tree
from fedinv_jax.audit import attackers, executor, plan, process, run_record, settings
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import training as training_lib
from fedinv_jax.data.clients import Clients

_FEDJAX = flags.DEFINE_string('fedjax', None, 'The Python of an environment that has fedjax.')
_FLOWER = flags.DEFINE_string('flower', None, 'The Python of an environment that has Flower.')
_ONLY = flags.DEFINE_enum('only', None, ['exact', 'training'], 'Measure nothing else.')
_PAIRS = flags.DEFINE_integer('pairs', 1, 'Times that the training and a peer run alternately.')

_SIZES = ((50, 64), (200, 32), (1682, 4))  # items in a batch, users
_USERS, _ROUND, _BATCH, _ITEMS, _ROUNDS = 4096, 512, 50, 20_000, 20


def exact() -> list[dict[str, Any]]:
    """Milliseconds per user of each exact attack and batch size."""
    config = config_lib.default_config()
    dim, hidden = mgradinv.head()
    config.model.update({'dim': dim, 'hidden': tuple(hidden)})
    found = []
    with jax.enable_x64():
        rate = mgradinv.matrix_rate()
    for seen, name in (('scorer', 'exact'), ('items', 'spectral'), ('items', 'sign')):
        config.observation.seen, config.attack.name = (seen,), (name,)
        model = training_lib.make_model(config.model, 2)
        probe = functools.partial(attackers.probe, config, model)
        choice = plan.make_attack(config, settings.settings(config)[0], model, 0.2, probe)
        for items, users in _SIZES:
            victims = mgradinv.make(items, users, 1, None, (seen,))
            with jax.enable_x64():
                wide = tree.cast_floats(victims.transcripts, float)
                found.append(_timed(choice, seen, items, wide, victims.keys, rate))
    return found


def useful_operations(solver: str, items: int) -> float:
    """Floating-point operations for one user, see the module's docstring."""
    (dim, hidden), (deep, first) = mgradinv.head(), mgradinv.weights()
    kernels = [(dim, hidden[0]), *itertools.pairwise(hidden)]
    if solver == 'spectral':
        return items * (dim**2 + 2 * dim)
    if solver == 'sign':
        return items * (4 * (deep + first) + 2 * dim)
    features = sum(a + b + b for a, b in kernels) + hidden[-1] + 1  # kernels, biases, last layer
    return items**2 * features + items**3 / 3 + items * (4 * deep + 2 * first)


def _timed(choice, seen: str, items: int, transcripts, keys, rate: float) -> dict[str, Any]:
    own, workers = mgradinv.axes(), min(executor.side_by_side(), len(keys))
    slots = len(keys) // workers

    def several(block, keys):
        def one(v):
            return choice.attack(tree.take_along(block, own, v), keys[v], 1).labels

        return tree.map_first(one, slots, slots)

    parts = [slice(i * slots, (i + 1) * slots) for i in range(workers)]
    blocks = [(tree.take_along(transcripts, own, part), keys[part]) for part in parts]
    options = executor.options('exact')
    function = jax.jit(several).lower(*blocks[0]).compile(options)

    def call(block):
        with jax.enable_x64():
            return jax.block_until_ready(function(*block))

    seconds = mgradinv.median_time(lambda: list(executor.parallel_map(call, blocks, workers)))
    single = jax.jit(lambda seen, key: choice.attack(seen, key, 1).labels)
    pairs = [(tree.take_along(transcripts, own, v), keys[v]) for v in range(len(keys))]
    one = single.lower(*pairs[0]).compile(options)
    looped = mgradinv.median_time(lambda: [one(*pair) for pair in pairs])
    each = seconds / (workers * slots)
    row = {
        'attack': choice.solver, 'seen': seen, 'items': items, 'ms_a_user': 1e3 * each,
        'loop_ms': 1e3 * looped / len(keys),
        'share': useful_operations(choice.solver, items) / rate / each,
    }  # fmt: skip
    text = (
        f'{row["attack"]:12} {seen:7} B={items:<5} {row["ms_a_user"]:8.2f} ms per user, '
        f'{row["share"]:.1%} of the matrix-product rate, '
        f'{row["loop_ms"] / row["ms_a_user"]:.1f} times a loop over users'
    )
    if flags.FLAGS.torch:
        arrays = {
            'items': transcripts.shared['items']['embedding'][:, 0],
            **peer.named(
                'scorer', jax.tree.map(lambda leaf: leaf[0], transcripts.shared['scorer'])
            ),
            **peer.named('seen', jax.tree.map(lambda leaf: leaf[:, 0], transcripts.seen[seen])),
        }
        theirs = peer.run(flags.FLAGS.torch, 'torch_others.py', arrays, choice.solver)
        labels = np.concatenate([np.asarray(found) for found in map(call, blocks)])
        if not np.array_equal(labels, theirs['labels'][: len(labels)]):
            raise ValueError(
                f'PyTorch finds other labels with {choice.solver} and {items} items per batch.'
            )
        row['torch_ms'] = 1e3 * float(np.median(theirs['seconds'])) / len(keys)
        text += f', {row["torch_ms"] / row["ms_a_user"]:.1f} times PyTorch'
    print(text, flush=True)
    return row


def training() -> dict[str, Any]:
    """Rounds per second of the training, and the share of the matrix-product rate."""
    rng = np.random.default_rng(0)
    users, shape = np.arange(_USERS, dtype=np.int32), (_USERS, _BATCH)
    items = np.stack([rng.permutation(_ITEMS)[:_BATCH] for _ in users]).astype(np.int32)
    labels = (rng.random(shape) < 0.2).astype(np.float32)
    counts = labels.sum(axis=1).astype(np.int32)
    clients = Clients(users, items, labels, np.ones(shape, np.float32), counts, _BATCH - counts)
    model = models.ncf(_ITEMS, *mgradinv.head())
    update = client.gradient_step(model, losses.bce, private_learning_rate=0.1)
    channel = observe.share('items', 'scorer')
    run = train.federation(
        model, update, channel, server.server(optax.sgd(0.1)), [clients], clients_per_round=_ROUND
    )
    none_required = (jnp.zeros(_USERS, bool),)
    state, key = jax.jit(run.init)(jax.random.key(0)), jax.random.key(1)

    @jax.jit
    def rounds(state):
        return jax.lax.fori_loop(
            0, _ROUNDS, lambda _, state: run.step(state, key, none_required)[0], state
        )

    seconds = mgradinv.median_time(lambda: rounds(state)) / _ROUNDS
    local = train.Local(users, items, labels, clients.weights, state.private[0], state.channel[0])
    one = jax.jit(functools.partial(run.train, state.shared, state.round, key))
    some = [tree.take(local, user) for user in range(_ROUND // 8)]
    looped = 8 * mgradinv.median_time(lambda: [one(each) for each in some])
    row: dict[str, Any] = {'rounds_a_second': 1 / seconds}
    row['share'] = 6 * sum(mgradinv.weights()) * _BATCH * _ROUND / seconds / mgradinv.matrix_rate()
    row['loop'] = looped / seconds
    print(
        f'training: {1 / seconds:.1f} rounds of {_ROUND} clients per second, {row["share"]:.0%} of '
        f'the matrix-product rate, {row["loop"]:.1f} times a loop over clients',
        flush=True,
    )
    chosen = np.flatnonzero(run.active(state.round, key, none_required)[0])
    before, after = (
        {
            'table': some.shared['items']['embedding'],
            'private': tree.take(some.private[0], chosen),
            **peer.named('scorer', some.shared['scorer']),
        }
        for some in (state, run.step(state, key, none_required)[0])
    )
    arrays = {**before, 'items': items[chosen], 'labels': labels[chosen]}
    changes = {name: after[name] - before[name] for name in before}
    row['peers'] = {}
    for name, command in _peers().items():
        ours, theirs = [], []
        for _ in range(_PAIRS.value):
            ours.append(mgradinv.median_time(lambda: rounds(state)) / _ROUNDS)
            found = peer.run(*command[:2], arrays, *command[2:])
            theirs.append(float(np.median(found['seconds'])))
            # The changes, as one round hardly changes the parameters themselves.
            off = {k: peer.gap(leaf, found[k] - before[k]) for k, leaf in changes.items()}
            if max(off.values()) > 1e-3:
                raise ValueError(f'{name} trains other parameters; relative differences: {off}')
        row['peers'][name] = _compared(name, str(found['version']), ours, theirs)
    return row


def _peers() -> dict[str, tuple[str, ...]]:
    """By name, the Python, script and arguments of each peer of the training that a flag asks for.

    fedjax runs twice: as its own programs do, and with the loop over 16 clients compiled.
    """
    peers = {
        'PyTorch': (flags.FLAGS.torch, 'torch_others.py', 'training'),
        'fedjax': (_FEDJAX.value, 'fedjax_rounds.py'),
        'fedjax compiled': (_FEDJAX.value, 'fedjax_rounds.py', '--together=16'),
        'Flower': (_FLOWER.value, 'flower_rounds.py'),
    }
    return {name: command for name, command in peers.items() if command[0]}


def _compared(name: str, version: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Prints how many times as fast our rounds are; returns the seconds of every pair."""
    times = np.divide(theirs, ours)
    rates = 1 / np.median([ours, theirs], axis=1)
    print(
        f'training: {np.median(times):.2f} times {name} (pairs {times.min():.2f} to '
        f'{times.max():.2f}), {rates[0]:.1f} and {rates[1]:.1f} rounds per second, {version}',
        flush=True,
    )
    return {'version': version, 'seconds': ours, 'peer_seconds': theirs}


def main(argv: list[str]) -> None:
    """Measures and prints the exact attacks and the training."""
    process.configure()
    del argv
    logging.set_verbosity(logging.WARNING)
    print(run_record.versions())
    parts = {'exact': exact, 'training': training}
    found = {name: part() for name, part in parts.items() if _ONLY.value in (None, name)}
    if flags.FLAGS.json:
        record = {**found, **run_record.versions()}
        pathlib.Path(flags.FLAGS.json).write_text(json.dumps(record, indent=1) + '\n', 'utf-8')


if __name__ == '__main__':
    app.run(main)
