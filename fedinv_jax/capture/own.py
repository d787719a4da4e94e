"""A model of the user's own: a score function in a Python file, on arrays by their own names."""

import pathlib
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedinv_jax.capture import names
from fedinv_jax.types import Array, InitPrivate, Key, Model, PyTree


class Own(NamedTuple):
    """What a file of the user's own says of a model.

    Attributes:
        path: of the file.
        score: `score(arrays, user) -> logits [B]`; of `arrays`, those with a row for each item have
            the rows of the batch's items.
        init_user: `init_user(key) -> user`, what stays on the device, any pytree.
    """

    path: str
    score: Callable[[dict[str, Array], PyTree], Array]
    init_user: InitPrivate


def load(path: str) -> Own:
    """Reads a model from a Python file.

    Args:
        path: of a file that defines `score` and `init_user`, see `Own`.

    Raises:
        ValueError: if the file cannot be read, or lacks one of them.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f'{path} is no file: expected Python that defines score and init_user.')
    try:
        found = runpy.run_path(path)
    except Exception as error:  # whatever somebody's file raises
        raise ValueError(f'{path}: {type(error).__name__}: {error}') from error
    for name in ('score', 'init_user'):
        if not callable(found.get(name)):
            raise ValueError(
                f'{path}: expected a function {name}: score(arrays, user) gives the logits of a '
                'batch, init_user(key) what stays on the device.'
            )
    return Own(path, found['score'], found['init_user'])


def layout(
    own: Own, arrays: Mapping[str, np.ndarray], item_leaves: Sequence[str] | None = None
) -> names.Layout:
    """All arrays that are trained, as they are.

    Args:
        own: the model.
        arrays: what a server sent, by the framework's names.
        item_leaves: as in `names.recognise`.

    Raises:
        ValueError: if no array has a row for each item, or the model does not take these arrays.
    """
    shapes, dropped = names.trained(arrays)
    items = names.item_leaves_of(shapes, item_leaves)
    leaves = {
        f'{"items" if name in items else "scorer"}/{_key(name)}': names.Source(name)
        for name in shapes
    }
    found = names.Layout({}, leaves, shapes[items[0]][0], dropped)
    _check(own, found, arrays)
    return found


def _key(name: str) -> str:
    """A name as one part of a path."""
    return name.replace('/', '.')


def _check(own: Own, layout: names.Layout, arrays: Mapping[str, np.ndarray]) -> None:
    """Runs the model on shapes."""
    make = model(own, layout, arrays)(3)
    key = jax.random.key(0)
    try:
        logits = jax.eval_shape(
            lambda: make.score(make.init_shared(key), make.init_private(key), None)
        )
    except Exception as error:  # whatever somebody's function raises
        raise ValueError(f'{own.path}: {type(error).__name__}: {error}') from error
    found = getattr(logits, 'shape', None)
    if found != (3,):
        raise ValueError(
            f'{own.path}: expected score to give logits of shape (3,) for a batch of 3 items, '
            f'found {logits if found is None else found}.'
        )


def model(
    own: Own, layout: names.Layout, arrays: Mapping[str, np.ndarray]
) -> Callable[[int], Model]:
    """`make(num_items) -> Model`.

    Parameters are drawn as large as the ones that were sent.

    Args:
        own: the model.
        layout: from `layout`.
        arrays: what a server sent.
    """
    sizes = {name: float(np.sqrt(np.mean(np.square(np.asarray(arrays[source.name], np.float64)))))
             for name, source in layout.leaves.items()}  # fmt: skip

    def make(num_items: int) -> Model:
        def init_shared(key: Key) -> PyTree:
            shared: dict[str, dict[str, Any]] = {'items': {}, 'scorer': {}}
            for number, (name, source) in enumerate(layout.leaves.items()):
                part, leaf = name.split('/')
                shape = arrays[source.name].shape
                shape = (num_items, *shape[1:]) if part == 'items' else shape
                drawn = jax.random.normal(jax.random.fold_in(key, number), shape)
                shared[part][leaf] = sizes[name] * drawn
            return shared

        def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
            named = {}
            for name, source in layout.leaves.items():
                part, leaf = name.split('/')
                value = shared[part][leaf]
                named[source.name] = value if part == 'scorer' or items is None else value[items]
            return own.score(named, private)

        return Model(init_shared, own.init_user, score)

    return make
