"""Exact attacks: what the seen uploads determine, solved for directly.

`probe` finds out what holds of every client, `choose` takes the strongest member that follows.
"""

from fedinv_jax.attack.exact.choose import Choice, choose
from fedinv_jax.attack.exact.known import Known
from fedinv_jax.attack.exact.probing import probe

__all__ = ['Choice', 'Known', 'choose', 'probe']
