"""What several test modules share: toy models and clients, their transcripts, tiny configs."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import client, item_table, losses, models, observe, types
from fedinv_jax.attack import dynamics, objective, priors
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import runner, workdir
from fedinv_jax.report import figures
from tests import reference

N, D, B, T = 9, 3, 4, 2
KEY = jax.random.key(0)
MODELS = {
    'mf': models.matrix_factorization(N, D, scale=0.5),
    'mf_bias': models.matrix_factorization(N, D, item_bias=True, scale=0.5),
    'ncf': models.ncf(N, D, hidden=(4,), scale=0.5),
}


@functools.cache
def make_client(name, kind):
    if kind == 'gradient_step':
        return client.gradient_step(MODELS[name], losses.bce, 0.4)
    return client.local_sgd(
        MODELS[name], losses.bce, optax.sgd(0.3), optax.sgd(0.4), 2, batch_size=3
    )


def make_hypothesis(name, which, steps=T):
    init = MODELS[name].init_private
    return {
        'static': lambda: dynamics.static(init),
        'free': lambda: dynamics.free(init, steps),
        'unrolled': lambda: dynamics.unrolled(init, range(steps)),
    }[which]()


@functools.cache
def make_transcript(name, view, kind, x64=False, steps=T, size=B, seed=0):
    """One client at `steps` rounds of independent random parameters; the truth beside it."""
    rng = np.random.default_rng(seed)
    dtype = np.float64 if x64 else np.float32
    with jax.enable_x64(x64):
        shapes = jax.eval_shape(MODELS[name].init_shared, KEY)
        items = rng.permutation(N)[:size].astype(np.int32)
        labels = (np.arange(size) % 3 == 0).astype(dtype)
        tables = [
            jax.tree.map(lambda s: (0.5 * rng.normal(size=s.shape)).astype(dtype), shapes)
            for _ in range(steps)
        ]
        kept = [item_table.gather(table, items) for table in tables]
        private = (0.5 * rng.normal(size=D)).astype(dtype)
        share, update, start = observe.share(*view), jax.jit(make_client(name, kind)), private
        seen = []
        for shared in kept:
            batch = types.Batch(None, labels, np.ones(size, dtype))
            upload, private = update(shared, private, batch)
            seen.append(share.observe(upload, (), KEY)[0])
        transcript = types.Transcript(
            shared=jax.tree.map(lambda *x: np.stack(x), *kept),
            seen=jax.tree.map(lambda *x: np.stack(x), *seen),
            rounds=np.arange(steps),
            participated=np.ones(steps, bool),
            items=items,
            slot=None,
            weights=np.ones((steps, size), dtype),
            log_odds=np.linspace(-1, 1, size).astype(dtype),
        )
    return transcript, labels, start


def pad(transcript, extra=3):
    """The same client with entries of weight 0 at the end, as simulate pads: item 0."""

    def rows(leaf, value=0.0):
        filler = np.full((leaf.shape[0], extra, *leaf.shape[2:]), value, leaf.dtype)
        return np.concatenate([leaf, filler], axis=1)

    def with_items(view, value):
        if 'items' not in view:
            return view
        return {**view, 'items': jax.tree.map(lambda leaf: rows(leaf, value), view['items'])}

    return transcript.replace(
        # Rows of the padding's item are numbers like others.
        shared=with_items(transcript.shared, 0.7),
        seen=with_items(transcript.seen, 0.0),
        items=np.concatenate([transcript.items, np.zeros(extra, np.int32)]),
        weights=rows(transcript.weights),
        log_odds=np.concatenate([transcript.log_odds, np.full(extra, 5.0, np.float32)]),
    )


def make_problem(transcript, name, view, kind, which, **kwargs):
    return objective.problem(
        transcript,
        make_client(name, kind),
        observe.share(*view),
        make_hypothesis(name, which),
        weighted_priors=(
            (0.01, priors.norm_prior(0.5)),
            (0.02, priors.binary_prior()),
            (0.03, priors.popularity_prior()),
        ),
        **kwargs,
    )


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def scores_match_reference(model, num_items=7, dim=3):
    """Of random parameters: all items in order, and a few that repeat."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init_shared, KEY)
    shared = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    private, one = rng.normal(size=dim), np.ones(1)
    expected = [  # The mean "loss" of one interaction is its score.
        reference.mean_loss(shared, private, [item], one, one, lambda z, y: (z, 1))
        for item in range(num_items)
    ]
    with jax.enable_x64(True):
        found = [model.score(shared, private, items) for items in (None, np.array([5, 0, 5]))]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    np.testing.assert_allclose(found[1], np.array(expected)[[5, 0, 5]], rtol=1e-6)


def all_finite(tree):
    return all(bool(np.all(np.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


TARGET = np.array([0.5, -1.0, 2.0], np.float32)


def toy(function, scale=1.0):
    """A problem in three unconstrained numbers whose answer's scores are the guess itself."""
    return objective.Problem(
        init=lambda key: types.Guess(scale * jax.random.normal(key, (3,)), None, ()),
        predict=None,
        whiten=None,
        residual=None,
        objective=lambda guess: function(guess.labels),
        answer=lambda guess, value: types.Answer(guess.labels, guess.labels > 0.5, None, value),
    )


def quadratic(x):
    return jnp.sum(jnp.array([1.0, 2.0, 5.0]) * (x - TARGET) ** 2)


@pytest.fixture(scope='module', autouse=True)
def no_figures():
    """Figures have tests of their own; here they only take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, 'draw', lambda *_: [])
        yield


def tiny(**attack):
    """Five clients of one size, four victims in two blocks; items and their biases are seen."""
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 12, 'num_items': 60})
    config.data.update({'min_positives': 8, 'max_positives': 10})
    config.model.update({'name': 'matrix_factorization', 'dim': 4, 'item_bias': True})
    config.observation.seen = ('items',)
    config.server.num_rounds = 6
    config.attack.update(
        {
            'name': ('mgradinv', 'popularity'),
            'num_gradients': (2,),
            'num_victims': 4,
            'num_iterations': 50,
            'victims_per_call': 2,
            **attack,
        }
    )
    return config


def silent(_):
    """A log that nobody reads."""


def rows_of(folder):
    """Rows without timings and whose config they are of, by setting and victim."""
    rows, aside = workdir.read_rows(pathlib.Path(folder)), ('seconds', 'config_hash')
    return {workdir.key(row): {k: v for k, v in row.items() if k not in aside} for row in rows}


def contents(folder):
    """Every file of a folder: what is in it and when it was written."""
    files = [path for path in pathlib.Path(folder).rglob('*') if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def run(config, folder, log=silent):
    runner.run(config, str(folder), 'python scripts/attack.py', log)
    summary = json.loads((pathlib.Path(folder) / 'summary.json').read_text())
    return summary, rows_of(folder)
