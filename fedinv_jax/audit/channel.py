"""Config -> the channel of a client, of a cohort's sum, and of the attacker's model of both."""

import jax

from fedinv_jax import observe
from fedinv_jax.audit import defences
from fedinv_jax.types import Observation, PyTree

_FAINT = 1e-3  # noise / clip norm up to which an attacker still replays the clipping


def trained_share(config: defences.Config, share: float, adaptive: bool = True) -> float:
    """The share of labels in [0, 1] that are 1 in training, where `share` of the true ones are 1.

    Defences on labels change the share. An attacker that does not know them assumes `share`.

    Example:
        >>> config = defences.Config({'observation': {'pseudo_rate': 0.5}})
        >>> round(trained_share(config, 0.2), 6), trained_share(config, 0.2, adaptive=False)
        (0.6, 0.2)
    """
    for each in defences.used(config) if adaptive else ():
        share = share if each.share is None else each.share(config, share)
    return share


def _stages(config: defences.Config, *acts_on: str) -> list[tuple[defences.Defence, Observation]]:
    """The stages that act on one of `acts_on`, those that select the uploaded leaves first."""
    made = [
        (each, each.make(config))
        for each in defences.used(config)
        if each.make is not None and each.acts_on in acts_on
    ]
    return sorted(made, key=lambda pair: pair[0].replay != 'always')


def channel(config: defences.Config) -> Observation:
    """The stages between a client's labels and the upload that leaves the client."""
    stages = [stage for _, stage in _stages(config, 'labels', 'upload')]
    dtype = config.client.upload_dtype
    return observe.chain(*stages, *([observe.cast(dtype)] if dtype else []))


def after_sum(config: defences.Config) -> Observation:
    """The stages that act on the sum of a cohort."""
    return observe.chain(*(stage for _, stage in _stages(config, 'sum')))


def replayed(config: defences.Config, adaptive: bool = True) -> Observation:
    """The channel as an attacker models it.

    Noise hides which entries the stages before it kept. Where noise follows, the attacker assumes
    that the upload is complete; it also assumes that the upload was not clipped, unless the noise
    is faint: with more noise, clipping the prediction made the attacks worse (docs/defences.md).
    For a cohort, `attackers.make_replay` covers the stages before the sum except the noise; here
    the noise variance of one member is multiplied by the cohort's size, an upper bound.
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
    """Whether noise added after a stage hides what the stage did to an upload."""
    noises = [each for each, _ in behind if each.is_noise]
    if not noises or defence.replay == 'predict':
        return False
    clip = config.observation.clip
    faint = clip is not None and config.observation.noise < _FAINT * clip
    known = all(defences.key(each) == 'noise' for each in noises)
    return not (defence.replay == 'blind_behind_more' and known and faint)


def _summed(stage: Observation, size: int) -> Observation:
    """The noise of `size` clients in their sum: a stage that has a variance and changes nothing."""

    def variance(predicted: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: size * leaf, stage.variance(predicted))

    return observe.chain()._replace(variance=variance)


def before_sum(config: defences.Config) -> Observation | None:
    """The stages that an attacker replays for each member of a cohort; None if there are none."""
    stages = _stages(config, 'upload')
    own = [stage for each, stage in stages if each.in_members]
    if not own:
        return None
    return observe.chain(*(stage for each, stage in stages if each.replay == 'always'), *own)


def undefended(config: defences.Config) -> defences.Config:
    """A copy of the config without the defences that act on the training.

    It is what an attacker assumes that does not know them. Defences on labels and uploads are part
    of the channel; `replayed` removes them there.
    """
    copy = config.copy_and_resolve_references()
    for each in defences.used(config):
        if each.acts_on == 'training':
            section, _, name = each.field.rpartition('.')
            copy[section][name] = each.off
    return copy
