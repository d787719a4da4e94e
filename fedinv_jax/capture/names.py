"""Which model a framework's arrays belong to, by their names and shapes.

| what is found | the model |
|---|---|
| an item table and no layer | `matrix_factorization` |
| an item table of width D and one layer `D -> 1` | `gmf` |
| an item table of width D and layers `2 D -> ... -> 1` | `ncf` |
| two item tables and layers whose last one has inputs for both | `neumf` |
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedinv_jax import _validate

Shapes = Mapping[str, tuple[int, ...]]

_BUFFERS = re.compile(
    r'(^|[./])(num_batches_tracked|running_mean|running_var|batch_stats|step|count|opt_state|'
    r'momentum_buffer|exp_avg|exp_avg_sq|position_ids|mask)($|[./])'
)
_USER = re.compile(r'user|(^|[./_])(uid|p_u)([./_]|$)', re.IGNORECASE)
_ITEM = re.compile(r'item|movie|product|poi|(^|[./_])(iid|q_i)([./_]|$)', re.IGNORECASE)
_MLP = re.compile('mlp', re.IGNORECASE)


class Source(NamedTuple):
    """Where a leaf of the model is in the framework's arrays.

    Attributes:
        name: of the framework's array.
        transposed: whether the array is `[out, in]`.
        inputs: the rows of the kernel `[in, out]` that the leaf takes; None: all.
        flat: whether the array `[N, 1]` is to be `[N]`.
    """

    name: str
    transposed: bool = False
    inputs: slice | None = None
    flat: bool = False


class Layout(NamedTuple):
    """A model that was recognised.

    Attributes:
        model: fields of the config's section 'model'.
        leaves: by the model's name of a leaf, where it is.
        num_items: N.
        dropped: names of arrays that are no part of the model, each with the reason.
    """

    model: dict[str, Any]
    leaves: dict[str, Source]
    num_items: int
    dropped: dict[str, str]


class _Layer(NamedTuple):
    """A linear layer."""

    kernel: str
    bias: str | None
    transposed: bool
    before: int
    after: int


def recognise(
    arrays: Mapping[str, np.ndarray],
    model: str | None = None,
    item_leaves: Sequence[str] | None = None,
    user_first: bool = True,
) -> Layout:
    """The model whose parameters these are.

    Args:
        arrays: what a server sent, by the framework's names, in the framework's order.
        model: name of the model; None: by the table above.
        item_leaves: names of the arrays with a row for each item; None: the matrices with the
            longest first axis, without those that are named after users.
        user_first: whether a concatenated first layer has the user embedding before the item row.

    Returns:
        The layout.

    Raises:
        ValueError: if no model has these arrays; the message lists them.

    Example:
        >>> sent = {'items.weight': np.zeros((9, 2)), 'fc.weight': np.zeros((3, 4)),
        ...         'fc.bias': np.zeros(3), 'out.weight': np.zeros((1, 3)), 'out.bias': np.zeros(1)}
        >>> found = recognise(sent)
        >>> found.model, found.leaves['scorer/private/kernel'].inputs
        ({'name': 'ncf', 'dim': 2, 'hidden': (3,), 'use_bias': True}, slice(0, 2, None))
    """
    shapes, dropped = trained(arrays)
    items = item_leaves_of(shapes, item_leaves)
    num_items = shapes[items[0]][0]
    layers = _layers(shapes, items)
    makers = {
        'matrix_factorization': _matrix_factorization,
        'pfedrec': _table_alone,
        'two_tower': _table_alone,
        'gmf': _gmf,
        'ncf': _ncf,
        'neumf': _neumf,
    }
    names = ['matrix_factorization', 'gmf', 'ncf', 'neumf']
    if model is not None:
        _validate.lookup('model', model, makers)
        names = [model]
    for name in names:
        found = makers[name](shapes, items, layers, user_first)
        if found is not None and set(shapes) == {source.name for source in found[1].values()}:
            return Layout({'name': name, **found[0]}, found[1], num_items, dropped)
    listed = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
    raise ValueError(
        f'These arrays are those of no model that is recognised ({", ".join(names)}): {listed}. '
        'Name the item tables with item_leaves in capture.json, or give a score function of your '
        'own: --model=FILE.py.'
    )


def trained(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of the arrays that are shared parameters; the names of others, each with the reason.

    Args:
        arrays: what a server sent, by the framework's names.
    """
    dropped: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, leaf in arrays.items():
        if _BUFFERS.search(name) or leaf.dtype.kind in 'biuSUO':
            dropped[name] = 'a buffer, which nobody trains'
        elif len(leaf.shape) <= 2 and _USER.search(name) and not _ITEM.search(name):
            dropped[name] = 'named after users: what is uploaded of a user is public'
        else:
            shapes[name] = leaf.shape
    return shapes, dropped


def item_leaves_of(shapes: Shapes, given: Sequence[str] | None) -> list[str]:
    """The arrays with a row for each item: matrices first.

    Args:
        shapes: of the shared parameters.
        given: their names, if they are known; else the matrices with the longest first axis.

    Raises:
        ValueError: if there is none.
    """
    if given is not None:
        for name in given:
            if name not in shapes:
                raise ValueError(
                    f'item_leaves has {name!r}, which was not sent: {", ".join(shapes)}.'
                )
        return sorted(given, key=lambda name: (len(shapes[name]) < 2, list(shapes).index(name)))
    tables = [name for name, shape in shapes.items() if len(shape) == 2 and not _USER.search(name)]
    named = [name for name in tables if _ITEM.search(name)]
    longest = max((shapes[name][0] for name in named or tables), default=0)
    found = [name for name in tables if shapes[name][0] == longest and shapes[name][1] > 1]
    if not found:
        raise ValueError(
            'No array has a row for each item: expected a matrix [N, D] such as '
            f'item_embedding.weight, found {", ".join(shapes) or "none"}. Name it with item_leaves.'
        )
    biases = [
        name
        for name, shape in shapes.items()
        if name not in found and shape in ((longest,), (longest, 1)) and not _USER.search(name)
    ]
    return found + biases


def _layers(shapes: Shapes, items: Sequence[str]) -> list[_Layer]:
    """The linear layers in the framework's order; `weight` is `[out, in]`, `kernel` `[in, out]`."""
    layers = []
    for name, shape in shapes.items():
        if name in items or len(shape) != 2:
            continue
        stem = re.sub(r'(weight|kernel)$', '', name)
        bias = next((stem + each for each in ('bias', 'b') if stem + each in shapes), None)
        transposed = not name.endswith('kernel')
        before, after = shape[::-1] if transposed else shape
        layers.append(_Layer(name, bias, transposed, before, after))
    return layers


_Found = tuple[dict[str, Any], dict[str, Source]] | None
_Maker = Callable[[Shapes, Sequence[str], Sequence[_Layer], bool], _Found]


def _tables(shapes: Shapes, items: Sequence[str]) -> list[str]:
    return [name for name in items if len(shapes[name]) == 2 and shapes[name][1] > 1]


def _matrix_factorization(
    shapes: Shapes, items: Sequence[str], layers: Sequence[_Layer], _: bool
) -> _Found:
    tables = _tables(shapes, items)
    biases = [name for name in items if name not in tables]
    if len(tables) != 1 or layers or len(biases) > 1:
        return None
    leaves = {'items/embedding': Source(tables[0])}
    if biases:
        leaves['items/bias'] = Source(biases[0], flat=True)
    return {'dim': shapes[tables[0]][1], 'item_bias': bool(biases)}, leaves


def _table_alone(shapes: Shapes, items: Sequence[str], layers: Sequence[_Layer], _: bool) -> _Found:
    tables = _tables(shapes, items)
    if len(tables) != 1:
        return None
    return {'dim': shapes[tables[0]][1]}, {'items/embedding': Source(tables[0])}


def _gmf(shapes: Shapes, items: Sequence[str], layers: Sequence[_Layer], _: bool) -> _Found:
    tables = _tables(shapes, items)
    if len(tables) != 1 or len(items) != 1 or len(layers) != 1:
        return None
    (layer,) = layers
    dim = shapes[tables[0]][1]
    if (layer.before, layer.after) != (dim, 1):
        return None
    leaves = {'items/embedding': Source(tables[0]), **_dense('scorer/output', layer)}
    return {'dim': dim, 'use_bias': layer.bias is not None}, leaves


def _ncf(
    shapes: Shapes, items: Sequence[str], layers: Sequence[_Layer], user_first: bool
) -> _Found:
    tables = _tables(shapes, items)
    if len(tables) != 1 or len(items) != 1 or len(layers) < 2 or layers[-1].after != 1:
        return None
    dim = shapes[tables[0]][1]
    chained = all(a.after == b.before for a, b in itertools.pairwise(layers))
    if not chained or layers[0].before != 2 * dim or not _same_biases(layers):
        return None
    leaves = {'items/embedding': Source(tables[0])}
    leaves |= _first(layers[0], dim, user_first)
    for number, layer in enumerate(layers[1:], start=1):
        leaves |= _dense(f'scorer/layer_{number}', layer)
    hidden = tuple(layer.after for layer in layers[:-1])
    return {'dim': dim, 'hidden': hidden, 'use_bias': layers[0].bias is not None}, leaves


def _neumf(
    shapes: Shapes, items: Sequence[str], layers: Sequence[_Layer], user_first: bool
) -> _Found:
    tables = _tables(shapes, items)
    if len(tables) != 2 or len(items) != 2 or len(layers) < 2 or layers[-1].after != 1:
        return None
    if not _same_biases(layers):
        return None
    tables.sort(key=lambda name: bool(_MLP.search(name)))
    widths = [shapes[name][1] for name in tables]
    *mlp, output = layers
    chained = all(a.after == b.before for a, b in itertools.pairwise(mlp))
    dim = widths[0]
    if (
        not chained
        or widths[1] != dim
        or mlp[0].before != 2 * dim
        or output.before != dim + mlp[-1].after
    ):
        return None
    leaves = {'items/gmf': Source(tables[0]), 'items/mlp': Source(tables[1])}
    leaves |= _first(mlp[0], dim, user_first)
    for number, layer in enumerate(mlp[1:], start=1):
        leaves |= _dense(f'scorer/layer_{number}', layer)
    gmf, rest = slice(0, dim), slice(dim, output.before)
    leaves['scorer/gmf/kernel'] = Source(output.kernel, output.transposed, gmf)
    leaves['scorer/mlp/kernel'] = Source(output.kernel, output.transposed, rest)
    if output.bias:
        leaves['scorer/mlp/bias'] = Source(output.bias)
    hidden = tuple(layer.after for layer in mlp)
    return {'dim': dim, 'hidden': hidden, 'use_bias': output.bias is not None}, leaves


def _same_biases(layers: Sequence[_Layer]) -> bool:
    return len({layer.bias is None for layer in layers}) == 1


def _dense(name: str, layer: _Layer) -> dict[str, Source]:
    leaves = {f'{name}/kernel': Source(layer.kernel, layer.transposed)}
    if layer.bias:
        leaves[f'{name}/bias'] = Source(layer.bias)
    return leaves


def _first(layer: _Layer, dim: int, user_first: bool) -> dict[str, Source]:
    """The first layer, on the user embedding and the item row one after the other."""
    halves = slice(0, dim), slice(dim, 2 * dim)
    user, item = halves if user_first else halves[::-1]
    leaves = {
        'scorer/private/kernel': Source(layer.kernel, layer.transposed, user),
        'scorer/items/kernel': Source(layer.kernel, layer.transposed, item),
    }
    if layer.bias:
        leaves['scorer/items/bias'] = Source(layer.bias)
    return leaves


def take(layout: Layout, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A model's leaves of what was sent or returned, by the model's names.

    Args:
        layout: from `recognise`.
        arrays: by the framework's names; leaves whose array is missing are left out.

    Example:
        >>> kernel = np.arange(12.0).reshape(3, 4)
        >>> layout = Layout({}, {'k': Source('w', True, slice(0, 2))}, 5, {})
        >>> take(layout, {'w': kernel})['k'].tolist()
        [[0.0, 4.0, 8.0], [1.0, 5.0, 9.0]]
    """
    leaves = {}
    for name, source in layout.leaves.items():
        if source.name not in arrays:
            continue
        leaf = arrays[source.name]
        leaf = leaf.T if source.transposed else leaf
        leaf = leaf if source.inputs is None else leaf[source.inputs]
        leaves[name] = leaf.reshape(-1) if source.flat else leaf
    return leaves
