"""MGradInv on MovieLens-100K where one gradient is not enough: the scorer of a small head."""

from fedinv_jax import experiment


def get_config(arg: str | None = None) -> experiment.Config:
    """`arg`: None or 'smoke'."""
    config = experiment.default_config()
    config.data.update({'name': 'ml-100k', 'min_positives': 48, 'max_positives': 80})
    config.model.update({'dim': 8, 'hidden': (8,)})
    config.observation.seen = ('scorer',)
    config.dynamics.name = ('unrolled',)
    config.attack.update(
        {
            'num_gradients': (1, 2, 4),
            'num_victims': 128,
            'num_iterations': 10000,
        }
    )
    config.attack.priors.norm = 3e-4
    return experiment.variant(config, arg)
