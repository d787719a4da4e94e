"""What the server knows of all sums under secure aggregation, sliced out of a recording."""

from collections.abc import Sequence

import jax
import numpy as np

from fedinv_jax import observe
from fedinv_jax.simulate.recording import Recording, Snapshot
from fedinv_jax.types import Sums


def sums(
    recording: Recording, rounds: Sequence[int], seen: Sequence[str], batch_known: bool = True
) -> Sums:
    """Returns the sums of the observed rounds, with all members' memberships and batches.

    Args:
        recording: from `record`, of a federation with cohorts; of fixed ones, those that hold a
            victim were kept.
        rounds: the T observed rounds, increasing.
        seen: names of the leaves of a sum that the attacker sees (`observe.share`).
        batch_known: whether the server knows the items of the clients' batches.

    Raises:
        ValueError: if there are no cohorts, or a round was not observed.

    Returns:
        The sums; their leaves are those of the recording, not copies.
    """
    clients = recording.everyone if recording.cohorts is None else recording.clients
    if clients is None:
        raise ValueError('Expected a recording of cohorts: see fedinv_jax.cohorts.')
    kept = [recording.snapshots.get(int(round_)) for round_ in rounds]
    if missing := [r for r, s in zip(rounds, kept, strict=True) if s is None or s.sums is None]:
        raise ValueError(f'Expected observed rounds; {missing[:5]} were not observed.')
    share = observe.share(*seen).observe
    found = [snapshot for snapshot in kept if snapshot is not None]
    return Sums(
        shared=[snapshot.shared for snapshot in found],
        seen=[share(snapshot.sums, (), jax.random.key(0))[0] for snapshot in found],
        members=np.stack([_members(recording, snapshot) for snapshot in found]),
        rounds=np.asarray(rounds, np.int32),
        users=np.concatenate([group.users for group in clients]),
        items=_padded([group.items for group in clients]) if batch_known else None,
        weights=_padded([group.weights for group in clients]) if batch_known else None,
    )


def _members(recording: Recording, snapshot: Snapshot) -> np.ndarray:
    """Int `[C]`, the cohort of each client in a round; -1: it did not take part."""
    if recording.cohorts is None:
        return np.asarray(snapshot.members)
    there = np.concatenate(snapshot.participated)
    return np.where(there, np.concatenate(recording.cohorts), -1)


def _padded(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates leaves `[C, B]` of groups with different B, padded with 0 to the largest."""
    size = max(leaf.shape[1] for leaf in groups)
    return np.concatenate([np.pad(leaf, [(0, 0), (0, size - leaf.shape[1])]) for leaf in groups])
