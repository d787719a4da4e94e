"""Divides a run into a case per seed, which its settings share, and blocks of victims."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from fedinv_jax import item_table
from fedinv_jax.audit import (
    attackers,
    beliefs,
    checks,
    defences,
    member,
    registry,
    training,
    workdir,
)
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config
from fedinv_jax.audit.settings import Setting
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import held_out
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.report import stats
from fedinv_jax.types import Model


class Case(NamedTuple):
    """One training run: the data, clients and attacks that all of its settings share.

    Attributes:
        config: the config of this training run, with its seed and its share of the victims.
        interactions: all interactions of the data set, except those held out.
        held: the interactions on which the trained model is evaluated; None if none are held out.
        clients: all clients, in groups of similar batch size.
        victims: user indices.
        model: the recommender.
        share: public share of interactions among the candidates; mean label of explicit ratings.
        counts: int `[N]`, interactions of each item, over all users.
        num_users: number of users with interactions.
        attacks: the attack of each `attack_setting`.
    """

    config: Config
    interactions: interactions_lib.Interactions
    held: held_out.Held | None
    clients: tuple[clients_lib.Clients, ...]
    victims: list[int]
    model: Model
    share: float
    counts: np.ndarray
    num_users: int
    attacks: dict[Setting, attackers.Choice]


class Block(NamedTuple):
    """Victims of one seed, setting and group of clients, which one compiled function attacks.

    Attributes:
        case: the case of their seed.
        setting: the setting.
        users: the victims' user indices.
        size: number of victims in the largest block of this shape.
    """

    case: Case
    setting: Setting
    users: tuple[int, ...]
    size: int


def make_cases(config: Config) -> list[Case]:
    """The case of every seed; the cases share the attacks, and data that no seed changes."""
    checks.check(config)
    cases: list[Case] = []
    for each in config_lib.single_seeds(config):
        cases.append(make_case(each, cases[0] if cases else None))
    return cases


def make_case(config: Config, like: Case | None = None) -> Case:
    """The case of one training run: its data, clients, victims, model and attacks.

    Args:
        config: a config with one seed.
        like: the case of another seed; what does not depend on the seed is reused.
    """
    checks.check(config)
    if like is None or config.data.name == 'synthetic' or config.data.leave_one_out:
        interactions, test = training.make_interactions(config)
        held = None if test is None else held_out.held_out(interactions, test, config.seed)
    else:
        interactions, held = like.interactions, like.held
    clients = training.make_clients(config, interactions)
    share = clients_lib.public_share(clients)
    if not config.observation.batch_known:  # the candidates are the whole catalogue
        positives = sum(group.num_positives.sum() for group in clients)
        share = float(positives / (sum(len(g.users) for g in clients) * interactions.num_items))
    features = training.make_item_features(config, interactions)
    model = training.make_model(config.model, interactions.num_items, features)
    attacks: dict[Setting, attackers.Choice] = {}
    told = beliefs.believed(config)
    believed = believed_share(config, share)
    probe = functools.cache(functools.partial(attackers.probe, told, model))
    for setting in dict.fromkeys(map(attack_setting, settings_lib.settings(config))):
        if like is None or registry.ATTACKS[setting.attack].knows_share:  # these know the share
            of_baseline = registry.ATTACKS[setting.attack].family == 'baseline'
            known = share if of_baseline else believed
            attacks[setting] = make_attack(told, setting, model, known, probe)
        else:
            attacks[setting] = like.attacks[setting]
    return Case(
        config,
        interactions,
        held,
        clients,
        choose_victims(config, clients),
        model,
        share,
        clients_lib.item_counts(interactions),
        len(np.unique(interactions.users)),
        attacks,
    )


def believed_share(config: Config, share: float) -> float:
    """The share of interactions among the candidates that the attacker believes in.

    Args:
        config: with `attack.believes`.
        share: the true one.
    """
    negatives = beliefs.believed(config).data.negatives_per_positive
    if config.observation.batch_known and negatives != config.data.negatives_per_positive:
        return 1 / (1 + negatives)
    return share


def make_attack(
    config: Config, setting: Setting, model: Model, share: float, probe: attackers.Probe
) -> attackers.Choice:
    """The attack of a setting; `attackers.Target` lists what it may know."""
    target = attackers.Target(
        config,
        setting.attack,
        setting.seen,
        setting.adaptive,
        setting.dynamics,
        tuple(setting.rounds),
        model,
        share,
        probe,
        setting.reader,
    )
    return registry.ATTACKS[setting.attack].make(target)


def choose_victims(config: Config, clients: Sequence[clients_lib.Clients]) -> list[int]:
    """User indices of the victims, drawn among the clients without replacement.

    Raises:
        ValueError: if there are fewer clients than victims, or a placebo has no other victim.
    """
    attack = config.attack
    least, most = attack.min_positives, attack.max_positives or np.inf
    users = np.sort(
        np.concatenate(
            [
                group.users[(group.num_positives >= least) & (group.num_positives <= most)]
                for group in clients
            ]
        )
    )
    count = attack.num_victims or len(users)
    if not 0 < count <= len(users):
        raise ValueError(
            f'Expected 0 <= attack.num_victims={count} <= {len(users)} clients (of '
            f'attack.min_positives={least} to attack.max_positives={attack.max_positives}).'
        )
    if attack.placebo and count < 2:
        raise ValueError(
            f'attack.placebo reads the uploads of another victim of the same seed: seed '
            f'{config.seed} has one victim. Raise attack.num_victims.'
        )
    # A random stream apart from the clients' ([seed, user]) and the generator's ([seed, 0, 2]).
    drawn = np.random.default_rng([config.seed, 0, 3]).permutation(users)[:count]
    return [int(user) for user in drawn]


def work(config: Config) -> float:
    """Operations of a run up to a factor, to predict the time of a study's later arms.

    The product of parameters, victims, iterations and steps. Steps between observed rounds count
    for an attack that replays them; an attack that does not iterate counts as one iteration.
    """
    shared = jax.eval_shape(training.make_model(config.model, 1).init_shared, jax.random.key(0))
    total = 0
    for setting in settings_lib.settings(config):
        rounds, counted = setting.rounds, registry.ATTACKS[setting.attack].iterates
        unrolled = setting.dynamics == 'unrolled'
        steps = rounds[-1] - rounds[0] + 1 if unrolled else len(rounds)
        total += steps * (config.attack.num_iterations if counted else 1)
    return float(optax.tree.size(shared) * total * (config.attack.num_victims or 1000))


def blocks(cases: Iterable[Case]) -> list[Block]:
    """Blocks of at most `attack.victims_per_call` victims, seed by seed and setting by setting.

    The victims of a group are divided evenly among its blocks, so that little padding is needed;
    blocks of a shape have the same size in every seed. The blocks do not depend on which rows
    exist already.
    """
    cases = list(cases)
    victims = [[_within(case.victims, group) for group in case.clients] for case in cases]
    sizes: dict[int, int] = {}
    for case, groups in zip(cases, victims, strict=True):
        for group, users in zip(case.clients, groups, strict=True):
            needed = -(-len(users) // max(-(-len(users) // case.config.attack.victims_per_call), 1))
            padded = group.items.shape[1]
            sizes[padded] = max(sizes.get(padded, 0), needed)
    return [
        Block(case, setting, tuple(users[start : start + size]), size)
        for case, groups in zip(cases, victims, strict=True)
        for setting in settings_lib.settings(case.config)
        for group, users in zip(case.clients, groups, strict=True)
        for size in [sizes[group.items.shape[1]]]
        for start in range(0, len(users), max(size, 1))
    ]


def _within(users: Sequence[int], group: clients_lib.Clients) -> list[int]:
    """The users that are in a group, in the order given."""
    members = set(group.users.tolist())
    return [user for user in users if user in members]


def part(blocks: Sequence[Block], shard: workdir.Shard) -> list[Block]:
    """The blocks of one shard: consecutive ones, so that the shard trains few seeds."""
    index, count = shard
    return list(blocks[len(blocks) * index // count : len(blocks) * (index + 1) // count])


def attack_setting(setting: Setting) -> Setting:
    """The setting without the fields that its attack does not depend on.

    These are the first round, whether it is a placebo and, except for the hypothesis 'unrolled',
    the interval.
    """
    interval = setting.interval if setting.dynamics == 'unrolled' else None
    if registry.ATTACKS[setting.attack].reads_sums:  # of any number it makes one upload
        setting = setting._replace(num_gradients=1)
    return setting._replace(first_round=0, interval=interval, placebo=False)


def keys(block: Block) -> list[workdir.Key]:
    """The keys of a block's rows: setting, seed and user."""
    label = stats.setting(columns(block.case, block.setting))
    return [(label, block.case.config.seed, user) for user in block.users]


def group_of(case: Case, user: int) -> clients_lib.Clients:
    """The group that a client is in."""
    return next(group for group in case.clients if user in group.users)


def num_private(case: Case, setting: Setting, rows: int | None = None) -> int:
    """Number of unknown private parameters: `D`, or `T D` if each step has its own (`free`).

    Of a private item table the `rows` of a batch count; None: all.
    """
    sums = registry.ATTACKS[setting.attack].reads_sums
    config = member.alone(case.config) if sums else case.config
    init_private = attackers.make_init_private(config, case.model)
    private = jax.eval_shape(init_private, jax.random.key(0))
    size = optax.tree.size(private)
    if rows is not None and item_table.has_items(private):
        table = optax.tree.size(private['items'])
        size += table // case.interactions.num_items * rows - table
    return size * (setting.num_gradients if setting.dynamics == 'free' else 1)


def columns(case: Case, setting: Setting) -> dict[str, Any]:
    """The columns of a row that say which setting and seed it belongs to."""
    config, spec = case.config, registry.ATTACKS[setting.attack]
    reader = registry.ATTACKS.get(str(setting.reader))
    iterates = spec.iterates or (reader is not None and reader.iterates)
    return {
        'attack': setting.attack,
        'family': 'baseline' if setting.placebo else spec.family,
        'dynamics': setting.dynamics,
        'num_gradients': setting.num_gradients,
        'first_round': setting.first_round,
        'interval': setting.interval,
        'seen': list(setting.seen),
        'batch_known': config.observation.batch_known,
        'defence': defences.label(config),
        'defences': defences.numbers(config),
        'labels_changed': defences.labels_changed(config),
        'attacker': 'adaptive' if setting.adaptive else 'blind',
        'placebo': setting.placebo,
        'reader': setting.reader,
        'data': config.data.name,
        'model': config.model.name,
        'client': config.client.name,
        'seed': config.seed,
        'solver': case.attacks[attack_setting(setting)].solver,
        'iterations': config.attack.num_iterations if iterates else 0,
        'dtype': settings_lib.dtype(config, setting.attack),
        'upload_dtype': config.client.upload_dtype or config.client.precision,
    }
