"""The defences that a config can switch on: ONE table, in the order in which they act.

The rest of the program reads the table: the config's fields and their bounds, the channel of a
client and the attacker's model of the channel, the text and numbers in the rows, the threat model,
epsilons, the order of strengths in a report, `--help`. A new defence needs a stage (in `observe`,
`compress` or `perturb`), a row of this table, and a test.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ml_collections import config_dict

from fedinv_jax import accounting, compress, observe, perturb
from fedinv_jax.audit import compatibility, secure_aggregation
from fedinv_jax.audit import guarantees as guarantees_lib
from fedinv_jax.report import tradeoff
from fedinv_jax.types import Observation

Config = compatibility.Config

PARTS = ('items', 'scorer')
"""Parts of the shared parameters."""


class Defence(NamedTuple):
    """One defence.

    Attributes:
        field: field of the config that switches the defence on; its value is the strength.
        off: value of the field when the defence is off.
        kind: type of the value.
        name: name in reports. The text in the rows is the name and the value, unless `label` is
            given.
        summary: one line for `--help`.
        sentence: `sentence(config) -> str`, a line of the threat model.
        bounds: smallest and largest value.
        smaller_is_stronger: whether a smaller value is a stronger defence.
        acts_on: 'labels' (before the client trains), 'training', 'upload', or 'sum' (the sum of a
            cohort).
        make: `make(config) -> stage` of the channel; None for a defence outside the channel.
        is_noise: whether the stage adds noise, which hides what the stages before it did; its
            `variance` adds up in a sum.
        in_members: whether an attacker replays the stage for each member of a sum.
        keeps_largest: whether the stage keeps the largest entries of an upload.
        replay: how an attacker that knows the defence models the stage. 'always': replays it, as
            any attacker does, since the stage decides which leaves are uploaded. 'predict':
            replays it. 'blind_behind_noise': ignores it if noise follows, as the noise hides what
            the stage did. 'blind_behind_more': ignores it only if the noise is more than faint.
        share: `share(config, share) -> share`: from the true share of labels that are 1 to the
            share that the client trains on.
        label: `label(config) -> str`, the text in the rows.
        numbers: `numbers(config) -> dict`, the numbers in the rows; None: the value of the field.
        guarantees: `guarantees(config, num_clients) -> list` of privacy guarantees.
    """

    field: str
    off: Any
    kind: type
    name: str
    summary: str
    sentence: Callable[[Config], str]
    bounds: tuple[float, float] = (0.0, math.inf)
    smaller_is_stronger: bool = False
    acts_on: Literal['labels', 'training', 'upload', 'sum'] = 'upload'
    make: Callable[[Config], Observation] | None = None
    is_noise: bool = False
    in_members: bool = False
    keeps_largest: bool = False
    replay: Literal['always', 'predict', 'blind_behind_noise', 'blind_behind_more'] = (
        'blind_behind_noise'
    )
    share: Callable[[Config, float], float] | None = None
    label: Callable[[Config], str] | None = None
    numbers: Callable[[Config], dict[str, Any]] | None = None
    guarantees: Callable[[Config, int], list[accounting.Guarantee]] | None = None


def _flipped(config: Config, share: float) -> float:
    chance = 1 / (1 + math.exp(config.observation.label_epsilon))
    return share * (1 - chance) + (1 - share) * chance


def _feedback(config: Config, text: str) -> str:
    return text * config.observation.error_feedback


def _with_feedback(name: str) -> Callable[[Config], dict[str, Any]]:
    def numbers(config: Config) -> dict[str, Any]:
        section = config.observation
        return {name: section[name], **({'error_feedback': 1} if section.error_feedback else {})}

    return numbers


_NOISE = 'Gaussian noise of standard deviation'
_LEFT_OUT = ', the other entries are added to the next upload'
_FEEDBACK = ' with error feedback'

DEFENCES: tuple[Defence, ...] = (
    Defence(
        'observation.label_epsilon', None, float, 'randomised response',
        'epsilon per label of randomised response, drawn once for all rounds',
        lambda c: f'randomised response, epsilon {c.observation.label_epsilon} per label',
        smaller_is_stronger=True,
        acts_on='labels',
        make=lambda c: perturb.randomized_response(c.observation.label_epsilon),
        share=_flipped,
        guarantees=lambda c, _: guarantees_lib.of_one_label(
            'randomised response on labels, drawn once', float(c.observation.label_epsilon)
        ),
    ),
    Defence(
        'observation.pseudo_rate', 0.0, float, 'pseudo-interactions',
        'share of the negatives that clients train on as interactions, drawn once for all rounds',
        lambda c: (
            f'{c.observation.pseudo_rate:.0%} of the negatives are trained on as interactions'
        ),
        bounds=(0, 1),
        acts_on='labels',
        make=lambda c: perturb.add_pseudo_interactions(c.observation.pseudo_rate),
        share=lambda c, share: share + (1 - share) * c.observation.pseudo_rate,
        # A label that stays 0 is certainly a negative, so epsilon is infinite unless all become 1.
        guarantees=lambda c, _: guarantees_lib.of_one_label(
            'pseudo-interactions, drawn once', 0.0 if c.observation.pseudo_rate == 1 else math.inf
        ),
    ),
    Defence(
        'client.item_drift', 0.0, float, 'item_drift',
        'weight of the mean L1 penalty on changes of item rows (local_sgd)',
        lambda c: f'mean L1 penalty of weight {c.client.item_drift:g} on changes of item rows',
        acts_on='training',
    ),
    Defence(
        'observation.uploaded', PARTS, tuple, 'only',
        'the parts that are trained and uploaded; the other parameters keep their initial values',
        lambda c: f'only {"+".join(c.observation.uploaded)} are uploaded and trained',
        make=lambda c: observe.share(*c.observation.uploaded),
        replay='always',
        label=lambda c: f'only {"+".join(c.observation.uploaded)}',
        numbers=lambda c: {'uploaded': list(c.observation.uploaded)},
    ),
    Defence(
        'observation.rank', None, int, 'rank',
        "rank to which an upload's item rows are reduced",
        lambda c: f'item rows of rank {c.observation.rank}',
        bounds=(1, math.inf),
        smaller_is_stronger=True,
        make=lambda c: compress.low_rank(c.observation.rank),
    ),
    Defence(
        'observation.top_k_share', 1.0, float, 'top-k',
        "share of an upload's entries that are kept, the largest ones",
        lambda c: (
            f'the largest {c.observation.top_k_share:.2%} of the entries{_feedback(c, _LEFT_OUT)}'
        ),
        bounds=(0, 1),
        smaller_is_stronger=True,
        make=lambda c: compress.top_k(c.observation.top_k_share, c.observation.error_feedback),
        keeps_largest=True,
        label=lambda c: f'top-k {c.observation.top_k_share:g}{_feedback(c, _FEEDBACK)}',
        numbers=_with_feedback('top_k_share'),
    ),
    Defence(
        'observation.random_k_share', 1.0, float, 'random-k',
        "share of an upload's entries that are kept, drawn at random",
        lambda c: (
            f'{c.observation.random_k_share:.2%} of the entries, drawn at random'
            f'{_feedback(c, _LEFT_OUT)}'
        ),
        bounds=(0, 1),
        smaller_is_stronger=True,
        make=lambda c: compress.random_k(
            c.observation.random_k_share, c.observation.error_feedback
        ),
        label=lambda c: f'random-k {c.observation.random_k_share:g}{_feedback(c, _FEEDBACK)}',
        numbers=_with_feedback('random_k_share'),
    ),
    Defence(
        'observation.quantization_levels', None, int, 'quantization levels',
        'levels of stochastic quantisation between 0 and the largest entry of a leaf',
        lambda c: (
            f'entries rounded stochastically to {c.observation.quantization_levels} levels '
            'between 0 and the largest'
        ),
        bounds=(1, math.inf),
        smaller_is_stronger=True,
        make=lambda c: compress.quantize(c.observation.quantization_levels),
    ),
    # After every stage that may increase the norm, and right before the noise: the privacy
    # accounting takes the clip norm as the sensitivity.
    Defence(
        'observation.clip', None, float, 'clip',
        'largest norm of an upload',
        lambda c: f'uploads clipped to norm {c.observation.clip}',
        smaller_is_stronger=True,
        make=lambda c: observe.clip_by_global_norm(c.observation.clip),
        in_members=True,
        replay='blind_behind_more',
    ),
    Defence(
        'observation.noise', 0.0, float, 'noise',
        'standard deviation of Gaussian noise on every entry of an upload',
        lambda c: f'{_NOISE} {c.observation.noise:g} on every entry of an upload',
        make=lambda c: observe.add_gaussian_noise(c.observation.noise),
        is_noise=True,
        replay='predict',
        guarantees=guarantees_lib.local_noise,
    ),
    Defence(
        'observation.cohort', 1, int, 'cohort',
        'secure aggregation: number of clients whose sum alone the server sees',
        secure_aggregation.sentence,
        bounds=(1, math.inf),
        acts_on='sum',
        label=secure_aggregation.label,
        numbers=secure_aggregation.numbers,
    ),
    Defence(
        'observation.sum_noise', 0.0, float, 'sum noise',
        'standard deviation of Gaussian noise on every entry of a sum',
        lambda c: f'{_NOISE} {c.observation.sum_noise:g} on every entry of a sum',
        acts_on='sum',
        make=lambda c: observe.add_gaussian_noise(c.observation.sum_noise),
        is_noise=True,
        guarantees=guarantees_lib.central_noise,
    ),
)  # fmt: skip

# Further numbers in the rows; they modify `top_k_share`, `random_k_share` and `cohort`.
_MODIFIERS = {
    'error_feedback': tradeoff.Kind('with error feedback', False),
    'clients_per_round': tradeoff.Kind('clients a round', False),
    'redrawn': tradeoff.Kind('redrawn each round', False),
    'sampled': tradeoff.Kind('sampled each round', False),
}


def key(defence: Defence) -> str:
    """The defence's key in the column `defences` of the rows: the last part of its field."""
    return defence.field.rpartition('.')[2]


def defaults(section: str) -> dict[str, Any]:
    """The fields of a config section that switch defences on, with every defence off."""
    return {
        key(each): config_dict.placeholder(each.kind) if each.off is None else each.off
        for each in DEFENCES
        if each.field.rpartition('.')[0] == section
    }


def used(config: Config) -> list[Defence]:
    """The defences that a config switches on, in the order of the table.

    Example:
        >>> config = Config({'observation': {'clip': 1.0}})
        >>> [each.name for each in used(config)]
        ['clip']
    """

    def on(defence: Defence) -> bool:
        section, _, name = defence.field.rpartition('.')
        value = config.get(section, {}).get(name, defence.off)
        same = set(value) == set(defence.off) if defence.kind is tuple else value == defence.off
        return not same

    return [each for each in DEFENCES if on(each)]


def label(config: Config) -> str:
    """The config's defences as text, for a row: 'clip 1, noise 0.1', or 'none'."""
    return ', '.join(map(_label(config), used(config))) or 'none'


def _label(config: Config) -> Callable[[Defence], str]:
    def one(defence: Defence) -> str:
        if defence.label is not None:
            return defence.label(config)
        return f'{defence.name} {operator.attrgetter(defence.field)(config):g}'

    return one


def numbers(config: Config) -> dict[str, float | list[str]]:
    """The config's defences as numbers, for a row: `{'clip': 1.0, 'noise': 0.1}`."""
    found: dict[str, Any] = {}
    for each in used(config):
        value = operator.attrgetter(each.field)(config)
        found |= {key(each): value} if each.numbers is None else each.numbers(config)
    return {name: v if isinstance(v, list) else float(v) for name, v in found.items()}


def labels_changed(config: Config) -> bool:
    """Whether clients train on labels that a defence has changed."""
    return any(each.acts_on == 'labels' for each in used(config))


def kinds() -> dict[str, tradeoff.Kind]:
    """By key of the rows' `defences`: the name in a report, and which direction is stronger."""
    own = {key(each): tradeoff.Kind(each.name, each.smaller_is_stronger) for each in DEFENCES}
    return own | _MODIFIERS


def is_noisy(config: Config) -> bool:
    """Whether a defence adds noise to the uploads, or to the sum of a cohort."""
    return any(each.is_noise for each in used(config))


def sentences(config: Config) -> list[str]:
    """One line of the threat model for each defence of the config."""
    return [each.sentence(config) for each in used(config)]


def guarantees(config: Config, num_clients: int) -> list[accounting.Guarantee]:
    """The differential privacy guarantees of a config's defences.

    Args:
        config: see `config.default_config`. The guarantees depend on the defences, the number of
            rounds and the participants per round.
        num_clients: number of clients in the training.
    """
    return [
        guarantee
        for each in used(config)
        if each.guarantees is not None
        for guarantee in each.guarantees(config, num_clients)
    ]
