"""Attacks on item rows, on uploads that an independent float64 reference computes."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import client, losses, models, observe, tree
from fedinv_jax.attack import dynamics, inversion, objective, relax
from fedinv_jax.attack.exact import alignment, item_rows
from fedinv_jax.types import Guess, Transcript
from tests import reference

D, K, WIDTH = 3, 30, 0.9
KEY = jax.random.key(0)
MODELS = {
    'ncf': models.ncf(K, D, hidden=(8,), scale=0.5),
    'mf': models.matrix_factorization(K, D, scale=0.5),
    'mf_bias': models.matrix_factorization(K, D, item_bias=True, scale=0.5),
}
BY_HAND = [[[3.0, 4.0], [6.0, 8.0], [-3.0, -4.0], [0.0, 0.0]]]
UPDATES = {name: client.gradient_step(model, losses.bce, 0.1) for name, model in MODELS.items()}


@functools.cache
def make(name='ncf', steps=1, seed=0, positives=6, real=K):
    """One client's transcript at independent random parameters; its labels and private states.

    Entries from `real` on are padding.
    """
    random = np.random.default_rng(seed)
    labels = np.zeros(K)
    labels[random.permutation(real)[:positives]] = 1
    weights = (np.arange(K) < real).astype(float)
    shareds, uploads, privates = [], [], []
    for t in range(steps):
        drawn = MODELS[name].init_shared(jax.random.key(100 * seed + t))
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
        items=np.arange(K, dtype=np.int32),
        slot=None,
        weights=np.tile(weights, (steps, 1)),
        log_odds=np.zeros(K),
    )
    return transcript, labels > 0, np.stack(privates)


@functools.cache
def compiled(name, steps):
    """`sign(transcript, latent)` and `search(transcript, key, guess, width, iterations)`."""

    def problem(transcript):
        hypothesis = dynamics.free(MODELS[name].init_private, steps)
        return objective.problem(
            transcript,
            UPDATES[name],
            observe.share('items'),
            hypothesis,
            relaxation=relax.identity(),
        )

    def search(transcript, key, guess, width, iterations):
        start = problem(transcript)._replace(init=lambda key: guess)
        return inversion.invert(start, alignment.search(transcript, width), key, iterations)

    def sign(transcript, latent):
        return item_rows.sign(problem(transcript), transcript, latent)

    return jax.jit(sign), jax.jit(search)


def sign(transcript, latent, name='ncf'):
    return compiled(name, len(transcript.weights))[0](transcript, latent)


def search(transcript, key=KEY, labels=None, latent=None, width=WIDTH, name='ncf', iterations=60):
    """From private states of zero, if no others are given."""
    steps = len(transcript.weights)
    labels = jnp.zeros(K) if labels is None else labels
    guess = Guess(labels, None, jnp.zeros((steps, D)) if latent is None else jnp.asarray(latent))
    width = jnp.broadcast_to(width, (steps,)).astype(float)
    return compiled(name, steps)[1](transcript, key, guess, width, jnp.asarray(iterations))


spectral, levels = jax.jit(item_rows.spectral), jax.jit(item_rows.levels)
summed = jax.jit(item_rows.summed)


def seeing(seen):
    """A transcript of given item rows `[T, K, F]`, which needs no model."""
    seen = np.asarray(seen, float)
    return Transcript(
        shared={},
        seen={'items': seen},
        rounds=np.arange(len(seen)),
        participated=np.ones(len(seen), bool),
        items=np.arange(seen.shape[1], dtype=np.int32),
        slot=None,
        weights=np.ones(seen.shape[:2]),
        log_odds=np.zeros(seen.shape[1]),
    )


def flat(transcript):
    """Item rows `[T, K, F]`."""
    leaves = jax.tree.leaves(transcript.seen['items'])
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(('name', 'steps'), [('ncf', 1), ('ncf', 3), ('mf_bias', 1)])
def test_sign_against_reference(name, steps):
    transcript, _, privates = make(name, steps)
    latent = 0.3 * privates + 0.1
    cosines = np.zeros(K)
    for t in range(steps):
        shared = jax.tree.map(lambda leaf, t=t: leaf[t], transcript.shared)
        sides = [
            flat_rows(reference.gradient_step(reference.bce, 0.1)(
                shared, latent[t], None, np.full(K, label), transcript.weights[t])[0])
            for label in (0.0, 1.0)
        ]  # fmt: skip
        direction, seen = sides[0] - sides[1], flat(transcript)[t]
        size = np.linalg.norm(direction, axis=1) * np.linalg.norm(seen, axis=1)
        cosines += np.sum(direction * seen, axis=1) / size / steps
    answer = sign(transcript, latent, name)
    np.testing.assert_allclose(answer.scores, (1 - cosines) / 2, atol=1e-9)
    np.testing.assert_array_equal(answer.labels, cosines < 0)


def test_sign_is_exact_at_the_private_state():
    for seed in range(3):
        transcript, labels, privates = make(seed=seed)
        answer = sign(transcript, privates)
        np.testing.assert_array_equal(answer.labels, labels)
        assert float(answer.objective) < 1e-9


@pytest.mark.parametrize('steps', [1, 3])
def test_spectral_against_reference(steps):
    transcript, _, _ = make('mf', steps, seed=4)
    total = np.zeros(K)
    for seen in flat(transcript):
        units = seen / np.linalg.norm(seen, axis=1, keepdims=True)
        cosine = units @ np.linalg.svd(units)[2][0]
        total += cosine * (-1 if total @ cosine < 0 else 1) / steps
    total *= -1 if np.sum(total > 0) > np.sum(total < 0) else 1
    answer = spectral(transcript)
    np.testing.assert_allclose(answer.scores, (1 + total) / 2, atol=1e-9)
    np.testing.assert_array_equal(answer.labels, total > 0)


# Rows of matrix factorisation lie on a line: its two halves are the labels.
def test_spectral_is_exact_on_a_line():
    for seed, steps in ((0, 1), (1, 3)):
        transcript, labels, _ = make('mf', steps, seed)
        answer = spectral(transcript)
        np.testing.assert_array_equal(answer.labels, labels)
        assert float(answer.objective) < 1e-9


def test_spectral_by_hand():
    answer = spectral(seeing(BY_HAND))
    np.testing.assert_allclose(answer.scores, [0, 0, 1, 0.5], atol=1e-9)
    np.testing.assert_array_equal(answer.labels, [False, False, True, False])
    assert float(answer.objective) < 1e-9


# Failed on: the smaller side positive.
def test_the_side_is_named_by_the_share_where_rows_are_left_out():
    labels = np.arange(100) < 20
    whole = np.where(labels, -1.0, 1.0)[:, None] * np.array([1.0, 2.0])
    largest = whole * (np.arange(100) < 30)[:, None]  # of the negatives 10 rows are left
    chance = whole * (np.arange(100) % 5 == 0)[:, None]  # 4 of 20 and 16 of 80 rows
    for attack in (item_rows.spectral, item_rows.summed, item_rows.levels):
        np.testing.assert_array_equal(attack(seeing(largest[None]), largest=True).labels, labels)
        np.testing.assert_array_equal(
            attack(seeing(chance[None])).labels, labels & (np.arange(100) % 5 == 0)
        )
        np.testing.assert_array_equal(attack(seeing(whole[None]), 0.8).labels, ~labels)


# Failed on: the mean of the steps' own directions; the last step alone.
def test_summed_sees_through_noise_that_hides_each_step():
    random = np.random.default_rng(0)
    labels = np.arange(300) < 60
    rows_ = np.where(labels, -1, 1)[:, None] * np.eye(16)[0]
    seen = rows_ + 3 * random.normal(size=(100, 300, 16))
    assert np.mean(summed(seeing(seen)).labels == labels) > 0.99
    assert np.mean(spectral(seeing(seen)).labels == labels) < 0.9
    one, other = summed(seeing(seen[:1])), spectral(seeing(seen[:1]))
    np.testing.assert_array_equal(one.scores, other.scores)


# Quarters end at 3.25, 4 and 5.5: the codes are a + b, c + d, -(a + b) and 0 for units a to d,
# and the means of the classes differ by -1.5 (a + b) - 0.5 (c + d); the rows are -3.5, -1.5
# and 2.5 from the border.
def test_levels_by_hand():
    answer = levels(seeing(BY_HAND))
    np.testing.assert_allclose(answer.scores, [0, 2 / 7, 6 / 7, 0.5], atol=1e-9)
    np.testing.assert_array_equal(answer.labels, [False, False, True, False])
    assert float(answer.objective) == pytest.approx(1 / 3, abs=5e-8)


# Rows are mirror images, seen through an odd map that is not monotone: Adam's oscillation.
# Fails with one level, and with two.
def test_levels_sees_through_an_odd_map_of_sizes():
    for seed in range(2):
        random = np.random.default_rng(seed)
        labels = np.arange(100) < 20
        slopes = np.where(labels, -1, 1)[:, None] * random.normal(size=60)
        slopes = slopes + 0.5 * random.normal(size=(100, 60))
        sizes = np.abs(slopes)
        seen = np.sign(slopes) * np.where(sizes < 0.5, 4, np.where(sizes < 1, -2, 1))
        np.testing.assert_array_equal(levels(seeing(seen[None])).labels, labels)
        assert not np.array_equal(spectral(seeing(seen[None])).labels, labels)


# Negatives hardly moved: the border is between the means, not at 0. Fails without the means.
def test_levels_of_classes_that_are_no_mirror_images():
    random = np.random.default_rng(0)
    labels = np.arange(100) < 20
    means = np.where(labels, 1, -0.05)[:, None] * np.sign(random.normal(size=60))
    seen = means + 0.5 * random.normal(size=(100, 60))
    np.testing.assert_array_equal(levels(seeing(seen[None])).labels, labels)
    assert not np.array_equal(spectral(seeing(seen[None])).labels, labels)


# Failed on mutant: the class that `spectral` calls positive stays so, whichever is smaller.
def test_levels_calls_the_smaller_class_positive_whatever_it_started_from():
    transcript, labels, _ = make(steps=2)
    start = item_rows.spectral(transcript)
    wrong = start._replace(labels=~start.labels)
    with mock.patch.object(item_rows, 'spectral', return_value=wrong):
        found = item_rows.levels(transcript)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.labels, levels(transcript).labels)


def test_levels_of_several_steps():
    transcript, labels, _ = make('mf', 2, seed=1)
    answer = levels(transcript)
    np.testing.assert_array_equal(answer.labels, labels)


def test_search_finds_labels_and_private_states():
    transcript, labels, privates = make(steps=2, seed=1)
    answer = search(transcript)
    np.testing.assert_array_equal(answer.labels, labels)
    np.testing.assert_allclose(answer.private, privates[0], atol=1e-5)
    assert float(answer.objective) < 1e-12


# The start is the problem's: with a stencil as wide as it is far, few iterations do.
def test_search_from_a_rough_state():
    transcript, labels, privates = make(steps=2, seed=1)
    rough = privates + 0.02 * np.random.default_rng(0).normal(size=privates.shape)
    widths = np.linalg.norm(rough - privates, axis=-1)
    near, far = (
        search(transcript, latent=rough, labels=labels.astype(float), width=w, iterations=8)
        for w in (widths, 100 * widths)
    )
    np.testing.assert_allclose(near.private, privates[0], atol=1e-4)
    assert np.max(np.abs(far.private - privates[0])) > 1e-3


# F3: (1 - y, -p) explains the rows as well. Around p = 0 a stencil tells the two apart by
# rounding only, so that it is the machine's which of them the search ends at.
def test_search_of_matrix_factorisation_ends_at_the_truth_or_its_flip():
    for seed in range(3):
        transcript, labels, privates = make('mf', seed=seed)
        answer = search(transcript, name='mf')
        flipped = bool(answer.labels[0]) != bool(labels[0])
        np.testing.assert_array_equal(answer.labels ^ flipped, labels > 0)
        sign = -1 if flipped else 1
        np.testing.assert_allclose(sign * answer.private, privates[0], atol=1e-5)


def test_vmap_equals_loop():
    clients = [make('mf', seed=seed)[0] for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *clients)
    latent = jnp.full((1, D), 0.2)
    keys = jax.random.split(KEY)
    attacks = (
        lambda transcript, key: spectral(transcript),
        lambda transcript, key: levels(transcript),
        lambda transcript, key: sign(transcript, latent, 'mf'),
        lambda transcript, key: search(transcript, key, name='mf', iterations=4),
    )
    for attack in attacks:
        both = jax.vmap(attack)(stacked, keys)
        for v, one in enumerate(clients):
            jax.tree.map(
                lambda a, b, v=v: np.testing.assert_allclose(a[v], b, atol=1e-8),
                both,
                attack(one, keys[v]),
            )


def test_padding_is_never_an_interaction():
    transcript, labels, privates = make(steps=2, seed=3, real=22)
    for answer in (
        spectral(transcript), levels(transcript), sign(transcript, privates), search(transcript)
    ):  # fmt: skip
        assert not np.any(answer.labels[22:])
        np.testing.assert_array_equal(answer.scores[22:], 0)
    np.testing.assert_array_equal(search(transcript).labels, labels)


@pytest.mark.parametrize(
    'which', ['nothing', 'no_weights', 'all_negative', 'one_positive', 'duplicates']
)
def test_degenerate_clients(which):
    positives = {'all_negative': 0, 'one_positive': 1}.get(which, 6)
    transcript, labels, privates = make(steps=2, seed=1, positives=positives)
    if which == 'nothing':
        zeros = jax.tree.map(np.zeros_like, transcript.seen)
        transcript = transcript.replace(seen=zeros)
    if which == 'no_weights':
        transcript = transcript.replace(weights=0 * transcript.weights)
    if which == 'duplicates':  # two entries of the same item, with rows of their own
        copied = {
            'shared': {**transcript.shared, 'items': twice(transcript.shared['items'])},
            'seen': {'items': twice(transcript.seen['items'])},
        }
        transcript, labels = transcript.replace(**copied), np.r_[labels[:1], labels[:-1]]
    for answer in (
        spectral(transcript), levels(transcript), sign(transcript, privates), search(transcript)
    ):  # fmt: skip
        for leaf in jax.tree.leaves(answer):
            assert np.all(np.isfinite(leaf))
        assert np.all((answer.scores >= 0) & (answer.scores <= 1))
        if which == 'no_weights':
            assert not np.any(answer.labels)
    if which in ('all_negative', 'one_positive', 'duplicates'):
        np.testing.assert_array_equal(sign(transcript, privates).labels, labels)
        np.testing.assert_array_equal(search(transcript).labels, labels)


# A positive whose `sigmoid(z) - 1` was rounded to zero in the client's precision.
def test_row_of_zeros_takes_the_label_that_predicts_it():
    transcript, labels, privates = make('mf', seed=6)
    positive, negative = np.flatnonzero(labels)[0], np.flatnonzero(~labels)[0]
    embedding = np.array(transcript.shared['items']['embedding'])
    seen = np.array(transcript.seen['items']['embedding'])
    along = 40 * privates[0] / np.sum(privates[0] ** 2)
    embedding[0, positive], embedding[0, negative] = along, -along
    seen[0, [positive, negative]] = 0
    transcript = transcript.replace(
        shared={**transcript.shared, 'items': {'embedding': embedding}},
        seen={'items': {'embedding': seen}},
    )
    np.testing.assert_array_equal(sign(transcript, privates, 'mf').labels, labels)


def test_float32():
    transcript, _, _ = make('mf', seed=1)
    with jax.enable_x64(False):
        transcript = tree.cast_floats(transcript, np.float32)
        found = jax.eval_shape(lambda transcript: search(transcript, name='mf'), transcript)
        assert (found.scores.dtype, found.private.dtype) == (jnp.float32, jnp.float32)
        for answer in (spectral(transcript), levels(transcript)):
            assert answer.scores.dtype == jnp.float32
            assert np.all(np.isfinite(answer.scores))


def test_refuses():
    transcript, _, _ = make()
    with pytest.raises(ValueError, match='width=0'):
        alignment.search(transcript, 0)
    with pytest.raises(ValueError, match='item rows'):
        item_rows.spectral(transcript.replace(seen={'scorer': np.ones((1, 2))}))


def flat_rows(upload):
    leaves = [leaf.reshape(K, -1) for _, leaf in sorted(upload['items'].items())]
    return np.concatenate(leaves, axis=-1)


def twice(items):
    """The first entry's rows in place of the second's, and the others moved on by one."""
    return jax.tree.map(lambda leaf: np.concatenate([leaf[:, :1], leaf[:, :-1]], axis=1), items)
