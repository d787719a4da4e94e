"""What the server knows under secure aggregation when cohorts change, sliced out of a recording."""

from collections.abc import Sequence

import jax
import numpy as np

from fedinv_jax import observe
from fedinv_jax.simulate.recording import Recording
from fedinv_jax.types import Sums


def sums(
    recording: Recording, rounds: Sequence[int], seen: Sequence[str], batch_known: bool = True
) -> Sums:
    """Returns the sums of the observed rounds, with all clients' memberships and batches.

    Args:
        recording: from `record`, of a federation whose cohorts change.
        rounds: the T observed rounds, increasing.
        seen: names of the leaves of a sum that the attacker sees (`observe.share`).
        batch_known: whether the server knows the items of the clients' batches.

    Raises:
        ValueError: if the cohorts do not change, or a round was not observed.

    Returns:
        The sums; their leaves are those of the recording, not copies.
    """
    if recording.everyone is None:
        raise ValueError('Expected a recording of cohorts that change: see cohorts.redrawn.')
    kept = [recording.snapshots.get(int(round_)) for round_ in rounds]
    if missing := [r for r, s in zip(rounds, kept, strict=True) if s is None or s.sums is None]:
        raise ValueError(f'Expected observed rounds; {missing[:5]} were not observed.')
    share = observe.share(*seen).observe
    found = [snapshot for snapshot in kept if snapshot is not None]
    return Sums(
        shared=[snapshot.shared for snapshot in found],
        seen=[share(snapshot.sums, (), jax.random.key(0))[0] for snapshot in found],
        members=np.stack([np.asarray(snapshot.members) for snapshot in found]),
        rounds=np.asarray(rounds, np.int32),
        users=np.concatenate([group.users for group in recording.everyone]),
        items=_padded([group.items for group in recording.everyone]) if batch_known else None,
        weights=_padded([group.weights for group in recording.everyone]) if batch_known else None,
    )


def _padded(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates leaves `[C, B]` of groups with different B, padded with 0 to the largest."""
    size = max(leaf.shape[1] for leaf in groups)
    return np.concatenate([np.pad(leaf, [(0, 0), (0, size - leaf.shape[1])]) for leaf in groups])
