"""Config -> what the attack `unmix` separates from the sums of a recording, as transcripts."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedinv_jax import client, simulate, tree
from fedinv_jax.attack import unmix
from fedinv_jax.audit import attackers, plan
from fedinv_jax.audit.settings import Setting
from fedinv_jax.types import PyTree, Sums, Transcript

_SKETCH, _DRAWS = 2, 3  # streams of the run's key; the training takes 0, the attacks 1
_PRIVATES = 16  # draws of the private parameters over which `replay` averages


class Separated(NamedTuple):
    """What is separated from the sums of a setting's rounds.

    Attributes:
        seen: of the case's victims in their order, leaves `[V, ...]`: item rows `[V, B, ...]` of
            their batches or, if the batches are not known, `[V, N, ...]`.
        shared: the mean of the parameters over the rounds.
        present: bool `[V]`, whether a victim took part in any of the rounds.
    """

    seen: PyTree
    shared: PyTree
    present: np.ndarray


def separator(case: plan.Case, recording: simulate.Recording) -> Callable[[Setting], Separated]:
    """`separate(setting)` for the case's victims, computed once for equal rounds and parts."""
    lock = threading.Lock()

    @functools.cache
    def compute(rounds: tuple[int, ...], seen: tuple[str, ...], replay: bool) -> Separated:
        with jax.enable_x64():
            return _separate(case, recording, rounds, seen, replay)

    def separate(setting: Setting) -> Separated:
        with lock:  # blocks ask at the same time
            return compute(tuple(setting.rounds), setting.seen, setting.reader == 'replay')

    return separate


def transcripts(
    case: plan.Case, found: Transcript, separated: Separated, users: Sequence[int]
) -> Transcript:
    """The transcripts of victims for one round, with what is separated as their uploads.

    Args:
        case: the victims' case.
        found: transcripts of the victims for one round, with nothing seen.
        separated: of all victims of the case.
        users: the victims.
    """
    order = [case.victims.index(user) for user in users]
    seen = dict(tree.take(separated.seen, np.array(order)))
    if 'items' in seen and found.weights is not None:  # less padding than all clients together
        size = found.items.shape[1]
        seen['items'] = jax.tree.map(lambda leaf: leaf[:, :size], seen['items'])
    one = jax.tree.map(lambda leaf: np.expand_dims(leaf, 1), seen)
    axis = 1 if found.weights is not None else 0
    shared = client.gather(separated.shared, found.items)
    return dataclasses.replace(
        found,
        shared={
            name: jax.tree.map(
                lambda leaf, axis=axis if name == 'items' else 0: np.expand_dims(leaf, axis), part
            )
            for name, part in shared.items()
        },
        seen=one,
        participated=separated.present[order][:, None],
    )


def _separate(
    case: plan.Case,
    recording: simulate.Recording,
    rounds: tuple[int, ...],
    seen: tuple[str, ...],
    replay: bool,
) -> Separated:
    """Separates the uploads of the case's victims."""
    known, key = case.config.observation.batch_known, jax.random.key(case.config.seed)
    sums = simulate.sums(recording, rounds, seen, known)
    place = {int(user): index for index, user in enumerate(sums.users)}
    victims = [place[user] for user in case.victims]
    parts: dict[str, PyTree] = {}
    if replay:
        parts['items'] = {'label': _labels(case, sums, victims, jax.random.fold_in(key, _DRAWS))}
    else:
        whole = sums
        if known and 'items' in sums.seen[0]:
            rows = unmix.mean_rows(sums, victims, _weights(case, sums))
            parts['items'] = _split(rows, sums.seen[0]['items'])
            whole = sums._replace(seen=[_without_items(part) for part in sums.seen])
        if jax.tree.leaves(whole.seen[0]):
            parts |= unmix.mean_uploads(whole, victims, jax.random.fold_in(key, _SKETCH))
    shared = jax.tree.map(
        lambda *leaves: np.mean(np.stack(leaves, dtype=np.float64), axis=0), *sums.shared
    )
    return Separated(parts, shared, (sums.members[:, victims] >= 0).any(axis=0))


def _weights(case: plan.Case, sums: Sums) -> np.ndarray | None:
    """The weights of clients' rows in a sum: of a mean over the batch, unless they undo it."""
    weighted = case.config.client.weight_by_num_examples
    return None if weighted else 1 / sums.weights.sum(axis=1)


def _without_items(part: PyTree) -> PyTree:
    return {name: leaves for name, leaves in part.items() if name != 'items'}


def _split(rows: np.ndarray, like: PyTree) -> PyTree:
    """Rows `[V, B, F]` as the item leaves of a sum, leaves `[V, B, ...]`."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([int(np.prod(leaf.shape[2:])) for leaf in leaves])[:-1]
    parts = np.split(rows, ends, axis=-1)
    return jax.tree.unflatten(
        structure,
        [
            own.reshape(*own.shape[:2], *leaf.shape[2:])
            for own, leaf in zip(parts, leaves, strict=True)
        ],
    )


def _labels(case: plan.Case, sums: Sums, victims: list[int], key: jax.Array) -> np.ndarray:
    """Labels `[V, B, 1]` of the victims' batches, see `unmix.labels`."""
    config = attackers.of_one_client(case.config)
    one = attackers.unweighted(config)
    update = attackers.make_replay(one, case.model)
    privates = jax.vmap(case.model.init_private)(jax.random.split(key, _PRIVATES))
    return unmix.labels(
        sums,
        victims,
        functools.partial(unmix.replayed_rows, update, privates),
        case.share,
        _weights(case, sums),
    )[..., None]
