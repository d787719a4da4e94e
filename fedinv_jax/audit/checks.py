"""Rejects a config that cannot run, before anything is computed."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from fedinv_jax import _validate, models, server
from fedinv_jax.audit import (
    attack_checks,
    attackers,
    beliefs,
    defence_checks,
    defences,
    mgradinv,
    rating_checks,
    registry,
    secure_aggregation,
    training,
)
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit.config import Config, default_config
from fedinv_jax.data import clients, columns
from fedinv_jax.types import BatchLoss

_DTYPES = ('float32', 'float64')
# Fields that are integers >= 1; a field that is an axis holds several of them.
_COUNTS = (
    'num_seeds',
    'attack.num_gradients',
    'attack.interval',
    'attack.num_iterations',
    'attack.num_restarts',
    'attack.victims_per_call',
    'attack.min_positives',
    'observation.cohort',
    'server.num_rounds',
    'data.negatives_per_positive',
    'run.memory_mib',
)
_AXES: dict[str, Mapping[str, Any] | Sequence[Any]] = {
    'observation.seen': (),
    'dynamics.name': attackers.DYNAMICS,
    'attack.name': registry.ATTACKS,
    'attack.num_gradients': (),
    'attack.first_round': (),
    'attack.interval': (),
    'attack.adaptive': (True, False),
    'attack.unmix_reader': registry.readers(),
}
# Smallest and largest value of a field; the bounds of the defences' fields are in `DEFENCES`. A
# field whose value is None is not checked.
_RANGES = {
    'observation.delta': (0, 1),
    'client.label_smoothing': (0, 1),
    'client.batch_share': (0, 1),
    'client.learning_rate_decay': (0, 1),
    'attack.wrong_items': (0, 1),
    'model.dropout': (0, 1),
    'seed': (0, 2**32 - 1),  # a larger one has the key of a smaller one
    **dict.fromkeys(
        (
            'data.k_core',
            'data.min_positives',
            'model.scale',
            'client.private_learning_rate',
            'client.positive_weight',
            'client.weight_decay',
            'client.private_distance',
            'client.item_sparsity',
            'client.item_rate_scale',
            'client.optimizer.learning_rate',
            'server.optimizer.learning_rate',
            'attack.num_victims',
            'attack.optimizer.learning_rate',
            'attack.label_rate_scale',
            'attack.priors.binary',
            'attack.priors.norm',
            'attack.priors.popularity',
            'attack.priors.sparsity',
            'attack.stop_below',
            'attack.max_dense_candidates',
        ),
        (0.0, math.inf),
    ),
    **dict.fromkeys(
        (
            'data.max_users',
            'data.max_positives',
            'attack.max_positives',
            'model.dim',
            'model.width',
            'model.num_layers',
            'model.num_features',
            'client.num_epochs',
            'client.batch_size',
            'server.clients_per_round',
            'run.parallel_victims',
        ),
        (1.0, math.inf),
    ),
}
# Fields of which the smallest value, or the largest, is itself out of range.
_ABOVE = ('client.batch_share', 'client.item_rate_scale', 'observation.delta')
_BELOW = ('attack.wrong_items', 'model.dropout', 'observation.delta')
_NAMES: dict[str, Mapping[str, Any] | Sequence[str]] = {
    'data.labels': clients.LABELS,
    'data.ties': ('item', 'random'),
    'model.name': training.MODELS,
    'model.kernel_init': models.KERNELS,
    'client.name': training.CLIENTS,
    'client.loss': training.LOSSES,
    'client.precision': _DTYPES,
    'client.upload_dtype': ('float16', 'bfloat16', 'float32'),
    'client.optimizer.name': training.OPTIMIZERS,
    'client.private_optimizer.name': training.OPTIMIZERS,
    'server.optimizer.name': training.OPTIMIZERS,
    'server.aggregate_items': server.AGGREGATIONS,
    'server.aggregate_scorer': server.AGGREGATIONS,
    'observation.cohort_membership': secure_aggregation.MEMBERSHIPS,
    'attack.distance': mgradinv.DISTANCES,
    'attack.optimizer.name': (*training.OPTIMIZERS, mgradinv.NEWTON),
    'attack.optimizer.decay': training.DECAYS,
    'attack.dtype': _DTYPES,
}


def check(config: Config) -> None:
    """Checks every field of a config, and the fields against each other.

    Raises:
        ValueError: for an unknown name (the message lists the nearest ones), an axis without
            values, a count that is not an integer >= 1, a field that this client does not use, or
            observed rounds past the end of the training.
    """
    if 'arms' in config:
        raise ValueError('This config is a study with several arms. Run `fedinv study` with it.')
    values = {field: operator.attrgetter(field)(config) for field in (*_COUNTS, *_AXES, *_NAMES)}
    for field, names in _AXES.items():
        if not values[field]:
            raise ValueError(f'Expected {field} to hold at least one value.')
        for name in values[field] if names else ():
            _validate.lookup(field, name, names)
    if not all(isinstance(seen, str) for seen in values['observation.seen']):
        raise ValueError(
            f'Expected observation.seen={values["observation.seen"]} to be a tuple of names of '
            "parts, joined by '+': ('items+scorer', 'scorer')."
        )
    for field in (*_COUNTS, 'attack.first_round'):
        for number in values[field] if field in _AXES else (values[field],):
            least = 0 if field == 'attack.first_round' else 1
            if not isinstance(number, int) or number < least:
                raise ValueError(f'Expected {field}={number!r} to be an integer >= {least}.')
    for field, choices in _NAMES.items():
        if values[field] is not None:
            _validate.lookup(field, values[field], choices)
    _check_combinations(config)
    for setting in settings_lib.settings(config):
        if setting.rounds[-1] >= config.server.num_rounds:
            raise ValueError(
                'The last observed round is past the end of the training: '
                f'first_round={setting.first_round}, num_gradients={setting.num_gradients}, '
                f'interval={setting.interval} give round {setting.rounds[-1]}; '
                f'expected at most {config.server.num_rounds - 1} '
                f'(server.num_rounds={config.server.num_rounds}).'
            )
        rows_seen = any(part.split('/')[0] == 'items' for part in setting.seen)
        if registry.ATTACKS[setting.attack].reads_rows and not rows_seen:
            raise ValueError(
                f'attack.name={setting.attack!r} reads item rows: observation.seen='
                f'{"+".join(setting.seen)!r} does not contain them.'
            )
        known = config.observation.batch_known or secure_aggregation.changes(config)
        if rows_seen and not known:
            raise ValueError(
                'Item rows reveal which items are in the batch: observation.seen with items needs '
                'observation.batch_known=True.'
            )
    if config.attack.believes:  # last: what is wrong with the config itself is no belief
        try:
            check(beliefs.believed(config))
        except ValueError as error:
            raise ValueError(f'attack.believes: {error}') from error


def _check_combinations(config: Config) -> None:
    """Rejects values out of range, and fields that contradict each other."""
    client, attack = config.client, config.attack
    rounds_uploads = (
        any(registry.ATTACKS[name].family in ('descent', 'recipe') for name in attack.name)
        and attack.dtype == 'float32'
    )
    if client.precision == 'float64' and rounds_uploads:
        raise ValueError(
            "client.precision='float64' needs attack.dtype='float64': a float32 solver would round "
            'the uploads.'
        )
    _check_numbers(config)
    defence_checks.check(config)
    alone = [name for name in attack.name if registry.ATTACKS[name].one_client]
    if config.data.labels == 'ratings' and alone:
        raise ValueError(
            f"attack.name={alone[0]!r} assumes binary labels: it needs data.labels='implicit'."
        )
    fresh_and_known = config.data.resample_negatives and config.observation.batch_known
    if fresh_and_known and 'unrolled' in config.dynamics.name:
        raise ValueError(
            'With new negatives each round, the batches between the observed rounds hold other '
            'items: with data.resample_negatives and observation.batch_known, dynamics.name must '
            'be free or static.'
        )
    if attack.wrong_items and (
        not config.observation.batch_known
        or config.observation.cohort > 1
        or config.data.resample_negatives
    ):
        raise ValueError(
            'attack.wrong_items needs one client with a known batch that stays the same: '
            'observation.batch_known=True, cohort=1 and data.resample_negatives=False.'
        )
    if attack.placebo and config.observation.cohort > 1:
        raise ValueError(
            'attack.placebo reads the upload of another victim, which may be in the same cohort: '
            'it needs observation.cohort=1.'
        )
    if 0 < attack.num_victims < config.num_seeds:
        raise ValueError(
            f'Expected attack.num_victims={attack.num_victims} to be at least '
            f'num_seeds={config.num_seeds}, or 0.'
        )
    for field in ('columns', 'header'):
        if config.data.name == 'synthetic' and config.data[field] is not None:
            raise ValueError(f'data.{field} needs a file: data.name is synthetic.')
    if config.data.columns is not None:
        columns.check(config.data.columns)
    default = default_config().client
    local = ('private_optimizer', 'optimizer', 'num_epochs', 'batch_size', 'item_drift')
    for field in (*local, 'learning_rate_decay', 'shuffle'):
        if client.name == 'gradient_step' and client[field] != default[field]:
            raise ValueError(f"client.{field} needs client.name='local_sgd'.")
    _check_model(config)
    attack_checks.check(config)
    if attack.warm_start is not None:
        _validate.lookup('attack.warm_start', attack.warm_start, registry.solvers())
        if attack.warm_start == 'exact' and attack.dtype == 'float32':
            raise ValueError("attack.warm_start='exact' needs attack.dtype='float64'.")
    rating_checks.check(config)


def _check_model(config: Config) -> None:
    """Rejects losses and terms of the loss that a model does not have."""
    client, name = config.client, config.model.name
    if isinstance(training.LOSSES[client.loss], BatchLoss):
        for field, none in (('label_smoothing', 0), ('positive_weight', 1)):
            if client[field] != none:
                raise ValueError(
                    f'client.{field} changes the loss of one item: client.loss={client.loss!r} is '
                    "of a batch. Use 'bce', 'squared_error' or 'hinge'."
                )
    for field in ('private_distance', 'item_sparsity'):
        if client[field] and name != 'fedrap':
            raise ValueError(f"client.{field} needs model.name='fedrap', not {name!r}.")
    if name == 'lightgcn' and (client.batch_size is not None or client.batch_share != 1):
        raise ValueError(
            "model.name='lightgcn' has the graph of the whole batch: it needs "
            'client.batch_size=None and client.batch_share=1.'
        )
    if config.model.item_features is not None:
        _check_item_features(config)
    if name == 'fedrap' and config.observation.cohort > 1:
        raise ValueError(
            "model.name='fedrap' has an item table of each client's own, which sums of several "
            'clients do not support: it needs observation.cohort=1.'
        )


def _check_item_features(config: Config) -> None:
    """Rejects item rows where items have features: they are no parameters, and not uploaded."""
    features, data = config.model.item_features, config.data.name
    if config.model.name == 'fedrap':
        raise ValueError(
            "model.name='fedrap' has a private row of each item: it needs model.item_features=None."
        )
    if config.client.item_drift or config.client.item_rate_scale != 1:
        raise ValueError(
            'client.item_drift and client.item_rate_scale are about item rows: with '
            'model.item_features there are none.'
        )
    if tuple(config.observation.uploaded) != ('scorer',):
        raise ValueError(
            'With model.item_features the rows of features are parameters of the scorer, and items '
            "have no rows: observation.uploaded and observation.seen must be ('scorer',)."
        )
    if features == 'genres' and data != 'ml-100k':
        raise ValueError(
            f"model.item_features='genres' are those of data.name='ml-100k', not of {data!r}: give "
            "the path of a file of lines item,feature, or 'random'."
        )


def _check_numbers(config: Config) -> None:
    """Refuses numbers that are not finite, whatever their field, and those out of range."""
    values, optional = _fields(config), _fields(default_config())
    for name, value in values.items():
        off = ' None switches it off.' if optional.get(name, 0) is None else ''
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float):
                _validate.check_finite(name, number, off)
    ranges = _RANGES | {d.field: d.bounds for d in defences.DEFENCES if d.kind is not tuple}
    for name, (least, most) in ranges.items():
        if values.get(name) is not None:
            _validate.check_range(
                name, values[name], least, most, above=name in _ABOVE, below=name in _BELOW
            )


def _fields(section: Config, prefix: str = '') -> dict[str, Any]:
    """Every value of a config by the name of its field, `section.name`."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        inner = isinstance(value, Config)
        found |= _fields(value, f'{prefix}{name}.') if inner else {f'{prefix}{name}': value}
    return found
