"""Runs a training in a framework's own environment, and compares what was captured."""

import json
import os
import pathlib
import subprocess

import flax.traverse_util
import numpy as np
import pytest

from fedinv_jax import capture
from fedinv_jax.audit import capture_audit
from tests.helpers import silent

_HERE = pathlib.Path(__file__).parent
_PROJECT = _HERE.parents[1]
PYTHONPATH = (_PROJECT / 'integrations', _PROJECT / 'examples' / 'flower_ncf', _HERE)
CLIENTS, ROUNDS, ITEMS = 10, 3, 50
IDS = tuple(str(n) for n in range(CLIENTS))


def python(framework):
    """The interpreter of a framework's environment; skips the test where there is none."""
    variable = f'FEDINV_VENV_{framework.upper()}'
    if not os.environ.get(variable):
        pytest.skip(f'{variable} is not set: no environment with {framework}')
    return pathlib.Path(os.environ[variable]) / 'bin' / 'python'


def run(framework, script, *args, cwd):
    """Runs a script of this folder in a framework's environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    done = subprocess.run(
        [python(framework), _HERE / script, *map(str, args)],
        cwd=cwd,
        env={
            **kept,
            'PYTHONPATH': os.pathsep.join(map(str, PYTHONPATH)),
            'OMP_NUM_THREADS': '1',
            'FLWR_TELEMETRY_ENABLED': '0',
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6_000:]
    return done.stdout


def _dumped(folder, round_, client):
    with np.load(pathlib.Path(folder) / f'{round_}_{client}.npz') as file:
        return dict(file)


def _uploads(found, client, layout):
    uploads = capture.captured(found, client, layout)
    return uploads, flax.traverse_util.flatten_dict(uploads.transcript.seen, sep='/')


def check(folder, dumped, kind, clients=IDS, absent=(), tolerance=0.0):
    """A capture has what the devices themselves say that they uploaded: sent - returned.

    Args:
        folder: of the capture.
        dumped: folder with ROUND_CLIENT.npz, each with the difference of each shared array.
        kind: what the clients returned.
        clients: their ids, in the capture and in the names of the dumped files.
        absent: pairs of a client and a round (from 0) in which the client returned nothing.
        tolerance: relative; 0: to the bit.
    """
    found = capture.read(folder)
    layout = capture.layout(found)
    assert layout.model == {'name': 'ncf', 'dim': 8, 'hidden': (16, 8), 'use_bias': True}
    assert layout.num_items == ITEMS
    assert set(found.clients) == set(clients)
    first = min(round_ for rounds in found.clients.values() for round_ in rounds)
    for client in clients:
        expected = [first + n for n in range(ROUNDS) if (client, n) not in absent]
        assert list(found.clients[client]) == expected, client
        uploads, seen = _uploads(found, client, layout)
        assert uploads.kind == kind
        raw = [_dumped(dumped, round_, client) for round_ in found.clients[client]]
        # A row stays in a round in which no unit of the first layer is active for its item.
        tables = np.stack([each['item_embedding.weight'] for each in raw])
        items = uploads.transcript.items
        np.testing.assert_array_equal(items, np.nonzero(np.any(tables != 0, axis=(0, 2)))[0])
        for step, each in enumerate(raw):
            expected = capture.take(layout, each)
            assert set(seen) == set(expected)
            for name, leaf in expected.items():
                leaf = leaf[items] if name.startswith('items/') else leaf
                np.testing.assert_allclose(seen[name][step], leaf, tolerance, 0, err_msg=name)
                assert np.any(leaf != 0), name
    return found


def audit(folder, truth, out):
    """Audits a capture: nearly all histories of the framework's own training are recovered."""
    assert capture_audit.run(str(folder), str(out), 'x', str(truth), most=1, log=silent)
    summary = json.loads((out / 'summary.json').read_text(encoding='utf-8'))
    assert summary['num_clients'] == CLIENTS
    assert summary['num_failed'] == summary['num_misfits'] == 0
    assert summary['metrics']['f1']['mean'] >= 0.99
