"""A real run of NVFlare's simulator, captured by filters on the server."""

import pytest

from tests.integrations import helpers


@pytest.mark.slow
@pytest.mark.parametrize(('transfer', 'kind'), [('FULL', 'returned'), ('DIFF', 'delta')])
def test_the_capture_has_what_the_sites_uploaded(tmp_path, transfer, kind):
    folder, dumped = tmp_path / 'capture', tmp_path / 'dumped'
    helpers.run('nvflare', 'nvflare_run.py', folder, dumped, transfer, cwd=tmp_path)
    sites = [f'site-{n + 1}' for n in range(helpers.CLIENTS)]
    found = helpers.check(folder, dumped, kind, clients=sites)
    said = {'framework': 'nvflare', 'loss': 'bce', 'learning_rate': 0.5, 'local_epochs': 2}
    assert found.known == said
    helpers.audit(folder, dumped / 'truth.csv', tmp_path / 'audit')
