"""Rejects defences that contradict other fields, and attacks that cannot run under them."""

from fedinv_jax import _validate
from fedinv_jax.audit import defences, registry, secure_aggregation
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config


def check(config: Config) -> None:
    """Rejects defences that contradict other fields, and attacks that cannot run under them."""
    section = config.observation
    for part in section.uploaded:
        _validate.lookup('observation.uploaded', part, defences.PARTS)
    if not section.uploaded:
        raise ValueError('Expected observation.uploaded to name at least one of: items, scorer.')
    for setting in settings_lib.settings(config):
        for part in setting.seen:
            _validate.lookup('part in observation.seen', part.split('/')[0], defences.PARTS)
        hidden = {part.split('/')[0] for part in setting.seen} - set(section.uploaded)
        if hidden:
            raise ValueError(
                f'observation.seen contains {"+".join(sorted(hidden))}, which is not in '
                f'observation.uploaded={section.uploaded}.'
            )
    drawn = defences.labels_changed(config)
    noisy = defences.is_noisy(config) or section.error_feedback
    if config.data.resample_negatives and (drawn or noisy):
        raise ValueError(
            'data.resample_negatives cannot be combined with observation.label_epsilon, '
            'pseudo_rate, noise, sum_noise or error_feedback: items that recur would reveal the '
            'interactions, and the entries of a batch belong to other items each round.'
        )
    if drawn and config.data.labels != 'implicit':
        raise ValueError(
            'observation.label_epsilon and pseudo_rate change binary labels: they need '
            "data.labels='implicit'."
        )
    if section.error_feedback and section.top_k_share == 1 and section.random_k_share == 1:
        raise ValueError(
            'observation.error_feedback needs observation.top_k_share or random_k_share below 1.'
        )
    if section.sum_noise and section.cohort == 1:
        raise ValueError(
            'observation.sum_noise is noise on the sum of a cohort: it needs observation.cohort '
            'above 1. For noise on each upload use observation.noise.'
        )
    if section.cohort > 1:
        if 'mean_over_touched' in (config.server.aggregate_items, config.server.aggregate_scorer):
            raise ValueError(
                'A sum hides how many clients touched a row: with observation.cohort above 1, '
                'server.aggregate_items and aggregate_scorer must be sum or mean.'
            )
        if config.data.resample_negatives:
            raise ValueError('observation.cohort above 1 needs data.resample_negatives=False.')
    if secure_aggregation.changes(config):
        _check_changing(config)
    else:
        _check_fixed(config)


def _check_fixed(config: Config) -> None:
    """Rejects what needs cohorts that change and, with fixed cohorts, what they do not allow."""
    section, attack = config.observation, config.attack
    summed = [name for name in attack.name if registry.ATTACKS[name].reads_sums]
    if summed and section.cohort == 1:
        raise ValueError(
            f'attack.name={summed[0]!r} separates the sums of several clients: it needs '
            'observation.cohort above 1.'
        )
    if section.cohort == 1 and section.cohort_membership != 'fixed':
        raise ValueError(
            f'observation.cohort_membership={section.cohort_membership!r} needs observation.cohort '
            'above 1, the number of clients in a sum.'
        )
    if section.cohort > 1:
        if not section.batch_known:
            raise ValueError(
                'Fixed cohorts need observation.batch_known=True: attacks on their sums need the '
                'items of the members.'
            )
        alone = [name for name in attack.name if registry.ATTACKS[name].one_client]
        if alone or attack.warm_start is not None:
            raise ValueError(
                "attack.name='exact' and attack.warm_start assume the upload of one client: with "
                "observation.cohort above 1 use 'spectral', 'sign', 'mgradinv' or a recipe."
            )
        _check_sums(config)


def _check_changing(config: Config) -> None:
    """Rejects what sums of cohorts that change do not allow."""
    section, attack, per_round = config.observation, config.attack, config.server.clients_per_round
    if section.cohort_membership == 'sampled' and section.cohort != per_round:
        raise ValueError(
            "observation.cohort_membership='sampled' sums the participants of a round: expected "
            f'observation.cohort={section.cohort} to be server.clients_per_round={per_round}.'
        )
    for name in attack.name:
        spec = registry.ATTACKS[name]
        if spec.family != 'baseline' and not spec.reads_sums:
            raise ValueError(
                f'attack.name={name!r} reads the upload of a client or a fixed cohort. On sums of '
                "cohorts that change use 'unmix', and give it what unmix separates with "
                f"attack.unmix_reader=('{name}',)."
            )
    _check_sums(config)


def _check_sums(config: Config) -> None:
    """Rejects what the attacks on all sums cannot read."""
    attack = config.attack
    changes = secure_aggregation.changes(config)
    read = any(registry.ATTACKS[name].reads_sums for name in attack.name)
    if (changes or read) and not attack.participation_known:
        raise ValueError(
            'Attacks on sums need attack.participation_known=True: who is in which sum is what '
            'they know.'
        )
    for reader in attack.unmix_reader if read else ():
        _check_reader(config, reader)
    if read and not changes and config.server.clients_per_round is None:
        same = [each for each in attack.unmix_reader if each != 'unrolled']
        if 'unmix' in attack.name and same:
            raise ValueError(
                'If all members of a fixed cohort take part in every round, their sums have the '
                f'same members: attack.unmix_reader={same[0]!r} cannot tell them apart. Use '
                "attack.name 'spectral' or 'summed' on the sums, 'joint', or the reader 'unrolled'."
            )
    searches = 'joint' in attack.name or (read and 'unrolled' in attack.unmix_reader)
    if searches and not all(attack.adaptive):
        raise ValueError(
            "attack.name='joint' and attack.unmix_reader='unrolled' replay what clients do to "
            'their uploads: they need attack.adaptive=(True,).'
        )
    if 'joint' in attack.name:
        _check_joint(config)


def _check_joint(config: Config) -> None:
    """Rejects what `joint` cannot use, or would not use."""
    attack = config.attack
    if not config.observation.batch_known:
        raise ValueError("attack.name='joint' needs observation.batch_known=True.")
    if other := [each for each in attack.unmix_reader if each not in ('spectral', 'replay')]:
        raise ValueError(
            "attack.name='joint' starts from attack.unmix_reader 'spectral' or 'replay', not "
            f'{other[0]!r}.'
        )
    unused = {'num_restarts': 1, 'distance': None, 'warm_start': None}
    if others := [name for name, value in unused.items() if attack[name] != value]:
        raise ValueError(
            f"attack.{others[0]} does not apply to attack.name='joint', which starts once, "
            'from attack.unmix_reader, and minimises squares: '
            f'expected {unused[others[0]]}.'
        )
    if any(attack.priors.values()):
        raise ValueError("attack.priors do not apply to attack.name='joint': expected zeros.")
    several = any(number > 1 for number in attack.num_gradients)
    if 'unrolled' in config.dynamics.name and several and set(attack.interval) != {1}:
        raise ValueError(
            "attack.name='joint' with dynamics.name='unrolled' trains the clients of each sum "
            f'in turn: it needs attack.interval=(1,), not {tuple(attack.interval)}.'
        )


def _check_reader(config: Config, reader: str) -> None:
    """Rejects a reader of unmixed rows that cannot read them."""
    field, known = f'attack.unmix_reader={reader!r}', config.observation.batch_known
    if not known and reader not in ('projection', 'replay'):
        raise ValueError(
            f'{field} needs observation.batch_known=True: over the whole catalogue only '
            "'projection' and 'replay' tell the rows of a batch from those outside of it."
        )
    rows = reader in ('projection', *registry.REPLAYS) or registry.ATTACKS[reader].reads_rows
    if rows and not all('items' in seen.split('+') for seen in config.observation.seen):
        raise ValueError(f'{field} reads item rows: observation.seen must contain items.')
    if reader in registry.REPLAYS and config.client.name != 'gradient_step':
        raise ValueError(f"{field} replays one gradient: it needs client.name='gradient_step'.")
    if reader in registry.REPLAYS and config.client.weight_decay:
        raise ValueError(
            f'{field} replays rows without a regulariser: it needs client.weight_decay=0, not '
            f'{config.client.weight_decay:g}.'
        )
    first, interval = config.attack.first_round, config.attack.interval
    if reader == 'unrolled' and (set(first) != {0} or set(interval) != {1}):
        raise ValueError(
            f'{field} trains all clients from the first round on: it needs attack.first_round=(0,) '
            'and attack.interval=(1,).'
        )
