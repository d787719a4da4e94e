"""The channel that a config's defences make: of a client, of a sum, and as an attacker takes it."""

from fedinv_jax import observe
from fedinv_jax.audit import defences, guarantees
from fedinv_jax.types import Observation

_FAINT = 1e-3  # noise relative to the clip norm, in whose front clipping is still replayed


def trained_share(config: defences.Config, share: float, adaptive: bool = True) -> float:
    """The share of a batch, in [0, 1], whose labels are 1 when it trains, where `share` truly are.

    Who does not know of the defences takes `share`.

    Example:
        >>> config = defences.Config({'observation': {'pseudo': 0.5}})
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
    section, noise = config.observation, config.observation.noise
    stages = _stages(config, 'labels', 'upload')
    kept = [stage for each, stage in stages if each.replay == 'always']
    if section.cohort > 1:
        noises = [observe.add_gaussian_noise(noise * section.cohort**0.5), after_sum(config)]
        return observe.chain(*kept, *(noises if adaptive else map(observe.blind, noises)))
    faint = noise < _FAINT * guarantees.clip_norm(config)

    def seen(defence: defences.Defence, stage: Observation) -> Observation:
        hidden = noise and (
            defence.replay == 'blind_behind_noise'
            or (defence.replay == 'blind_behind_more' and not faint)
        )
        return stage if adaptive and not hidden else observe.blind(stage)

    own = [seen(*pair) for pair in stages if pair[0].replay != 'always']
    return observe.chain(*kept, *own)


def before_sum(config: defences.Config) -> Observation | None:
    """What an attacker replays of each member of a cohort: clipping, or nothing."""
    clips = [
        (each, stage) for each, stage in _stages(config, 'upload') if defences.key(each) == 'clip'
    ]
    if not clips:
        return None
    kept = [stage for each, stage in _stages(config, 'upload') if each.replay == 'always']
    return observe.chain(*kept, *(stage for _, stage in clips))


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
