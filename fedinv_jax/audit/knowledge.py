"""What the server knows about the victims of a setting, and what it does not know."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import simulate, tree
from fedinv_jax.audit import plan, registry, secure_aggregation, training, unmixing
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.settings import Setting
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import ratings
from fedinv_jax.types import Array, GroundTruth, Transcript

_ATTACK = 1  # stream of the run's root key; the training takes 0


def transcript(
    case: plan.Case, recording: simulate.Recording, setting: Setting, user: int
) -> Transcript:
    """What the server knows about a victim in a setting."""
    found = transcripts(case, recording, setting, [user])
    return tree.take_along(found, simulate.axes(found), 0)


def transcripts(
    case: plan.Case,
    recording: simulate.Recording,
    setting: Setting,
    users: Sequence[int],
    separate: Callable[[Setting], unmixing.Separated] | None = None,
) -> Transcript:
    """Transcripts of victims of one group; popularity excludes a victim's own interactions.

    `separate` is `unmixing.separator(case, recording)`, from which several calls may profit.
    """
    config, spec = case.config, registry.ATTACKS[setting.attack]
    reads = spec.family != 'baseline' and not spec.reads_sums
    single = spec.reads_sums or secure_aggregation.changes(config)
    if setting.placebo:
        return _placebos(case, recording, setting._replace(placebo=False), users)
    found = simulate.transcripts(
        _without_cohorts(recording) if single else recording,
        users,
        setting.rounds[:1] if single else setting.rounds,
        setting.seen if reads else (),
        every_round=setting.dynamics == 'unrolled',
        batch_known=config.observation.batch_known,
        cohort_size=config.observation.cohort,
        believe=functools.partial(_mistaken, case, users) if reads else lambda items: items,
    )
    if spec.reads_sums:
        separate = separate or unmixing.separator(case, recording)
        found = unmixing.transcripts(case, found, separate(setting), users)
    elif not config.attack.participation_known:
        found = dataclasses.replace(found, participated=np.ones_like(found.participated))
    if spec.family != 'baseline' and not config.attack.popularity:
        return found
    candidates = np.broadcast_to(found.items, found.log_odds.shape)
    if training.is_explicit(config):
        return dataclasses.replace(found, log_odds=mean_ratings(case, users, candidates))
    counts = case.counts[candidates]
    for user, items, own in zip(users, candidates, counts, strict=True):
        first, last = np.searchsorted(case.interactions.users, [user, user + 1])
        own -= np.isin(items, case.interactions.items[first:last])
    known = clients_lib.log_odds(counts, case.num_users - 1)
    return dataclasses.replace(found, log_odds=known)


def mean_ratings(case: plan.Case, users: Sequence[int], items: np.ndarray) -> np.ndarray:
    """Log odds `[V, K]` whose sigmoids are the items' mean ratings from other users, as labels."""
    own = case.interactions
    labels = ratings.labels(own.ratings, training.rating_scale(case.config))
    total = np.bincount(own.items, labels, own.num_items)
    found = []
    for user, candidates in zip(users, items, strict=True):
        span = slice(*np.searchsorted(own.users, [user, user + 1]))
        counts, sums = case.counts.copy(), total.copy()
        counts[own.items[span]] -= 1
        sums[own.items[span]] -= labels[span]
        sums = np.clip(sums, 0, counts)  # rounding
        found.append(clients_lib.log_odds(sums[candidates], counts[candidates], case.share))
    return np.stack(found)


def _without_cohorts(recording: simulate.Recording) -> simulate.Recording:
    """The recording of clients without the other members of their cohorts."""
    return recording._replace(cohorts=None)


def _placebos(
    case: plan.Case, recording: simulate.Recording, setting: Setting, users: Sequence[int]
) -> Transcript:
    """The transcripts of victims, each with the uploads of the next victim by user index."""
    found, order = transcripts(case, recording, setting, users), sorted(case.victims)
    seen = []
    for index, user in enumerate(users):
        other = order[(order.index(user) + 1) % len(order)]
        own = tree.take_along(found, simulate.axes(found), index)
        seen.append(simulate.seen_of_another(own, transcript(case, recording, setting, other)))
    return dataclasses.replace(found, seen=jax.tree.map(lambda *leaves: np.stack(leaves), *seen))


def _mistaken(case: plan.Case, users: Sequence[int], items: np.ndarray) -> np.ndarray:
    """The candidates `[V, K]`, some of which (`attack.wrong_items`) are items of no batch."""
    share = case.config.attack.wrong_items
    if not share:
        return items
    items, group = items.copy(), plan.group_of(case, users[0])
    for user, own in zip(users, items, strict=True):
        random = np.random.default_rng([case.config.seed, user, 7])  # not the stream of negatives
        size = int(np.sum(group.weights[group.users == user] > 0))
        others = np.setdiff1d(np.arange(case.interactions.num_items), own[:size])
        wrong = random.choice(size, min(math.ceil(share * size), len(others)), replace=False)
        own[wrong] = random.choice(others, len(wrong), replace=False)
    return items


def truths(
    case: plan.Case, recording: simulate.Recording, setting: Setting, users: Sequence[int]
) -> GroundTruth:
    """What the server does not know about the victims: labels and private parameters."""
    section = case.config.observation
    if registry.ATTACKS[setting.attack].reads_sums:
        recording = _without_cohorts(recording)
    found = simulate.truths(recording, users, setting.rounds, section.batch_known, section.cohort)
    return tree.cast_floats(found, settings_lib.dtype(case.config, setting.attack))


def arguments(
    recording: simulate.Recording,
    part: plan.Block,
    slots: int,
    separate: Callable[[Setting], unmixing.Separated] | None = None,
) -> tuple[Transcript, Array]:
    """Transcripts and keys of a block's victims, padded to `slots` with copies of the first."""
    config, users = part.case.config, np.asarray(part.users, np.int32)
    order = np.where(np.arange(slots) < len(users), np.arange(slots), 0)
    found = transcripts(part.case, recording, part.setting, part.users, separate)
    found = tree.take_along(found, simulate.axes(found), order)
    key = jax.random.fold_in(jax.random.key(config.seed), _ATTACK)
    keys = jax.vmap(lambda user: jax.random.fold_in(key, user))(jnp.asarray(users[order]))
    # Cast to the solver's dtype; the values stay those that the client sent.
    return tree.cast_floats(found, settings_lib.dtype(config, part.setting.attack)), keys
