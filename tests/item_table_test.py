"""Rows of a client's own item table: taken, trained, put back, recorded, replayed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedinv_jax import (
    client,
    item_table,
    losses,
    models,
    observe,
    regularizers,
    server,
    simulate,
    train,
    tree,
)
from fedinv_jax.attack import dynamics, objective, relax
from fedinv_jax.data import clients as clients_lib

N, D, ROUNDS = 7, 3, 3
ITEMS = np.array([[4, 1, 6, 2], [0, 5, 0, 0]], np.int32)
LABELS = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], np.float32)
WEIGHTS = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32)
KEYS = jax.random.split(jax.random.key(0))
TERMS = regularizers.additive_personalization(0.3, 0.2)


def recorded():
    """Three rounds of two FedRAP clients; the second one's batch is half padding, with item 0."""
    model = models.fedrap(N, D, scale=0.5)
    update = client.gradient_step(model, losses.bce, 0.7, TERMS)
    group = clients_lib.Clients(
        np.array([3, 8], np.int32), ITEMS, LABELS, WEIGHTS, np.array([2, 1]), np.array([2, 1])
    )
    run = train.federation(model, update, observe.chain(), server.server(optax.sgd(0.5)), [group])
    recording = simulate.record(run, KEYS[0], [3, 8], range(ROUNDS))
    return update, recording


# Failed on mutants: padding that puts back item 0's old row, rows that are not put back.
def test_private_rows_are_trained_and_put_back():
    update, recording = recorded()
    private = [recording.snapshots[t].private[0] for t in range(ROUNDS)]
    tables = [np.asarray(one['items']['embedding']) for one in private]
    assert tables[0].shape == (2, N, D)
    for t in range(1, ROUNDS):
        moved = np.any(tables[t] != tables[t - 1], axis=2)
        for c in range(2):
            assert set(np.flatnonzero(moved[c])) == set(ITEMS[c][WEIGHTS[c] > 0])
    own = jax.tree.map(lambda leaf: leaf[1], private[0])
    rows = item_table.gather_both(recording.snapshots[0].shared, own, ITEMS[1][:2])
    batch = client.Batch(None, jnp.asarray(LABELS[1][:2]), jnp.ones(2))
    expected = update(*rows, batch)[1]
    np.testing.assert_allclose(tables[1][1][[0, 5]], expected['items']['embedding'], rtol=1e-6)
    np.testing.assert_allclose(private[1]['weight'][1], expected['weight'], rtol=1e-6)


# The truth holds the candidates' rows, and the client replayed on it uploads what was seen.
def test_private_rows_are_replayed():
    update, recording = recorded()
    seen = simulate.transcript(recording, 8, range(ROUNDS), ('items',), every_round=True)
    truth = simulate.truth(recording, 8, range(ROUNDS))
    assert truth.private['items']['embedding'].shape == (ROUNDS, 4, D)
    hypothesis = dynamics.unrolled(lambda key: None, range(ROUNDS))
    problem = objective.problem(
        seen, update, observe.chain(observe.share('items')), hypothesis, relaxation=relax.identity()
    )
    start = tree.take(truth.private, 0)
    guess = objective.Guess(jnp.asarray(truth.labels), None, jax.tree.map(jnp.asarray, start))
    assert problem.objective(guess) < 1e-9
    off = jax.tree.map(lambda leaf: leaf + 0.1, guess.latent)
    assert problem.objective(guess._replace(latent=off)) > 1e-4


def test_parameters_without_a_table_are_returned():
    private = {'items': {}, 'weight': jnp.ones(2)}
    assert item_table.gather(private, jnp.array([1])) is private
    rows = {'items': {}, 'weight': jnp.zeros(2)}
    assert item_table.scatter(private, rows, jnp.array([1]), jnp.ones(1)) is rows


# `(-2 distance (C - D) + sparsity sign(C)) / M` for the M entries of the batch's rows.
def test_terms_of_fedrap():
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(2, 4, D)).astype(np.float32)
    shared = {'items': {'embedding': jnp.asarray(common)}, 'scorer': {}}
    private = {'items': {'embedding': jnp.asarray(own)}}
    weights = jnp.array([1.0, 1.0, 1.0, 0.0])
    batch = client.Batch(None, jnp.zeros(4), weights)
    value = (0.2 * np.abs(common[:3]).sum() - 0.3 * ((common - own)[:3] ** 2).sum()) / (3 * D)
    np.testing.assert_allclose(TERMS(shared, private, shared, batch), value, rtol=1e-5)
    gradient = jax.grad(TERMS)(shared, private, shared, batch)['items']['embedding']
    wanted = (0.2 * np.sign(common) - 2 * 0.3 * (common - own)) / (3 * D)
    np.testing.assert_allclose(gradient[:3], wanted[:3], rtol=1e-5)
    assert not np.any(gradient[3])
