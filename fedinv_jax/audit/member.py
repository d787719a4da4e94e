"""A member of a cohort, as an attacker on the sums of all cohorts models it."""

import jax

from fedinv_jax import client
from fedinv_jax.attack import unmix
from fedinv_jax.audit import attackers, channel
from fedinv_jax.audit.config import Config
from fedinv_jax.types import ClientUpdate, Model

_CLIENTS = 16  # private states drawn, to see whether rows are alike


def alone(config: Config) -> Config:
    """The config whose server sees each upload; nothing acts on sums."""
    copy = config.copy_and_resolve_references()
    copy.observation.update({'cohort': 1, 'cohort_membership': 'fixed', 'sum_noise': 0.0})
    return copy


def replay(config: Config, model: Model) -> ClientUpdate:
    """One client's training, with what is done to its upload before the sum."""
    client_update, before = attackers.make_replay(alone(config), model), channel.before_sum(config)
    return client_update if before is None else client.through(client_update, before)


def mean_gradient(config: Config, model: Model) -> ClientUpdate:
    """One client's training, whose upload is a gradient of a mean over the batch."""
    one = alone(config)
    one.client.weight_by_num_examples = False
    return attackers.make_replay(one, model)


def check_agreement(config: Config, model: Model) -> None:
    """Refuses to replay rows that have nothing in common between clients.

    Raises:
        ValueError: if the mean over clients of what a label changes is as good as zero.
    """
    keys = jax.random.split(jax.random.key(0))
    privates = jax.vmap(model.init_private)(jax.random.split(keys[0], _CLIENTS))
    found = unmix.agreement(mean_gradient(config, model), privates, model.init_shared(keys[1]))
    if not found >= 2 / _CLIENTS:  # NaN: batches of one label upload nothing, as under BPR
        raise ValueError(
            "attack.unmix_reader 'replay' and 'unrolled' need rows alike for all clients. Those of "
            f"{config.model.name} are not (agreement {found:.3f}): use 'spectral'."
        )
