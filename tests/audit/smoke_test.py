"""Every config and every study, shrunk to seconds, with its figures."""

import os
import pathlib

import pytest

from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.audit import study
from fedinv_jax.data import loaders
from tests.audit.helpers import ROOT, check_folder, load_config, run_study
from tests.helpers import rows_of, run
from tests.report.helpers import browse

pytestmark = pytest.mark.exhaustive

ALL = sorted((ROOT / 'configs').glob('*.py'))
ALSO = ('explicit_ratings', 'models', 'quality')
STUDIES = [path for path in ALL if path.stem.startswith('study_') or path.stem in ALSO]
CONFIGS = [path for path in ALL if path not in STUDIES]


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_smoke_config_runs(path, tmp_path, monkeypatch):
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


PROBE = """
said.push(document.documentElement.scrollWidth <= window.innerWidth);
const images = [...document.images];
said.push(images.length, images.every(image => image.naturalWidth > 500));
"""


# On synthetic data, hence everywhere.
@pytest.mark.slow
@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_every_smoke_study_runs(path, tmp_path):
    config = load_config(path, 'smoke')
    run_study(config, tmp_path)
    for name, arm in study.arms(config).items():
        rows = rows_of(tmp_path / name)
        assert len(rows) == len(settings_lib.settings(arm)) * arm.attack.num_victims
        assert {row['status'] for row in rows.values()} == {'ok'}
    page = (tmp_path / 'report.html').read_text()
    figures = list(tmp_path.rglob('figures/*.png'))
    assert figures
    assert page.count('data:image/png;base64,') == len(figures)
    # What the study is for is in it: the claims that it can speak to, or the frontier.
    purposes = {
        'assumptions': '| exact (placebo) ',
        'attacks': '**C1, ',
        'convergence': '**C2, ',
        'explicit_ratings': 'accuracy',
        'defences': 'Leakage against utility',
        'interval': '**C3, ',
        'models': '| exact ',
        'num_gradients': '**C1, ',
        'quality': 'hr@10_loo99',
        'raifle': '| summed ',
        'step_sizes': 'step size',
        'secure_aggregation': 'against the number of rounds',
    }
    text = (tmp_path / 'report.md').read_text()
    assert purposes[path.stem.removeprefix('study_')] in text
    for width in (390, 1280):
        assert browse(tmp_path, page, width, PROBE) == f'true {len(figures)} true'
