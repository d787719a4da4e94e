"""Runs end to end: the files they leave, stopping and going on, victims that fail."""

import dataclasses
import functools
import importlib.util
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import sklearn.metrics

from fedinv_jax import transcripts, tree
from fedinv_jax.audit import attackers, capture, executor, plan, runner, scoring, workdir
from fedinv_jax.audit import config as config_lib
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import loaders
from fedinv_jax.report import figures
from fedinv_jax.types import Answer, Certificate, GroundTruth
from tests.helpers import compilations, no_figures, rows_of, run, silent, tiny  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = [path for path in sorted((ROOT / 'configs').glob('*.py')) if 'study' not in path.name]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted run of `tiny()`: folder, summary and rows."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, 'draw', lambda *_: [])
        summary, rows = run(tiny(), folder)
    return folder, summary, rows


SETTING_TYPES = {
    'attack': str,
    'dynamics': (str, type(None)),
    'num_gradients': int,
    'first_round': int,
    'interval': (int, type(None)),
    'seen': list,
    'batch_known': bool,
    'defence': str,
    'attacker': str,
    'data': str,
    'model': str,
    'client': str,
    'solver': (str, type(None)),
    'iterations': int,
    'precision': str,
    'upload_precision': str,
}
SUMMARY_TYPES = {
    **SETTING_TYPES,
    'seed': list,
    'num_seeds': int,
    'num_victims': int,
    'num_failed': int,
    'drift': (float, type(None)),
    'training_loss': float,
    'epsilon': (dict, type(None)),
    'quality': (dict, type(None)),
    'seconds_per_victim': float,
    'metrics': dict,
    # Beyond the schema of the first version: differences and failures.
    'difference_to_popularity': (dict, type(None)),
    'difference_to_one_gradient': (dict, type(None)),
    'failures': dict,
    'certified': (dict, type(None)),
    'num_certified': (int, type(None)),
    'num_exact_certified': (int, type(None)),
    'rank': (float, type(None)),
    'unknowns': (float, type(None)),
}
METRICS = {
    'auc',
    'average_precision',
    'f1',
    'precision',
    'recall',
    'exact',
    'label_mse',
    'private_error',
    'private_cosine',
    'recovered_at_known_count',
}


def strict(text):
    """JSON without the constants that JSON lacks."""

    def refuse(name):
        raise AssertionError(f'{name} is no JSON')

    return json.loads(text, parse_constant=refuse)


def check_interval(value):
    assert set(value) == {'mean', 'low', 'high', 'undefined'}
    numbers = [value[name] for name in ('low', 'mean', 'high')]
    if value['mean'] is None:
        assert numbers == [None] * 3
    else:
        assert all(type(number) is float for number in numbers)
        assert numbers[0] <= numbers[1] + 1e-9
        assert numbers[1] <= numbers[2] + 1e-9


def check_folder(folder, config):
    """What every work directory must hold, whatever was run."""
    cases = {case.config.seed: case for case in plan.make_cases(config)}
    victims = {(seed, user) for seed, case in cases.items() for user in case.victims}
    settings = config_lib.settings(config)
    files = {path.name for path in folder.iterdir()}
    assert files - {'compiled'} == {
        'config.json',
        'figures',
        'report.html',
        'report.md',
        'summary.json',
        'versions.json',
        'victims.jsonl',
    }
    lines = (folder / 'victims.jsonl').read_text().splitlines()
    rows = [strict(line) for line in lines]
    assert len(rows) == len(settings) * len(victims)
    assert {(row['seed'], row['user']) for row in rows} == victims
    assert len({plan.key(row) for row in rows}) == len(rows)
    for row in rows:
        assert (row['status'], row['reason']) == ('ok', None)
        case = cases[row['seed']]
        assert row['user_id'] == case.interactions.user_ids[row['user']]
        positives = int(np.sum(case.interactions.users == row['user']))
        negatives = min(4 * positives, case.interactions.num_items - positives)
        assert (row['num_positives'], row['num_negatives']) == (positives, negatives)
        assert (row['drift'] is None) == (row['num_gradients'] == 1)
    summary = strict((folder / 'summary.json').read_text())
    assert set(summary) == {'schema', 'rows'}
    assert summary['schema'] == 1
    assert len(summary['rows']) == len(settings)
    for row in summary['rows']:
        assert set(row) == set(SUMMARY_TYPES)
        for name, kind in SUMMARY_TYPES.items():
            assert isinstance(row[name], kind), name
            assert not (kind is int and isinstance(row[name], bool)), name
        assert all(isinstance(name, str) for name in row['seen'])
        assert set(row['metrics']) == METRICS
        for value in row['metrics'].values():
            check_interval(value)
        assert row['num_victims'] == len(victims)
        assert row['seed'] == sorted(cases)
        assert row['num_seeds'] == len(cases)
        assert row['num_failed'] == 0
        assert row['failures'] == {}
        one = row['num_gradients'] == 1
        assert (row['interval'] is None) == one
        assert (row['drift'] is None) == one
        assert (row['dynamics'] is None) == (row['attack'] in ('random', 'popularity'))
        assert (row['solver'] is None) == (row['attack'] in ('random', 'popularity'))
    record = strict((folder / 'config.json').read_text())
    assert record['config'] == json.loads(json.dumps(config.to_dict()))
    report = (folder / 'report.md').read_text()
    assert 'Threat model' in report
    assert 'scripts/attack.py' in report
    return rows, summary


# Failed on a `summarize` that drops the last setting.
def test_a_work_directory_is_complete(whole, tmp_path):
    folder, summary, _ = whole
    _, found = check_folder(folder, tiny())
    assert found == summary


def load_config(path, arg):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_smoke_config_runs(path, tmp_path, monkeypatch):
    monkeypatch.undo()  # With its figures.

    def offline(*_, **__):
        raise OSError('tests do not download')

    monkeypatch.setattr(loaders.urllib.request, 'urlopen', offline)
    config = load_config(path, 'smoke')
    root = pathlib.Path(os.environ.get('FEDINV_DATA_DIR') or '~/.cache/fedinv_jax').expanduser()
    known = loaders.DATASETS.get(config.data.name)
    if known is not None and not (root / known.path).is_file():
        pytest.skip(f'there is no {root / known.path}; set FEDINV_DATA_DIR to the data folder')
    lines = []
    run(config, tmp_path / 'run', lines.append)
    check_folder(tmp_path / 'run', config)
    drawn = list((tmp_path / 'run' / 'figures').glob('*.png'))
    assert drawn
    assert all(path.stat().st_size > 1000 for path in drawn)
    text = '\n'.join(lines)
    assert text.index('Threat model') < text.index('predicted: ') < text.index('| attack')


def test_the_attack_recovers_what_items_give_away(whole):
    _, summary, rows = whole
    attack, guess = summary['rows']
    assert (attack['attack'], guess['attack']) == ('mgradinv', 'popularity')
    assert attack['metrics']['auc']['mean'] > 0.99
    assert attack['difference_to_popularity']['auc']['low'] > 0
    assert guess['difference_to_popularity'] is None
    # The rows hold what the figures show: the truth has as many ones as the user positives.
    for row in rows.values():
        assert sum(row['truth']) == row['num_positives']
        assert len(row['scores']) == row['num_positives'] + row['num_negatives']


# Failed on the mutant of `runner.transcript` that leaves the victim in the counts, and on one of
# `guessers` that sorts upwards.
def test_popularity_is_that_of_the_other_users(whole):
    case = plan.make_case(tiny())
    _, _, rows = whole
    interactions, share = case.interactions, clients_lib.public_share(case.clients)
    checked = 0
    for row in rows.values():
        if row['attack'] != 'popularity':
            continue
        others = interactions.users != row['user']
        counts = np.bincount(interactions.items[others], minlength=interactions.num_items)
        positives = set(interactions.items[~others].tolist())
        group = next(group for group in case.clients if row['user'] in group.users)
        place = np.flatnonzero(group.users == row['user'])[0]
        items = group.items[place][group.weights[place] > 0]
        labels = np.array([item in positives for item in items])
        # .5 + U - c in the denominator makes the odds grow with c.
        expected = sklearn.metrics.roc_auc_score(labels, counts[items])
        np.testing.assert_allclose(row['metrics']['auc'], expected, atol=1e-6)
        assert row['metrics']['private_error'] is None
        assert row['metrics']['private_cosine'] is None
        assert row['truth'] == labels.astype(int).tolist()
        # Hard labels: the share of the public among the candidates.
        told = round(share * len(items))
        hits = row['metrics']['precision'] * told
        most_popular = np.argsort(-counts[items], kind='stable')[:told]
        np.testing.assert_allclose(hits, labels[most_popular].sum(), atol=1e-4)
        np.testing.assert_allclose(row['metrics']['recall'], hits / labels.sum(), atol=1e-5)
        checked += 1
    assert checked == 4


# Failed on the mutant of `_row` with a drift at T = 1.
def test_the_random_guesser_knows_nothing_and_is_reproducible(tmp_path):
    config = tiny(name=('random',), num_gradients=(1, 2), num_victims=5)
    _, rows = run(config, tmp_path)
    check_folder(tmp_path, config)
    aucs = {}
    for row in rows.values():
        assert (row['dynamics'], row['solver'], row['iterations']) == (None, None, 0)
        aucs.setdefault(row['user'], set()).add(row['metrics']['auc'])
    # The same for every T, another one for every victim.
    assert all(len(values) == 1 for values in aucs.values())
    assert len(set.union(*aucs.values())) == 5
    # 5 x 40 candidates: the mean AUC has a standard deviation below .06.
    assert abs(np.mean([min(values) for values in aucs.values()]) - 0.5) < 0.2


def bias_sign(config, setting, probe, flip=lambda items: False):
    """A stand-in of `attackers.make_exact`: an item bias has a gradient of the sign of `z - y`."""

    def attack(transcript, key, num_iterations):
        rows = transcript.seen['items']['bias'][0]
        assert rows.dtype == np.float64
        assert len(transcript.rounds) == setting.num_gradients
        labels = (rows < 0) ^ (flip(transcript.items) & (np.arange(len(rows)) == 0))
        margin = jax.numpy.abs(rows).min()
        certificate = Certificate(margin > 1e-6, margin, margin / 8, len(rows), len(rows))
        return Answer(labels * 1.0, labels, None, jax.numpy.sum(rows**2), certificate)

    return attackers.Choice('bias sign', 'item biases are seen', attack)


# Failed on mutants: seconds over the lanes of a block; certificates of failed victims kept.
def test_seconds_and_certificates_of_a_block_that_is_not_full(tmp_path, monkeypatch):
    def failing(config, setting, probe):
        choice = bias_sign(config, setting, probe)

        def attack(transcript, key, num_iterations):
            answer = choice.attack(transcript, key, num_iterations)
            return answer._replace(objective=answer.objective * jax.numpy.nan)

        return choice._replace(attack=attack)

    monkeypatch.setattr(attackers, 'make_exact', failing)
    try_ = executor.try_
    monkeypatch.setattr(executor, 'try_', lambda *a: try_(*a)._replace(seconds=8.0))
    run(tiny(name=('exact',), num_gradients=(1,), num_victims=2, block=4), tmp_path)
    for row in workdir.read_rows(tmp_path):
        assert row['seconds'] == 4
        assert (row['status'], row['certified']) == ('failed', False)
        assert (row['rank'], row['determined'], row['unknowns']) == (None, None, 44)


def test_an_exact_attack_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(attackers, 'make_exact', bias_sign)
    config = tiny(name=('exact', 'mgradinv', 'popularity'), num_gradients=(1,))
    config.dynamics.name = ('unrolled', 'static')
    try_, lines = executor.try_, []
    monkeypatch.setattr(executor, 'try_', lambda *a: try_(*a)._replace(seconds=8.0))
    summary, _ = run(config, tmp_path, lines.append)
    check_folder(tmp_path, config)
    exact, *others = summary['rows']
    assert [row['attack'] for row in others] == ['mgradinv', 'mgradinv', 'popularity']
    assert (exact['solver'], exact['iterations']) == ('bias sign', 0)
    assert (exact['dynamics'], exact['precision']) == ('free', 'float64')
    assert {row['precision'] for row in others} == {'float32'}
    assert exact['difference_to_popularity']['auc']['mean'] > 0
    assert (exact['num_certified'], exact['num_exact_certified']) == (4, 4)
    assert (exact['rank'], exact['unknowns']) == (40, 44)
    case = plan.make_case(config)
    for row in workdir.read_rows(tmp_path):
        if row['attack'] == 'exact':
            assert row['certified'] is True
            # The first block was solved when its function was tried: those seconds, a victim.
            assert (row['seconds'] == 4) == (row['user'] in case.victims[:2])
            assert row['margin'] == pytest.approx(8 * row['noise'])
            assert (row['rank'], row['determined'], row['unknowns']) == (40, 40, 44)
        else:
            assert {row[name] for name in runner.stats.CERTIFICATE} == {None}
    text = '\n'.join(lines)
    assert text.count('bias sign: item biases are seen (T = 1, items seen)') == 1
    assert 'item biases are seen' in (tmp_path / 'report.md').read_text()
    told = '4 of 4 histories recovered, certified, without looking at the truth.'
    assert told in text
    assert told in (tmp_path / 'report.md').read_text()
    assert jax.numpy.ones(1).dtype == np.float32, 'x64 has leaked out of the run'


# Failed on the mutants of `_certificate` without `ok`, and of `evaluate` without the certificate.
def test_certificates_of_wrong_and_of_failed_answers(tmp_path, monkeypatch):
    config = tiny(name=('exact',), num_gradients=(1,))
    case = plan.make_case(tiny())
    wrong, broken = case.victims[1:3]
    items = plan.group_of(case, wrong)
    own = items.items[np.flatnonzero(items.users == wrong)[0]]

    def flipping(*arguments):
        return bias_sign(*arguments, flip=lambda found: jax.numpy.all(found == own))

    slice_ = runner.transcripts

    def damaged(case, recording, setting, users):
        found = slice_(case, recording, setting, users)
        if broken in users:
            bias = np.array(found.seen['items']['bias'])
            bias[users.index(broken), 0, 0] = np.inf
            rows = {**found.seen['items'], 'bias': bias}
            found = found.replace(seen={'items': rows})
        return found

    monkeypatch.setattr(attackers, 'make_exact', flipping)
    monkeypatch.setattr(runner, 'transcripts', damaged)
    lines = []
    summary, rows = run(config, tmp_path, lines.append)
    by_user = {row['user']: row for row in rows.values()}
    assert by_user[broken]['status'] == 'failed'
    assert by_user[broken]['certified'] is False
    assert by_user[wrong]['certified'] is True
    assert by_user[wrong]['metrics']['exact'] == 0
    (only,) = summary['rows']
    assert (only['num_certified'], only['num_exact_certified']) == (3, 2)
    assert any(line.startswith('WARNING: 1 of these 3') for line in lines)


def seeds(count=2, **attack):
    """Two victims a seed; every client of every seed has one size of batch."""
    config = tiny(num_gradients=(1,), num_victims=2 * count, **attack)
    config.num_seeds = count
    config.data.update({'min_positives': 8, 'max_positives': 8})
    return config


# Failed on the mutants of `single_seeds` that keep the seed, or the number of victims.
@pytest.mark.slow
def test_seeds_are_runs_of_their_own(tmp_path):
    config = seeds()
    config.attack.num_victims = 3
    _, rows = run(config, tmp_path / 'both')
    check_folder(tmp_path / 'both', config)
    alone = {}
    for seed, victims in ((0, 2), (1, 1)):
        one = seeds(1)
        one.update({'seed': seed})
        one.attack.num_victims = victims
        alone |= run(one, tmp_path / str(seed))[1]
    assert rows == alone
    assert len({row['seed'] for row in rows.values()}) == 2


# Failed on the mutant of `try_` that knows of exact attacks only.
def test_what_is_tried_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(attackers, 'make_exact', bias_sign)
    tried, try_ = {}, executor.try_

    def watched(made, block, *rest):
        tried[block.setting.attack] = try_(made, block, *rest)
        return tried[block.setting.attack]

    monkeypatch.setattr(executor, 'try_', watched)
    names = ('exact', 'dlg', 'mgradinv', 'popularity')
    config = tiny(name=names, num_gradients=(1,), num_victims=2, num_iterations=60)
    run(config, tmp_path)
    assert {name for name in names if tried[name].answers is None} == {'mgradinv'}


def test_on_a_cpu_each_core_has_a_block(monkeypatch):
    monkeypatch.setattr(executor, 'cores', lambda: 7)
    assert executor.side_by_side() == 7
    monkeypatch.setattr(jax, 'local_device_count', lambda: 2)
    assert executor.side_by_side() == 1


# 5 victims in blocks of at most 4 are 3 and 2; another seed's 2 are a block of that size. Failed
# on: blocks of 4 and 1; sizes by seed.
def test_few_places_of_a_block_stay_empty():
    config = tiny(name=('spectral',), num_gradients=(1,), block=4)
    case = plan.make_case(config)
    groups = (dataclasses.replace(case.clients[0], users=np.arange(9, dtype=np.int32)),)
    five, two = (case._replace(clients=groups, victims=list(range(n))) for n in (5, 2))
    found = [(len(block.users), block.size) for block in plan.blocks([five, two])]
    assert found == [(3, 3), (2, 3), (2, 3)]


# Failed on the runner that keeps them all: 144 functions took 65,530 memory maps, and it crashed.
@pytest.mark.slow
def test_functions_that_no_later_seed_needs_are_dropped(tmp_path, monkeypatch):
    kept, attack_seed = [], runner._attack_seed

    def watched(blocks, later, functions, log, after):
        kept.append(set(functions))
        assert set(functions) <= {executor.shape(block) for block in (*blocks, *later)}
        yield from attack_seed(blocks, later, functions, log, after)

    monkeypatch.setattr(runner, '_attack_seed', watched)
    config = tiny(num_gradients=(1,), num_victims=12, name=('popularity',))
    config.data.synthetic.update({'num_items': 400, 'min_activity': 4, 'activity_sigma': 1.5})
    config.data.update({'min_positives': 1, 'max_positives': None})
    config.num_seeds = 3
    run(config, tmp_path)
    assert [len(shapes) > 0 for shapes in kept] == [False, True, True]


# Failed on the mutant of `compiled.shape` with the seed.
def test_seeds_share_compiled_functions(tmp_path, monkeypatch):
    made, compile_ = [], executor.compile_
    monkeypatch.setattr(
        executor, 'compile_', lambda block, *rest: made.append(block) or compile_(block, *rest)
    )
    lines = []
    _, rows = run(seeds(3), tmp_path, lines.append)
    assert sorted((block.case.config.seed, block.setting.attack) for block in made) == [
        (0, 'mgradinv'),
        (0, 'popularity'),
    ]
    assert len(rows) == 3 * 2 * 2
    told = [line for line in lines if 'predicted: ' in line]
    assert 'seed 0: compiled 2 functions' in told[0]
    assert '6 blocks of up to 2 victims of 3 seeds' in told[0]
    assert 'seed 2: compiled 0 functions' in told[2]
    assert '2 blocks of up to 2 victims, ' in told[2]


# A seed whose rows are complete is not trained again.
@pytest.mark.parametrize('after', [1, 2, 3])
def test_an_interrupted_run_of_several_seeds_goes_on(tmp_path, monkeypatch, after):
    _, expected = run(seeds(), tmp_path / 'whole')
    with monkeypatch.context() as patch:
        patch.setattr(workdir, 'append_rows', Interruption(after, write_half=True))
        with pytest.raises(KeyboardInterrupt):
            run(seeds(), tmp_path / 'stopped')
    trained, train = [], runner.train
    monkeypatch.setattr(
        runner, 'train', lambda case: trained.append(case.config.seed) or train(case)
    )
    _, rows = run(seeds(), tmp_path / 'stopped')
    assert rows == expected
    assert trained == ([0, 1] if after < 2 else [1])


def test_all_clients_of_every_seed(tmp_path):
    config = tiny(name=('random',), num_victims=0)
    config.num_seeds = 2
    _, rows = run(config, tmp_path)
    for case in plan.make_cases(config):
        users = {row['user'] for row in rows.values() if row['seed'] == case.config.seed}
        assert users == {int(user) for group in case.clients for user in group.users}


# Noise reaches what is seen, and the rows say so. Failed on a transcript with noisy padding.
@pytest.mark.slow
def test_noise_on_the_uploads(tmp_path):
    config = tiny(name=('mgradinv',))
    config.data.max_positives = 12  # groups of several sizes
    config.observation.noise = 10.0
    summary, rows = run(config, tmp_path)
    assert {row['defence'] for row in rows.values()} == {'noise 10'}
    assert 'standard deviation 10 on every entry' in (tmp_path / 'report.md').read_text()
    assert summary['rows'][0]['metrics']['auc']['mean'] < 0.8
    case = plan.make_case(config)
    setting = config_lib.settings(config)[0]
    recording = runner.train(case)
    padded = 0
    for user in case.victims:
        seen = runner.transcript(case, recording, setting, user)
        real = seen.weights[0] > 0
        rows = seen.seen['items']['embedding']
        assert np.std(rows[:, real]) == pytest.approx(10, rel=0.2)
        assert not rows[:, ~real].any()
        padded += np.sum(~real)
    assert padded


class Interruption:
    """`workdir.append_rows` that is interrupted after some blocks, or within one if asked."""

    def __init__(self, after, write_half=False):
        self.left, self.write_half, self.append = after, write_half, workdir.append_rows

    def __call__(self, folder, rows, shard):
        if self.left == 0:
            if self.write_half:
                text = ''.join(json.dumps(row) + '\n' for row in rows)
                with open(folder / 'victims.jsonl', 'a') as file:
                    file.write(text[: int(len(text) * 0.7)])
            raise KeyboardInterrupt
        self.left -= 1
        self.append(folder, rows, shard)


# Failed on the mutants of `run` without `not in done` (two rows of a victim) and with
# `blocks[len(done):]` as the pending ones.
@pytest.mark.parametrize('after', [0, 1, 3])
@pytest.mark.parametrize('half', [False, True], ids=['between', 'within'])
def test_an_interrupted_run_goes_on(whole, tmp_path, monkeypatch, after, half):
    _, summary, expected = whole
    with monkeypatch.context() as patch:
        patch.setattr(workdir, 'append_rows', Interruption(after, half))
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), tmp_path)
    kept = rows_of(tmp_path)
    assert len(kept) >= 2 * after
    assert not (tmp_path / 'summary.json').exists()
    lines = []
    again, rows = run(tiny(), tmp_path, lines.append)
    assert rows == expected
    for a, b in zip(again['rows'], summary['rows'], strict=True):
        assert {k: v for k, v in a.items() if k != 'seconds_per_victim'} == {
            k: v for k, v in b.items() if k != 'seconds_per_victim'
        }
    if kept:
        told = next(line for line in lines if 'rows are there' in line)
        assert f'{len(kept)} rows are there; {after} of 4' in told


# Failed on the mutant of `train` that observes the rounds of the pending blocks only: victims are
# drawn into every observed round, so that training went another way after a stop.
def test_going_on_trains_as_before_where_clients_are_sampled(tmp_path, monkeypatch):
    config = tiny(name=('mgradinv',), num_gradients=(1,), first_round=(0, 4))
    config.server.clients_per_round = 1
    _, expected = run(config, tmp_path / 'whole')
    with monkeypatch.context() as patch:
        patch.setattr(workdir, 'append_rows', Interruption(2))
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / 'stopped')
    _, rows = run(config, tmp_path / 'stopped')
    assert rows == expected


# Failed on the mutant `if True` for `if pending`.
def test_a_second_run_adds_nothing(whole, tmp_path, monkeypatch):
    folder, summary, expected = whole
    shutil.copytree(folder, tmp_path / 'run')
    before = (tmp_path / 'run' / 'victims.jsonl').read_bytes()
    monkeypatch.setattr(runner, 'train', lambda *_: pytest.fail('there is nothing to train for'))
    again, rows = run(tiny(), tmp_path / 'run')
    assert (tmp_path / 'run' / 'victims.jsonl').read_bytes() == before
    assert rows == expected
    assert again == summary


def test_another_config_is_refused_and_changes_nothing(whole, tmp_path):
    folder, _, _ = whole
    shutil.copytree(folder, tmp_path / 'run')
    before = (tmp_path / 'run' / 'victims.jsonl').read_bytes()
    with pytest.raises(ValueError, match=r'config\.attack\.num_iterations is 50 there, 51 here'):
        run(tiny(num_iterations=51), tmp_path / 'run')
    assert (tmp_path / 'run' / 'victims.jsonl').read_bytes() == before
    other = tiny()
    other.run.progress = False
    run(other, tmp_path / 'run')


# A config that cannot run must not claim the folder: the corrected one has to run there.
@pytest.mark.parametrize(
    'break_',
    [
        lambda config: config.attack.optimizer.update({'name': 'adm'}),
        lambda config: config.server.update({'aggregate_items': 'men'}),
        lambda config: config.observation.update({'seen': ('itms',)}),
        lambda config: config.server.update({'clients_per_round': 99}),
    ],
    ids=['optimizer', 'aggregation', 'seen', 'clients_per_round'],
)
def test_a_config_that_cannot_run_does_not_claim_the_folder(tmp_path, break_):
    config = tiny()
    break_(config)
    with pytest.raises(ValueError, match=r'adm|men|itms|99'):
        run(config, tmp_path / 'run')
    _, rows = run(tiny(), tmp_path / 'run')
    assert len(rows) == 8


def reordered(monkeypatch, order):
    """Draws the same victims in another order."""
    draw = plan.choose_victims
    monkeypatch.setattr(
        plan,
        'choose_victims',
        lambda config, clients: [draw(config, clients)[place] for place in order],
    )


def settings_of(model):
    config = tiny(name=('mgradinv', 'random'))
    if model == 'ncf':
        config.model.update({'name': 'ncf', 'hidden': (8, 4)})
        config.observation.seen = ('items+scorer',)
    return config


# Failed on the mutant `fold_in(key, lane)` in `_arguments`.
@pytest.mark.parametrize(
    ('model', 'order'),
    [
        ('matrix_factorization', [3, 2, 1, 0]),
        ('matrix_factorization', [1, 3, 0, 2]),
        ('matrix_factorization', [2, 0, 1]),
        pytest.param('ncf', [1, 3, 0, 2], marks=pytest.mark.slow),
        pytest.param('ncf', [2, 0, 1], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_order_of_victims_changes_nothing(tmp_path, monkeypatch, model, order):
    _, expected = run(settings_of(model), tmp_path / 'one')
    reordered(monkeypatch, order)
    _, rows = run(settings_of(model), tmp_path / 'other')
    assert len(rows) == 2 * len(order)
    assert rows == {name: expected[name] for name in rows}


def assert_close(rows, expected, tolerance):
    assert rows.keys() == expected.keys()
    for name, row in rows.items():
        for field, value in row['metrics'].items():
            other = expected[name]['metrics'][field]
            assert (value is None) == (other is None)
            if value is not None:
                assert math.isclose(value, other, rel_tol=tolerance, abs_tol=tolerance), field
        np.testing.assert_allclose(row['scores'], expected[name]['scores'], atol=1e-4 + tolerance)


# Failed on the mutant `fold_in(key, lane)` in `_arguments`.
@pytest.mark.parametrize(
    'block', [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)]
)
def test_another_block_size_changes_rounding_only(whole, tmp_path, block):
    _, _, expected = whole
    _, rows = run(tiny(block=block), tmp_path)
    assert_close(rows, expected, 1e-5)


# Failed on: the whole block in each call; parts that all begin at the block's first victim.
def test_a_memory_bound_makes_calls_smaller_and_changes_rounding_only(whole, tmp_path, monkeypatch):
    _, _, expected = whole
    compile_, made = executor.compile_, []

    def bounded(block, arguments, limit, workers):
        free = compile_(block, arguments, limit)
        made.append((free.places, compile_(block, arguments, 0.9 * free.memory * workers, workers)))
        return made[-1][1]

    monkeypatch.setattr(executor, 'compile_', bounded)
    _, rows = run(tiny(), tmp_path)
    assert {(places, tight.places) for places, tight in made} == {(2, 1)}
    assert_close(rows, expected, 1e-5)


# Failed on: one victim's bound that of a worker; several victims' that of all.
def test_one_victim_may_take_the_memory_of_the_other_workers():
    case = plan.make_cases(tiny(name=('mgradinv',)))[0]
    block, recording = plan.blocks([case])[0], runner.train(case)

    arguments = functools.partial(runner._arguments, recording)
    one = executor.compile_(block._replace(users=block.users[:1], size=1), arguments, 2.0**40)
    for times in (1.1, 3.9, 4.1):
        bound = executor.compile_(block, arguments, times * one.memory, workers=4)
        assert bound.places == 1
    with pytest.raises(ValueError, match='Raise it'):
        executor.compile_(block, arguments, 0.9 * one.memory, workers=4)


# Failed on: memory that nobody waits for.
def test_memory_is_never_held_twice():
    hold, lock, held, most = executor.room(100), threading.Lock(), [], []

    def work(part):
        with hold(part):
            with lock:
                held.append(part)
                most.append(sum(held))
            time.sleep(0.002)
            with lock:
                held.remove(part)
        return part

    parts = [90, 90, 10, 10, 40, 60, 70, 100, 10] * 3
    assert list(executor.each(work, parts, 4)) == parts
    assert max(most) == 100


# Never ends on: no check where nothing can be left out any more.
def test_a_memory_bound_too_small_for_one_victim_is_told(tmp_path):
    config = tiny(name=('mgradinv',))
    config.model.dim, config.run.memory_mib = 1024, 1
    with pytest.raises(
        ValueError, match=r'mgradinv on one victim of 40 candidates needs .* Raise it'
    ):
        run(config, tmp_path)


# More victims than are judged in one call, more candidates than the least padding. Failed on: the
# first call's numbers for all.
@pytest.mark.parametrize(('victims', 'candidates'), [(37, 70), (1, 5), (16, 64)])
def test_each_victim_is_judged_alone(victims, candidates):
    rng = np.random.default_rng(0)
    private = rng.normal(size=(victims, 2, 3))
    scores = rng.random((victims, candidates))
    truths = GroundTruth(
        np.arange(victims), (rng.random(scores.shape) < 0.3) * 1.0, np.ones(scores.shape), private
    )
    answers = Answer(scores, scores > 0.5, private[:, 0] + 0.1, rng.random(victims))
    found = scoring._judge(answers, truths)
    for v in range(victims):
        with jax.enable_x64():
            alone = jax.device_get(scoring.evaluate(*tree.take((answers, truths), v)))
        got = tree.take(found, v)
        got['scores'] = got['scores'][:candidates]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, alone)


# Failed on the mutants of `evaluate` with `ok = True`, and of `_row` without the failed status.
@pytest.mark.parametrize(
    ('where', 'reason'),
    [('seen', 'the upload is not finite'), ('shared', 'the objective is not finite')],
)
def test_a_victim_that_is_not_finite_fails_alone(whole, tmp_path, monkeypatch, where, reason):
    _, _, expected = whole
    slice_ = runner.transcripts
    broken = plan.make_case(tiny()).victims[2]

    def damaged(case, recording, setting, users):
        found = slice_(case, recording, setting, users)
        if broken in users and getattr(found, where):  # a guesser sees nothing
            part = jax.tree.map(np.array, getattr(found, where))
            part['items']['embedding'][users.index(broken), 0, 0, 0] = np.nan
            found = found.replace(**{where: part})
        return found

    monkeypatch.setattr(runner, 'transcripts', damaged)
    summary, rows = run(tiny(), tmp_path)
    for name, row in rows.items():
        if row['user'] == broken and row['attack'] == 'mgradinv':
            assert (row['status'], row['reason']) == ('failed', reason)
            # It stays in the averages, as an answer that knows nothing.
            assert row['metrics']['auc'] == 0.5
            assert row['metrics']['recall'] == 0
            assert row['metrics']['private_error'] is None
            assert row['objective'] is None
        else:
            assert row == expected[name]
    attack, guess = summary['rows']
    assert (attack['num_victims'], attack['num_failed']) == (4, 1)
    assert attack['failures'] == {reason: 1}
    assert guess['num_failed'] == 0
    strict((tmp_path / 'summary.json').read_text())
    assert reason in (tmp_path / 'report.md').read_text()
    # Running again does not try the failed one once more.
    monkeypatch.setattr(runner, 'train', lambda *_: pytest.fail('all rows are there'))
    run(tiny(), tmp_path)


def test_a_diverging_solver_keeps_its_best_point(tmp_path):
    config = tiny(name=('mgradinv',))
    config.attack.optimizer.update({'name': 'sgd', 'learning_rate': 1e38, 'decay': 'constant'})
    config.attack.priors.norm = 1.0
    summary, rows = run(config, tmp_path)
    # The first objective was finite: the best point so far is an answer.
    assert {row['status'] for row in rows.values()} == {'ok'}
    assert summary['rows'][0]['num_failed'] == 0


@pytest.mark.slow
@pytest.mark.parametrize('dynamics', ['free', 'static', 'unrolled'])
@pytest.mark.parametrize('client', ['gradient_step', 'local_sgd'])
@pytest.mark.parametrize('known', [True, False], ids=['known', 'unknown'])
def test_every_seam_runs(tmp_path, dynamics, client, known):
    config = tiny(name=('mgradinv',), interval=(2,), num_iterations=5)
    config.model.update({'name': 'ncf', 'hidden': (4,)})
    config.observation.update({'seen': ('scorer',), 'batch_known': known})
    config.client.name = client
    if client == 'local_sgd':
        config.client.update({'num_epochs': 2, 'batch_size': 16})
    config.dynamics.name = (dynamics,)
    _, rows = run(config, tmp_path)
    assert len(rows) == 4
    for row in rows.values():
        assert row['status'] == 'ok'
        assert row['batch_known'] is known
        assert len(row['scores']) == (row['num_positives'] + row['num_negatives'] if known else 60)


@pytest.mark.slow
@pytest.mark.parametrize('client', ['float32', 'float64'])
def test_the_solver_may_use_float64(whole, tmp_path, client):
    _, _, expected = whole
    config = tiny(precision='float64')
    config.client.precision = client
    _, rows = run(config, tmp_path)
    assert {row['precision'] for row in rows.values()} == {'float64'}
    aucs = [row['metrics']['auc'] for row in rows.values()]
    np.testing.assert_allclose(aucs, [r['metrics']['auc'] for r in expected.values()], atol=0.02)
    assert jax.numpy.ones(1).dtype == np.float32, 'x64 has leaked out of the run'


# Failed on the mutant of `save_transcript` that adds the labels to the description.
def test_a_saved_transcript_holds_no_truth(tmp_path, monkeypatch):
    config = tiny(num_gradients=(1, 2))
    path = tmp_path / 't.npz'
    capture.save_transcript(config, str(path), silent)
    case = plan.make_case(config)
    user = case.victims[0]
    own = set(case.interactions.items[case.interactions.users == user].tolist())
    with np.load(path) as file:
        arrays = dict(file)
    meta = str(arrays.pop('meta'))
    for name in arrays:
        for word in ('label', 'private', 'truth', 'user', 'positive'):
            assert word not in name
    assert 'label' not in meta
    assert 'truth' not in meta
    assert '"user' not in meta
    labels = np.array([item in own for item in arrays['items']])
    assert labels.any()
    assert not labels.all()
    for name, value in arrays.items():
        if value.shape == labels.shape:
            assert not np.array_equal(value > 0, labels), name
            assert not np.array_equal(value == value.max(), labels), name
    # Nor does the order of the candidates tell.
    assert not np.array_equal(np.sort(labels), labels)
    assert not np.array_equal(np.sort(labels), labels[::-1])
    lines = []
    result = capture.attack_transcript(config, str(path), str(tmp_path / 'out'), lines.append)
    assert sklearn.metrics.roc_auc_score(labels, result['scores']) > 0.9
    # The config's first attack that reads uploads is taken.
    monkeypatch.setattr(attackers, 'make_exact', bias_sign)
    config.attack.name = ('popularity', 'exact', 'mgradinv')
    exact = capture.attack_transcript(config, str(path), str(tmp_path / 'out'), lines.append)
    assert set(exact['interactions']) == set(np.asarray(exact['items'])[labels].tolist())
    assert exact['certified'] is True
    assert 'hypothesis free, bias sign, float64' in lines[-3]
    assert lines[-2] == 'exact: item biases are seen'
    assert set(result) == {'items', 'scores', 'interactions', 'private', 'objective'}


# The file holds what the run attacks, with the rounds in between where the hypothesis needs them.
@pytest.mark.parametrize('dynamics', ['free', 'unrolled'])
def test_a_saved_transcript_is_what_the_run_attacks(tmp_path, dynamics):
    config = tiny(interval=(2,))
    config.dynamics.name = (dynamics,)
    capture.save_transcript(config, str(tmp_path / 't.npz'), silent)
    seen, meta = transcripts.load(tmp_path / 't.npz')
    case = plan.make_case(config)
    setting = next(s for s in config_lib.settings(config) if s.dynamics)
    expected = runner.transcript(case, runner.train(case), setting, case.victims[0])
    assert len(seen.participated) == (3 if dynamics == 'unrolled' else 2)
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert meta['known'] == {'batch': True, 'step_sizes': True}


def test_saving_needs_an_attack_that_reads_uploads(tmp_path):
    with pytest.raises(ValueError, match=r'attack\.name'):
        capture.save_transcript(tiny(name=('popularity',)), str(tmp_path / 't.npz'), silent)


def script(*arguments, name='attack.py', **options):
    """The real script, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'scripts' / name), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        **options,
    )


def write_config(path, config):
    """A config file that gives this config."""
    plain = config.to_dict()
    lines = ['from fedinv_jax.audit import config as config_lib', '', '']
    lines.append('def get_config(arg=None):')
    lines += ['    config = config_lib.default_config()', f'    config.update({plain!r})']
    path.write_text('\n'.join([*lines, '    return config', '']))
    return path


@pytest.mark.slow
def test_ctrl_c_keeps_whole_rows_and_running_again_completes(tmp_path):
    config = tiny(block=1, num_iterations=300_000, num_gradients=(1, 2))
    path = write_config(tmp_path / 'long.py', config)
    folder = tmp_path / 'run'
    # A shell's background job starts with Ctrl-C ignored, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = script(f'--config={path}', f'--workdir={folder}')
    rows = folder / 'victims.jsonl'
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count('\n') >= 2):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert 'interrupted: the rows so far are kept; the same command goes on from there' in output
    assert 'Traceback' not in output
    text = rows.read_text()
    kept = [strict(line) for line in text.splitlines()]
    assert text.endswith('\n')
    assert 2 <= len(kept) < 16
    process = script(f'--config={path}', f'--workdir={folder}')
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f'{len(kept)} rows are there' in output
    assert rows.read_text().startswith(text)
    check_folder(folder, config)


@pytest.mark.slow
def test_transcript_files_from_the_command_line(tmp_path):
    path = write_config(tmp_path / 'small.py', tiny())
    file = tmp_path / 't.npz'
    process = script(f'--config={path}', f'--save_transcript={file}', f'--workdir={tmp_path}/w')
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert '2 uploads of one client, rounds 0, 1, items seen' in output
    assert not (tmp_path / 'w').exists()
    with np.load(file) as arrays:
        assert not [name for name in arrays if 'label' in name or 'private' in name]
        assert 'label' not in str(arrays['meta'])
    # On a machine that has no data.
    process = script(
        f'--config={path}',
        f'--transcript={file}',
        f'--workdir={tmp_path}/out',
        '--config.data.name=amazon-video-games',
        env={**os.environ, 'FEDINV_DATA_DIR': str(tmp_path / 'none')},
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    answer = strict((tmp_path / 'out' / 'answer.json').read_text())
    case = plan.make_case(tiny())
    own = case.interactions.items[case.interactions.users == case.victims[0]]
    labels = np.isin(answer['items'], own)
    assert sklearn.metrics.roc_auc_score(labels, answer['scores']) > 0.9
