"""What a client returned becomes what the server subtracts, with the client's batch."""

import numpy as np
import pytest

from fedinv_jax import capture
from tests.capture.writer import record_lib

N, D = 60, 3


def _sent(rng):
    return {
        'item.weight': rng.normal(size=(N, D)).astype(np.float32),
        'h.weight': rng.normal(size=(1, D)).astype(np.float32),
    }


def _record(folder, kind, batches, decay=0.0, with_items=True, **more):
    """Rounds in which a client moves the rows of its batch and the head; returns the uploads."""
    rng = np.random.default_rng(0)
    record = record_lib.recorder(folder, kind=kind, loss='bce')
    uploads = []
    for round_, batch in enumerate(batches):
        sent = _sent(rng)
        upload = {name: decay * leaf for name, leaf in sent.items()}
        upload['h.weight'] = upload['h.weight'] + 0.25
        upload['item.weight'][batch] += 0.5
        returned = {
            'returned': {name: sent[name] - leaf for name, leaf in upload.items()},
            'delta': {name: -leaf for name, leaf in upload.items()},
            'gradient': upload,
        }[kind]
        if not with_items:
            del returned['item.weight']
        record(round_, 'a', sent, returned, **more)
        uploads.append(upload)
    return uploads


@pytest.mark.parametrize('kind', ['returned', 'delta', 'gradient'])
def test_the_upload_is_what_the_server_subtracts(tmp_path, kind):
    batches = [np.array([3, 8, 20]), np.array([3, 9])]
    uploads = _record(tmp_path, kind, batches)
    found = capture.read(tmp_path)
    got = capture.captured(found, 'a', capture.layout(found))
    assert (got.kind, got.decay, got.coarsest, got.notes) == (kind, 0.0, 'float32', ())
    seen = got.transcript
    assert seen.items.tolist() == [3, 8, 9, 20]
    assert seen.weights.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert seen.slot.tolist() == [[0, 1, 3], [0, 2, 0]]
    for step, upload in enumerate(uploads):
        np.testing.assert_allclose(
            seen.seen['items']['embedding'][step], upload['item.weight'][seen.items], atol=1e-6
        )
        np.testing.assert_allclose(
            seen.seen['scorer']['output']['kernel'][step], upload['h.weight'].T, atol=1e-6
        )


def test_weight_decay_moves_every_row_and_the_batch_is_found_all_the_same(tmp_path):
    _record(tmp_path, 'returned', [np.array([3, 8, 20])] * 2, decay=0.001)
    found = capture.read(tmp_path)
    got = capture.captured(found, 'a', capture.layout(found))
    assert got.decay == pytest.approx(0.001, rel=1e-3)
    assert got.transcript.items.tolist() == [3, 8, 20]
    assert 'weight decay' in got.notes[0]


def test_the_scorer_alone_with_and_without_the_items_of_the_batch(tmp_path):
    _record(tmp_path / 'known', 'returned', [np.array([3, 8])], with_items=False, items=[8, 3])
    found = capture.read(tmp_path / 'known')
    got = capture.captured(found, 'a', capture.layout(found)).transcript
    assert got.items.tolist() == [3, 8]
    assert set(got.seen) == {'scorer'}
    _record(tmp_path / 'unknown', 'returned', [np.array([3, 8])], with_items=False)
    found = capture.read(tmp_path / 'unknown')
    got = capture.captured(found, 'a', capture.layout(found))
    assert got.transcript.weights is None
    assert len(got.transcript.items) == N
    assert 'the batch is not known' in got.notes[0]


def test_more_rows_than_examples_is_said(tmp_path):
    _record(tmp_path, 'returned', [np.array([3, 8, 20])], num_examples=2)
    found = capture.read(tmp_path)
    notes = capture.captured(found, 'a', capture.layout(found)).notes
    assert notes == ('round 0: 3 item rows moved, and the client has 2 examples',)


def test_half_precision_is_kept_as_a_declaration(tmp_path):
    rng = np.random.default_rng(0)
    sent = {name: leaf.astype(np.float16) for name, leaf in _sent(rng).items()}
    returned = {name: np.array(leaf) for name, leaf in sent.items()}
    returned['item.weight'][[1, 5]] += np.float16(0.5)
    returned['h.weight'] += np.float16(0.25)
    record_lib.recorder(tmp_path)(0, 'a', sent, returned)
    found = capture.read(tmp_path)
    got = capture.captured(found, 'a', capture.layout(found))
    assert got.coarsest == 'float16'
    assert got.transcript.seen['items']['embedding'].dtype == np.float16


def test_what_changes_from_round_to_round_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path)
    sent = _sent(rng)
    moved = {name: leaf + 1 for name, leaf in sent.items()}
    record(0, 'a', sent, moved)
    record(1, 'a', sent, {'h.weight': moved['h.weight']})
    found = capture.read(tmp_path)
    with pytest.raises(ValueError, match='returned other arrays in some rounds'):
        capture.captured(found, 'a', capture.layout(found))
    record(1, 'a', {'item.weight': sent['item.weight']}, moved)
    record(2, 'b', sent, {'other': np.ones(2)})
    found = capture.read(tmp_path)
    with pytest.raises(ValueError, match='returned no array of the model'):
        capture.captured(found, 'b', capture.layout(found))


def test_what_half_precision_loses_is_counted(tmp_path):
    rng = np.random.default_rng(0)
    sent = {name: leaf.astype(np.float16) for name, leaf in _sent(rng).items()}
    returned = {name: np.array(leaf) for name, leaf in sent.items()}
    returned['item.weight'][[1, 5], 0] += np.float16(0.5)  # 2 of 6 numbers of the batch
    returned['h.weight'] += np.float16(0.25)  # 3 of 3
    record_lib.recorder(tmp_path)(0, 'a', sent, returned, num_examples=9)
    found = capture.read(tmp_path)
    got = capture.captured(found, 'a', capture.layout(found))
    assert got.lost == pytest.approx(4 / 9)
    assert got.notes == ('round 0: 2 item rows moved, of 9 examples: the others are no candidates',)


def test_what_is_not_finite_is_left_out_and_said(tmp_path):
    _record(tmp_path, 'delta', [np.array([3, 8])])
    rng = np.random.default_rng(0)
    returned = {name: np.full_like(leaf, np.nan) for name, leaf in _sent(rng).items()}
    record = record_lib.recorder(tmp_path, kind='delta', loss='bce')
    record(1, 'a', _sent(rng), returned)
    record(1, 'b', _sent(rng), returned)
    found = capture.read(tmp_path)
    layout = capture.layout(found)
    got = capture.captured(found, 'a', layout)
    assert got.transcript.rounds.tolist() == [0]
    (note,) = got.notes
    assert note.startswith('left out, round 1: ')
    assert 'has NaN or infinity' in note
    with pytest.raises(ValueError, match='has NaN or infinity'):
        capture.captured(found, 'b', layout)
