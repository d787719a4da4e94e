"""What version 0.1 wrote: config files, flags and work directories."""

import json

import pytest

from fedinv_jax.audit import checks, compatibility, runner, study, workdir
from fedinv_jax.audit import config as config_lib
from tests.audit.helpers import parse, small

OLD_FILE = """
from fedinv_jax import experiment


def get_config(arg=None):
    config = experiment.default_config()
    config.data.update({'core': 5, 'per_positive': 2, 'threshold': 3.5})
    config.client.update({'by_size': True, 'precision': 'float64'})
    config.client.private_rate = 0.5
    config.observation.update({'top': 0.1, 'levels': 4})
    config.attack.update({'block': 4, 'start': 'sign', 'precision': 'float64', 'threshold': 0.1})
    config.attack.label_gain *= 2
    config.run.lanes = 2
    return experiment.variant(config, arg)
"""


def test_every_new_name_is_a_field():
    config = config_lib.default_config()
    for old, names in compatibility.RENAMED.items():
        found = [
            (section, name)
            for section in config
            if isinstance(config[section], compatibility.Config)
            for name in names
            if name in config[section] and old not in config[section]
        ]
        assert len({name for _, name in found}) == len(names), old
        assert len({section for section, _ in found}) == len(found)


# Failed on: no `__setitem__`, sections that are plain `ConfigDict`s.
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_an_old_config_file(tmp_path):
    path = tmp_path / 'old.py'
    path.write_text(OLD_FILE)
    config = parse(path, '--config.attack.dense=9', '--config.data.fresh_negatives=true')
    assert (config.data.k_core, config.data.negatives_per_positive) == (5, 2)
    assert (config.data.rating_threshold, config.attack.stop_below) == (3.5, 0.1)
    assert config.client.weight_by_num_examples
    assert config.client.private_learning_rate == 0.5
    assert (config.client.precision, config.attack.dtype) == ('float64', 'float64')
    assert (config.observation.top_k_share, config.observation.quantization_levels) == (0.1, 4)
    assert (config.attack.victims_per_call, config.attack.warm_start) == (4, 'sign')
    assert (config.attack.label_rate_scale, config.run.parallel_victims) == (60.0, 2)
    assert (config.attack.max_dense_candidates, config.data.resample_negatives) == (9, True)
    assert not set(config.attack) & set(compatibility.RENAMED)
    config.data.resample_negatives = False
    checks.check(config)


def test_an_old_name_is_said():
    config = config_lib.default_config()
    with pytest.warns(FutureWarning, match='The field core is now k_core'):
        config.data.core = 5
    with pytest.raises(AttributeError, match='Did you mean "k_core"'):
        config.data.k_cor = 5


@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_old_names_in_the_arms_of_a_study():
    config = config_lib.with_arms(small(), {'one': {'observation': {'pseudo': 0.5}}})
    assert study.arms(config)['one'].observation.pseudo_rate == 0.5


def as_of_version_0_1(config):
    """A config as nested dicts, under the names of version 0.1."""
    old = {name: before for before, names in compatibility.RENAMED.items() for name in names}
    return {
        name if name == 'dtype' and 'name' not in config else old.get(name, name): (
            as_of_version_0_1(value) if isinstance(value, dict) else value
        )
        for name, value in config.items()
    }


# Failed on: configs compared as they are, texts of defences kept (the rows are attacked again).
def test_an_old_work_directory_goes_on(tmp_path):
    config = small()
    config.observation.update({'top_k_share': 0.5, 'seen': ('items+scorer',)})
    config.attack.update({'name': ('popularity',), 'num_victims': 4, 'victims_per_call': 2})
    runner.run(config, str(tmp_path), 'first', log=lambda line: None)
    rows = workdir.read_rows(tmp_path)
    assert len(rows) > 1
    record = json.loads((tmp_path / 'config.json').read_text())
    record['config'] = as_of_version_0_1(record['config'])
    assert record['config']['observation']['top'] == 0.5
    (tmp_path / 'config.json').write_text(json.dumps(record))
    lines, later = [], ('family', 'defences', 'labels_changed', 'config_hash')
    for row in rows[:1]:
        old = {k: v for k, v in row.items() if k not in later}
        old |= {'precision': old.pop('dtype'), 'upload_precision': old.pop('upload_dtype')}
        lines.append(json.dumps({**old, 'schema': 1, 'defence': 'top 0.5'}) + '\n')
    (tmp_path / 'victims.jsonl').write_text(''.join(lines))
    assert workdir.read_config(tmp_path).attack.victims_per_call == 2
    of_config = {'config_hash': workdir.config_hash(tmp_path)}  # under the old names
    rows = [{**row, **of_config} for row in rows]
    assert workdir.read_rows(tmp_path) == rows[:1]
    runner.run(config, str(tmp_path), 'again', log=lambda line: None)
    same = [{**row, 'seconds': 0.0} for row in workdir.read_rows(tmp_path)]
    assert same == [{**row, 'seconds': 0.0} for row in rows]
    assert len((tmp_path / 'victims.jsonl').read_text().splitlines()) == len(rows)
