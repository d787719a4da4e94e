"""What several test modules share: small models and clients, their transcripts, tiny configs."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from fedinv_jax import client, data, losses, models, observe, server, simulate, train, tree, types
from fedinv_jax.attack import dynamics, exact, objective, priors, relax
from fedinv_jax.attack.exact import probing
from fedinv_jax.attack.exact.probing import Draw
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import plan, runner, workdir
from fedinv_jax.report import figures
from fedinv_jax.types import Batch, Guess, Transcript
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
        kept = [client.gather(table, items) for table in tables]
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


def binaries(size):
    return np.array(list(itertools.product((0, 1), repeat=size)))


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


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


ITEMS = 60


def draws(model, size=3):
    """Two random clients in float64."""
    found = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        keys = jax.random.split(jax.random.key(seed))
        shared, private = tree.cast_floats(
            (model.init_shared(keys[0]), model.init_private(keys[1])), np.float64
        )
        shared = jax.tree.map(
            lambda leaf, rng=rng: leaf + 0.05 * rng.normal(size=leaf.shape),
            client.gather(shared, jnp.arange(size)),
        )
        batch = Batch(None, jnp.asarray(rng.random(size)), jnp.asarray(0.5 + rng.random(size)))
        found.append(Draw(shared, private, batch))
    return found


@functools.cache
def ncf(dim, hidden, use_bias=True):
    return models.ncf(ITEMS, dim, hidden, use_bias=use_bias)


@functools.cache
def one_step(model, loss=losses.bce):
    return client.gradient_step(model, loss, 0.1)


@functools.cache
def probed(model, update, *seen):
    with jax.enable_x64():
        return exact.probe(update, observe.share(*seen), model.init_private, draws(model))


def attacked(model, update, seen, rounds=(0,), solver='auto', users=3):
    """Answers and truths of a few clients of a synthetic federation."""
    interactions = data.synthetic.generate(
        seed=0, num_users=12, num_items=ITEMS, median_activity=6.0, min_activity=4, max_activity=8
    )
    clients = data.clients.build(interactions)
    run = train.federation(model, update, observe.chain(), server.server(optax.sgd(0.1)), clients)
    victims = [int(user) for user in clients[0].users[:users]]
    recording = simulate.record(run, jax.random.key(0), victims, rounds)
    member = exact.choose(probed(model, update, *seen), solver=solver)
    found = []
    with jax.enable_x64():
        attack = jax.jit(member.attack)
        for user in victims:
            pair = simulate.transcript(recording, user, rounds, seen)
            transcript, truth = tree.cast_floats(pair, np.float64)
            found.append((attack(transcript, jax.random.key(user)), truth, transcript))
    return member, found


@functools.cache
def small_problem(seed=0, size=5, model=None, loss=losses.bce, noise=1e-3, separable=True):
    """A problem of one step with unit noise, its guess at the true state, its true labels."""
    model = model or ncf(4, (8, 6))
    update = one_step(model, loss)
    draw = draws(model, size)[seed]
    rng = np.random.default_rng(seed)
    y = jnp.asarray(rng.integers(0, 2, size).astype(float))
    batch = Batch(None, y, jnp.ones(size))
    share = observe.share('items', 'scorer')
    seen = probing.upload_of(update, share, draw._replace(batch=batch))
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (draw.shared, seen))
    transcript = Transcript(
        shared=one[0], seen=one[1], rounds=np.zeros(1, int), participated=np.ones(1, bool),
        items=np.arange(size), slot=None, weights=np.ones((1, size)), log_odds=np.zeros(size),
    )  # fmt: skip
    problem = objective.problem(
        transcript,
        update,
        share,
        dynamics.free(model.init_private, 1),
        relaxation=relax.identity(),
        deviation=jax.tree.map(lambda leaf: jnp.full(1, noise), one[1]),
        separable=separable,
    )
    guess = Guess(jnp.full(size, 0.5), None, draw.private[None])
    return problem._replace(init=lambda key: guess), guess, np.asarray(y)


def own_federation(batch_labels, table=None, seed=0, loss=losses.bce):
    """A float32 client of one's own, one gradient of a small NCF: the transcript in float64."""
    model = ncf(6, (16, 12))
    update = one_step(model, loss)
    size = len(batch_labels)
    keys = jax.random.split(jax.random.key(seed), 3)
    shared = client.gather(model.init_shared(keys[0]), jnp.arange(size))
    if table is not None:
        shared = {**shared, 'items': {'embedding': table(shared['items']['embedding'])}}
    private = model.init_private(keys[1])
    y = jnp.asarray(batch_labels, jnp.float32)
    upload, _ = jax.jit(update)(shared, private, Batch(None, y, jnp.ones(size)))
    transcript = Transcript(
        shared=jax.tree.map(lambda leaf: np.asarray(leaf)[None], shared),
        seen={'scorer': jax.tree.map(lambda leaf: np.asarray(leaf)[None], upload['scorer'])},
        rounds=np.zeros(1, int), participated=np.ones(1, bool), items=np.arange(size),
        slot=None, weights=np.ones((1, size), np.float32), log_odds=np.zeros(size),
    )  # fmt: skip
    return model, update, transcript, np.asarray(private)


def assert_recovered(found):
    """All labels and private states of what `attacked` found."""
    for answer, truth, _ in found:
        real = truth.weights > 0
        np.testing.assert_array_equal(answer.labels[real], truth.labels[real] > 0)
        np.testing.assert_allclose(answer.private, truth.private[0], rtol=2e-3, atol=1e-4)


DEGENERATE = ('nothing', 'no_weights', 'all_negative', 'one_positive', 'duplicates')
ROWS = 30
ROW_MODELS = {
    'ncf': models.ncf(ROWS, D, hidden=(8,), scale=0.5),
    'mf': models.matrix_factorization(ROWS, D, scale=0.5),
    'mf_bias': models.matrix_factorization(ROWS, D, item_bias=True, scale=0.5),
}
ROW_UPDATES = {
    name: client.gradient_step(model, losses.bce, 0.1) for name, model in ROW_MODELS.items()
}


@functools.cache
def row_client(name='ncf', steps=1, seed=0, positives=6, real=ROWS):
    """A transcript of item rows by the reference; its labels and private states.

    Entries from `real` on are padding.
    """
    random = np.random.default_rng(seed)
    labels = np.zeros(ROWS)
    labels[random.permutation(real)[:positives]] = 1
    weights = (np.arange(ROWS) < real).astype(float)
    shareds, uploads, privates = [], [], []
    for t in range(steps):
        drawn = ROW_MODELS[name].init_shared(jax.random.key(100 * seed + t))
        shared = reference.to_float64(jax.device_get(drawn))
        private = 0.5 * random.normal(size=D)
        step = reference.gradient_step(reference.bce, 0.1)
        upload, _ = step(shared, private, None, labels, weights)
        shareds.append(shared)
        uploads.append({'items': upload['items']})
        privates.append(private)
    stack = functools.partial(jax.tree.map, lambda *leaves: np.stack(leaves))
    transcript = Transcript(
        shared=stack(*shareds),
        seen=stack(*uploads),
        rounds=np.arange(steps),
        participated=np.ones(steps, bool),
        items=np.arange(ROWS, dtype=np.int32),
        slot=None,
        weights=np.tile(weights, (steps, 1)),
        log_odds=np.zeros(ROWS),
    )
    return transcript, labels > 0, np.stack(privates)


def degenerate_row_client(which):
    """As `row_client`, of two steps: nothing seen, no weight, few positives, or twice an item."""
    positives = {'all_negative': 0, 'one_positive': 1}.get(which, 6)
    transcript, labels, privates = row_client(steps=2, seed=1, positives=positives)
    if which == 'nothing':
        zeros = jax.tree.map(np.zeros_like, transcript.seen)
        transcript = transcript.replace(seen=zeros)
    if which == 'no_weights':
        transcript = transcript.replace(weights=0 * transcript.weights)
    if which == 'duplicates':  # two entries of the same item, with rows of their own

        def twice(items):  # The first entry's rows for the second's, the others moved on by one.
            move = lambda leaf: np.concatenate([leaf[:, :1], leaf[:, :-1]], axis=1)  # noqa: E731
            return jax.tree.map(move, items)

        transcript = transcript.replace(
            shared={**transcript.shared, 'items': twice(transcript.shared['items'])},
            seen={'items': twice(transcript.seen['items'])},
        )
        labels = np.r_[labels[:1], labels[:-1]]
    return transcript, labels, privates


def row_problem(name, transcript):
    """Of item rows seen; private states are free."""
    hypothesis = dynamics.free(ROW_MODELS[name].init_private, len(transcript.weights))
    return objective.problem(
        transcript,
        ROW_UPDATES[name],
        observe.share('items'),
        hypothesis,
        relaxation=relax.identity(),
    )


@pytest.fixture(scope='module', autouse=True)
def compilations(tmp_path_factory):
    """Compiled functions are kept for the next run of the same config: these tests run many."""
    changes = {
        'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
        'jax_persistent_cache_min_compile_time_secs': 0,
        'jax_persistent_cache_min_entry_size_bytes': -1,
    }
    before = {name: getattr(jax.config, name) for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures have tests of their own; here they only take time."""
    monkeypatch.setattr(figures, 'draw', lambda *_: [])


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
            'block': 2,
            **attack,
        }
    )
    return config


def silent(_):
    """A log that nobody reads."""


def rows_of(folder):
    """Rows without timings, by setting and victim."""
    rows = workdir.read_rows(pathlib.Path(folder))
    return {plan.key(row): {k: v for k, v in row.items() if k != 'seconds'} for row in rows}


def run(config, folder, log=silent):
    runner.run(config, str(folder), 'python scripts/attack.py', log)
    summary = json.loads((pathlib.Path(folder) / 'summary.json').read_text())
    return summary, rows_of(folder)
