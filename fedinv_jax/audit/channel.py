"""The channel that a config's defences make: of a client, of a sum, and as an attacker takes it."""

import jax

from fedinv_jax import observe
from fedinv_jax.audit import defences
from fedinv_jax.types import Observation, PyTree

_FAINT = 1e-3  # noise relative to the clip norm, in whose front clipping is still replayed


def trained_share(config: defences.Config, share: float, adaptive: bool = True) -> float:
    """The share of a batch, in [0, 1], whose labels are 1 when it trains, where `share` truly are.

    Who does not know of the defences takes `share`.

    Example:
        >>> config = defences.Config({'observation': {'pseudo_rate': 0.5}})
        >>> round(trained_share(config, 0.2), 6), trained_share(config, 0.2, adaptive=False)
        (0.6, 0.2)
    """
    for each in defences.used(config) if adaptive else ():
        share = share if each.share is None else each.share(config, share)
    return share


def _stages(config: defences.Config, *acts_on: str) -> list[tuple[defences.Defence, Observation]]:
    """The stages that act on something, those that decide which leaves there are first."""
    made = [
        (each, each.make(config))
        for each in defences.used(config)
        if each.make is not None and each.acts_on in acts_on
    ]
    return sorted(made, key=lambda pair: pair[0].replay != 'always')


def channel(config: defences.Config) -> Observation:
    """What happens to a client's labels and upload before anyone sees the upload."""
    return observe.chain(*(stage for _, stage in _stages(config, 'labels', 'upload')))


def after_sum(config: defences.Config) -> Observation:
    """The channel behind the sum of a cohort."""
    return observe.chain(*(stage for _, stage in _stages(config, 'sum')))


def replayed(config: defences.Config, adaptive: bool = True) -> Observation:
    """The channel as an attacker takes it.

    Behind noise nobody reads off which entries the stages before it left. There the attacker takes
    the upload for a whole one, and for one that was not clipped unless the noise is faint: clipping
    what is predicted made the attacks worse behind more of it (docs/defences.md). Of a cohort's
    sum: what its members do before the sum is in `attackers.make_replay`, but for their noise,
    which adds up to at most that of all of them.
    """
    stages, size = _stages(config, 'labels', 'upload'), config.observation.cohort
    kept = [stage for each, stage in stages if each.replay == 'always']
    own = [pair for pair in stages if pair[0].replay != 'always']
    if size > 1:
        noises = [_summed(stage, size) for each, stage in own if each.is_noise]
        assumed = [*noises, after_sum(config)]
    else:
        hidden = [_is_hidden(config, each, own[index + 1 :]) for index, (each, _) in enumerate(own)]
        assumed = [
            observe.blind(stage) if blind else stage
            for blind, (_, stage) in zip(hidden, own, strict=True)
        ]
    return observe.chain(*kept, *(assumed if adaptive else map(observe.blind, assumed)))


def _is_hidden(
    config: defences.Config,
    defence: defences.Defence,
    behind: list[tuple[defences.Defence, Observation]],
) -> bool:
    """Whether noise behind a stage hides what the stage did to an upload."""
    noises = [each for each, _ in behind if each.is_noise]
    if not noises or defence.replay == 'predict':
        return False
    clip = config.observation.clip
    faint = clip is not None and config.observation.noise < _FAINT * clip
    known = all(defences.key(each) == 'noise' for each in noises)
    return not (defence.replay == 'blind_behind_more' and known and faint)


def _summed(stage: Observation, size: int) -> Observation:
    """The noise of so many clients in their sum; none of them is clipped or cut by it."""

    def variance(predicted: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: size * leaf, stage.variance(predicted))

    return observe.chain()._replace(variance=variance)


def before_sum(config: defences.Config) -> Observation | None:
    """What an attacker replays of each member of a cohort; None: nothing."""
    stages = _stages(config, 'upload')
    own = [stage for each, stage in stages if each.in_members]
    if not own:
        return None
    return observe.chain(*(stage for each, stage in stages if each.replay == 'always'), *own)


def undefended(config: defences.Config) -> defences.Config:
    """A copy of the config for an attacker who knows nothing of what the training does.

    What the defences do to labels and uploads is in the channel, which `replayed` leaves out.
    """
    copy = config.copy_and_resolve_references()
    for each in defences.used(config):
        if each.acts_on == 'training':
            section, _, name = each.field.rpartition('.')
            copy[section][name] = each.off
    return copy
