"""Speed of the exact attacks, per user, and of the training, in rounds a second.

The exact attacks solve one client after the other on the device, in float64, a call on each core;
beside them a loop over the clients, one call each. A round of the training is 512 of 4,096 clients
with 50 items a batch and 20,000 items; beside it a loop that trains client by client. Useful
operations of a client's gradient (multiply and add = 2): forward 2 m, backward 4 m an item, m the
number of weights, over the rate of 1,024 x 1,024 float32 products in the same process.

    python benchmarks/others.py [--json=out.json]
"""

import functools
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scripts import environment  # noqa: F401

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from benchmarks import mgradinv
from fedinv_jax import (
    attackers,
    build,
    client,
    compiled,
    experiment,
    losses,
    models,
    observe,
    server,
    train,
    tree,
    workdir,
)
from fedinv_jax.data.clients import Clients

_SIZES = ((50, 64), (200, 32), (1682, 4))  # items in a batch, users
_USERS, _ROUND, _BATCH, _ITEMS, _ROUNDS = 4096, 512, 50, 20_000, 20


def exact() -> list[dict[str, Any]]:
    """Milliseconds a user of each exact attack and size of batch."""
    config = experiment.default_config()
    config.model.update({'dim': 32, 'hidden': (64, 32, 16)})
    found = []
    for seen, name in (('scorer', 'exact'), ('items', 'spectral'), ('items', 'sign')):
        config.observation.seen, config.attack.name = (seen,), (name,)
        probe = functools.partial(attackers.probe, config, build.make_model(config.model, 2))
        choice = attackers.make_exact(config, experiment.settings(config)[0], probe)
        for items, users in _SIZES:
            transcripts, _, keys = mgradinv.make(items, users, 1, None, (seen,))
            with jax.enable_x64():
                found.append(
                    _timed(choice, seen, items, tree.cast_floats(transcripts, float), keys)
                )
    return found


def _timed(choice, seen: str, items: int, transcripts, keys) -> dict[str, Any]:
    own, workers = mgradinv.axes(), min(compiled.side_by_side(), len(keys))
    places = len(keys) // workers

    def several(block, keys):
        def one(v):
            return choice.attack(tree.take_along(block, own, v), keys[v], 1).labels

        return tree.map_first(one, places, places)

    parts = [slice(i * places, (i + 1) * places) for i in range(workers)]
    blocks = [(tree.take_along(transcripts, own, part), keys[part]) for part in parts]
    function = jax.jit(several).lower(*blocks[0]).compile()

    def call(block):
        with jax.enable_x64():
            return jax.block_until_ready(function(*block))

    seconds = mgradinv.median_time(lambda: list(compiled.each(call, blocks, workers)))
    single = jax.jit(lambda seen, key: choice.attack(seen, key, 1).labels)
    pairs = [(tree.take_along(transcripts, own, v), keys[v]) for v in range(len(keys))]
    one = single.lower(*pairs[0]).compile()
    looped = mgradinv.median_time(lambda: [one(*pair) for pair in pairs])
    row = {
        'attack': choice.solver, 'seen': seen, 'items': items,
        'ms_a_user': 1e3 * seconds / (workers * places), 'loop_ms': 1e3 * looped / len(keys),
    }  # fmt: skip
    print(
        f'{row["attack"]:12} {seen:7} B={items:<5} {row["ms_a_user"]:8.2f} ms a user, '
        f'{row["loop_ms"] / row["ms_a_user"]:.1f} times a loop over users',
        flush=True,
    )
    return row


def training() -> dict[str, Any]:
    """Rounds a second, and the share of the matrix-product rate."""
    rng = np.random.default_rng(0)
    users, shape = np.arange(_USERS, dtype=np.int32), (_USERS, _BATCH)
    items = np.stack([rng.permutation(_ITEMS)[:_BATCH] for _ in users]).astype(np.int32)
    labels = (rng.random(shape) < 0.2).astype(np.float32)
    counts = labels.sum(axis=1).astype(np.int32)
    clients = Clients(users, items, labels, np.ones(shape, np.float32), counts, _BATCH - counts)
    model = models.ncf(_ITEMS, 32, [64, 32, 16])
    update = client.gradient_step(model, losses.bce, private_rate=0.1)
    channel = observe.share('items', 'scorer')
    run = train.federation(
        model, update, channel, server.server(optax.sgd(0.1)), [clients], clients_per_round=_ROUND
    )
    nobody = (jnp.zeros(_USERS, bool),)
    state, key = jax.jit(run.init)(jax.random.key(0)), jax.random.key(1)

    @jax.jit
    def rounds(state):
        return jax.lax.fori_loop(
            0, _ROUNDS, lambda _, state: run.step(state, key, nobody)[0], state
        )

    seconds = mgradinv.median_time(lambda: rounds(state)) / _ROUNDS
    local = train.Local(users, items, labels, clients.weights, state.private[0], state.channel[0])
    one = jax.jit(functools.partial(run.train, state.shared, state.round, key))
    some = [tree.take(local, user) for user in range(_ROUND // 8)]
    looped = 8 * mgradinv.median_time(lambda: [one(each) for each in some])
    weights = 2 * 32 * 64 + 64 * 32 + 32 * 16 + 16
    share = 6 * weights * _BATCH * _ROUND / seconds / mgradinv.matrix_rate()
    print(
        f'training: {1 / seconds:.1f} rounds of {_ROUND} clients a second, {share:.0%} of the '
        f'matrix-product rate, {looped / seconds:.1f} times a loop over clients'
    )
    return {'rounds_a_second': 1 / seconds, 'share': share, 'loop_seconds': looped}


def main(argv: list[str]) -> None:
    """Prints both."""
    del argv
    logging.set_verbosity(logging.WARNING)
    print(workdir.versions())
    found = {'exact': exact(), 'training': training()}
    if flags.FLAGS.json:
        record = {**found, **workdir.versions()}
        pathlib.Path(flags.FLAGS.json).write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    app.run(main)
