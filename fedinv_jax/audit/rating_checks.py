"""Rejects what explicit ratings do not allow, before anything is computed."""

import operator

from fedinv_jax.audit import registry, training
from fedinv_jax.audit.config import Config
from fedinv_jax.data import ratings

# By field, the one value that explicit ratings allow, and why.
_NEEDED = {
    'client.loss': ('squared_error', 'a model predicts the rating'),
    'client.label_smoothing': (0.0, 'it is made for labels 0 and 1'),
    'client.positive_weight': (1.0, 'every rating counts once'),
    'data.negatives_per_positive': (4, 'batches hold rated items only, and the field is not used'),
    'data.resample_negatives': (False, 'batches hold rated items only'),
    'observation.batch_known': (True, 'which items are rated is known, the ratings are the secret'),
    'observation.cohort': (1, 'attacks on sums find binary labels'),
    'attack.step_sizes_known': (True, 'step sizes are estimated from binary labels'),
    'attack.priors.binary': (0.0, 'it draws labels to 0 and 1'),
    'attack.priors.sparsity': (0.0, 'it draws labels to 0'),
}


def check(config: Config) -> None:
    """Rejects fields and attacks that do not suit the labels.

    Raises:
        ValueError: if a field or an attack assumes other labels, or the scale of ratings is none.
    """
    explicit = training.is_explicit(config)
    for name in (*config.attack.name, *filter(None, [config.attack.warm_start])):
        labels = registry.ATTACKS[name].labels
        if explicit and labels == 'binary':
            names = [one for one, spec in registry.ATTACKS.items() if spec.labels != 'binary']
            raise ValueError(
                f"{name!r} finds binary labels, not ratings: with data.labels='explicit' use "
                f'{", ".join(names)}.'
            )
        if not explicit and labels == 'explicit':
            raise ValueError(f"attack.name={name!r} needs data.labels='explicit'.")
    if not explicit:
        return
    ratings.check(training.rating_scale(config))
    if config.model.name == 'lightgcn':
        raise ValueError(
            "model.name='lightgcn' has the interactions as edges of its graph, not ratings: it "
            "needs data.labels='implicit'."
        )
    for field, (needed, why) in _NEEDED.items():
        value = operator.attrgetter(field)(config)
        if value != needed:
            raise ValueError(
                f"data.labels='explicit' needs {field}={needed!r}, not {value!r}: {why}."
            )
