"""Models are recognised by names and shapes, whatever the framework."""

import numpy as np
import pytest

from fedinv_jax import capture


def _arrays(**shapes):
    return {
        name.replace('__', '.'): np.arange(np.prod(shape), dtype=float).reshape(shape)
        for name, shape in shapes.items()
    }


NCF = {
    'embedding_item__weight': (9, 2), 'fc__0__weight': (5, 4), 'fc__0__bias': (5,),
    'fc__1__weight': (3, 5), 'fc__1__bias': (3,), 'out__weight': (1, 3), 'out__bias': (1,),
}  # fmt: skip


def test_ncf_of_pytorch():
    arrays = _arrays(**NCF)
    layout = capture.recognise(arrays)
    assert layout.model == {'name': 'ncf', 'dim': 2, 'hidden': (5, 3), 'use_bias': True}
    assert layout.num_items == 9
    assert layout.dropped == {}
    found = capture.take(layout, arrays)
    kernel = arrays['fc.0.weight'].T
    np.testing.assert_array_equal(found['scorer/private/kernel'], kernel[:2])
    np.testing.assert_array_equal(found['scorer/items/kernel'], kernel[2:])
    np.testing.assert_array_equal(found['scorer/layer_1/kernel'], arrays['fc.1.weight'].T)
    np.testing.assert_array_equal(found['scorer/layer_2/bias'], arrays['out.bias'])
    np.testing.assert_array_equal(found['items/embedding'], arrays['embedding_item.weight'])


def test_the_item_row_first():
    arrays = _arrays(**NCF)
    found = capture.take(capture.recognise(arrays, user_first=False), arrays)
    np.testing.assert_array_equal(found['scorer/private/kernel'], arrays['fc.0.weight'].T[2:])


def test_kernels_of_flax_are_not_transposed():
    arrays = {
        'items/embedding': np.zeros((9, 2)),
        'Dense_0/kernel': np.arange(20.0).reshape(4, 5),
        'Dense_0/bias': np.zeros(5),
        'Dense_1/kernel': np.zeros((5, 1)),
        'Dense_1/bias': np.zeros(1),
    }
    layout = capture.recognise(arrays)
    assert layout.model['hidden'] == (5,)
    found = capture.take(layout, arrays)
    np.testing.assert_array_equal(found['scorer/items/kernel'], arrays['Dense_0/kernel'][2:])


def test_neumf_by_its_tables_and_output():
    arrays = _arrays(
        item_mlp__weight=(9, 2), item_mf__weight=(9, 2), l0__weight=(4, 4), l0__bias=(4,),
        l1__weight=(3, 4), l1__bias=(3,), output__weight=(1, 5), output__bias=(1,),
    )  # fmt: skip
    layout = capture.recognise(arrays)
    assert layout.model == {'name': 'neumf', 'dim': 2, 'hidden': (4, 3), 'use_bias': True}
    found = capture.take(layout, arrays)
    np.testing.assert_array_equal(found['items/gmf'], arrays['item_mf.weight'])
    np.testing.assert_array_equal(found['scorer/gmf/kernel'], arrays['output.weight'].T[:2])
    np.testing.assert_array_equal(found['scorer/mlp/kernel'], arrays['output.weight'].T[2:])


def test_matrix_factorisation_and_gmf():
    table = _arrays(item__weight=(9, 2))
    assert capture.recognise(table).model == {
        'name': 'matrix_factorization', 'dim': 2, 'item_bias': False,
    }  # fmt: skip
    biased = _arrays(item__weight=(9, 2), item_bias__weight=(9, 1))
    layout = capture.recognise(biased)
    assert layout.model['item_bias']
    assert capture.take(layout, biased)['items/bias'].shape == (9,)
    gmf = capture.recognise(_arrays(item__weight=(9, 2), h__weight=(1, 2)))
    assert gmf.model == {'name': 'gmf', 'dim': 2, 'use_bias': False}
    assert capture.recognise(table, model='pfedrec').model == {'name': 'pfedrec', 'dim': 2}


def test_buffers_and_user_embeddings_are_left_out_and_named():
    arrays = _arrays(**NCF, user_embedding__weight=(1, 2), bn__running_mean=(5,))
    arrays['bn.num_batches_tracked'] = np.array(3)
    layout = capture.recognise(arrays)
    assert layout.model['name'] == 'ncf'
    assert set(layout.dropped) == {
        'user_embedding.weight', 'bn.running_mean', 'bn.num_batches_tracked',
    }  # fmt: skip
    assert 'public' in layout.dropped['user_embedding.weight']


def test_a_model_that_is_named_is_the_only_one_tried():
    table = _arrays(item__weight=(9, 2))
    assert capture.recognise(table, model='two_tower').model == {'name': 'two_tower', 'dim': 2}
    with pytest.raises(ValueError, match=r'no model that is recognised \(gmf\)'):
        capture.recognise(table, model='gmf')
    with pytest.raises(ValueError, match=r"Unknown model='nfc'\. Did you mean 'ncf'"):
        capture.recognise(table, model='nfc')


def test_what_is_no_model_is_refused_with_its_arrays():
    with pytest.raises(ValueError, match=r'no model that is recognised.*conv\.weight \(3, 5, 7\)'):
        capture.recognise({**_arrays(**NCF), 'conv.weight': np.zeros((3, 5, 7))})
    with pytest.raises(ValueError, match='No array has a row for each item'):
        capture.recognise({'bias': np.zeros(3)})
    with pytest.raises(ValueError, match="item_leaves has 'item', which was not sent"):
        capture.recognise(_arrays(**NCF), item_leaves=['item'])
    wrong = _arrays(**NCF | {'fc__1__weight': (3, 6)})
    with pytest.raises(ValueError, match='no model that is recognised'):
        capture.recognise(wrong)
