"""Exact attacks: they solve directly for what the seen uploads determine.

`probe` finds out what holds for every client; `choose` takes the strongest member that applies.
"""

from fedinv_jax.attack.exact.choose import Choice, choose
from fedinv_jax.attack.exact.known import Known
from fedinv_jax.attack.exact.probing import probe

__all__ = ['Choice', 'Known', 'choose', 'probe']
