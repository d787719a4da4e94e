"""Rejects attacks that do not suit the client or the channel, before anything is computed."""

from fedinv_jax.audit import mgradinv, registry, secure_aggregation
from fedinv_jax.audit.config import Config

_WITHOUT_SIZES = ('cosine_per_leaf', 'cosine_per_part')


def check(config: Config) -> None:
    """Rejects solvers and beliefs that need another client or channel.

    Raises:
        ValueError: for the first that does.
    """
    if not config.attack.step_sizes_known:
        _check_step_sizes(config)
    if config.attack.optimizer.name == mgradinv.NEWTON:
        _check_newton(config)


def _check_step_sizes(config: Config) -> None:
    """Rejects unknown step sizes where an upload is no gradient times factors, or is replayed."""
    client, attack = config.client, config.attack
    one_step = (client.num_epochs, client.batch_size) == (1, None)
    rules = {client.optimizer.name, client.private_optimizer.name}
    if client.name == 'local_sgd' and not (one_step and rules == {'sgd'}):
        raise ValueError(
            'attack.step_sizes_known=False needs clients of one step of SGD: client.num_epochs=1, '
            "client.batch_size=None, and both optimisers 'sgd'."
        )
    terms = ('weight_decay', 'private_distance', 'item_sparsity')
    changed = [
        name for name in (*terms, 'clip') if client.get(name) or config.observation.get(name)
    ]
    if client.batch_share != 1:
        changed.append('batch_share')
    if client.name == 'local_sgd' and 'nesterov' in client.optimizer and client.optimizer.nesterov:
        changed.append('optimizer.nesterov')
    if changed:
        raise ValueError(
            'attack.step_sizes_known=False needs uploads that are gradients of the loss times one '
            f'factor for each part: leave {", ".join(changed)} at its default.'
        )
    if not config.observation.batch_known or config.observation.cohort > 1:
        raise ValueError(
            'attack.step_sizes_known=False needs the upload of one client with a known batch: '
            'observation.batch_known=True and cohort=1.'
        )
    for name in attack.name:
        spec = registry.ATTACKS[name]
        if (spec.family == 'recipe' and name != 'intersection') or spec.reads_sums:
            raise ValueError(
                f'attack.name={name!r} knows the step sizes: attack.step_sizes_known=False is for '
                'exact attacks, mgradinv and baselines.'
            )
    if attack.distance not in (None, *_WITHOUT_SIZES) or attack.optimizer.name == mgradinv.NEWTON:
        raise ValueError(
            'attack.step_sizes_known=False needs a distance that no step size changes, and no '
            f'gauss_newton: attack.distance={" or ".join(_WITHOUT_SIZES)}.'
        )


def _check_newton(config: Config) -> None:
    """Rejects mgradinv by Gauss-Newton where its objective is not a square of K labels."""
    distance, observation = config.attack.distance, config.observation
    if distance not in (None, *mgradinv.SCALES):
        raise ValueError(
            f'attack.optimizer.name={mgradinv.NEWTON!r} minimises squares: attack.distance='
            f'{distance!r} is none. Choices: {", ".join(mgradinv.SCALES)}.'
        )
    fixed = observation.cohort > 1 and not secure_aggregation.changes(config)
    if not observation.batch_known or (fixed and 'mgradinv' in config.attack.name):
        raise ValueError(
            f'attack.optimizer.name={mgradinv.NEWTON!r} needs observation.batch_known=True and, '
            "for attack.name='mgradinv', no fixed cohorts. Use an optimiser, such as adam."
        )
