"""What a training run leaves in the server's hands, and apart from it the only source of truth.

One run serves every attack on it: `record` keeps the state at the rounds asked for, `transcript`
slices what the server holds of one client out of them, `truth` what it does not hold.
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
