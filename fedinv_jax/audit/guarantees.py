"""Differential privacy guarantees of a config's defences, for the table of defences."""

import math
from typing import TypeAlias

import ml_collections

from fedinv_jax import accounting

Config: TypeAlias = ml_collections.ConfigDict


def of_one_label(mechanism: str, epsilon: float) -> list[accounting.Guarantee]:
    """The guarantee of a mechanism that changes labels once, for all rounds."""
    unit = 'one label, given the items and the size of the batch'
    return [
        accounting.Guarantee(
            mechanism, 'the server', unit, 'replace', None, None, 1, 'none', 0.0, epsilon, epsilon
        )
    ]


def clip_norm(config: Config) -> float:
    """The largest norm of an upload; inf without clipping."""
    return math.inf if config.observation.clip is None else float(config.observation.clip)


_KNOWN_TO_SERVER = 'none: the server knows who takes part'


def local_noise(config: Config, num_clients: int) -> list[accounting.Guarantee]:
    """The guarantee of noise on each upload, against the server.

    All rounds of the training are counted: the server knows who takes part, so sampling does not
    reduce epsilon.
    """
    del num_clients
    section, rounds, sensitivity = (
        config.observation,
        config.server.num_rounds,
        2 * clip_norm(config),
    )
    bounds = accounting.gaussian(section.noise, sensitivity, rounds, section.delta)
    unit = "all of one user's labels and embedding, given the items of the batch"
    return [
        accounting.Guarantee(
            'Gaussian noise on each upload', 'the server', unit, 'replace', sensitivity,
            section.noise, rounds, _KNOWN_TO_SERVER, section.delta, *bounds,
        )
    ]  # fmt: skip


def central_noise(config: Config, num_clients: int) -> list[accounting.Guarantee]:
    """The guarantees of noise on each cohort's sum: against the server, and with sampling.

    The second one is amplified by sampling and holds against those who see only the models. It
    assumes clients that are sampled at random in every round; victims always take part in observed
    rounds. Only the noise of one cohort's sum is counted, which gives an upper bound of epsilon.
    """
    section, rounds, clip = config.observation, config.server.num_rounds, clip_norm(config)
    mechanism, noise = "Gaussian noise on each cohort's sum", section.sum_noise
    sample = config.server.clients_per_round or num_clients
    found = [
        accounting.Guarantee(
            mechanism, 'the server, under secure aggregation only', 'one user', 'zero-out', clip,
            noise, rounds, _KNOWN_TO_SERVER, section.delta,
            *accounting.gaussian(noise, clip, rounds, section.delta),
        )
    ]  # fmt: skip
    if sample < num_clients:
        amplified = accounting.sampled(noise, 2 * clip, rounds, section.delta, num_clients, sample)
        found.append(
            accounting.Guarantee(
                mechanism, 'those who see the models only', 'one user', 'replace', 2 * clip, noise,
                rounds, f'{sample} of {num_clients} clients without replacement', section.delta,
                amplified, None,
            )
        )  # fmt: skip
    return found
