"""The attack without the batch, on clients whose batch the test draws itself."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import client, losses, models, observe, tree
from fedinv_jax.attack.exact import embedding, unknown_batch
from fedinv_jax.attack.exact.known import EmbeddingRecovery
from fedinv_jax.types import Batch, Transcript

N, D = 40, 12
MODEL = models.ncf(N, D, hidden=(16, 8), scale=0.5)
UPDATE = client.gradient_step(MODEL, losses.bce, 0.1)


class Structure(NamedTuple):
    """Duck-typed `labels.Structure`."""

    affine: bool = True
    separable: bool = True


class Known(NamedTuple):
    """Duck-typed `members.Known`."""

    client_update: Any
    observation: Any
    init_private: Any
    structure: Structure
    recovery: EmbeddingRecovery
    rounding: float = 2.0**-24
    positives: float = 0.2
    resample_negatives: bool = False


KNOWN = Known(
    UPDATE,
    observe.share('scorer'),
    MODEL.init_private,
    Structure(),
    EmbeddingRecovery('scorer/private/kernel', 0, 'scorer/items/bias'),
)


def make(seed, steps=1, positives=4, negatives=8, fresh=False):
    """A float32 transcript in float64, whether an item is in each batch `[T, N]`, and its label."""
    random = np.random.default_rng(seed)
    order = random.permutation(N)
    label = np.zeros(N, bool)
    label[order[:positives]] = True
    shareds, seens, members = [], [], []
    for t in range(steps):
        shared = MODEL.init_shared(jax.random.key(100 * seed + t))
        private = MODEL.init_private(jax.random.key(100 * seed + t + 50))
        rest = random.permutation(order[positives:]) if fresh else order[positives:]
        member = label.copy()
        member[rest[:negatives]] = True
        members.append(member)
        batch = Batch(None, jnp.asarray(label, jnp.float32), jnp.asarray(member, jnp.float32))
        upload = UPDATE(shared, private, batch)[0]
        shareds.append(shared)
        seens.append({'scorer': upload['scorer']})
    together = lambda values: jax.tree.map(lambda *x: np.stack(x), *values)  # noqa: E731
    transcript = Transcript(
        shared=together(shareds), seen=together(seens), rounds=np.arange(steps),
        participated=np.ones(steps, bool), items=np.arange(N), slot=None, weights=None,
        log_odds=np.zeros(N),
    )  # fmt: skip
    return tree.cast_floats(transcript, jnp.float64), np.stack(members), label


def system(seed, steps=1, rows=30, size=60, positives=3, negatives=9, fresh=False):
    """Random columns with the signal far above the noise, the members `[T, N]`, the positives."""
    random = np.random.default_rng(seed)
    order = random.permutation(size)
    label, members = np.zeros(size, bool), np.zeros((steps, size), bool)
    label[order[:positives]] = True
    for member in members:
        rest = random.permutation(order[positives:]) if fresh else order[positives:]
        member[:] = label
        member[rest[:negatives]] = True
    columns = 1e5 * random.normal(size=(steps, size, rows))
    share = random.uniform(0.1, 0.9, (steps, size))
    signed = np.where(members, share - label, 0) / (positives + negatives)
    seen = np.einsum('tn,tnr->tr', signed, columns) + random.normal(size=(steps, rows))
    return unknown_batch.Steps(*map(jnp.asarray, (columns, seen, share))), members, label


# Failed on mutants that hold B at its start (_FASTEST = 1) or keep the factors (_DAMPING = 0).
@pytest.mark.parametrize('kwargs', [{}, {'steps': 2, 'rows': 16}, {'steps': 2, 'fresh': True}])
def test_finds_batch_and_positives_from_fewer_equations_than_unknowns(kwargs):
    with jax.enable_x64():
        steps, members, label = system(3, **kwargs)
        fresh = kwargs.get('fresh', False)
        found = jax.jit(unknown_batch.recover, static_argnums=2)(steps, jnp.zeros(60), fresh)
    assert steps.seen.size < 60 * (1 + fresh)
    np.testing.assert_array_equal(found.positives > 0.5, label)
    np.testing.assert_array_equal(found.members > 0.5, members[: len(found.members)])
    assert float(found.residual) < 4.0


def test_popularity_decides_between_duplicates():
    with jax.enable_x64():
        steps, _, label = system(4, rows=50)
        twin = jax.tree.map(jnp.array, steps)._replace(
            columns=jnp.concatenate([steps.columns, steps.columns], 1),
            share=jnp.concatenate([steps.share, steps.share], 1),
        )
        log_odds = jnp.concatenate([jnp.full(60, -6.0), jnp.full(60, -2.0)])
        found = jax.jit(unknown_batch.recover)(twin, log_odds)
    assert np.all(np.isfinite(found.positives))
    np.testing.assert_array_equal(found.positives[60:] > 0.5, label)
    assert not np.any(found.positives[:60] > 0.5)


def test_the_size_of_a_batch_maximises_the_evidence():
    random = np.random.default_rng(0)
    image = random.normal(size=(20, 4))
    seen = image @ np.array([0.8, 1.5, 0.3, -0.2]) / 7 + 1e-3 * random.normal(size=20)
    mean = image @ np.array([1.0, 1.0, 0.0, 0.0])
    noise = 1e-3

    def log_evidence(size):
        covariance = image @ image.T + (noise * size) ** 2 * np.eye(20)
        left = size * seen - mean
        logdet = np.linalg.slogdet(covariance)[1]
        return 20 * np.log(size) - logdet / 2 - left @ np.linalg.solve(covariance, left) / 2

    with jax.enable_x64():
        size = 1.0
        for _ in range(200):
            factor = np.linalg.cholesky(image @ image.T + (noise * size) ** 2 * np.eye(20))
            solve = lambda x, factor=factor: np.linalg.solve(factor, x)  # noqa: E731
            known = np.sum(solve(image) ** 2)
            left = noise * size * np.linalg.solve(factor.T, solve(size * seen - mean))
            size = float(unknown_batch._size(solve(seen), solve(mean), known, left))
    grid = size * np.exp(np.linspace(-0.5, 0.5, 101))
    assert np.argmax([log_evidence(each) for each in grid]) == 50


@functools.cache
def attack(fresh=False):
    """The attack on clients side by side."""
    one = unknown_batch.unknown_batch(KNOWN._replace(resample_negatives=fresh))
    return jax.jit(jax.vmap(lambda transcript: one(transcript, jax.random.key(0))))


def stack(transcripts):
    return jax.tree.map(lambda *x: jnp.stack(x), *transcripts)


@pytest.mark.slow
def test_finds_the_positives_of_clients_side_by_side():
    with jax.enable_x64():
        cases = [make(1), make(3), make(1, positives=0)]
        zero = tree.cast_floats(jax.tree.map(np.zeros_like, cases[0][0].seen), jnp.float64)
        nothing = cases[0][0].replace(seen=zero)
        answer = attack()(stack([*(case[0] for case in cases), nothing]))
    for lane, case in enumerate(cases):
        np.testing.assert_array_equal(answer.labels[lane], case[2])
    assert np.all(answer.objective[:3] < 4.0)
    assert np.all((answer.scores >= 0) & (answer.scores <= 1))
    assert np.isnan(answer.objective[3])
    np.testing.assert_array_equal(answer.scores[3], 0)
    assert not np.any(answer.labels[3])


@pytest.mark.slow
def test_finds_the_positives_behind_fresh_negatives():
    with jax.enable_x64():
        transcript, _, label = make(1, steps=2, fresh=True)
        answer = attack(fresh=True)(stack([transcript]))
    np.testing.assert_array_equal(answer.labels[0], label)
    assert float(answer.objective[0]) < 4.0


@pytest.mark.slow
def test_sums_of_entries_keep_the_labels_and_the_noise():
    with jax.enable_x64():
        transcript, members, label = make(2)
        latent = jax.vmap(lambda seen: embedding.exact(KNOWN.recovery, seen))(transcript.seen)
        whole, few = jax.jit(
            lambda x: [unknown_batch.steps_of(KNOWN, x, latent, rows) for rows in (999, 36)]
        )(transcript)
    assert few.seen.shape == (1, 36)
    np.testing.assert_allclose(few.share, whole.share, atol=1e-9)
    weights = np.where(members, few.share - label, 0) / members.sum()
    left = np.einsum('tn,tnr->tr', weights, few.columns) - few.seen
    assert np.sqrt(np.mean(left**2)) < 2.0
    assert np.sqrt(np.mean(few.seen**2)) > 1e5


def test_a_client_without_a_leak_is_refused():
    with pytest.raises(ValueError, match='bias'):
        unknown_batch.unknown_batch(KNOWN._replace(recovery=None))
