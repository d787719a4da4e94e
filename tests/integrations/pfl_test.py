"""A real simulation in pfl-research, captured by a postprocessor."""

import pytest

from tests.integrations import helpers


@pytest.mark.slow
@pytest.mark.parametrize('weighted', [False, True])
def test_the_capture_has_what_the_devices_uploaded(tmp_path, weighted):
    folder, dumped = tmp_path / 'capture', tmp_path / 'dumped'
    helpers.run('pfl', 'pfl_run.py', folder, dumped, weighted, cwd=tmp_path)
    found = helpers.check(
        folder,
        dumped,
        'delta',
        clients=[f'user {n}' for n in range(helpers.CLIENTS)],
        tolerance=1e-6 if weighted else 0,  # multiplied by the weight, and divided again
    )
    assert found.known == {'framework': 'pfl', 'loss': 'bce', 'learning_rate': 0.5}
