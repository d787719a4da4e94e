"""How a run was started and what it runs on: `run.json` and `versions.json`, for the report."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
from typing import Any, NamedTuple

import jax

from fedinv_jax import _version
from fedinv_jax.audit import files

_PACKAGES = ('jax', 'jaxlib', 'optax', 'flax', 'numpy', 'chex', 'scipy')
_NOTHING = 'not recorded'


class Record(NamedTuple):
    """How a run was started, for the report.

    Attributes:
        command: the command line.
        threat_model: the threat model as printed.
        num_rows: number of rows of the complete run; None if not recorded.
    """

    command: str
    threat_model: str
    num_rows: int | None = None


def write(folder: pathlib.Path, record: Record) -> None:
    """Writes the record to `run.json`, and what the run runs on to `versions.json`."""
    files.write(folder / 'run.json', json.dumps(record._asdict(), indent=2) + '\n')
    files.write(folder / 'versions.json', json.dumps(versions(), indent=2) + '\n')


def read(folder: pathlib.Path) -> Record:
    """The record in `run.json`; version 0.1 has no such file: read from the report's text then."""
    path, report = folder / 'run.json', folder / 'report.md'
    if path.exists():
        stored = {'command': _NOTHING, 'threat_model': _NOTHING, **_object(path)}
        return Record(stored['command'], stored['threat_model'], stored.get('num_rows'))
    text = report.read_text(encoding='utf-8') if report.exists() else ''
    command, model = (
        re.search(rf'^## {title}\n\n```\n(.*?)\n```$', text, re.S | re.M)
        for title in ('Command', 'Threat model')
    )
    return Record(command[1] if command else _NOTHING, model[1] if model else _NOTHING)


def read_versions(folder: pathlib.Path) -> dict[str, Any]:
    """Packages and devices of the run in a folder, see `versions`; 'not recorded' without them."""
    path = folder / 'versions.json'
    return _object(path) if path.exists() else {'versions': _NOTHING}


def _object(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file beside the rows."""
    with contextlib.suppress(json.JSONDecodeError):
        stored = json.loads(path.read_text(encoding='utf-8', errors='backslashreplace'))
        if isinstance(stored, dict):
            return stored
    raise ValueError(f'{path}: expected a JSON object. Remove the file: the rows do not need it.')


def versions() -> dict[str, Any]:
    """Versions of packages and Python, the devices, and the date (UTC)."""
    return {
        'fedinv_jax': _version.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        'python': platform.python_version(),
        'platform': platform.platform(),
        'cpus': os.cpu_count(),
        'devices': [f'{device.platform}: {device.device_kind}' for device in jax.devices()],
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }
