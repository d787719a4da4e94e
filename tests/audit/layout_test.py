"""Transcript files whose arrays are not the model's: refused by name before anything runs."""

import json

import numpy as np
import pytest

from fedinv_jax import transcripts
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import transcript_file
from tests.audit.helpers import small_capture

MODEL = {'name': 'ncf', 'dim': 3, 'hidden': [4], 'num_items': 60}


def refused(folder, match, meta=None, **changes):
    """The error of an attack on a file with some arrays replaced, or dropped where None."""
    transcript, _, description = small_capture()
    transcripts.save(folder / 't.npz', transcript, {**description, **(meta or {})})
    with np.load(folder / 't.npz') as file:
        arrays = dict(file)
    for name, value in changes.items():
        name = name.replace('__', '/')
        old = arrays.pop(name, None)
        if value is not None:
            arrays[name] = value(old)
    np.savez(folder / 't.npz', **arrays)
    config = config_lib.default_config()
    config.attack.name = ('exact',)
    lines = []
    with pytest.raises(ValueError, match=match) as caught:
        transcript_file.attack_transcript(
            config, folder / 't.npz', str(folder / 'out'), lines.append
        )
    assert str(caught.value).startswith(f'{folder / "t.npz"}: ')
    assert '\n' not in str(caught.value)
    assert not lines
    assert not (folder / 'out').exists()


def swap(leaf):
    return leaf.swapaxes(-1, -2)


# Each failed on `capture` of version 0.1: a traceback of flax, or an answer.
@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        ({'shared__scorer__private__kernel': swap},
         r'expected shared/scorer/private/kernel of shape \(2, 3, 4\), found \(2, 4, 3\); transpo'),
        ({'seen__scorer__layer_1__kernel': swap},
         r'expected seen/scorer/layer_1/kernel of shape \(2, 4, 1\), found \(2, 1, 4\); transp'),
        ({'seen__items__embedding': swap},
         r'expected seen/items/embedding to begin with \(2, 12\), found \(2, 3, 12\); transposed'),
        ({'shared__scorer__layer_1__bias': None},
         r'expected shared/scorer/layer_1/bias of shape \(S, 1\), found no such array'),
        ({'shared__items__embedding': None}, r'expected shared/items/embedding of .* \(S, 12, 3\)'),
        ({'shared__scorer__fc__weight': lambda _: np.ones((2, 4, 3))},
         r"shared/scorer/fc/weight is no parameter of the model\. .*It has items/embedding, "),
        ({'seen__scorer__items__weight': lambda _: np.ones((2, 4, 3))},
         r"seen/scorer/items/weight is no parameter .* Did you mean .*'scorer/items/bias'"),
        ({'seen__scorer__items__bias': lambda leaf: leaf[:, :3]},
         r'expected seen/scorer/items/bias of shape \(2, 4\), found \(2, 3\)\.'),
        # Failed on version 0.2: the message spoke of fields of the config.
        ({'weights': None}, r'seen/items shows which items .* expected weights \(S, B\), found'),
        # Failed on version 0.2: 'Unknown part in observation.seen', which is no field of the file.
        ({'seen__fc1.weight': lambda _: np.ones((2, 4, 3))},
         r'seen/fc1\.weight is neither of an item nor .* expected it under seen/items/ or seen/sc'),
        ({'shared__scorer__private__kernel': lambda leaf: leaf.reshape(2, 12)},
         r'expected shared/scorer/private/kernel of shape \(2, 3, 4\), found \(2, 12\)\.'),
    ],
)  # fmt: skip
def test_arrays_that_are_not_the_models_are_refused(tmp_path, changes, match):
    refused(tmp_path, match, **changes)


@pytest.mark.parametrize(
    ('meta', 'match'),
    [
        (
            {'model': {**MODEL, 'hidden': [5]}},
            r'scorer/items/bias of shape \(2, 5\), found \(2, 4\)',
        ),
        ({'model': 'ncf'}, "meta, section model: expected an object of fields, found 'ncf'"),
        ({'model': {**MODEL, 'hidden': '4'}}, r"expected hidden like \(\d+.*\), found '4'"),
        ({'model': {**MODEL, 'hidden': ['4']}}, r"expected hidden like \(\d+.*\), found \['4'\]"),
        ({'model': {**MODEL, 'hidden': None}}, 'meta, section model: expected hidden like .*None'),
        ({'model': {**MODEL, 'dim': 3.0}}, r'expected dim like \d+, found 3\.0'),
        ({'model': {**MODEL, 'dim': True}}, r'expected dim like \d+, found True'),
        ({'model': {**MODEL, 'num_items': 'many'}}, 'expected num_items to be an integer'),
        ({'model': {**MODEL, 'hiden': [4]}}, 'meta, section model: .*hiden'),
        ({'clinet': {}}, "meta has 'clinet', which is no section. Did you mean 'client'"),
        ({'client': [1]}, r'meta, section client: expected an object of fields, found \[1\]'),
        ({'client': {'optimizer': 'sgd'}}, "expected optimizer like {.*}, found 'sgd'"),
        ({'client': {'name': 'local_sgd', 'optimizer': {'lr': 0.5}}}, r'has a field .*lr'),
        ({'client': {'private_learning_rate': None}}, 'expected private_learning_rate like 0.1'),
        (
            {'client': {'optimizer': {'momentum': 'x', 'name': 3}}},
            "expected name like 'sgd', found 3",
        ),
        # Failed on version 0.2: a traceback of 8.0, the others without a name.
        ({'client': {'batch_size': 8.0}}, r'expected batch_size of type int \| None, found 8\.0'),
        ({'client': {'batch_size': '8'}}, r"expected batch_size of type int \| None, found '8'"),
        ({'observation': {'clip': 'x'}}, r"expected clip of type float \| None, found 'x'"),
        ({'observation': {'clip': True}}, r'expected clip of type float \| None, found True'),
        (
            {'client': {'name': 'local_sgd', 'optimizer': {'momentun': 0.9}}},
            "client.optimizer has a field that optax does not take: .*'momentun'",
        ),
        ({'client': {'loss': 'bcee'}}, r"Unknown client\.loss='bcee'\. Did you mean 'bce'"),
        ({'observation': {'noise': '1'}}, r'section observation: expected noise like 0\.0'),
    ],
    ids=json.dumps,
)
def test_a_description_of_other_types_is_refused(tmp_path, meta, match):
    refused(tmp_path, match, meta)


def test_a_file_that_describes_no_model_says_whose_it_is(tmp_path):
    transcript, _, description = small_capture()
    del description['model']
    transcripts.save(tmp_path / 't.npz', transcript, description)
    with pytest.raises(ValueError, match=r'meta describes no model: this is about the config'):
        transcript_file.attack_transcript(
            config_lib.default_config(), tmp_path / 't.npz', str(tmp_path / 'out')
        )


# Failed on version 0.2: refused, even in files that `save_transcript` wrote.
def test_an_optimiser_is_described_with_its_own_arguments(tmp_path):
    transcript, _, description = small_capture()
    described = {'name': 'local_sgd', 'batch_size': None}
    described['optimizer'] = {'name': 'sgd', 'learning_rate': 0.5, 'momentum': 0.9}
    transcripts.save(tmp_path / 't.npz', transcript, {**description, 'client': described})
    config = config_lib.default_config()
    config.attack.name, config.client.batch_size = ('spectral',), 5
    result = transcript_file.attack_transcript(config, tmp_path / 't.npz', str(tmp_path / 'out'))
    assert len(result['items']) == 12
