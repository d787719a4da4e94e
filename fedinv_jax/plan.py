"""What a run consists of: the case that its settings share, and its blocks of victims."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedinv_jax import build, experiment, stats, workdir
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.experiment import Config, Setting
from fedinv_jax.types import Model


class Case(NamedTuple):
    """What the settings of a run share.

    Attributes:
        config: the config.
        interactions: all interactions of the data set.
        clients: groups of clients, the population.
        victims: user indices.
        model: the recommender.
        share: public share of interactions among candidates.
        counts: int `[N]`, interactions of each item, over all users.
        num_users: users with interactions.
    """

    config: Config
    interactions: interactions_lib.Interactions
    clients: tuple[clients_lib.Clients, ...]
    victims: list[int]
    model: Model
    share: float
    counts: np.ndarray
    num_users: int


class Block(NamedTuple):
    """Victims that go through one compiled call: of one setting and one group of clients."""

    setting: Setting
    users: tuple[int, ...]


def make_case(config: Config) -> Case:
    """Data, population, victims and model of a config."""
    experiment.check(config)
    interactions = build.make_interactions(config)
    clients = build.make_clients(config, interactions)
    share = clients_lib.public_share(clients)
    if not config.observation.batch_known:  # the candidates are the whole catalogue
        positives = sum(group.num_positives.sum() for group in clients)
        share = float(positives / (sum(len(g.users) for g in clients) * interactions.num_items))
    return Case(
        config,
        interactions,
        clients,
        choose_victims(config, clients),
        build.make_model(config.model, interactions.num_items),
        share,
        clients_lib.item_counts(interactions),
        len(np.unique(interactions.users)),
    )


def choose_victims(config: Config, clients: Sequence[clients_lib.Clients]) -> list[int]:
    """User indices of the victims, drawn among the clients without replacement.

    Raises:
        ValueError: if there are fewer clients than victims.
    """
    users = np.sort(np.concatenate([group.users for group in clients]))
    count = config.attack.num_victims or len(users)
    if not 0 < count <= len(users):
        raise ValueError(f'Expected 0 <= attack.num_victims={count} <= {len(users)} clients.')
    # Another stream than those of the clients, [seed, user], and of the generator, [seed, 0, 2].
    drawn = np.random.default_rng([config.seed, 0, 3]).permutation(users)[:count]
    return [int(user) for user in drawn]


def blocks(case: Case) -> list[Block]:
    """Blocks of at most `attack.block` victims, setting by setting; independent of what is done."""
    size = case.config.attack.block
    planned = []
    for setting in experiment.settings(case.config):
        for group in case.clients:
            members = set(group.users.tolist())
            users = [user for user in case.victims if user in members]
            planned += [
                Block(setting, tuple(users[start : start + size]))
                for start in range(0, len(users), size)
            ]
    return planned


def label(case: Case, setting: Setting) -> str:
    """A hashable form of a setting, as `stats.setting` makes it from a row."""
    return stats.setting(columns(case, setting))


def key(row: workdir.Row) -> tuple[str, int]:
    """A row's setting and victim: what may be in a work directory once."""
    return stats.setting(row), row['user']


def keys(case: Case, block: Block) -> set[tuple[str, int]]:
    """The keys of a block's rows."""
    return {(label(case, block.setting), user) for user in block.users}


def columns(case: Case, setting: Setting) -> workdir.Row:
    """The columns of a row that say which setting it belongs to."""
    config = case.config
    guesser = setting.dynamics is None
    return {
        'attack': setting.attack,
        'dynamics': setting.dynamics,
        'num_gradients': setting.num_gradients,
        'first_round': setting.first_round,
        'interval': setting.interval,
        'seen': list(setting.seen),
        'batch_known': config.observation.batch_known,
        'defence': 'none',
        'data': config.data.name,
        'model': config.model.name,
        'client': config.client.name,
        'seed': config.seed,
        'solver': None if guesser else config.attack.optimizer.name,
        'iterations': 0 if guesser else config.attack.num_iterations,
        'precision': config.attack.precision,
        'upload_precision': config.client.precision,
    }
