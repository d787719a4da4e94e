"""MGradInv on MovieLens-100K: what federated NCF uploads, the scorer alone, the items alone."""

from fedinv_jax import experiment


def get_config(arg: str | None = None) -> experiment.Config:
    """`arg`: None or 'smoke'."""
    config = experiment.default_config()
    config.data.update({'name': 'ml-100k', 'max_positives': 40})
    config.observation.seen = ('items+scorer', 'scorer', 'items')
    config.dynamics.name = ('unrolled',)
    config.attack.update(
        {
            'num_gradients': (1, 2),
            'num_victims': 128,
            'num_iterations': 2000,
        }
    )
    config.attack.optimizer.learning_rate = 0.003
    config.attack.priors.norm = 3e-3
    return experiment.variant(config, arg)
