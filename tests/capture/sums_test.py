"""Means of several clients in a capture are read as sums."""

import json

import numpy as np
import pytest

from fedinv_jax import capture
from tests.capture.writer import record_lib

N, D = 20, 3


def _sent(rng):
    return {'item.weight': rng.normal(size=(N, D)).astype(np.float32)}


def _mean(sent, uploads, weights=None):
    """The mean weights of clients, summed in float32 one after the other, as servers do."""
    weights = np.ones(len(uploads)) if weights is None else weights
    total = np.zeros((N, D), np.float32)
    for upload, weight in zip(uploads, weights, strict=True):
        total = total + np.float32(weight) * (sent['item.weight'] - upload).astype(np.float32)
    return {'item.weight': total / np.float32(np.sum(weights))}


def _uploads(rng, number):
    uploads = np.zeros((number, N, D))
    for upload in uploads:
        upload[rng.choice(N, 5, replace=False)] = 0.01 * rng.normal(size=(5, D))
    return uploads


def _read(folder):
    found = capture.read(folder)
    return capture.summed(found, capture.layout(found))


# Failed on any difference taken for movement: a mean of weights that are the same is rounded.
@pytest.mark.parametrize('weights', [None, [3.0, 7.0, 2.0]])
def test_sums_are_means_times_the_weights(tmp_path, weights):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path, loss='bce')
    uploads = _uploads(rng, 3)
    of_two = None if weights is None else weights[1:]
    more = [{} if weights is None else {'weights': each} for each in (weights, of_two)]
    for round_ in (0, 4):
        sent = _sent(rng)
        record(round_, 'all', sent, _mean(sent, uploads, weights), clients=[1, 2, 'c'], **more[0])
    sent = _sent(rng)
    record(5, 'all', sent, _mean(sent, uploads[1:], of_two), clients=['2', 'c'], **more[1])
    found = _read(tmp_path)
    assert found.clients == ('1', '2', 'c')
    np.testing.assert_array_equal(found.sums.members, [[0, 0, 0], [0, 0, 0], [-1, 0, 0]])
    np.testing.assert_array_equal(found.sums.rounds, [0, 4, 5])
    np.testing.assert_array_equal(found.weights, weights or np.ones(3))
    expected = np.einsum('c,cnd->nd', found.weights, uploads)
    seen = found.sums.seen[0]['items']['embedding'][0]
    np.testing.assert_allclose(seen, expected, atol=2e-5)
    moved = [uploads.any(axis=(0, 2)), uploads.any(axis=(0, 2)), uploads[1:].any(axis=(0, 2))]
    np.testing.assert_array_equal(found.moved[:, 0], moved)
    assert not found.notes


def test_several_sums_of_a_round(tmp_path):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path, kind='gradient')
    sent, uploads = _sent(rng), _uploads(rng, 2)
    record(0, 'first', sent, {'item.weight': uploads[0]}, clients=['a', 'b'])
    record(0, 'second', sent, {'item.weight': uploads[1]}, clients=['c'])
    record(1, 'first', sent, {'item.weight': uploads[1]}, clients=['c', 'a'])
    found = _read(tmp_path)
    np.testing.assert_array_equal(found.sums.members, [[0, 0, 1], [0, -1, 0]])
    assert not found.moved[1, 1].any()  # a cohort of nobody
    np.testing.assert_allclose(found.sums.seen[0]['items']['embedding'][0], 2 * uploads[0])
    record(2, 'first', sent, {'item.weight': uploads[0]}, clients=['a', 'b'])
    record(2, 'second', sent, {'item.weight': uploads[0]}, clients=['b'])
    with pytest.raises(ValueError, match='a client is in two sums'):
        _read(tmp_path)


def test_a_weight_that_changes_is_said(tmp_path):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path, kind='gradient')
    sent, uploads = _sent(rng), _uploads(rng, 2)
    for round_, weights in enumerate(([1, 2], [1, 4])):
        gradient = {'item.weight': uploads[0]}
        record(round_, 'x', sent, gradient, clients=['a', 'b'], weights=weights)
    found = _read(tmp_path)
    assert 'changes from round to round' in found.notes[0]
    np.testing.assert_array_equal(found.weights, [1, 3])


@pytest.mark.parametrize(
    ('more', 'words'),
    [
        ({'clients': []}, 'the ids of those in the sum'),
        ({'clients': ['a', 'a']}, 'the ids of those in the sum'),
        ({'clients': ['a', 'b'], 'weights': [1]}, 'a positive number for each'),
        ({'clients': ['a', 'b'], 'weights': [1, 0]}, 'a positive number for each'),
        ({'clients': ['a', 'b'], 'weights': [1, np.inf]}, 'a positive number for each'),
        ({'clients': ['a', 'b'], 'weights': ['x', 'y']}, 'a positive number for each'),
        ({'clients': ['a', 'b'], 'other': [1, 0]}, "Unknown array of .*='other'"),
    ],
)
def test_a_sum_that_does_not_say_whose_it_is(tmp_path, more, words):
    sent = _sent(np.random.default_rng(0))
    record_lib.recorder(tmp_path)(0, 'x', sent, sent, **more)
    with pytest.raises(ValueError, match=words):
        capture.sum_of(capture.read(tmp_path), 'x', 0)


# A damaged file is left out; what is left is read. Failed on the whole capture refused.
def test_a_damaged_sum_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path)
    uploads = _uploads(rng, 2)
    for round_ in range(3):
        sent = _sent(rng)
        record(round_, 'x', sent, _mean(sent, uploads), clients=['a', 'b'])
    path = tmp_path / 'rounds/000001/sums/x.npz'
    path.write_bytes(path.read_bytes()[:60])
    found = _read(tmp_path)
    np.testing.assert_array_equal(found.sums.rounds, [0, 2])
    assert found.notes[0].startswith("left out, round 1, sum 'x'")
    for round_ in (0, 2):
        (tmp_path / f'rounds/{round_:06d}/sums/x.npz').write_bytes(b'')
    (tmp_path / 'capture.json').write_text(
        json.dumps({'format': 'fedinv_jax.capture', 'version': 1}), encoding='utf-8'
    )
    found = capture.read(tmp_path)
    with pytest.raises(ValueError, match=r'expected an \.npz of numbers'):
        capture.layout(found)


def test_sums_of_other_arrays(tmp_path):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path, kind='gradient')
    scorer = {'out.weight': np.ones((1, D), np.float32), 'out.bias': np.ones(1, np.float32)}
    items = _sent(rng)
    record(0, 'x', items | scorer, items | scorer, clients=['a', 'b'])
    record(1, 'x', items | scorer, items, clients=['a', 'b'])
    with pytest.raises(ValueError, match='sums have other arrays'):
        _read(tmp_path)


# Failed on an array of objects, which is pickled and refused.
@pytest.mark.parametrize('make', [set, tuple, dict.fromkeys, lambda ids: dict.fromkeys(ids).keys()])
def test_clients_in_any_collection(tmp_path, make):
    sent = _sent(np.random.default_rng(0))
    record_lib.recorder(tmp_path)(0, 'x', sent, sent, clients=make([1, None]), num_examples=3)
    assert set(capture.sum_of(capture.read(tmp_path), 'x', 0).clients) == {'1', 'None'}


def test_weight_decay_is_taken_out_of_sums(tmp_path):
    rng = np.random.default_rng(0)
    record, uploads = record_lib.recorder(tmp_path), _uploads(rng, 2)
    for round_ in range(2):
        sent = _sent(rng)
        shrunk = [each + 0.001 * sent['item.weight'] for each in uploads]
        record(round_, 'x', sent, _mean(sent, shrunk), clients=['a', 'b'])
    found = _read(tmp_path)
    np.testing.assert_array_equal(found.moved[0, 0], uploads.any(axis=(0, 2)))
    assert any('shrinks by 0.001' in note for note in found.notes)


# Failed on items that are excluded because their rows moved by less than rounding.
def test_what_moves_by_little_more_than_rounding_excludes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    record, uploads = record_lib.recorder(tmp_path), 1e-4 * _uploads(rng, 2)
    for round_ in range(2):
        sent = _sent(rng)
        record(round_, 'x', sent, _mean(sent, uploads), clients=['a', 'b'])
    found = _read(tmp_path)
    assert found.moved.all()
    assert 'rounding of weights' in found.notes[0]


def test_clients_of_a_round_that_were_sent_other_parameters(tmp_path):
    rng = np.random.default_rng(0)
    record, uploads = record_lib.recorder(tmp_path), _uploads(rng, 2)
    for name in ('x', 'y'):
        sent = _sent(rng)
        record(0, name, sent, _mean(sent, uploads), clients=[f'{name} a', f'{name} b'])
    with pytest.raises(ValueError, match='were sent different parameters'):
        _read(tmp_path)


# Failed on the note where most rows move, but not all.
def test_noise_on_sums_is_said(tmp_path):
    rng = np.random.default_rng(0)
    for noise in (0.0, 0.01):
        record, uploads = record_lib.recorder(tmp_path / str(noise)), _uploads(rng, 9)
        for round_ in range(2):
            sent = _sent(rng)
            mean = _mean(sent, uploads + noise * rng.normal(size=uploads.shape))
            record(round_, 'x', sent, mean, clients=list('abcdefghi'))
        found = _read(tmp_path / str(noise))
        assert found.moved.all() == (noise > 0)
        assert [note for note in found.notes if 'all item rows move' in note] == (
            ['all item rows move in every sum: no item is excluded'] if noise else []
        )
