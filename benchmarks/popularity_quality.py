"""HR@10 and NDCG@10 of a ranking by popularity: what a trained model has to beat.

    FEDINV_DATA_DIR=$DATA python benchmarks/popularity_quality.py --data=ml-100k

Items are ranked by the number of their interactions in the training data, for every user alike,
by the protocols and with the held-out items of configs/quality.py.
"""

import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
from absl import app, flags

from configs import quality as quality_config
from fedinv_jax import models, quality
from fedinv_jax.audit import training
from fedinv_jax.data import held_out
from fedinv_jax.data.clients import item_counts

_DATA = flags.DEFINE_string('data', 'ml-100k', 'Name or path of the data.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of all random draws.', 0)


def main(argv: Sequence[str]) -> None:
    """Prints a line of metrics."""
    del argv
    config = quality_config.get_config()
    config.seed, config.data.name = _SEED.value, _DATA.value
    interactions, test = training.make_interactions(config)
    assert test is not None
    groups = training.make_clients(config, interactions)
    held = held_out.held_out(interactions, test, config.seed)
    model = models.matrix_factorization(interactions.num_items, 1, item_bias=True)
    shared = model.init_shared(jax.random.key(0))
    shared['items'] = {
        'embedding': jnp.zeros_like(shared['items']['embedding']),
        'bias': jnp.asarray(item_counts(interactions), jnp.float32),
    }
    one = model.init_private(jax.random.key(0))
    private = [jax.vmap(lambda _: one)(jnp.arange(len(group.users))) for group in groups]
    found = quality.evaluate(model, shared, private, groups, held)
    print(', '.join(f'{name} {value:.3f}' for name, value in found.items() if value is not None))


if __name__ == '__main__':
    app.run(main)
