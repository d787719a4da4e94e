"""The files for TPU pods and GKE: what JAX detects there, and what the hosts are told to run."""

import os
import socket
import string
import subprocess
import sys

import pytest
import yaml

from tests.audit.helpers import ROOT

pytestmark = pytest.mark.exhaustive

JOBS = ROOT / 'scripts' / 'jobs'
# With blanks, quotes and brackets, that a shell must not take for its own.
RUN = ['scripts/attack.py', "--config.attack.name=('exact', 'sign')", '--workdir=/shared/a b']
VARIABLES = {'CLAIM': 'c', 'HOSTS': 4, 'CHIPS': 8, 'ACCELERATOR': 'a', 'TOPOLOGY': '4x8'}


def manifest(**variables):
    """The service and the job; `string.Template` replaces variables as `envsubst` does."""
    text = string.Template((JOBS / 'gke.yaml').read_text(encoding='utf-8')).substitute(variables)
    return yaml.safe_load_all(text)


# A fake of the metadata of Google Cloud, as `requests` gives them to JAX.
REQUESTS = """
import os, types
def get(url, **_):
    known = {'agent-worker-number': os.environ['NUMBER'],
             'worker-network-endpoints': 'x:y:localhost,x:y:otherhost'}
    return types.SimpleNamespace(text=known.get(url.rsplit('/', 1)[1], ''), status_code=200)
"""
# JAX says that there is no TPU; Google Cloud would.
DETECT = """
import os
from fedinv_jax.audit import distributed
if 'TPU_WORKER_ID' not in os.environ:
    os.environ.pop('TPU_SKIP_MDS_QUERY', None)
print('part', *distributed.initialize())
"""


# On TPU hosts JAX reads these variables (GKE) or metadata (pod), and no others.
@pytest.mark.slow
@pytest.mark.parametrize('where', ['gke', 'pod'])
def test_jax_detects_the_processes(where, tmp_path):
    (tmp_path / 'requests.py').write_text(REQUESTS)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    processes = []
    for number in range(2):
        gke = {'TPU_WORKER_ID': str(number), 'TPU_WORKER_HOSTNAMES': 'localhost,otherhost'}
        environment = {
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'JAX_FORCE_TPU_INIT': '1',
            'JAX_COORDINATOR_PORT': str(port),
            'NUMBER': str(number),
            'PYTHONPATH': f'{tmp_path}:{ROOT}',
            **(gke if where == 'gke' else {}),
        }
        process = subprocess.Popen(
            [sys.executable, '-c', DETECT],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        processes.append(process)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    for number, output in enumerate(outputs):
        assert f'part {number} 2' in output, output


# What GKE needs to number the pods of a TPU slice and to name them to each other.
def test_pods_of_gke_find_each_other():
    service, job = manifest(RUN='scripts/attack.py', **VARIABLES)
    spec, pod = job['spec'], job['spec']['template']['spec']
    assert service['spec']['clusterIP'] == 'None'
    assert service['spec']['selector'] == {'job-name': job['metadata']['name']}
    assert pod['subdomain'] == service['metadata']['name']
    assert spec['completionMode'] == 'Indexed'
    assert spec['completions'] == spec['parallelism'] == 4
    (container,) = pod['containers']
    assert container['resources']['limits'] == {'google.com/tpu': 8}
    assert pod['nodeSelector']['cloud.google.com/gke-tpu-topology'] == '4x8'
    (mount,), (volume,) = container['volumeMounts'], pod['volumes']
    assert mount['name'] == volume['name']
    assert volume['persistentVolumeClaim']['claimName'] == 'c'
    assert container['workingDir'].startswith(mount['mountPath'])


def fake(folder, name, script):
    """A program of this name, first in the PATH of what is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\n{script}\n')
    path.chmod(0o755)
    return {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}'}


PRINT = 'printf "%s\\n" "$@"'


def test_a_pod_of_gke_runs_what_was_asked_for(tmp_path):
    fake(tmp_path, 'pip', 'exit 0')
    environment = fake(tmp_path, 'python', PRINT)
    asked = f'{RUN[0]} "{RUN[1]}" \'{RUN[2]}\''
    _, job = manifest(RUN=asked, **VARIABLES)
    (container,) = job['spec']['template']['spec']['containers']
    done = subprocess.run(
        [*container['command'], *container['args']],
        env=environment, text=True, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [*RUN, '--distributed']


GCLOUD = """
case $4 in
  scp) cp "$5" "$HOST/${6#*:}" ;;
  ssh) cd "$HOST" && command="${@: -1}" && bash -c "${command#--command=}" ;;
esac
"""


# With a `gcloud` whose only host is a folder. Failed on: `$*` for the quoted arguments.
@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='only a clone has commits to copy')
def test_a_host_of_a_pod_runs_what_was_asked_for(tmp_path):
    host = tmp_path / 'host'
    fake(host / 'fedinv_jax' / '.venv' / 'bin', 'python', PRINT)
    (host / 'fedinv_jax' / '.venv' / '.installed').touch()
    environment = fake(tmp_path, 'gcloud', GCLOUD)
    done = subprocess.run(
        [JOBS / 'tpu_pod.sh', *RUN],
        cwd=ROOT, env={**environment, 'HOST': str(host), 'TPU': 't', 'ZONE': 'z'},
        text=True, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [*RUN, '--distributed']
    assert (host / 'fedinv_jax' / RUN[0]).exists()
