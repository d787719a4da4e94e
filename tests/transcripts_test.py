"""Transcript files: round trips, errors that name the array, and a capture made without us."""

import json
import os

import jax
import numpy as np
import pytest

from fedinv_jax import transcripts
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import transcript_file
from fedinv_jax.types import Transcript


def make(weights=True, slot=False, between=False, scorer=True):
    """A transcript of T = 2 steps, K = 4 candidates and batches of B = 3 (4 without slots)."""
    rng = np.random.default_rng(0)
    steps, candidates = 2, 4
    batch, kept = (3 if slot else candidates), (4 if between else steps)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    shared = {'items': {'embedding': normal(kept, candidates, 2), 'bias': normal(kept, candidates)}}
    seen = {'items': {'embedding': normal(steps, candidates, 2)}}
    if scorer:
        shared['scorer'] = {'layer_1': {'kernel': normal(kept, 2, 3), 'bias': normal(kept, 3)}}
        seen['scorer'] = {'layer_1': {'kernel': normal(steps, 2, 3)}}
    else:
        shared['scorer'] = {}
    return Transcript(
        shared=shared,
        seen=seen,
        rounds=np.array([5, 8], np.int32),
        participated=np.array([True, False, True, True][:kept]),
        items=np.array([7, 3, 0, 9], np.int32),
        slot=np.array([[2, 0, 1]] * kept, np.int32) if slot else None,
        weights=np.ones((kept, batch), np.float32) if weights else None,
        log_odds=normal(candidates),
    )


# Failed on the mutants of `save` without `slot` in `_OPTIONAL`, and of `load` without the empty
# scorer.
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'weights': False},
        {'slot': True},
        {'between': True},
        {'between': True, 'slot': True, 'scorer': False},
        {'scorer': False},
    ],
    ids=lambda options: '+'.join(f'{k}={v}' for k, v in options.items()) or 'plain',
)
def test_round_trip(tmp_path, options):
    transcript = make(**options)
    meta = {'model': {'name': 'ncf', 'hidden': [4]}, 'note': 'über'}
    transcripts.save(tmp_path / 'new' / 't.npz', transcript, meta)
    loaded, description = transcripts.load(tmp_path / 'new' / 't.npz')
    assert description == {'format': 'fedinv_jax.transcript', 'version': 1, **meta}
    assert jax.tree.structure(loaded) == jax.tree.structure(transcript)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(transcript), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert (loaded.weights is None) == (transcript.weights is None)
    assert (loaded.slot is None) == (transcript.slot is None)


def test_device_arrays_are_saved_too(tmp_path):
    transcript = make()
    transcripts.save(tmp_path / 't.npz', jax.tree.map(jax.numpy.asarray, transcript), {})
    loaded, _ = transcripts.load(tmp_path / 't.npz')
    np.testing.assert_array_equal(loaded.items, transcript.items)


def damaged(folder, **changes):
    """A file with some arrays replaced, or dropped where None."""
    transcripts.save(folder / 'good.npz', make(), {})
    with np.load(folder / 'good.npz') as file:
        arrays = dict(file)
    for name, value in changes.items():
        name = name.replace('__', '/')
        arrays.pop(name, None)
        if value is not None:
            arrays[name] = value
    np.savez(folder / 't.npz', **arrays)
    return folder / 't.npz'


def meta(**changes):
    return np.asarray(json.dumps({'format': 'fedinv_jax.transcript', 'version': 1, **changes}))


# Equal rounds failed on the mutant `np.diff(rounds) < 0`.
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'items': None}, r'expected arrays items; see transcripts\.py'),
        ({'rounds': None, 'log_odds': None}, 'expected arrays rounds, log_odds'),
        ({'participated': None}, 'expected arrays participated'),
        ({'items': np.array(['B01', 'B02', 'B03', 'B04'])},
         r'expected items of integers, found text \(B01, \.\.\.\): number the items 0, 1'),
        ({'items': np.array(['B01', 'B2', 'B3', 'B4'], object)}, r'holds Python objects \(text'),
        ({'items': np.array([7.0, 3, 0, 9])}, 'expected items of integers, found float64'),
        ({'items': np.array([7, 3, -1, 9])}, 'expected items of ids 0 and above, found -1'),
        ({'items': np.array([7, 3, 7, 9])}, r'items names 7 2 times: .* say with slot'),
        ({'items': np.zeros(0, int)}, 'expected items to hold one or more candidates'),
        ({'rounds': np.array([5.0, 8.0])}, 'expected rounds of integers, found float64'),
        ({'participated': np.array([1, 2])}, 'expected participated to hold 0 and 1 only'),
        ({'weights': -np.ones((2, 4))}, 'expected weights of 0 and above, found -1'),
        ({'weights': np.zeros((2, 4))}, 'expected a positive weight in every round'),
        ({'weights': np.full((2, 4), np.nan)}, 'expected weights to be finite, found 8 of 8'),
        ({'log_odds': np.full(4, -np.inf)}, 'expected log_odds to be finite'),
        ({'shared__items__bias': np.array([[0, 1, np.inf, 0]] * 2)},
         r'expected shared/items/bias to be finite, found 2 of 8 .* first at \[0, 2\]'),
        ({'seen__items__embedding': np.zeros((2, 4, 2)), 'seen__scorer__layer_1__kernel': None},
         'seen/ is all zeros at round 5, 8'),
        ({'seen__items__embedding': np.arange(16.0)[::-1].reshape(2, 4, 2) // 8,
          'seen__scorer__layer_1__kernel': None}, 'seen/ is all zeros at round 8:'),
        ({'shared__scorer__bn__num_batches_tracked': np.asarray(3)},
         r'shared/scorer/bn/num_batches_tracked is a buffer or a step count.*leave it out'),
        ({'seen__scorer__bn.running_mean': np.ones(3)}, r'bn\.running_mean is a buffer'),
        ({'seen__scorer__epoch': np.ones(2, int)},
         r'expected seen/scorer/epoch of floating-point numbers, found int64: leave step counts'),
        ({'seen__scorer__x': np.ones(2, complex)}, 'of floating-point numbers, found complex128'),
        ({'seen__scorer': np.ones(2)}, 'seen/scorer is an array, and a folder of arrays as well'),
        ({'seen__': np.ones(2)}, 'expected a name between the slashes of seen/'),
        ({'shared__items__embedding': np.ones((2, 2, 4))},
         r'to begin with \(2, 4\), found \(2, 2, 4\); transposed\?'),
        ({'meta': None}, r'expected an \.npz transcript with a JSON text "meta"'),
        ({'meta': np.asarray('no json')}, r'expected an \.npz transcript with a JSON text "meta"'),
        ({'meta': meta(version=2)}, r"version 1, found 'fedinv_jax\.transcript' version 2"),
        ({'meta': meta(format='x')}, r"expected format 'fedinv_jax\.transcript'.*found 'x'"),
        ({'seen__items__embedding': None, 'seen__scorer__layer_1__kernel': None},
         'expected at least one array under seen/'),
        ({'labels': np.ones(4)}, 'unknown arrays labels'),
        ({'truth__labels': np.ones(4)}, r"under shared/ or seen/, found 'truth/labels'"),
        ({'rounds': np.array([8, 5], np.int32)}, 'expected rounds to be one or more, increasing'),
        ({'rounds': np.array([5, 5], np.int32)}, 'expected rounds to be one or more, increasing'),
        ({'rounds': np.zeros(0, np.int32)}, 'expected rounds to be one or more, increasing'),
        ({'participated': np.ones(3, bool)}, r'expected participated \[S\] with S = 2 or 4, not 3'),
        ({'log_odds': np.ones(3)}, r'expected log_odds of shape \(4,\), found \(3,\)'),
        ({'weights': np.ones((2, 3))}, r'expected weights of shape \(2, 4\), found \(2, 3\)'),
        ({'slot': np.array([[0, 1, 2, 7]] * 2)},
         'expected slot to hold places in items, 0 to 3, found 0 to 7'),
        ({'slot': np.zeros((1, 4), np.int32)}, r'expected slot of shape \(2, 4\), found \(1, 4\)'),
        ({'shared__items__embedding': np.ones((2, 3, 2))},
         r'expected shared/items/embedding to begin with \(2, 4\), found \(2, 3, 2\)'),
        ({'shared__scorer__layer_1__bias': np.ones((3, 3))},
         r'expected shared/scorer/layer_1/bias to begin with \(2,\), found \(3, 3\)'),
        ({'seen__items__embedding': np.ones((1, 4, 2))},
         r'expected seen/items/embedding to begin with \(2, 4\), found \(1, 4, 2\)'),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_name(tmp_path, changes, message):
    path = damaged(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        transcripts.load(path)
    assert str(caught.value).startswith(f'{path}: ')


# A list of rounds in a file of someone's own may be anything.
@pytest.mark.parametrize(
    'changes',
    [
        {'rounds': np.asarray(5)},
        {'items': np.asarray(3)},
        {'slot': np.asarray(3)},
        {'meta': np.asarray('[1]')},
    ],
    ids=['rounds', 'items', 'slot', 'meta'],
)
def test_scalars_and_lists_are_refused_too(tmp_path, changes):
    path = damaged(tmp_path, **changes)
    with pytest.raises(ValueError, match=r't\.npz: expected'):
        transcripts.load(path)


# bfloat16 failed on the mutant without `_native`: NumPy calls it V2.
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64', '>f4'])
def test_uploads_may_be_stored_in_any_precision(tmp_path, dtype):
    values = np.array([1.5, -2, 0.25, 1e-3] * 4).reshape(2, 4, 2).astype(np.dtype(dtype))
    path = damaged(tmp_path, seen__items__embedding=values)
    seen = transcripts.load(path)[0].seen['items']['embedding']
    assert seen.dtype == values.dtype.newbyteorder('=')
    np.testing.assert_array_equal(seen, values)


@pytest.mark.parametrize(
    'ids', [np.array([10**12, 3, 0, 9]), np.array([2**63, 1, 0, 9], np.uint64)]
)
def test_ids_are_names_of_any_size(tmp_path, ids):
    path = damaged(tmp_path, items=ids)
    np.testing.assert_array_equal(transcripts.load(path)[0].items, ids)


def test_padding_and_slots_may_repeat_an_item(tmp_path):
    items = np.array([7, 3, 9, 7])
    weights = np.array([[1.0, 1, 1, 0]] * 2)
    transcripts.load(damaged(tmp_path, items=items, weights=weights))
    slot = np.array([[0, 0, 1, 2]] * 2)
    transcripts.load(damaged(tmp_path, items=np.array([7, 3, 9, 8]), slot=slot))


def test_candidates_outside_the_slots_are_refused(tmp_path):
    path = damaged(tmp_path, slot=np.full((2, 4), 4, np.int32))
    with pytest.raises(ValueError, match=r't\.npz: expected slot'):
        transcripts.load(path)


@pytest.mark.parametrize('content', [b'', b'not a zip', b'PK\x03\x04 cut off'])
def test_not_an_npz(tmp_path, content):
    path = tmp_path / 't.npz'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r't\.npz: expected an \.npz transcript.*cut off\.'):
        transcripts.load(path)


# Failed on version 0.2: what was expected, not what was found.
def test_a_damaged_array_is_named(tmp_path):
    path = damaged(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b'seen/items') + 200] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'"meta": seen/items/\w+ is damaged\.'):
        transcripts.load(path)


def test_a_plain_npy_is_not_an_npz(tmp_path):
    with open(tmp_path / 't.npz', 'wb') as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r't\.npz: expected an \.npz transcript'):
        transcripts.load(tmp_path / 't.npz')


def test_pickles_are_not_read(tmp_path):
    path = damaged(tmp_path, log_odds=np.array([{}] * 4, object))
    with pytest.raises(ValueError, match=r'expected an \.npz transcript'):
        transcripts.load(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.npz'):
        transcripts.load(tmp_path / 'none.npz')


class Unwritable:
    """An array that NumPy cannot read: the file ends half-way."""

    def __array__(self, *args, **kwargs):
        raise OSError('No space left on device')


# Failed on the mutant that writes to `path` itself.
def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / 't.npz'
    transcripts.save(path, make(), {'note': 'old'})
    half = make().replace(log_odds=Unwritable())
    with pytest.raises(OSError, match='No space left'):
        transcripts.save(path, half, {'note': 'new'})
    assert transcripts.load(path)[1]['note'] == 'old'
    with pytest.raises(OSError, match='No space left'):
        transcripts.save(tmp_path / 'other.npz', half, {})
    assert not os.path.exists(tmp_path / 'other.npz')


def foreign_capture(path, loss, bias, rounds=(3, 7), num_items=50, dim=3, positives=4, size=20):
    """A federated MF in plain NumPy, written in the documented format; returns who liked what.

    The user's embedding takes a step of rate .5 after each observed round; the item rows drift.
    """
    rng = np.random.default_rng(11)
    items = rng.choice(num_items, size, replace=False)
    labels = np.zeros(size)
    labels[rng.choice(size, positives, replace=False)] = 1
    private = rng.standard_normal(dim) * 0.5
    table, offset = rng.standard_normal((size, dim)), rng.standard_normal(size) * 0.1
    first = private.copy()
    tables, offsets, uploads, offset_uploads = [], [], [], []
    for _ in rounds:
        tables.append(table.copy())
        offsets.append(offset.copy())
        logits = table @ private + (offset if bias else 0)
        if loss == 'bce':  # d/dz softplus(z) - y z
            slope = (1 / (1 + np.exp(-logits)) - labels) / size
        else:  # d/dz (z - y)^2
            slope = 2 * (logits - labels) / size
        uploads.append(np.outer(slope, private))
        offset_uploads.append(slope)
        private = private - 0.5 * (table.T @ slope)
        table = table + 0.2 * rng.standard_normal(table.shape)
    arrays = {
        'shared/items/embedding': np.float32(tables),
        'seen/items/embedding': np.float32(uploads),
        'rounds': np.int32(rounds),
        'participated': np.ones(len(rounds), bool),
        'items': np.int32(items),
        'weights': np.ones((len(rounds), size), np.float32),
        'log_odds': np.zeros(size, np.float32),
        'meta': np.asarray(
            json.dumps(
                {
                    'format': 'fedinv_jax.transcript',
                    'version': 1,
                    'model': {
                        'name': 'matrix_factorization',
                        'dim': dim,
                        'item_bias': bias,
                        'num_items': num_items,
                    },
                    'client': {'name': 'gradient_step', 'loss': loss, 'private_learning_rate': 0.5},
                }
            )
        ),
    }
    if bias:
        arrays['shared/items/bias'] = np.float32(offsets)
        arrays['seen/items/bias'] = np.float32(offset_uploads)
    np.savez(path, **arrays)
    return sorted(items[labels > 0].tolist()), first


# Failed on the mutants `-upload` of client.gradient_step, `seen.items[~answer.labels]`, and on one
# that ignores the file's client.
@pytest.mark.parametrize(
    ('loss', 'bias', 'dynamics'),
    [('bce', True, 'free'), ('squared_error', False, 'free'), ('bce', True, 'static')],
    ids=lambda value: str(value),
)
def test_a_capture_made_by_hand_is_inverted(tmp_path, loss, bias, dynamics):
    # Static: what a single round shows is enough, and there nothing has moved.
    rounds = (3,) if dynamics == 'static' else (3, 7)
    liked, private = foreign_capture(tmp_path / 't.npz', loss, bias, rounds)
    config = config_lib.default_config()
    config.dynamics.name = (dynamics,)
    config.attack.update({'num_iterations': 1500})
    config.attack.priors.binary = 1e-4
    lines = []
    result = transcript_file.attack_transcript(
        config, tmp_path / 't.npz', str(tmp_path / 'out'), lines.append
    )
    assert sorted(result['interactions']) == liked
    np.testing.assert_allclose(np.asarray(result['private']), private, atol=0.05)
    assert json.loads((tmp_path / 'out' / 'answer.json').read_text()) == result
    assert 'rounds 3' in lines[0]
    assert '20 candidates' in lines[0]
    # The config is the caller's.
    assert config.model.name == 'ncf'


def test_unrolled_needs_the_rounds_in_between(tmp_path):
    foreign_capture(tmp_path / 't.npz', 'bce', True)
    config = config_lib.default_config()
    config.dynamics.name = ('unrolled',)
    with pytest.raises(ValueError, match=r't\.npz: unrolled needs the parameters of every round'):
        transcript_file.attack_transcript(config, tmp_path / 't.npz', str(tmp_path))


def test_a_capture_with_nan_is_an_error_not_an_answer(tmp_path):
    foreign_capture(tmp_path / 't.npz', 'bce', True)
    with np.load(tmp_path / 't.npz') as file:
        arrays = dict(file)
    arrays['seen/items/embedding'][0, 0, 0] = np.nan
    np.savez(tmp_path / 't.npz', **arrays)
    config = config_lib.default_config()
    config.attack.num_iterations = 3
    with pytest.raises(ValueError, match='seen/items/embedding to be finite, found 1 of 120 '):
        transcript_file.attack_transcript(config, tmp_path / 't.npz', str(tmp_path / 'out'))
    assert not (tmp_path / 'out' / 'answer.json').exists()
