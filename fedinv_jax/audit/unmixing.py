"""Config -> what the attack `unmix` separates from the sums of a recording, as transcripts."""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import item_table, observe, simulate, tree
from fedinv_jax.attack import curriculum, inversion, objective, relax, truncated_newton, unmix
from fedinv_jax.attack.exact import item_rows
from fedinv_jax.audit import beliefs, member, mgradinv, plan, progress, registry
from fedinv_jax.audit.settings import Setting
from fedinv_jax.types import PyTree, Sums, Transcript

_SKETCH, _DRAWS, _SEARCH = 2, 3, 4  # streams of the run's key; training and attacks take 0 and 1
Update = Callable[[int, int], None]
_START = 0.02, 0.98  # labels from which `joint` starts are no further from 1/2
_FIRST, _FIRST_UNROLLED = 16, 64  # rounds of the first stage of `joint` and of `unrolled`
BOUNDED = 400
"""Iterations of `replay` over the catalogue."""
_PASSES, _SOLVE = 3, 60  # passes of `unrolled` in each stage, iterations of each solve
PRIVATES = 16
"""Draws of the private parameters over which `replay` averages."""


class Separated(NamedTuple):
    """What is separated from the sums of a setting's rounds.

    Attributes:
        seen: of the case's victims in their order, leaves `[V, ...]`: item rows `[V, B, ...]` of
            their batches or, if the batches are not known, `[V, N, ...]`.
        shared: the mean of the parameters over the rounds.
        present: bool `[V]`, whether a victim took part in any of the rounds.
        seconds: time that it took, for each victim.
    """

    seen: PyTree
    shared: PyTree
    present: np.ndarray
    seconds: float


def separator(case: plan.Case, recording: simulate.Recording) -> Callable[[Setting], Separated]:
    """`separate(setting)` for the case's victims, computed once for settings that share it.

    The first call of a setting shows a progress bar.
    """
    lock = threading.Lock()

    @functools.cache
    def compute(setting: Setting) -> Separated:
        with jax.enable_x64():
            start = time.perf_counter()
            what = f'{setting.attack}, T = {setting.num_gradients}, seed {case.config.seed}'
            with progress.bar(what, case.config.run.progress) as update:
                found = _separate(case, recording, setting, update)
        took = time.perf_counter() - start
        return found._replace(seconds=took / len(case.victims))

    def separate(setting: Setting) -> Separated:
        if (
            setting.attack == 'unmix' and setting.reader not in registry.REPLAYS
        ):  # they read the same rows
            setting = setting._replace(reader=None)
        with lock:  # blocks ask at the same time
            return compute(setting)

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
    shared = item_table.gather(separated.shared, found.items)
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
    case: plan.Case, recording: simulate.Recording, setting: Setting, update: Update
) -> Separated:
    """Separates the uploads, or the labels, of the case's victims."""
    known, key = case.config.observation.batch_known, jax.random.key(case.config.seed)
    case = case._replace(  # what the attacker believes of the clients, where it is not the truth
        config=beliefs.believed(case.config), share=plan.believed_share(case.config, case.share)
    )
    sums = simulate.sums(recording, setting.rounds, setting.seen, known)
    place = {int(user): index for index, user in enumerate(sums.users)}
    victims = [place[user] for user in case.victims]
    if setting.attack == 'joint':
        parts: dict[str, PyTree] = _as_rows(_joint(case, sums, setting, key, update)[victims])
    elif setting.reader == 'replay':
        parts = _as_rows(_labels(case, sums, victims, key, update))
    elif setting.reader == 'unrolled':
        parts = _as_rows(_unrolled(case, sums, key, update)[victims])
    else:
        parts = _uploads(case, sums, victims, key, update)
    shared = jax.tree.map(  # one after the other: stacked, they would take as much as the sums
        lambda *leaves: sum(leaves, np.zeros((), np.float64)) / len(leaves), *sums.shared
    )
    return Separated(parts, shared, (sums.members[:, victims] >= 0).any(axis=0), 0.0)


def _as_rows(labels: np.ndarray) -> dict[str, PyTree]:
    """Labels `[V, B]` in the place of item rows, for `unmix.read_labels`."""
    return {'items': {'label': labels[..., None]}}


def _uploads(
    case: plan.Case, sums: Sums, victims: Sequence[int], key: jax.Array, update: Update
) -> dict[str, PyTree]:
    """Mean uploads of clients: item rows of their batches where they are known."""
    parts: dict[str, PyTree] = {}
    if sums.items is not None and 'items' in sums.seen[0]:
        weights = _weights(case, sums)
        rows = unmix.mean_rows(sums, victims, weights, update)
        if weights is not None:  # what a client sent, from rows of unit weight
            rows = rows * weights[victims][:, None, None]
        parts['items'] = _split(rows, sums.seen[0]['items'])
        sums = sums._replace(seen=[_without_items(part) for part in sums.seen])
    if jax.tree.leaves(sums.seen[0]):
        parts |= unmix.mean_uploads(sums, victims, jax.random.fold_in(key, _SKETCH))
    return parts


def _joint(
    case: plan.Case, sums: Sums, setting: Setting, key: jax.Array, update: Update
) -> np.ndarray:
    """Labels `[C, B]` of all clients, started from what `setting.reader` reads.

    The bar moves with the iterations, after the start.
    """
    config, every = case.config, range(len(sums.users))
    stages = _stages(case, sums, _FIRST)
    iterations = mgradinv.stage_iterations(config.attack, stages)
    newton = config.attack.optimizer.name == mgradinv.NEWTON
    few = unmix.first_rounds(sums, stages[0])
    if setting.reader == 'replay':
        start = np.clip(_labels(case, few, every, key), *_START)
    else:
        start = _sides(unmix.mean_rows(few, every, _weights(case, few)), few, case.share)

    def make_solver(count: int) -> inversion.Inversion:
        if newton:
            return truncated_newton.truncated_newton()
        return mgradinv.make_stage_solver(config.attack, count)

    def make(
        sums: Sums, parts: Sequence[unmix.joint.Group], start: np.ndarray
    ) -> objective.Problem:
        return unmix.joint.problem(
            sums,
            parts,
            member.replay(config, case.model),
            observe.share(*setting.seen),
            case.model.init_private,
            relax.sigmoid(config.attack.label_rate_scale),
            start,
            str(setting.dynamics),
        )

    with jax.enable_x64(config.attack.dtype == 'float64'):
        found = unmix.joint.solve(
            sums,
            make,
            make_solver,
            jax.random.fold_in(key, _SEARCH),
            np.nan_to_num(start, nan=case.share),
            case.share,
            stages,
            iterations,
            update,
        )
    found[~(sums.members >= 0).any(axis=0)] = np.nan
    return found


def _unrolled(case: plan.Case, sums: Sums, key: jax.Array, update: Update) -> np.ndarray:
    """Labels `[C, B]` of all clients, see `unmix.unrolled`."""
    config, stages = case.config, _stages(case, sums, _FIRST_UNROLLED)
    few, every = unmix.first_rounds(sums, stages[0]), range(len(sums.users))
    start = np.nan_to_num(np.clip(_labels(case, few, every, key), 0, 1), nan=case.share)
    drawn = unmix.joint.client_keys(jax.random.fold_in(key, _SEARCH), sums.users)
    with jax.enable_x64(config.attack.dtype == 'float64'):
        found = unmix.unrolled.labels(
            sums,
            member.replay(config, case.model),
            member.mean_gradient(config, case.model),
            jax.vmap(case.model.init_private)(drawn),
            start,
            case.share,
            stages,
            _PASSES,
            _SOLVE,
            update,
        )
    found[~(sums.members >= 0).any(axis=0)] = np.nan
    return found


def _stages(case: plan.Case, sums: Sums, first: int) -> tuple[int, ...]:
    """The numbers of rounds of a curriculum's stages, from `first` on."""
    stages = tuple(dict.fromkeys(curriculum.doubling(len(sums.seen), first)))
    return stages if case.config.attack.curriculum else stages[-1:]


def _sides(rows: np.ndarray, sums: Sums, share: float) -> np.ndarray:
    """Scores `[C, B]` of `item_rows.spectral` on each client's rows `[C, B, F]`."""

    def one(rows: jax.Array, items: jax.Array, weights: jax.Array) -> jax.Array:
        seen = Transcript(
            shared={}, seen={'items': {'row': rows[None]}}, rounds=jnp.zeros(1, int),
            participated=jnp.ones(1, bool), items=items, slot=None, weights=weights[None],
            log_odds=jnp.zeros(items.shape),
        )  # fmt: skip
        return item_rows.spectral(seen, share).scores

    batch = rows, sums.items, sums.weights
    return np.asarray(jax.jit(lambda args: jax.lax.map(lambda own: one(*own), args))(batch))


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


def _labels(
    case: plan.Case,
    sums: Sums,
    clients: Sequence[int],
    key: jax.Array,
    update: Update = lambda done, total: None,
) -> np.ndarray:
    """Labels `[V, B]` of clients' batches, see `unmix.labels`; `[V, N]` if they are not known."""
    config, share = case.config, case.share
    client_update = member.mean_gradient(config, case.model)
    drawn = jax.random.split(jax.random.fold_in(key, _DRAWS), PRIVATES)
    replay = functools.partial(
        unmix.replayed_rows, client_update, jax.vmap(case.model.init_private)(drawn)
    )
    if sums.items is not None:
        return unmix.labels(sums, clients, replay, share, _weights(case, sums), update)
    sampled = share * config.data.negatives_per_positive
    size = (share + sampled) * case.interactions.num_items
    weighted = config.client.weight_by_num_examples
    weights = np.full(len(sums.users), 1.0 if weighted else 1 / size)
    return unmix.catalogue_labels(
        sums,
        clients,
        replay,
        share,
        sampled,
        weights,
        BOUNDED,
        update,
        sizes_known=weighted,
    )
