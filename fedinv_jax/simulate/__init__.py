"""Records a training run, and slices it into transcripts and, separately, ground truth.

One run serves all attacks: `record` keeps the state at the requested rounds, `transcript` returns
what the server knows about one client, `truth` what it does not know. No other module makes truth.
"""

from fedinv_jax.simulate.recording import Recording, Snapshot, record
from fedinv_jax.simulate.slices import axes, transcript, transcripts, truth, truths

__all__ = [
    'Recording',
    'Snapshot',
    'axes',
    'record',
    'transcript',
    'transcripts',
    'truth',
    'truths',
]
