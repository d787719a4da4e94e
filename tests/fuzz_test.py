"""The fuzz harness of certificates: what it draws, what it counts, and a run of it."""

import itertools
import json

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks.fuzz import attacks, clients, models, summary
from fedinv_jax import tree
from tests.audit.helpers import ROOT, load_module

pytestmark = pytest.mark.exhaustive

CLIENTS, PER_CELL = 216, 12
SEED = 0
command = load_module(ROOT / 'benchmarks' / 'fuzz_certificates.py')


def row_of(client=0, model='mf', member='aligned', outcome='right', **fields):
    """A row as `attacks.fuzz_cell` makes it."""
    return {
        **clients.draw_cell(0, 0)._asdict(), 'client': client, 'model': model, 'member': member,
        'asked': member, 'outcome': outcome, 'batch': 9, 'positives': 4, 'mistakes': 0,
        'margin': 2.0, 'noise': 1.0, 'objective': 0.0, **fields,
    }  # fmt: skip


def small_cell(**changes):
    """A cell whose functions compile fast."""
    cell = clients.draw_cell(SEED, 0)._replace(
        model='mf', dim=2, scale=1.0, seen='items', steps=2, size=16, loss='bce',
        channel='float32', level=0.0,
    )  # fmt: skip
    return cell._replace(**changes)


# Failed on keys of `split(key, count)` in reverse order, and on noise by the size of all uploads.
def test_a_client_does_not_depend_on_how_many_there_are():
    cell = small_cell(channel='noise', level=0.1)
    few, many = (clients.make(cell, count)[1] for count in (2, 3))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), few, many)


# Failed on uploads sent without the mask, and on labels drawn for padding.
@pytest.mark.parametrize('channel', ['float32', 'noise', 'bfloat16'])
def test_padding_is_neither_a_label_nor_seen(channel):
    level = 0.1 if channel == 'noise' else 0.0
    _, made = clients.make(small_cell(channel=channel, level=level), 8)
    rows = made.transcripts.seen['items']['embedding']
    assert not made.real.all()
    assert not (made.labels & ~made.real).any()
    shown = np.any(rows != 0, axis=(1, 3))
    np.testing.assert_array_equal(shown, made.real)


# Failed on uploads that are sent as they are.
@pytest.mark.parametrize('precision', ['float16', 'bfloat16', 'float32'])
def test_uploads_have_the_precision_that_is_declared(precision):
    federation, made = clients.make(small_cell(channel=precision), 4)
    seen = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(made.transcripts.seen)])
    rounded = np.asarray(jax.numpy.asarray(seen, precision), np.float64)
    np.testing.assert_array_equal(seen, rounded)
    assert federation.rounding == float(jax.numpy.finfo(precision).eps) / 2


@pytest.mark.parametrize('name', sorted(models.MODELS))
def test_models_have_finite_logits_and_may_be_seen(name):
    model = models.MODELS[name](5, 3, 0.1, (4,))
    keys = jax.random.split(jax.random.key(0))
    shared, private = model.init_shared(keys[0]), model.init_private(keys[1])
    logits = model.score(shared, private, None)
    assert logits.shape == (5,)
    assert np.isfinite(logits).all()
    for parts in models.parts(model):
        assert all(any(leaf.startswith(part) for leaf in tree.names(shared)) for part in parts)


# Failed on members that take turns cell by cell, in step with the models.
def test_every_model_and_member_has_its_turn():
    size = len(models.MODELS) * len(attacks.MEMBERS)
    pairs = {
        (cell.model, attacks.asked_of(cell)[1])
        for cell in (clients.draw_cell(SEED, number) for number in range(size))
    }
    assert pairs == set(itertools.product(models.MODELS, attacks.MEMBERS))


# Failed on the two-sided bound.
def test_the_bound_is_where_so_few_failures_have_a_chance_of_five_percent():
    for failures, trials in ((0, 10), (3, 50)):
        rate = summary.upper_bound(failures, trials)
        np.testing.assert_allclose(stats.binom.cdf(failures, trials, rate), 0.05)


# Failed on wrong answers that count without the word, and on refusals that count as wrong.
def test_only_answers_that_are_said_to_be_the_only_ones_count():
    rows = [
        row_of(0, certified=True), row_of(1, certified=False),
        row_of(2, outcome='wrong', certified=False), row_of(3, outcome='wrong', certified=True),
        row_of(4, outcome='refused', reason='no'),
    ]  # fmt: skip
    text = '\n'.join(summary.lines(rows))
    assert [row['client'] for row in summary.wrong(rows)] == [3]
    assert 'certified: 2, of which 1 wrong' in text
    assert '| aligned | mf | 4 | 2 | 1 (50%) | 1 |' in text
    assert 'locally_unique' not in text
    rows = [{**row, 'locally_unique': row['client'] < 3} for row in rows]
    assert 'locally_unique: 3, of which 1 wrong' in '\n'.join(summary.lines(rows))


# Failed on rows that are read twice, and on a line that begins behind half of another.
def test_a_file_that_was_cut_is_read_and_added_to(tmp_path):
    path, rows = tmp_path / 'rows.jsonl', [row_of(client) for client in range(3)]
    summary.append(path, rows[:2])
    path.write_text(path.read_text() + json.dumps(rows[2])[:20])
    assert [row['client'] for row in summary.read(path)] == [0, 1]
    summary.append(path, rows[1:])
    assert [row['client'] for row in summary.read(path)] == [0, 1, 2]


def test_rows_of_a_cell_say_what_the_member_found():
    rows = attacks.fuzz_cell(small_cell(), 3, ('spectral', 'closed_form'))
    assert [row['outcome'] for row in rows[3:]] == ['refused'] * 3
    assert all('closed_form needs' in row['reason'] for row in rows[3:])
    assert all(row['mistakes'] in (0, row['batch']) for row in rows[:3])
    assert len({summary.unit(row) for row in json.loads(json.dumps(rows))}) == 6


# Failed on cells that count as done with their first client.
def test_rows_that_are_there_are_not_computed_again():
    cell = clients.draw_cell(SEED, 0)
    command.flags.FLAGS(['fuzz', '--clients=1', '--per_cell=2'])
    assert command.tasks([]) == [(cell, ('auto', 'aligned'))]
    rows = [row_of(client, asked='auto', member='scaled') for client in (0, 1)]
    assert command.tasks(rows) == [(cell, ('aligned',))]
    assert command.tasks(rows[:1]) == [(cell, ('auto', 'aligned'))]


@pytest.mark.slow
def test_no_certificate_is_wrong():
    rows = []
    for number in range(CLIENTS // PER_CELL):
        cell = clients.draw_cell(SEED, number)
        rows += attacks.fuzz_cell(cell, PER_CELL, attacks.asked_of(cell))
    assert len({summary.unit(row)[:3] for row in rows}) == CLIENTS
    right = [row for row in rows if row['outcome'] == 'right' and row['member'] == 'closed_form']
    assert np.mean([row['certified'] for row in right if row['model'] == 'ncf']) > 0.3
    assert not summary.wrong(rows), '\n'.join(summary.lines(rows))
