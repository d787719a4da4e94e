"""Random clients: cells of one kind each, and what a server holds of the clients of a cell.

The clients of a cell share all shapes and everything that a compiled attack depends on. All is a
function of a seed and of the cell's number, so that a row can be made again.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fuzz import models
from fedinv_jax import client, item_table, losses, observe, tree
from fedinv_jax.attack.exact.known import Draw
from fedinv_jax.types import Array, Batch, ClientUpdate, Key, Model, Observation, PyTree, Transcript

_LOSSES = {
    'bce': losses.bce,
    'bpr': losses.bpr(),
    'sampled_softmax': losses.sampled_softmax(),
    'squared_error': losses.squared_error,
}
_SIZES = {16: (5, 16), 32: (17, 32), 60: (33, 60)}
"""Padded batches, and how many entries of them a client fills: few shapes to compile for."""
_CHANNELS = ('float32', 'float32', 'noise', 'float16', 'bfloat16', 'float64')
ROUNDING = {'float64': 2.0**-53, 'float32': 2.0**-24, 'float16': 2.0**-11, 'bfloat16': 2.0**-8}
"""Unit roundoff of what is uploaded, which the client declares."""
_DRIFTS = (0.03, 0.3, 1.0)
"""By how much parameters turn to fresh ones from one observed step to the next."""
_PRIVATE_RATE = 0.1


class Cell(NamedTuple):
    """What the clients of a cell have in common.

    Attributes:
        seed: of the whole run.
        number: of the cell.
        model: name in `models.MODELS`.
        dim: D.
        hidden: widths of hidden layers, of models that have some.
        scale: standard deviation of fresh embeddings.
        seen: parts of the upload that the server looks at, joined by '+'.
        steps: T.
        size: K, padded.
        loss: a key of `losses`, as 'bpr'.
        channel: 'noise', or the precision of the uploads.
        level: noise relative to the root mean square of the first client's uploads; 0: none.
    """

    seed: int
    number: int
    model: str
    dim: int
    hidden: tuple[int, ...]
    scale: float
    seen: str
    steps: int
    size: int
    loss: str
    channel: str
    level: float


class Clients(NamedTuple):
    """Clients `[V]` of a cell.

    Attributes:
        transcripts: what the server holds, leaves `[V, ...]`, in float64.
        labels: bool `[V, K]`, the truth.
        real: bool `[V, K]`, False for padding.
        private: the private states of the first step, leaves `[V, ...]`.
    """

    transcripts: Transcript
    labels: np.ndarray
    real: np.ndarray
    private: PyTree


class Federation(NamedTuple):
    """What an attacker of a cell knows: the model, its client, the channel and what is seen.

    `linear_update` is the client with the loss `losses.linear`; `signs` whether signs are labels.
    """

    model: Model
    client_update: ClientUpdate
    linear_update: ClientUpdate
    observation: Observation
    rounding: float
    signs: bool


def draw_cell(seed: int, number: int) -> Cell:
    """The cell of that number: models take turns, all else is drawn.

    Example:
        >>> draw_cell(0, 1).model, draw_cell(0, 1) == draw_cell(0, 1)
        ('gmf', True)
    """
    random = np.random.default_rng([seed, number])
    name = list(models.MODELS)[number % len(models.MODELS)]

    def pick(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    dim, hidden, scale = pick(1, 2, 3, 4), pick((8,), (4,), (8, 4)), pick(0.1, 1.0)
    parts = models.parts(models.MODELS[name](1, dim, scale, hidden))
    seen = pick(*parts, *(part for part in parts if 'items' in part))  # many refuse without
    channel = pick(*_CHANNELS)
    level = pick(1e-4, 1e-2, 1e-1)
    return Cell(
        seed, number, name, dim, hidden, scale, '+'.join(seen), pick(1, 1, 2, 3, 4),
        pick(*_SIZES), pick('bce', 'bce', 'bpr', 'bpr', 'sampled_softmax', 'squared_error'),
        channel, level if channel == 'noise' else 0.0,
    )  # fmt: skip


def keys(cell: Cell, count: int) -> Key:
    """Keys `[V]` of the first `count` clients of a cell."""
    key = jax.random.fold_in(jax.random.key(cell.seed), cell.number)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count))


def make(cell: Cell, count: int) -> tuple[Federation, Clients]:
    """The first `count` clients of a cell, and what an attacker knows of all of them."""
    model = models.MODELS[cell.model](cell.size, cell.dim, cell.scale, cell.hidden)
    update, linear = (
        client.gradient_step(model, loss, _PRIVATE_RATE)
        for loss in (_LOSSES[cell.loss], losses.linear)
    )
    share = observe.share(*cell.seen.split('+'))
    data = [_data(cell, number) for number in range(count)]
    labels, weights, log_odds = (np.stack(part) for part in zip(*data, strict=True))
    own = keys(cell, count)
    shared, private = _parameters(cell, model, own)
    with jax.enable_x64(cell.channel == 'float64'):

        def train(shared: PyTree, private: PyTree, labels: Array, weights: Array) -> PyTree:
            def step(private: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
                upload, new = update(shared, private, Batch(None, labels, weights))
                return new, share.observe(upload, (), own[0])[0]

            return jax.lax.scan(step, private, shared)[1]

        uploads = jax.jit(jax.vmap(train))(shared, private, labels, weights)
        noise = _noise(cell, tree.take(uploads, 0))
        sent = jax.jit(jax.vmap(functools.partial(_send, cell, noise)))(uploads, weights, own)
        sent = jax.device_get(sent)
    transcripts = Transcript(
        shared=shared,
        seen=sent,
        rounds=np.tile(np.arange(cell.steps, dtype=np.int32), (count, 1)),
        participated=np.ones((count, cell.steps), bool),
        items=np.tile(np.arange(cell.size, dtype=np.int32), (count, 1)),
        slot=None,
        weights=np.repeat(weights[:, None], cell.steps, axis=1),
        log_odds=log_odds,
    )
    rounding = ROUNDING.get(cell.channel, ROUNDING['float32'])
    channel, signs = observe.chain(noise, share), cell.loss != 'squared_error'
    federation = Federation(model, update, linear, channel, rounding, signs)
    transcripts = tree.cast_floats(transcripts, np.float64)
    return federation, Clients(transcripts, labels > 0, weights > 0, private)


def stepped(cell: Cell, made: Clients) -> Clients:
    """The clients at step sizes of their own, powers of 2: the uploads' rounding stays."""
    count = len(made.labels)
    random = np.random.default_rng([cell.seed, cell.number, 2])
    sizes = {part: 2.0 ** random.integers(-12, 18, count) for part in made.transcripts.seen}
    seen = {
        part: jax.tree.map(
            lambda leaf, size=sizes[part]: leaf * size.reshape(-1, *[1] * (leaf.ndim - 1)), leaves
        )
        for part, leaves in made.transcripts.seen.items()
    }
    return made._replace(transcripts=made.transcripts.replace(seen=seen))


def probing_draws(model: Model, size: int = 8) -> list[Draw]:
    """Two random clients in float64 for `probing.probe`, as an audit draws them."""

    @jax.jit
    def parameters(key: Key) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key)
        shared = item_table.gather(model.init_shared(keys[0]), jnp.arange(size))
        return shared, model.init_private(keys[1])

    draws = []
    for seed in range(2):
        random = np.random.default_rng([seed, size])
        found = jax.device_get(parameters(jax.random.key(seed)))
        shared, private = tree.cast_floats(found, np.float64)
        shared = jax.tree.map(
            lambda leaf, r=random: leaf + 0.05 * r.normal(size=leaf.shape), shared
        )
        batch = Batch(None, *map(jnp.asarray, (random.random(size), 0.5 + random.random(size))))
        shared, private = jax.tree.map(jnp.asarray, (shared, private))
        draws.append(Draw(shared, private, batch))
    return draws


def _data(cell: Cell, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, weights and public log odds `[K]` of a client, in the precision it computes in.

    The share of interactions is any, and the log odds say nothing.
    """
    random = np.random.default_rng([cell.seed, cell.number, number])
    low, high = _SIZES[cell.size]
    weights = np.arange(cell.size) < random.integers(low, high + 1)
    labels = (random.random(cell.size) < random.random()) & weights
    dtype = _dtype(cell)
    log_odds = random.normal(size=cell.size)
    return labels.astype(dtype), weights.astype(dtype), log_odds.astype(dtype)


def _parameters(cell: Cell, model: Model, keys: Key) -> tuple[PyTree, PyTree]:
    """Shared parameters `[V, T, ...]` that turn to fresh ones; private states `[V, ...]`.

    One half of the clients have fresh parameters, biases of zero among them, the others have all
    moved a little, as training does.
    """

    @jax.jit
    @jax.vmap
    def draw(key: Key) -> tuple[PyTree, PyTree]:
        own = jax.random.split(key, cell.steps + 1)
        return jax.vmap(model.init_shared)(own[1:]), model.init_private(own[0])

    fresh, private = tree.cast_floats(jax.device_get(draw(keys)), _dtype(cell))
    random = [np.random.default_rng([cell.seed, cell.number, v, 1]) for v in range(len(keys))]
    turns = np.array([each.choice(_DRIFTS) for each in random])
    moved = np.array([each.choice([0, 0.05]) for each in random])

    def turn(leaf: np.ndarray) -> np.ndarray:
        ones = (-1, *[1] * (leaf.ndim - 2))
        extra = np.stack([each.normal(size=leaf.shape[1:]) for each in random])
        leaf = leaf + moved.reshape(-1, 1, *ones[1:]) * extra
        mixed, share = [leaf[:, 0]], turns.reshape(ones)
        for t in range(1, cell.steps):
            mixed.append(np.sqrt(1 - share**2) * mixed[-1] + share * leaf[:, t])
        return np.stack(mixed, axis=1).astype(_dtype(cell))

    return jax.tree.map(turn, fresh), private


def _dtype(cell: Cell) -> type:
    return np.float64 if cell.channel == 'float64' else np.float32


def _noise(cell: Cell, clean: PyTree) -> Observation:
    """The noise of a cell, which attackers know of, by the size of one client's uploads."""
    if not cell.level:
        return observe.chain()
    size = np.sqrt(np.mean(np.concatenate([np.ravel(x) ** 2 for x in jax.tree.leaves(clean)])))
    return observe.add_gaussian_noise(float(f'{cell.level * size:.1e}'))


def _send(cell: Cell, noise: Observation, clean: PyTree, weights: Array, key: Key) -> PyTree:
    """What is seen of a client's uploads `[T, ...]`, padding's item rows left out."""
    keys = jax.random.split(jax.random.fold_in(key, 1), cell.steps)
    sent = jax.vmap(lambda upload, own: noise.observe(upload, noise.init(upload), own)[0])(
        clean, keys
    )
    if cell.channel in ('float16', 'bfloat16'):
        sent = tree.cast_floats(tree.cast_floats(sent, cell.channel), 'float32')
    rows = {name: part for name, part in sent.items() if name == 'items'}

    def mask(leaf: Array) -> Array:
        return jnp.where(weights.reshape(-1, *[1] * (leaf.ndim - 2)) > 0, leaf, 0)

    return sent | jax.tree.map(mask, rows)
