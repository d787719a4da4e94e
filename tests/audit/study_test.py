"""Studies: arms, shards, merging, a kill at any moment; the same rows whatever happens."""

import functools
import os
import pathlib
import random
import re
import shutil
import signal
import time

import pytest

from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import plan, runner, study
from tests.audit.helpers import run_study, script, strict, two_arms, write_config
from tests.helpers import contents, no_figures, rows_of, silent, tiny  # noqa: F401

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted study of `two_arms()`."""
    folder = tmp_path_factory.mktemp('study')
    lines = run_study(two_arms(), folder)
    (folder / 'log').write_text('\n'.join(lines))
    return folder


def arms_rows(folder):
    return {name: rows_of(folder / name) for name in ('mf', 'wide')}


def test_arms_differ_in_what_they_say():
    config = two_arms()
    arms = study.arms(config)
    assert [(name, arm.model.dim) for name, arm in arms.items()] == [('mf', 4), ('wide', 6)]
    assert 'arms' not in arms['mf']
    assert list(study.arms(config, ['wide'])) == ['wide']
    assert list(study.arms(tiny())) == ['all']
    with pytest.raises(ValueError, match=r"Unknown arm='wid'\. Did you mean 'wide'"):
        study.arms(config, ['wid'])
    with pytest.raises(ValueError, match=r'^arms\.x: .{,90} Did you mean "dim" [^\n]{,30}$'):
        study.arms(config_lib.with_arms(tiny(), {'x': {'model': {'dimm': 6}}}))


def test_a_study_is_no_run_of_the_attack(tmp_path):
    with pytest.raises(ValueError, match='Run `fedinv study` with it'):
        runner.run(two_arms(), str(tmp_path), '', silent)


def test_one_report_holds_every_arm(whole):
    text = (whole / 'report.md').read_text()
    for part in ('### mf', '## wide', "### The paper's claims", '**C1, several gradients'):
        assert part in text
    assert (whole / 'report.html').read_text().lower().startswith('<!doctype html>')
    assert (whole / 'mf' / 'report.html').exists()


# Failed on the mutants `blocks[index::count + 1]` and of `merge` that keeps the shards' order.
@pytest.mark.slow
def test_merged_shards_are_one_run(whole, tmp_path):
    for index in (2, 0, 1):
        lines = run_study(two_arms(), tmp_path, shard=(index, 3))
        assert (tmp_path / 'mf' / f'victims-{index}-of-3.jsonl').exists()
    assert not (tmp_path / 'mf' / 'victims.jsonl').exists()
    lines = run_study(two_arms(), tmp_path, merge=True)
    assert arms_rows(tmp_path) == arms_rows(whole)
    for name in ('mf', 'wide'):
        ours, theirs = (
            [{**strict(line), 'seconds': 0} for line in path.read_text().splitlines()]
            for path in (folder / name / 'victims.jsonl' for folder in (tmp_path, whole))
        )
        assert ours == theirs  # In the same order too.
        assert not list((tmp_path / name).glob('victims-*'))
    assert not any('compiled' in line for line in lines)
    assert (tmp_path / 'report.html').exists()


# Failed on the mutant that leaves out arms that are named, and on the one that tells nobody.
def test_arms_without_data_are_left_out_unless_they_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv('FEDINV_DATA_DIR', str(tmp_path / 'empty'))
    amazon = {'data': {'name': 'amazon-instant-video'}}
    config = config_lib.with_arms(tiny(), {'amazon': amazon, 'mf': {}})
    lines = run_study(config, tmp_path / 'w')
    assert lines[0].startswith('warning: skipping arm amazon: Expected ')
    text = (tmp_path / 'w' / 'report.md').read_text()
    assert f'### Not run\n\n- amazon: Expected {tmp_path}/empty/amazon-instant-video' in text
    assert rows_of(tmp_path / 'w' / 'mf')
    with pytest.raises(FileNotFoundError, match='amazon-instant-video'):
        run_study(config, tmp_path / 'v', names=['amazon', 'mf'])
    with pytest.raises(FileNotFoundError, match='amazon-instant-video'):
        run_study(config_lib.with_arms(tiny(), {'amazon': amazon}), tmp_path / 'v')


def test_an_arm_that_is_complete_stays_in_the_report(whole, tmp_path):
    shutil.copytree(whole / 'wide', tmp_path / 'wide')
    lines = run_study(two_arms(), tmp_path, names=['mf'])
    assert sum('compiled' in line for line in lines) == 2  # Two seeds of one arm.
    text = (tmp_path / 'report.md').read_text()
    assert text.index('### mf') < text.index('### wide')


def test_a_folder_of_the_attack_is_no_studys(whole, tmp_path):
    with pytest.raises(ValueError, match='holds a run of `fedinv attack`, not a study'):
        run_study(two_arms(), whole / 'mf')
    with pytest.raises(ValueError, match=r'Nothing to merge: there is no run in .*typo.mf'):
        run_study(two_arms(), tmp_path / 'typo', merge=True)
    assert not (tmp_path / 'typo').exists()


# Failed on: arms that are run, or written again, before a later one is refused; arms of the folder
# that are neither named nor complete.
def test_a_folder_of_another_study_is_refused_and_nothing_changes(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / 'study')
    (folder / 'wide' / 'summary.json').unlink()
    before = contents(folder)
    wider = config_lib.with_arms(two_arms(), {'mf': {}, 'wide': {'model': {'dim': 7}}})
    for names in ([], ['mf']):
        with pytest.raises(ValueError, match=r'wide holds another run: config\.model\.dim is 6'):
            run_study(wider, folder, names=names)
    less = config_lib.with_arms(two_arms(), {'mf': {}})
    with pytest.raises(ValueError, match="holds another study, with the arm 'wide'"):
        run_study(less, folder)
    with pytest.raises(ValueError, match='holds a study, not a run'):
        runner.run(tiny(), folder, '', silent)
    assert contents(folder) == before


# Failed on: arms before it that ran for hours.
def test_an_arm_that_cannot_run_is_refused_before_the_first_one(tmp_path):
    config = config_lib.with_arms(two_arms(), {'mf': {}, 'bad': {'attack': {'num_restarts': 0}}})
    with pytest.raises(ValueError, match=r'attack\.num_restarts=0'):
        run_study(config, tmp_path)
    assert not list(tmp_path.iterdir())


# Failed on the mutant that takes every line of every file.
def test_merging_needs_all_parts_and_may_be_killed(whole, tmp_path, monkeypatch):
    (arm,) = study.arms(two_arms(), ['mf']).values()
    count = len(plan.blocks(plan.make_cases(arm)))
    run_study(two_arms(), tmp_path, shard=(0, 2), names=['mf'])
    missing = rf': {count - count // 2} of {count} blocks of victims are missing'
    with pytest.raises(ValueError, match=missing):
        run_study(two_arms(), tmp_path, merge=True, names=['mf'])
    assert (tmp_path / 'mf' / 'victims-0-of-2.jsonl').exists()
    assert not (tmp_path / 'report.md').exists()
    run_study(two_arms(), tmp_path, shard=(1, 2), names=['mf'])
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, 'unlink', lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_study(two_arms(), tmp_path, merge=True, names=['mf'])
    run_study(two_arms(), tmp_path, merge=True, names=['mf'])
    lines = (tmp_path / 'mf' / 'victims.jsonl').read_text().splitlines()
    assert len(lines) == len(rows_of(whole / 'mf'))
    assert rows_of(tmp_path / 'mf') == rows_of(whole / 'mf')
    assert not list((tmp_path / 'mf').glob('victims-*'))


# Failed on the mutant that sorts the rows that it knows and forgets the others.
def test_rows_of_another_version_are_refused(whole, tmp_path):
    shutil.copytree(whole / 'mf', tmp_path / 'mf')
    path = tmp_path / 'mf' / 'victims.jsonl'
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first.replace('"solver": "adam"', '"solver": "other"') + ''.join(rest))
    with pytest.raises(ValueError, match=r'1 of \d+ rows belong to no setting of this config'):
        run_study(two_arms(), tmp_path, names=['mf'])


@pytest.mark.slow
def test_more_shards_than_blocks(whole, tmp_path):
    config, count = two_arms(), 40
    for index in range(count):
        run_study(config, tmp_path, shard=(index, count), names=['mf'])
    run_study(config, tmp_path, merge=True, names=['mf'])
    assert rows_of(tmp_path / 'mf') == rows_of(whole / 'mf')


@pytest.mark.parametrize('shard', ['3/3', '-1/3', '1', 'a/b', '1/0'])
def test_a_shard_that_is_none_is_an_error(shard):
    process = script('--config=configs/study_attacks.py:smoke', f'--shard={shard}')
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r'error: Expected --shard=.* to be i/n with 0 <= i < n', output), output


script = functools.partial(script, name='study.py')


@pytest.mark.slow
def test_slurm_arrays_are_shards(tmp_path):
    path = write_config(tmp_path / 'small.py', tiny())
    slurm = {'ID': '9', 'MIN': '5', 'MAX': '9', 'STEP': '4', 'COUNT': '2'}  # --array=5-9:4
    slurm = {f'SLURM_ARRAY_TASK_{name}': value for name, value in slurm.items()}
    process = script(f'--config={path}', f'--workdir={tmp_path}/w', env={**os.environ, **slurm})
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert (tmp_path / 'w' / 'all' / 'victims-1-of-2.jsonl').exists()
    for wrong in ({'SLURM_ARRAY_TASK_COUNT': '3'}, {'SLURM_ARRAY_TASK_MAX': ''}):
        process = script(f'--config={path}', env={**os.environ, **slurm, **wrong})
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1
        assert 'error: Expected a SLURM array of tasks in even steps' in output


# SIGKILL at a random moment, as often as it takes: also within the writing of a row.
@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    config = tiny(num_gradients=(1, 2), victims_per_call=1, num_iterations=2000)
    path = write_config(tmp_path / 'long.py', config)
    expected, folder, rng = tmp_path / 'whole', tmp_path / 'killed', random.Random(0)
    output, _ = script(f'--config={path}', f'--workdir={expected}').communicate(timeout=300)
    kills = 0
    for _ in range(20):
        process = script(f'--config={path}', f'--workdir={folder}')
        rows = folder / 'all' / 'victims.jsonl'
        before, deadline = _size(rows), time.monotonic() + 120
        while process.poll() is None and _size(rows) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        output, _ = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        if kills == 1:  # As a kill within a write would leave it.
            with open(rows, 'a') as file:
                file.write('{"schema": 2, "attack": "mgra')
    assert process.returncode == 0, output
    assert kills >= 2
    assert rows_of(folder / 'all') == rows_of(expected / 'all')


def _size(path):
    return path.stat().st_size if path.exists() else 0


# Failed on the mutants that count a step once whatever T, and the arms before.
def test_the_first_arm_foretells_the_whole_study(whole):
    small, wide = (plan.work(arm) for arm in study.arms(two_arms()).values())
    assert wide / small == pytest.approx(7 / 5)  # D and a bias of one item
    steps = [plan.work(tiny(num_gradients=(count,), name=('mgradinv',))) for count in (1, 3)]
    assert steps[1] == 3 * steps[0]
    assert study.later([5.0, 7.0, 5.0]) == pytest.approx([12 / 5, 5 / 7, 0])
    lines = (whole / 'log').read_text().splitlines()
    told = [line for line in lines if line.startswith('whole study')]
    assert len(told) == 1
    assert lines.index(told[0]) < lines.index('arm 2 of 2: wide')
