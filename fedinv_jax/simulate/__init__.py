"""Records a training run, and slices it into transcripts and, separately, ground truth.

One run serves all attacks: `record` keeps the state at the requested rounds, `transcript` returns
what the server knows about one client, `truth` what it does not know. No other module makes truth.
"""

from fedinv_jax.simulate.matching import seen_of_another
from fedinv_jax.simulate.recording import Recording, Snapshot, record
from fedinv_jax.simulate.slices import axes, transcript, transcripts, truth, truths
from fedinv_jax.simulate.sums import sums

__all__ = [
    'Recording',
    'Snapshot',
    'axes',
    'record',
    'seen_of_another',
    'sums',
    'transcript',
    'transcripts',
    'truth',
    'truths',
]
