"""Transcript files: what is in them, and attacks on them."""

import os

import jax
import numpy as np
import pytest
import sklearn.metrics

from fedinv_jax import transcripts
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import knowledge, plan, runner, transcript_file
from fedinv_jax.audit import settings as settings_lib
from tests.audit.helpers import (
    bias_sign,
    replace_attack,
    script,
    small_config,
    strict,
    write_config,
)
from tests.helpers import no_figures, silent, tiny  # noqa: F401


# Failed on: the meta's observation checked against the config's own `seen`.
@pytest.mark.slow
def test_a_transcript_of_one_part_can_be_attacked(tmp_path):
    config = small_config()
    config.observation.update({'uploaded': ('items',), 'seen': ('items',)})
    path = str(tmp_path / 't.npz')
    transcript_file.save_transcript(config, path, log=silent)
    config = config_lib.default_config()
    config.attack.name = ('spectral',)
    answer = transcript_file.attack_transcript(config, path, str(tmp_path / 'out'), log=silent)
    assert len(answer['scores']) == len(answer['items'])
    assert 0 < len(answer['interactions']) < len(answer['items'])


# Failed on the mutant of `save_transcript` that adds the labels to the description.
def test_a_saved_transcript_holds_no_truth(tmp_path, monkeypatch):
    config = tiny(num_gradients=(1, 2))
    path = tmp_path / 't.npz'
    transcript_file.save_transcript(config, str(path), silent)
    case = plan.make_case(config)
    user = case.victims[0]
    own = set(case.interactions.items[case.interactions.users == user].tolist())
    with np.load(path) as file:
        arrays = dict(file)
    meta = str(arrays.pop('meta'))
    for name in arrays:
        for word in ('label', 'private', 'truth', 'user', 'positive'):
            assert word not in name
    assert 'label' not in meta.replace('label_smoothing', '')
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
    result = transcript_file.attack_transcript(
        config, str(path), str(tmp_path / 'out'), lines.append
    )
    assert sklearn.metrics.roc_auc_score(labels, result['scores']) > 0.9
    # The config's first attack that reads uploads is taken.
    replace_attack(monkeypatch, 'exact', bias_sign)
    config.attack.name = ('popularity', 'exact', 'mgradinv')
    exact = transcript_file.attack_transcript(
        config, str(path), str(tmp_path / 'out'), lines.append
    )
    assert set(exact['interactions']) == set(np.asarray(exact['items'])[labels].tolist())
    assert exact['certified'] is True
    assert 'hypothesis free, attacked by exact (bias sign, float64)' in lines[-4]
    assert lines[-3] == 'exact: item biases are seen'
    assert lines[-1].endswith('fit what the file says of the client cannot be told')
    assert set(result) == {'items', 'scores', 'interactions', 'private', 'objective', 'fits'}


# The file holds what the run attacks, with the rounds in between where the hypothesis needs them.
@pytest.mark.parametrize('dynamics', ['free', 'unrolled'])
def test_a_saved_transcript_is_what_the_run_attacks(tmp_path, dynamics):
    config = tiny(num_gradients=(1, 2), interval=(2,))  # the most gradients are kept
    config.dynamics.name = (dynamics,)
    transcript_file.save_transcript(config, str(tmp_path / 't.npz'), silent)
    seen, meta = transcripts.load(tmp_path / 't.npz')
    case = plan.make_case(config)
    setting = max(settings_lib.reading(config), key=lambda each: each.num_gradients)
    expected = knowledge.transcript(case, runner.train(case), setting, case.victims[0])
    assert len(seen.participated) == (3 if dynamics == 'unrolled' else 2)
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert meta['known'] == {'batch': True}
    assert seen.rounds.tolist() == [0, 2]


def test_saving_needs_an_attack_that_reads_uploads(tmp_path):
    with pytest.raises(ValueError, match=r'attack\.name'):
        transcript_file.save_transcript(tiny(name=('popularity',)), str(tmp_path / 't.npz'), silent)


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
        assert 'label' not in str(arrays['meta']).replace('label_smoothing', '')
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
