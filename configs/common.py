"""Settings that several configs share."""

from fedinv_jax.audit.config import Config


def raifle_setting(config: Config) -> Config:
    """The config with the data, model, client and observed part of RAIFLE's own experiments.

    MovieLens-100K, the first 30 users with their full histories, D = 64, hidden [128, 64, 32]. A
    client trains 20 local epochs with Adam, and the server sees the item rows of its upload.

    References:
        Pham, Kulkarni, Houmansadr, RAIFLE, NDSS 2025, arXiv:2310.19163, and its code.
    """
    config.data.update({'name': 'ml-100k', 'max_users': 30})
    config.model.update(
        {'dim': 64, 'hidden': (128, 64, 32), 'scale': 1.0, 'kernel_init': 'uniform'}
    )
    config.client.update({'name': 'local_sgd', 'num_epochs': 20, 'private_learning_rate': 1e-3})
    config.client.optimizer.update({'name': 'adam', 'learning_rate': 1e-3})
    config.client.private_optimizer.name = 'adam'
    with config.unlocked():  # as in torchopt's Adam, which RAIFLE's code uses
        config.client.optimizer.eps_root = 1e-8
        config.client.private_optimizer.eps_root = 1e-8
    config.observation.seen = ('items',)
    config.attack.num_victims = 30
    return config
