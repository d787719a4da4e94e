"""What a config's noise promises: statements of differential privacy, for the table of defences."""

import math
from typing import TypeAlias

import ml_collections

from fedinv_jax import accounting

Config: TypeAlias = ml_collections.ConfigDict


def of_one_label(mechanism: str, epsilon: float) -> list[accounting.Guarantee]:
    """Of a change of labels that is drawn once, for all rounds."""
    unit = 'one label, given the items and the size of the batch'
    return [
        accounting.Guarantee(
            mechanism, 'the server', unit, 'replace', None, None, 1, 'none', 0.0, epsilon, epsilon
        )
    ]


def clip_norm(config: Config) -> float:
    """The largest norm of an upload; inf where it is not clipped."""
    return math.inf if config.observation.clip is None else float(config.observation.clip)


_KNOWN_TO_SERVER = 'none: the server knows who takes part'


def local_noise(config: Config, num_clients: int) -> list[accounting.Guarantee]:
    """Against the server each round counts that a client may take part in: it knows who does."""
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
    """Against the server, and against those who see the models only, from whom sampling hides.

    The latter holds for clients whom no recording forces to take part; of the noise on the sums
    that of one cohort is counted, which is a bound.
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
