"""From a capture of somebody else's training to answers and a report."""

import csv
import json
import shutil

import numpy as np
import pytest

from fedinv_jax import capture
from fedinv_jax.audit import capture_audit, captured, captured_scoring, readings
from fedinv_jax.audit import config as config_lib
from fedinv_jax.capture import own
from fedinv_jax.report import results
from tests.capture.writer import record_lib
from tests.helpers import silent

N, D, RATE = 60, 4, 0.5


def _histories(num_clients):
    rng = np.random.default_rng(3)
    return {
        f'user {n}': (rng.choice(N, size=12, replace=False), np.arange(12) < 4)
        for n in range(num_clients)
    }


def _train(
    folder, num_clients=3, rounds=2, kind='returned', scale=1.0, noise=0.0, decay=0.0, **known
):
    """Matrix factorisation in NumPy, full batches, one step; returns the true interactions.

    Args:
        folder: of the capture.
        num_clients: number of clients.
        rounds: number of rounds.
        kind: what clients return.
        scale: factor of what is uploaded, other than what `known` says.
        noise: standard deviation of noise on each item row of the batch.
        decay: of weights, which the capture does not say.
        **known: what capture.json says besides the loss.
    """
    rng = np.random.default_rng(0)
    table = 0.3 * rng.normal(size=(N, D)).astype(np.float32)
    histories = _histories(num_clients)
    privates = {who: 0.3 * rng.normal(size=D) for who in histories}
    record = record_lib.recorder(folder, kind=kind, loss='bce', **known)
    for round_ in range(rounds):
        sent, total = {'item.weight': table.copy()}, np.zeros((N, D))
        for who, (items, labels) in histories.items():
            rows = sent['item.weight'][items].astype(float)
            miss = 1 / (1 + np.exp(-rows @ privates[who])) - labels
            gradient = np.zeros((N, D))
            gradient[items] = np.outer(miss, privates[who]) / len(items)
            gradient[items] += noise * rng.normal(size=(len(items), D))
            privates[who] = privates[who] - RATE * rows.T @ miss / len(items)
            upload = scale * gradient + decay * table
            returned = {
                'returned': table - RATE * upload,
                'delta': -RATE * upload,
                'gradient': upload,
            }[kind].astype(np.float32)
            record(round_, who, sent, {'item.weight': returned}, num_examples=len(items))
            total += gradient
        table = (table - RATE * total / num_clients).astype(np.float32)
    return {who: set(items[labels].tolist()) for who, (items, labels) in histories.items()}


def _decide(folder, most=2):
    found = capture.read(folder)
    return captured.decide(config_lib.default_config(), found, most)


def _answers(folder, decision, most=2):
    found = capture.read(folder)
    uploads = {
        who: capture.captured(found, who, decision.subject.layout, most) for who in found.clients
    }
    return {who: captured.answer(decision, each) for who, each in uploads.items()}


def _interactions(found):
    return set(np.asarray(found.seen.items)[np.asarray(found.answer.labels)].tolist())


def _check(folder, truth, words):
    decision = _decide(folder)
    assert decision.fits is True, decision.why
    assert decision.reading.words == words
    for who, found in _answers(folder, decision).items():
        assert found.fits is True
        assert _interactions(found) == truth[who], who
    return decision


@pytest.mark.slow
def test_what_is_described_is_read_as_described(tmp_path):
    truth = _train(tmp_path, learning_rate=RATE, reduction='mean')
    assert not _check(tmp_path, truth, '').contradicts


# Failed on the decay taken out after the change of scale, and on a gradient's times the rate.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({}, ''),
        ({'kind': 'gradient', 'weight_decay': 0.01}, ''),
        ({'scale': 12.0, 'reduction': 'sum'}, ''),
        ({'kind': 'delta', 'scale': -1.0, 'decay': -0.01}, 'uploads of the other sign'),
    ],
    ids=['weights', 'gradient', 'sum', 'other sign'],
)
def test_weight_decay_that_nobody_says_is_found_and_taken_out(tmp_path, change, words):
    said = {'learning_rate': RATE, 'reduction': 'mean', 'decay': 0.01}
    truth = _train(tmp_path, **said | change)
    _check(tmp_path, truth, words)


@pytest.mark.slow
def test_a_loss_that_is_summed_is_found(tmp_path):
    truth = _train(tmp_path, learning_rate=RATE, scale=12.0)
    _check(tmp_path, truth, 'a loss summed over the batch')


@pytest.mark.slow
def test_uploads_of_the_other_sign_are_found_and_said(tmp_path):
    truth = _train(tmp_path, kind='delta', learning_rate=RATE, reduction='mean', scale=-1.0)
    decision = _check(tmp_path, truth, 'uploads of the other sign')
    assert decision.contradicts
    assert 'This is not what the capture says' in decision.why[-1]


@pytest.mark.slow
@pytest.mark.parametrize('change', [{'noise': 0.002}, {'scale': 0.37}], ids=['noise', 'size'])
def test_uploads_that_nothing_explains_are_answered_without_a_model(tmp_path, change):
    """Noise of a tenth of the rows; the rows tell nevertheless which items are alike.

    A step of unknown size explains every upload of rank one, and is not taken for that.
    """
    truth = _train(tmp_path, learning_rate=RATE, reduction='mean', **change)
    decision = _decide(tmp_path)
    assert decision.fits is False
    assert decision.why == (
        'none of these readings is seen to fit: as described; a step of unknown size',
    )
    for who, found in _answers(tmp_path, decision).items():
        assert (found.solver, found.fits) == (captured.WITHOUT_A_MODEL, False)
        assert _interactions(found) == truth[who]


OWN = """
import jax

def init_user(key):
    return 0.3 * jax.random.normal(key, ({dim},))

def score(arrays, user):
    return arrays['item.weight'] @ user
"""


@pytest.mark.slow
def test_a_model_of_ones_own_gives_the_answers_of_the_one_that_is_recognised(tmp_path):
    truth = _train(tmp_path / 'capture', learning_rate=RATE, reduction='mean')
    path = tmp_path / 'mine.py'
    path.write_text(OWN.format(dim=D))
    assert capture_audit.run(
        str(tmp_path / 'capture'), str(tmp_path / 'out'), 'x', log=silent, model=str(path)
    )
    for row in _rows(tmp_path / 'out'):
        assert set(row['interactions']) == truth[row['client']]
        assert row['fits'] is True


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'is no file'),
        ('x = 1', 'expected a function score'),
        ('x = 1 / 0', 'ZeroDivisionError'),
        (OWN.format(dim=D + 1), 'TypeError'),
        (OWN.format(dim=D).replace('@ user', ''), r'expected score to give logits of shape \(3,\)'),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path, text, message):
    path = tmp_path / 'mine.py'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        own.layout(own.load(str(path)), {'item.weight': np.zeros((N, D))})
    assert 'mine.py' in str(caught.value)


def _audit(tmp_path, out, **more):
    return capture_audit.run(
        str(tmp_path / 'capture'), str(tmp_path / out), 'fedinv audit', log=silent, **more
    )


@pytest.fixture(scope='module')
def audited(tmp_path_factory):
    """A capture, its truth, and an audit of it."""
    folder = tmp_path_factory.mktemp('audited')
    truth = _train(folder / 'capture', learning_rate=RATE, reduction='mean')
    with open(folder / 'truth.csv', 'w', newline='') as file:
        lines = csv.writer(file)
        lines.writerow(['client', 'item'])
        lines.writerows((who, item) for who, items in truth.items() for item in items)
    assert _audit(folder, 'whole', truth=str(folder / 'truth.csv'))
    return folder


def _rows(folder):
    lines = (folder / 'victims.jsonl').read_text().splitlines()
    return [{**json.loads(line), 'seconds': 0} for line in lines]


@pytest.mark.slow
def test_the_report_says_what_leaks_for_how_many_and_against_whom(audited):
    summary = json.loads((audited / 'whole' / 'summary.json').read_text())
    assert (summary['num_clients'], summary['num_fits'], summary['num_misfits']) == (3, 3, 0)
    assert summary['metrics']['f1']['mean'] == summary['metrics']['exact']['mean'] == 1
    text = (audited / 'whole' / 'report.md').read_text()
    assert '3 of 3 histories were recovered without error' in text
    assert 'threat model C, parameter-aware eavesdropper' in text
    assert 'What was not tried' in text
    assert (audited / 'whole' / 'report.html').stat().st_size > 1000


@pytest.mark.slow
def test_a_stopped_audit_goes_on_to_the_same_rows(audited):
    part = audited / 'part'
    shutil.copytree(audited / 'whole', part)
    lines = (part / 'victims.jsonl').read_text().splitlines(keepends=True)
    (part / 'victims.jsonl').write_text(lines[0] + lines[1][:20])  # killed while it wrote
    for name in ('report.md', 'summary.json'):
        (part / name).unlink()
    said = []
    assert capture_audit.run(
        str(audited / 'capture'), str(part), 'x', truth=str(audited / 'truth.csv'), log=said.append
    )
    assert any('last line was incomplete' in line for line in said)
    assert _rows(part) == _rows(audited / 'whole')
    before = (part / 'summary.json').read_text()
    assert _audit(audited, 'part', truth=str(audited / 'truth.csv'))  # nothing is left to do
    assert (part / 'summary.json').read_text() == before


@pytest.mark.slow
def test_a_truth_of_other_items_is_doubted(audited):
    text = (audited / 'truth.csv').read_text().splitlines()
    shifted = [
        text[0],
        *(f'{who},{int(item) - 1}' for who, item in (x.split(',') for x in text[1:])),
    ]
    path = audited / 'shifted.csv'
    path.write_text('\n'.join(shifted).replace(',-1', ',0'))
    shutil.copytree(audited / 'whole', audited / 'doubted')
    said = []
    capture_audit.run(
        str(audited / 'capture'), str(audited / 'doubted'), 'x', truth=str(path), log=said.append
    )
    text = '\n'.join(said)
    assert 'interactions of the truth are not among the candidates' in text
    summary = json.loads((audited / 'doubted' / 'summary.json').read_text())
    assert summary['num_outside'] > 0
    assert summary['num_contested'] == summary['num_certified']


def test_a_truth_of_other_clients_is_refused():
    with pytest.raises(ValueError, match=r"t.csv has no line of client 'c0' .* are '0', '1', "):
        captured_scoring.check_clients('t.csv', {'1': frozenset(), '0': frozenset()}, ['c0'])


@pytest.mark.slow
def test_an_audit_can_be_kept_for_a_page(audited):
    (row,) = results.unpack(capture_audit.keep([str(audited / 'whole')]), 'rows')
    assert (row['arm'], row['num_gradients'], row['num_victims']) == ('whole', 4, 3)
    assert (row['num_fits'], row['f1']['mean']) == (3, 1)
    with pytest.raises(ValueError, match='has no complete audit'):
        capture_audit.keep([str(audited)])


@pytest.mark.slow
def test_answers_of_another_audit_are_not_mixed(audited):
    with pytest.raises(ValueError, match=r'another audit \(rounds 4, now 1\)'):
        _audit(audited, 'whole', most=1)


def test_a_truth_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / 'truth.csv'
    path.write_text('client,item\na,3\na,60\n')
    with pytest.raises(ValueError, match=r'truth.csv, line 3: expected client,item'):
        captured_scoring.read_truth(str(path), N)
    path.write_text('a,3\na,5\n')
    assert captured_scoring.read_truth(str(path), N) == {'a': {3, 5}}


def test_a_check_says_what_is_there(tmp_path):
    _train(tmp_path, learning_rate=RATE)
    said = []
    capture_audit.check(str(tmp_path), log=said.append)
    text = '\n'.join(said)
    assert 'uploads of 3 clients, 0 sums, 2 rounds (0 to 1), 60 items' in text
    assert 'items/embedding: item.weight' in text
    damaged = tmp_path / 'rounds' / '000001' / 'clients' / 'user%201.npz'
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ValueError, match='1 uploads or clients cannot be used; see above'):
        capture_audit.check(str(tmp_path), log=said.append)
    (line,) = (line for line in said if line.startswith('user 1: left out, round 1'))
    assert 'user%201.npz: expected an .npz of numbers' in line


def test_readings_are_as_many_as_what_is_not_said():
    known = {'learning_rate': 0.1, 'local_epochs': 2}
    words = [each.words for each in readings.readings(known, 'delta', splits=True)]
    assert words == [
        '', 'the item row before the user embedding in the first layer',
        'uploads of the other sign',
        'the item row before the user embedding in the first layer, uploads of the other sign',
    ]  # fmt: skip
    sized = [each.sized for each in readings.readings({'learning_rate': 1.0}, 'returned', False)]
    assert sized == [True, True, False]
    assert [each.sized for each in readings.readings({}, 'returned', False)] == [False]


@pytest.mark.slow
def test_a_client_that_cannot_be_read_has_a_row_that_says_why(tmp_path):
    truth = _train(tmp_path / 'capture', learning_rate=RATE, reduction='mean')
    for who, rounds in ((0, '01'), (1, '1')):
        for round_ in rounds:
            path = tmp_path / 'capture' / 'rounds' / f'00000{round_}' / 'clients'
            path = path / f'user%20{who}.npz'
            path.write_bytes(path.read_bytes()[:100])
    assert _audit(tmp_path, 'out')
    rows = _rows(tmp_path / 'out')
    assert [row['status'] for row in rows] == ['failed', 'ok', 'ok']
    assert 'user%200.npz: expected an .npz of numbers' in rows[0]['reason']
    assert [row['rounds'] for row in rows[1:]] == [[0], [0, 1]]
    assert rows[1]['notes'][0].startswith('left out, round 1')
    for row in rows[1:]:
        assert set(row['interactions']) == truth[row['client']]
    text = (tmp_path / 'out' / 'report.md').read_text()
    assert '**1 of 3 clients have no answer**' in text
    assert '- user 0: ' in text
    assert '- user 1: left out, round 1: ' in text


def test_without_candidates_there_is_no_popularity():
    row = {'client': 'a', 'candidates': [], 'scores': [], 'interactions': [], 'status': 'failed'}
    found = captured_scoring.metrics_of(row, frozenset({3}), {'a': frozenset({3})})
    assert (found['f1'], found['auc'], found['exact'], found['outside']) == (0, 0.5, 0, 0)
    assert found['popularity_f1'] is found['popularity_auc'] is None


@pytest.mark.slow
def test_where_no_exact_attack_applies_mgradinv_does_and_the_report_says_why(tmp_path):
    """The head of GMF alone: D + 1 numbers a round."""
    rng = np.random.default_rng(0)
    rows, head = 0.3 * rng.normal(size=(N, D)), rng.normal(size=D)
    items, private = rng.choice(N, 12, replace=False), 0.3 * rng.normal(size=D)
    record = record_lib.recorder(tmp_path, kind='gradient', loss='bce', private_learning_rate=0.1)
    sent = {'item.weight': rows, 'h.weight': head[None], 'h.bias': np.zeros(1)}
    features = rows[items] * private
    miss = (1 / (1 + np.exp(-features @ head)) - (np.arange(12) < 4)) / 12
    returned = {'h.weight': (miss @ features)[None], 'h.bias': miss.sum()[None]}
    record(0, 'a', sent, returned, items=items, num_examples=12)
    decision = _decide(tmp_path, most=1)
    assert decision.attack is not None
    assert decision.fits is None
    assert 'exact does not apply: No member of the exact attack applies' in decision.why[0]


def test_popularity_counts_among_other_people():
    row = {'client': 'a', 'candidates': [1, 2, 3], 'scores': [0.9, 0.2, 0.1], 'interactions': [1]}
    row['status'] = 'ok'
    truth = {'a': frozenset({1}), 'b': frozenset({2})}
    assert captured_scoring.scored(row, truth)['metrics']['popularity_f1'] == 0
    others = {'a': frozenset({2, 3}), 'x': frozenset({1})}  # 'a' is the client: does not count
    assert captured_scoring.scored(row, truth, others)['metrics']['popularity_f1'] == 1
    assert 'metrics' not in captured_scoring.scored(row, None)
