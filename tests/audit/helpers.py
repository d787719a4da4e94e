"""What the test modules of the audit share: configs, scripts, made-up attacks, checks."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from fedinv_jax.audit import attackers, plan, registry, runner, study, workdir
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.report import rows as rows_lib
from fedinv_jax.types import Answer, Certificate, Transcript
from tests.helpers import silent, tiny


def small(**data):
    """A config whose data takes no time."""
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 12, 'num_items': 60})
    config.data.update(data)
    config.attack.num_victims = 4
    return config


def small_config():
    """NCF whose scorer is seen; thirty clients of several sizes."""
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 30, 'num_items': 80, 'median_activity': 10.0})
    config.data.max_positives = 12
    config.model.update({'dim': 2, 'hidden': (4,)})
    config.observation.seen = ('scorer',)
    config.attack.update({'num_victims': 2, 'num_iterations': 5, 'victims_per_call': 2})
    return config


ROOT = pathlib.Path(__file__).resolve().parents[2]


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
    """A mean between its bounds, or none of them."""
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
    settings = settings_lib.settings(config)
    files = {path.name for path in folder.iterdir()}
    assert files == {
        'config.json',
        'figures',
        'report.html',
        'report.md',
        'run.json',
        'summary.json',
        'versions.json',
        'victims.jsonl',
    }
    lines = (folder / 'victims.jsonl').read_text().splitlines()
    rows = [strict(line) for line in lines]
    assert len(rows) == len(settings) * len(victims)
    assert {(row['seed'], row['user']) for row in rows} == victims
    assert len({workdir.key(row) for row in rows}) == len(rows)
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
    assert summary['schema'] == 2
    assert len(summary['rows']) == len(settings)
    for row in summary['rows']:
        assert rows_lib.mismatch(row, rows_lib.SummaryRow) is None
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
        assert (row['dynamics'] is None) == (row['family'] == 'baseline')
        assert (row['solver'] is None) == (row['family'] == 'baseline')
    record = strict((folder / 'config.json').read_text())
    assert record['config'] == json.loads(json.dumps(config.to_dict()))
    report = (folder / 'report.md').read_text()
    assert 'Threat model' in report
    assert 'scripts/attack.py' in report
    return rows, summary


def load_module(path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_config(path, arg):
    """The config of a config file."""
    return load_module(path).get_config(arg)


def bias_sign(target, flip=lambda items: False):
    """A made-up exact attack: an item bias has a gradient of the sign of `z - y`."""

    def attack(transcript, key, num_iterations):
        rows = transcript.seen['items']['bias'][0]
        assert rows.dtype == np.float64
        assert len(transcript.rounds) == len(target.rounds)
        labels = (rows < 0) ^ (flip(transcript.items) & (np.arange(len(rows)) == 0))
        margin = jnp.abs(rows).min()
        certificate = Certificate(
            margin > 1e-6, jnp.asarray(False), margin, margin / 8, len(rows), len(rows)
        )
        return Answer(labels * 1.0, labels, None, jnp.sum(rows**2), certificate)

    return attackers.Choice('bias sign', 'item biases are seen', attack)


def replace_attack(monkeypatch, name, make):
    """Another attack in a row of the table."""
    monkeypatch.setitem(registry.ATTACKS, name, registry.ATTACKS[name]._replace(make=make))


def seeds(count=2, **attack):
    """Two victims a seed; every client of every seed has one size of batch."""
    config = tiny(num_gradients=(1,), num_victims=2 * count, **attack)
    config.num_seeds = count
    config.data.update({'min_positives': 8, 'max_positives': 8})
    return config


def two_arms(**attack):
    """A study of two arms, two seeds each."""
    config = tiny(num_gradients=(1, 2), **attack)
    config.num_seeds = 2
    return config_lib.with_arms(config, {'mf': {}, 'wide': {'model': {'dim': 6}}})


def run_study(config, folder, **how):
    """What a study tells."""
    lines = []
    study.run(config, str(folder), 'python scripts/study.py', log=lines.append, **how)
    return lines


def attacked(blocks, **how):
    """The rows of blocks, as `rows_of` has those of a folder."""
    rows = [row for made in runner.attack(blocks, silent, **how) for row in made]
    return {workdir.key(row): {k: v for k, v in row.items() if k != 'seconds'} for row in rows}


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


def parse(path, *overrides):
    """The config as the scripts get it from their flags."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    with pytest.MonkeyPatch.context() as patch:
        # The overrides are read from there.
        patch.setattr(sys, 'argv', ['attack.py', f'--config={path}', *overrides])
        values(sys.argv)
    return values.config


def small_capture(loss='bce', rounds=2, hidden=4, size=12, dim=3, seed=0, scale=1.0):
    """A transcript of an NCF that nobody here has trained, its positives and its description.

    Gradients in plain NumPy, float64; `z = w . relu(p P + q Q + b) + c`, and p takes steps of .1.
    """
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 4 == 1) * 1.0
    p = rng.normal(size=dim) * scale
    q, kernel_p, kernel_q = (
        rng.normal(size=s) for s in [(size, dim), (dim, hidden), (dim, hidden)]
    )
    bias, out, offset = rng.normal(size=hidden), rng.normal(size=(hidden, 1)), rng.normal(size=1)
    shared, seen = [], []
    for _ in range(rounds):
        before = p @ kernel_p + q @ kernel_q + bias
        on, active = before > 0, np.maximum(before, 0)
        z = active @ out[:, 0] + offset
        slope = (1 / (1 + np.exp(-z)) - labels if loss == 'bce' else 2 * (z - labels)) / size
        back = slope[:, None] * on * out[:, 0]
        total = back.sum(0)
        parameters = (q, kernel_q, bias, kernel_p, out, offset)
        uploads = (back @ kernel_q.T, q.T @ back, total, np.outer(p, total),
                   active.T @ slope[:, None], slope.sum(keepdims=True))  # fmt: skip
        shared.append(_ncf_tree(*parameters))
        seen.append(_ncf_tree(*uploads))
        p = p - 0.1 * kernel_p @ total
        q, kernel_q, bias, kernel_p, out, offset = (
            value - 0.5 * change for value, change in zip(parameters, uploads, strict=True)
        )
    transcript = Transcript(
        **{
            name: jax.tree.map(lambda *leaves: np.float32(leaves), *steps)
            for name, steps in (('shared', shared), ('seen', seen))
        },
        rounds=np.arange(rounds),
        participated=np.ones(rounds, bool),
        items=np.arange(size) + 30,
        slot=None,
        weights=np.ones((rounds, size)),
        log_odds=np.zeros(size),
    )
    description = {
        'model': {'name': 'ncf', 'dim': dim, 'hidden': [hidden], 'num_items': 60},
        'client': {'name': 'gradient_step', 'loss': loss, 'private_learning_rate': 0.1},
    }
    return transcript, (np.flatnonzero(labels) + 30).tolist(), description


def _ncf_tree(embedding, kernel_q, bias, kernel_p, out, offset):
    """Parameters of an NCF of one hidden layer, as the package has them."""
    scorer = {
        'items': {'kernel': kernel_q, 'bias': bias},
        'private': {'kernel': kernel_p},
        'layer_1': {'kernel': out, 'bias': offset},
    }
    return {'items': {'embedding': embedding}, 'scorer': scorer}
