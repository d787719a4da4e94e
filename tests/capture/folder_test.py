"""A capture is written by `integrations/fedinv_record.py` and read by the package."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from fedinv_jax import capture
from tests.capture.writer import record_lib


def _weights(rng, num_items=30, dim=3):
    return {
        'item_embedding.weight': rng.normal(size=(num_items, dim)).astype(np.float32),
        'output.bias': rng.normal(size=1).astype(np.float32),
    }


def _moved(sent, rows):
    returned = {name: np.array(leaf) for name, leaf in sent.items()}
    returned['item_embedding.weight'][rows] += 1
    return returned


def test_what_is_recorded_is_read_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path / 'c', framework='own', loss='bce')
    for round_ in (0, 7):
        sent = _weights(rng)
        for client, rows in (('Jürgen/1', [2, 5]), (3, list(range(25)))):
            record(round_, client, sent, _moved(sent, rows), num_examples=len(rows))
    found = capture.read(tmp_path / 'c')
    assert found.known == {'framework': 'own', 'loss': 'bce'}
    assert found.clients == {'3': (0, 7), 'Jürgen/1': (0, 7)}
    for client, rows in (('Jürgen/1', [2, 5]), ('3', list(range(25)))):
        last = list(capture.exchanges(found, client))[1]
        assert (last.kind, last.num_examples, last.items) == ('returned', len(rows), None)
        expected = _moved(sent, rows)
        for name, leaf in last.returned.items():
            np.testing.assert_array_equal(leaf, expected[name])
            np.testing.assert_array_equal(last.sent[name], sent[name])


def test_rows_that_stay_take_no_space(tmp_path):
    rng = np.random.default_rng(0)
    sent = _weights(rng, num_items=20_000, dim=8)
    record_lib.recorder(tmp_path)(0, 'a', sent, _moved(sent, [4]))
    assert (tmp_path / 'rounds/000000/clients/a.npz').stat().st_size < 2_000


def test_a_client_that_is_sent_something_else(tmp_path):
    rng = np.random.default_rng(0)
    record = record_lib.recorder(tmp_path)
    first, second = _weights(rng), _weights(rng)
    record(0, 'a', first, _moved(first, [1]))
    record(0, 'b', second, _moved(second, [2]))
    found = capture.read(tmp_path)
    for client, sent in (('a', first), ('b', second)):
        got = capture.exchange(found, client, 0)
        np.testing.assert_array_equal(got.sent['output.bias'], sent['output.bias'])
        np.testing.assert_array_equal(
            got.sent['item_embedding.weight'], sent['item_embedding.weight']
        )


def test_a_training_that_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    sent = _weights(rng)
    record_lib.recorder(tmp_path, loss='bce')(0, 'a', sent, _moved(sent, [1]))
    record_lib.recorder(tmp_path, loss='bce')(0, 'b', sent, _moved(sent, [2]))
    assert set(capture.read(tmp_path).clients) == {'a', 'b'}
    with pytest.raises(ValueError, match='describes another training'):
        record_lib.recorder(tmp_path, loss='bpr')


def test_gradients_and_half_precision(tmp_path):
    gradient = np.zeros((20, 3), ml_dtypes.bfloat16)
    gradient[[1, 4]] = 0.5
    sent = {'items': np.ones((20, 3), ml_dtypes.bfloat16)}
    record_lib.recorder(tmp_path, kind='gradient')(0, 'a', sent, {'items': gradient})
    got = capture.exchange(capture.read(tmp_path), 'a', 0)
    assert got.kind == 'gradient'
    assert got.returned['items'].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got.returned['items'], gradient)


def test_what_is_recorded_is_not_changed(tmp_path):
    rng = np.random.default_rng(0)
    sent = _weights(rng)
    returned, before = _moved(sent, [1]), _moved(sent, [1])
    record = record_lib.recorder(tmp_path)
    record(0, 'a', sent, returned)
    sent['output.bias'] += 1  # the training goes on with the same arrays
    np.testing.assert_array_equal(
        capture.exchange(capture.read(tmp_path), 'a', 0).sent['output.bias'] + 1,
        sent['output.bias'],
    )
    for name, leaf in returned.items():
        np.testing.assert_array_equal(leaf, before[name])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'lss': 'bce'}, "Unknown field of .*lss.*Did you mean 'loss'"),
        ({'learning_rate': 'big'}, "expected learning_rate of type int or float, found 'big'"),
        ({'version': 9}, 'expected "version": 1, found 9'),
        ({'format': 'x'}, 'expected an object with "format"'),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_name(tmp_path, change, message):
    rng = np.random.default_rng(0)
    sent = _weights(rng)
    record_lib.recorder(tmp_path)(0, 'a', sent, _moved(sent, [1]))
    about = tmp_path / 'capture.json'
    about.write_text(json.dumps(json.loads(about.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        capture.read(tmp_path)


def test_what_is_no_capture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'is no capture: expected a file capture\.json'):
        capture.read(tmp_path)
    record_lib.recorder(tmp_path)
    with pytest.raises(ValueError, match=r'clients/ID\.npz or sums/NAME\.npz, found none'):
        capture.read(tmp_path)
    rng = np.random.default_rng(0)
    sent = _weights(rng)
    record_lib.recorder(tmp_path)(0, 'a', sent, _moved(sent, [1]))
    path = tmp_path / 'rounds/000000/clients/a.npz'
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r'a\.npz: expected an \.npz of numbers'):
        capture.exchange(capture.read(tmp_path), 'a', 0)
    np.savez(path, **{'returned/x': np.ones(2), 'delta/x': np.ones(2)})
    with pytest.raises(ValueError, match='expected arrays of one of returned/, delta/, gradient/'):
        capture.exchange(capture.read(tmp_path), 'a', 0)
    np.savez(
        path,
        **{
            'rows/item_embedding.weight': np.array([40]),
            'returned/item_embedding.weight': np.ones((1, 3), np.float32),
        },
    )
    with pytest.raises(ValueError, match=r'does not fit returned/item_embedding\.weight'):
        capture.exchange(capture.read(tmp_path), 'a', 0)


def test_files_of_safetensors_are_read(tmp_path):
    rng = np.random.default_rng(0)
    sent = {'item.weight': rng.normal(size=(5, 2)).astype(np.float32)}
    record_lib.recorder(tmp_path)(0, 'a', sent, sent)
    folder = tmp_path / 'rounds' / '000000'
    for path, prefix in ((folder / 'sent', ''), (folder / 'clients' / 'a', 'returned/')):
        path.with_suffix('.npz').unlink()
        arrays = {f'{prefix}{name}': leaf for name, leaf in sent.items()}
        safetensors.numpy.save_file(arrays, path.with_suffix('.safetensors'))
    found = capture.read(tmp_path)
    each = capture.exchange(found, 'a', 0)
    np.testing.assert_array_equal(each.sent['item.weight'], sent['item.weight'])
    np.testing.assert_array_equal(each.returned['item.weight'], sent['item.weight'])
    path = folder / 'clients' / 'a.safetensors'
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r'a\.safetensors: expected a file of safetensors'):
        capture.exchange(found, 'a', 0)


def test_a_round_without_what_was_sent_is_refused(tmp_path):
    sent = {'item.weight': np.ones((5, 2), np.float32)}
    record_lib.recorder(tmp_path)(0, 'a', sent, sent)
    (tmp_path / 'rounds' / '000000' / 'sent.npz').unlink()
    with pytest.raises(ValueError, match=r'sent\.npz: this file is missing'):
        capture.exchange(capture.read(tmp_path), 'a', 0)


# Failed on a copy in the order of the array: a view of its bytes needs rows in one piece.
def test_transposed_arrays_are_recorded(tmp_path):
    sent = {'k.weight': np.arange(6.0).reshape(2, 3).T}
    record_lib.recorder(tmp_path)(0, 'a', sent, {'k.weight': sent['k.weight'] + 1})
    each = capture.exchange(capture.read(tmp_path), 'a', 0)
    np.testing.assert_array_equal(each.sent['k.weight'], sent['k.weight'])
    np.testing.assert_array_equal(each.returned['k.weight'], sent['k.weight'] + 1)
