"""What tests of exact attacks share: draws, federations of a few clients, item rows."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedinv_jax import (
    client,
    data,
    item_table,
    losses,
    models,
    observe,
    server,
    simulate,
    train,
    tree,
)
from fedinv_jax.attack import dynamics, exact, objective, relax
from fedinv_jax.attack.exact.known import Draw, upload_of
from fedinv_jax.types import Batch, Guess, Transcript
from tests import reference
from tests.helpers import D


def binaries(size):
    return np.array(list(itertools.product((0, 1), repeat=size)))


ITEMS = 60


def draws(model, size=3):
    """Two random clients in float64."""
    found = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        keys = jax.random.split(jax.random.key(seed))
        shared, private = tree.cast_floats(
            (model.init_shared(keys[0]), model.init_private(keys[1])), np.float64
        )
        shared = jax.tree.map(
            lambda leaf, rng=rng: leaf + 0.05 * rng.normal(size=leaf.shape),
            item_table.gather(shared, jnp.arange(size)),
        )
        batch = Batch(None, jnp.asarray(rng.random(size)), jnp.asarray(0.5 + rng.random(size)))
        found.append(Draw(shared, private, batch))
    return found


@functools.cache
def ncf(dim, hidden, use_bias=True):
    return models.ncf(ITEMS, dim, hidden, use_bias=use_bias)


@functools.cache
def one_step(model, loss=losses.bce):
    return client.gradient_step(model, loss, 0.1)


@functools.cache
def probed(model, update, *seen):
    with jax.enable_x64():
        return exact.probe(update, observe.share(*seen), model.init_private, draws(model))


@functools.cache
def attacked(model, update, seen, rounds=(0,), solver='auto', users=3):
    """Answers and truths of a few clients of a synthetic federation; the attack is compiled."""
    interactions = data.synthetic.generate(
        seed=0, num_users=12, num_items=ITEMS, median_activity=6.0, min_activity=4, max_activity=8
    )
    clients = data.clients.build(interactions)
    run = train.federation(model, update, observe.chain(), server.server(optax.sgd(0.1)), clients)
    victims = [int(user) for user in clients[0].users[:users]]
    recording = simulate.record(run, jax.random.key(0), victims, rounds)
    member = exact.choose(probed(model, update, *seen), solver=solver)
    member = member._replace(attack=jax.jit(member.attack))
    found = []
    with jax.enable_x64():
        for user in victims:
            transcript = simulate.transcript(recording, user, rounds, seen)
            truth = simulate.truth(recording, user, rounds)
            transcript, truth = tree.cast_floats((transcript, truth), np.float64)
            found.append((member.attack(transcript, jax.random.key(user)), truth, transcript))
    return member, found


@functools.cache
def small_problem(seed=0, size=5, model=None, loss=losses.bce, noise=1e-3, separable=True):
    """A problem of one step with unit noise, its guess at the true state, its true labels."""
    model = model or ncf(4, (8, 6))
    update = one_step(model, loss)
    draw = draws(model, size)[seed]
    rng = np.random.default_rng(seed)
    y = jnp.asarray(rng.integers(0, 2, size).astype(float))
    batch = Batch(None, y, jnp.ones(size))
    share = observe.share('items', 'scorer')
    seen = upload_of(update, share, draw._replace(batch=batch))
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (draw.shared, seen))
    transcript = Transcript(
        shared=one[0], seen=one[1], rounds=np.zeros(1, int), participated=np.ones(1, bool),
        items=np.arange(size), slot=None, weights=np.ones((1, size)), log_odds=np.zeros(size),
    )  # fmt: skip
    problem = objective.problem(
        transcript,
        update,
        share,
        dynamics.free(model.init_private, 1),
        relaxation=relax.identity(),
        deviation=jax.tree.map(lambda leaf: jnp.full(1, noise), one[1]),
        separable=separable,
    )
    guess = Guess(jnp.full(size, 0.5), None, draw.private[None])
    return problem._replace(init=lambda key: guess), guess, np.asarray(y)


def own_federation(batch_labels, table=None, seed=0, loss=losses.bce):
    """A float32 client of one's own, one gradient of a small NCF: the transcript in float64."""
    model = ncf(6, (16, 12))
    update = one_step(model, loss)
    size = len(batch_labels)
    keys = jax.random.split(jax.random.key(seed), 3)
    shared = item_table.gather(model.init_shared(keys[0]), jnp.arange(size))
    if table is not None:
        shared = {**shared, 'items': {'embedding': table(shared['items']['embedding'])}}
    private = model.init_private(keys[1])
    y = jnp.asarray(batch_labels, jnp.float32)
    upload, _ = jax.jit(update)(shared, private, Batch(None, y, jnp.ones(size)))
    transcript = Transcript(
        shared=jax.tree.map(lambda leaf: np.asarray(leaf)[None], shared),
        seen={'scorer': jax.tree.map(lambda leaf: np.asarray(leaf)[None], upload['scorer'])},
        rounds=np.zeros(1, int), participated=np.ones(1, bool), items=np.arange(size),
        slot=None, weights=np.ones((1, size), np.float32), log_odds=np.zeros(size),
    )  # fmt: skip
    return model, update, transcript, np.asarray(private)


def assert_recovered(found):
    """All labels and private states of what `attacked` found."""
    for answer, truth, _ in found:
        real = truth.weights > 0
        np.testing.assert_array_equal(answer.labels[real], truth.labels[real] > 0)
        np.testing.assert_allclose(answer.private, truth.private[0], rtol=2e-3, atol=1e-4)


DEGENERATE = ('nothing', 'no_weights', 'all_negative', 'one_positive', 'duplicates')
ROWS = 30
ROW_MODELS = {
    'ncf': models.ncf(ROWS, D, hidden=(8,), scale=0.5),
    'mf': models.matrix_factorization(ROWS, D, scale=0.5),
    'mf_bias': models.matrix_factorization(ROWS, D, item_bias=True, scale=0.5),
}
ROW_UPDATES = {
    name: client.gradient_step(model, losses.bce, 0.1) for name, model in ROW_MODELS.items()
}


@functools.cache
def row_client(name='ncf', steps=1, seed=0, positives=6, real=ROWS):
    """A transcript of item rows by the reference; its labels and private states.

    Entries from `real` on are padding.
    """
    random = np.random.default_rng(seed)
    labels = np.zeros(ROWS)
    labels[random.permutation(real)[:positives]] = 1
    weights = (np.arange(ROWS) < real).astype(float)
    shareds, uploads, privates = [], [], []
    for t in range(steps):
        drawn = ROW_MODELS[name].init_shared(jax.random.key(100 * seed + t))
        shared = reference.to_float64(jax.device_get(drawn))
        private = 0.5 * random.normal(size=D)
        step = reference.gradient_step(reference.bce, 0.1)
        upload, _ = step(shared, private, None, labels, weights)
        shareds.append(shared)
        uploads.append({'items': upload['items']})
        privates.append(private)
    stack = functools.partial(jax.tree.map, lambda *leaves: np.stack(leaves))
    transcript = Transcript(
        shared=stack(*shareds),
        seen=stack(*uploads),
        rounds=np.arange(steps),
        participated=np.ones(steps, bool),
        items=np.arange(ROWS, dtype=np.int32),
        slot=None,
        weights=np.tile(weights, (steps, 1)),
        log_odds=np.zeros(ROWS),
    )
    return transcript, labels > 0, np.stack(privates)


def degenerate_row_client(which):
    """As `row_client`, of two steps: nothing seen, no weight, few positives, or twice an item."""
    positives = {'all_negative': 0, 'one_positive': 1}.get(which, 6)
    transcript, labels, privates = row_client(steps=2, seed=1, positives=positives)
    if which == 'nothing':
        zeros = jax.tree.map(np.zeros_like, transcript.seen)
        transcript = transcript.replace(seen=zeros)
    if which == 'no_weights':
        transcript = transcript.replace(weights=0 * transcript.weights)
    if which == 'duplicates':  # two entries of the same item, with rows of their own

        def twice(items):  # The first entry's rows for the second's, the others moved on by one.
            move = lambda leaf: np.concatenate([leaf[:, :1], leaf[:, :-1]], axis=1)  # noqa: E731
            return jax.tree.map(move, items)

        transcript = transcript.replace(
            shared={**transcript.shared, 'items': twice(transcript.shared['items'])},
            seen={'items': twice(transcript.seen['items'])},
        )
        labels = np.r_[labels[:1], labels[:-1]]
    return transcript, labels, privates


def row_problem(name, transcript):
    """Of item rows seen; private states are free."""
    hypothesis = dynamics.free(ROW_MODELS[name].init_private, len(transcript.weights))
    return objective.problem(
        transcript,
        ROW_UPDATES[name],
        observe.share('items'),
        hypothesis,
        relaxation=relax.identity(),
    )
