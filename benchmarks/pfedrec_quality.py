"""How much of PFedRec's published hit rate is due to how it is measured.

    FEDINV_DATA_DIR=$DATA python benchmarks/pfedrec_quality.py --rounds=60

PFedRec's code ranks a user's held-out item by the item rows of that user's own client after its
local step, not by the rows that the server sends, and never draws the held-out item as a negative.
Its step on item rows is large (rate x N x 80): rows of the negatives that the client trained on
are pushed away, and the held-out item is none of them. This trains one model on MovieLens-100K and
prints HR@10 and NDCG@10 (`loo99`) by the server's rows and by each client's own, at several sizes
of the local step, with and without held-out items among the negatives.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from fedinv_jax import item_table, models, quality, train
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import training
from fedinv_jax.data import held_out
from fedinv_jax.data.clients import Clients
from fedinv_jax.types import Batch, PyTree

_ROUNDS = flags.DEFINE_integer('rounds', 60, 'Rounds of training.', 1)
_DIM = flags.DEFINE_integer('dim', 32, 'D.', 1)
_RATES = flags.DEFINE_list(
    'rates', ['100', '1000', '13456'], 'Rates of the local step (theirs: .1 x 1682 x 80).'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of all random draws.', 0)


def make_config() -> config_lib.Config:
    """PFedRec on MovieLens-100K, the schedule of configs/quality.py."""
    config = config_lib.default_config()
    config.seed = _SEED.value
    config.data.update({'name': 'ml-100k', 'leave_one_out': True, 'ties': 'random'})
    config.model.update({'name': 'pfedrec', 'dim': _DIM.value, 'scale': 0.01})
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.02})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.1
    config.server.num_rounds = _ROUNDS.value
    return config


def without_held_out(group: Clients, held: held_out.Held) -> Clients:
    """The group, held-out items among the negatives as padding."""
    items = dict(zip(held.users.tolist(), held.items.tolist(), strict=True))
    own = np.array([items.get(int(user), -1) for user in group.users])
    weights = np.where(group.items == own[:, None], 0, group.weights).astype(group.weights.dtype)
    return dataclasses.replace(group, weights=weights)


def own_rows(
    config: config_lib.Config, state: train.State, group: Clients, index: int, rate: float
) -> PyTree:
    """Private parameters as those of FedRAP: the client's item rows minus the server's, and w, b.

    A client's own rows are the server's after one step on its batch, of the mean loss at `rate`.
    """
    section = config.copy_and_resolve_references()
    section.client.weight_by_num_examples = False
    model = training.make_model(config.model, state.shared['items']['embedding'].shape[0])
    update = training.make_client_update(section, model)

    @jax.jit
    def one(private: PyTree, items: Any, labels: Any, weights: Any) -> PyTree:
        upload, after = update(
            *item_table.gather_both(state.shared, private, items), Batch(None, labels, weights)
        )
        moved = -rate * upload['items']['embedding'] * (weights > 0)[:, None]
        table = jnp.zeros_like(state.shared['items']['embedding']).at[items].add(moved)
        return {'items': {'embedding': table}, **after}

    return jax.vmap(one)(state.private[index], group.items, group.labels, group.weights)


def _print(what: str, found: dict[str, float | None]) -> None:
    print(f'{what} | {found["hr@10_loo99"]:.3f} | {found["ndcg@10_loo99"]:.3f}', flush=True)


def main(argv: Sequence[str]) -> None:
    """Trains twice, and prints a line for each rate."""
    del argv
    config = make_config()
    interactions, test = training.make_interactions(config)
    assert test is not None
    held = held_out.held_out(interactions, test, config.seed)
    drawn = training.make_clients(config, interactions)
    model = training.make_model(config.model, interactions.num_items)
    ranked = models.fedrap(
        interactions.num_items, _DIM.value
    )  # the same score with rows of its own
    init_key, key = jax.random.split(jax.random.key(config.seed))
    print('held-out among negatives | rows of | rate of the local step | HR@10 | NDCG@10')
    for among, groups in (
        ('yes', drawn),
        ('no', tuple(without_held_out(group, held) for group in drawn)),
    ):
        federation = training.make_federation(config, model, groups)
        step = jax.jit(federation.step)
        nobody = tuple(jnp.zeros(len(group.users), bool) for group in groups)
        state = federation.init(init_key)
        for _ in range(_ROUNDS.value):
            state, _ = step(state, key, nobody)
        found = quality.evaluate(model, state.shared, state.private, groups, held)
        _print(f'{among} | server | -', found)
        for rate in map(float, _RATES.value):
            private = [
                own_rows(config, state, group, index, rate) for index, group in enumerate(groups)
            ]
            found = quality.evaluate(ranked, state.shared, private, groups, held)
            _print(f'{among} | clients | {rate:g}', found)


if __name__ == '__main__':
    app.run(main)
