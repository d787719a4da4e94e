"""The settings of a run: every combination of its axes (attack, observed rounds, upload seen)."""

import itertools
from typing import NamedTuple

from fedinv_jax.audit import defences, mgradinv, registry
from fedinv_jax.audit.config import Config


class Setting(NamedTuple):
    """One point of a run's axes.

    Attributes:
        attack: name of the attack.
        dynamics: name of the hypothesis; None for an attack that reads no upload.
        num_gradients: T.
        first_round: the first observed round.
        interval: rounds from one observed round to the next; None at T = 1.
        seen: parts of the upload that the attacker sees.
        adaptive: whether the attacker knows the defences.
        placebo: whether the attack reads the uploads of another victim.
        reader: what reads the rows that the attack unmixes; None for other attacks.
    """

    attack: str
    dynamics: str | None
    num_gradients: int
    first_round: int
    interval: int | None
    seen: tuple[str, ...]
    adaptive: bool = True
    placebo: bool = False
    reader: str | None = None

    @property
    def rounds(self) -> list[int]:
        """The observed rounds, `[T]`."""
        return [self.first_round + t * (self.interval or 1) for t in range(self.num_gradients)]


def settings(config: Config) -> list[Setting]:
    """Every combination of the config's axes, each once.

    An axis that does not affect an attack is not combined with it: the interval at T = 1, the
    hypothesis of an attack without a choice, and `adaptive` where knowing the defences changes
    nothing. A placebo follows each setting that it belongs to.
    """
    axes = itertools.product(
        config.observation.seen,
        config.attack.first_round,
        config.attack.num_gradients,
        config.attack.interval,
        _attacks(config),
        config.dynamics.name,
        config.attack.adaptive,
    )
    used = defences.used(config)
    return list(
        dict.fromkeys(
            Setting(
                attack,
                registry.hypothesis(attack, dynamics),
                num_gradients,
                first_round,
                interval if num_gradients > 1 else None,
                tuple(seen.split('+')),
                adaptive or not any(registry.adapts_to(attack, each) for each in used),
                placebo,
                reader,
            )
            for seen, first_round, num_gradients, interval, attack, dynamics, adaptive in axes
            for placebo in _placebos(config, attack)
            for reader in _readers(config, attack)
        )
    )


def _attacks(config: Config) -> tuple[str, ...]:
    """The config's attacks, and `intersection` where item rows are seen and negatives are new."""
    names = tuple(config.attack.name)
    seen = all('items' in part.split('+') for part in config.observation.seen)
    attacked = any(registry.ATTACKS[name].family != 'baseline' for name in names)
    applies = (
        attacked and seen and config.observation.batch_known and config.data.resample_negatives
    )
    return (*names, 'intersection') if applies and 'intersection' not in names else names


def _readers(config: Config, attack: str) -> tuple[str | None, ...]:
    return config.attack.unmix_reader if registry.ATTACKS[attack].reads_sums else (None,)


def _placebos(config: Config, attack: str) -> tuple[bool, ...]:
    reads = registry.ATTACKS[attack].family != 'baseline'
    return (False, True) if reads and config.attack.placebo else (False,)


def reading(config: Config) -> list[Setting]:
    """The settings of attacks that read uploads.

    Raises:
        ValueError: if there is none.
    """
    found = [setting for setting in settings(config) if setting.dynamics is not None]
    if not found:
        raise ValueError(
            f'Expected attack.name={config.attack.name} to contain an attack that reads uploads.'
        )
    return found


def dtype(config: Config, attack: str) -> str:
    """The float dtype of an attack."""
    if _is_newton(config, attack):
        return 'float64'  # its normal equations square the condition number
    return registry.ATTACKS[attack].dtype or config.attack.dtype


def ends_by_itself(config: Config, attack: str) -> bool:
    """Whether the time of an attack is not proportional to `attack.num_iterations`."""
    spec = registry.ATTACKS[attack]
    return not spec.iterates or spec.ends_by_itself or _is_newton(config, attack)


def _is_newton(config: Config, attack: str) -> bool:
    return attack == 'mgradinv' and config.attack.optimizer.name == mgradinv.NEWTON
