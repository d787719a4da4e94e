"""A real simulation in Flower, captured by a strategy and by a client mod."""

import numpy as np
import pytest

from fedinv_jax import capture
from tests.integrations import helpers


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp('flower')
    of_server, of_mod, dumped = (folder / name for name in ('server', 'mod', 'dumped'))
    helpers.run('flower', 'flower_run.py', of_server, of_mod, dumped, cwd=folder)
    return of_server, of_mod, dumped


@pytest.mark.slow
@pytest.mark.parametrize('side', [0, 1], ids=['strategy', 'mod'])
def test_the_capture_has_what_the_devices_uploaded(folders, side):
    # Client 3 fails in round 2, the second one.
    found = helpers.check(folders[side], folders[2], 'returned', absent=[('3', 1)])
    assert found.known['framework'] == 'flower'


@pytest.mark.slow
def test_the_number_of_examples_is_recorded(folders):
    found = capture.read(folders[0])
    for client in found.clients:
        for each in capture.exchanges(found, client):
            moved = each.sent['item_embedding.weight'] != each.returned['item_embedding.weight']
            # Five or six positives, and four negatives for each.
            assert each.num_examples in (25, 30)
            assert np.count_nonzero(moved.any(axis=1)) <= each.num_examples


@pytest.mark.slow
def test_an_audit_recovers_the_histories(folders, tmp_path):
    helpers.audit(folders[0], folders[2] / 'truth.csv', tmp_path)
