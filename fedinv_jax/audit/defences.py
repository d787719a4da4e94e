"""Defences of a config: what they promise."""

import math

from fedinv_jax import accounting
from fedinv_jax.audit.config import Config


def guarantees(config: Config, num_clients: int) -> list[accounting.Guarantee]:
    """Every statement that a config's defences allow, for its own sampling and number of rounds.

    The server knows who takes part, so sampling hides nothing from it: against it each round counts
    that a client may take part in. Against those who see the trained models only, it does hide, for
    clients whom no recording forces to take part; of the noise on the sums that of one cohort is
    counted, which is a bound.

    Args:
        config: see `config.default_config`.
        num_clients: of the training.
    """
    section, rounds = config.observation, config.server.num_rounds
    clip = math.inf if section.clip is None else float(section.clip)
    sample = config.server.clients_per_round or num_clients
    found = []
    if section.label_epsilon is not None:
        epsilon = float(section.label_epsilon)
        found.append(
            accounting.Guarantee(
                'randomised response on labels, drawn once',
                'the server',
                'one label, given the items and the size of the batch',
                'replace',
                None,
                None,
                1,
                'none',
                0.0,
                epsilon,
                epsilon,
            )
        )
    if section.pseudo:
        # A negative that stays one is surely none, unless all are passed off.
        epsilon = 0.0 if section.pseudo == 1 else math.inf
        found.append(
            accounting.Guarantee(
                'pseudo-interactions, drawn once',
                'the server',
                'one label, given the items and the size of the batch',
                'replace',
                None,
                None,
                1,
                'none',
                0.0,
                epsilon,
                epsilon,
            )
        )
    if section.noise:
        by_rdp, by_pld = accounting.gaussian(section.noise, 2 * clip, rounds, section.delta)
        found.append(
            accounting.Guarantee(
                'Gaussian noise on each upload',
                'the server',
                "all of one user's labels and embedding, given the items of the batch",
                'replace',
                2 * clip,
                section.noise,
                rounds,
                'none: the server knows who takes part',
                section.delta,
                by_rdp,
                by_pld,
            )
        )
    if section.sum_noise:
        text = "Gaussian noise on each cohort's sum"
        by_rdp, by_pld = accounting.gaussian(section.sum_noise, clip, rounds, section.delta)
        found.append(
            accounting.Guarantee(
                text,
                'the server, under secure aggregation only',
                'one user',
                'zero-out',
                clip,
                section.sum_noise,
                rounds,
                'none: the server knows who takes part',
                section.delta,
                by_rdp,
                by_pld,
            )
        )
        if sample < num_clients:
            amplified = accounting.sampled(
                section.sum_noise, 2 * clip, rounds, section.delta, num_clients, sample
            )
            found.append(
                accounting.Guarantee(
                    text,
                    'those who see the models only',
                    'one user',
                    'replace',
                    2 * clip,
                    section.sum_noise,
                    rounds,
                    f'{sample} of {num_clients} clients without replacement',
                    section.delta,
                    amplified,
                    None,
                )
            )
    return found
