"""A work directory: the record of one run, safe to stop and to go on with.

`config.json`, `versions.json`, `victims.jsonl` (one row per victim and setting), `summary.json`,
`report.md`, `figures/`.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import jax

Row = dict[str, Any]
_PACKAGES = ('jax', 'jaxlib', 'optax', 'flax', 'numpy', 'chex', 'scipy')


def open_(
    folder: str | os.PathLike, config: Mapping[str, Any], data: Mapping[str, Any]
) -> pathlib.Path:
    """Makes the folder, or checks that it belongs to the same config and data.

    Args:
        folder: the work directory.
        config: as nested dicts; its section 'run' may differ (it cannot change a result).
        data: what identifies the data, such as the hash of the fixed negatives.

    Raises:
        ValueError: if the folder holds a run of another config or on other data; the differences
            are listed.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = json.loads(json.dumps({'config': config, 'data': data}))
    path = folder / 'config.json'
    if (folder / 'victims.jsonl').exists():
        if not path.exists():
            raise ValueError(f'{folder} holds rows but no config.json. Choose another --workdir.')
        different = [
            f'{name} is {before} there, {after} here'
            for name, before, after in _differences(json.loads(path.read_text()), record)
            if not name.startswith('config.run.')
        ]
        if different:
            raise ValueError(
                f'{folder} holds another run: {"; ".join(different)}. Choose another --workdir, '
                'or remove the folder.'
            )
    write(path, json.dumps(record, indent=2) + '\n')
    write(folder / 'versions.json', json.dumps(versions(), indent=2) + '\n')
    return folder


def versions() -> dict[str, Any]:
    """What the run runs on: packages, Python, device, date (UTC)."""
    return {
        'fedinv_jax': importlib.import_module('fedinv_jax').__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        'python': platform.python_version(),
        'platform': platform.platform(),
        'cpus': os.cpu_count(),
        'devices': [f'{device.platform}: {device.device_kind}' for device in jax.devices()],
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + '.part')
    temporary.write_text(text)
    os.replace(temporary, path)


def read_rows(folder: pathlib.Path) -> list[Row]:
    """The rows so far; a last line that was cut off while being written is dropped."""
    path = folder / 'victims.jsonl'
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind('\n') + 1]
    if whole != text:
        write(path, whole)
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}, line {number}: expected a JSON object: {error}.') from error
    return rows


def append_rows(folder: pathlib.Path, rows: Iterable[Row]) -> None:
    """Appends rows and waits until they are on the disk."""
    text = ''.join(json.dumps(row, allow_nan=False) + '\n' for row in rows)
    with open(folder / 'victims.jsonl', 'a') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _differences(before: Any, after: Any, name: str = '') -> list[tuple[str, Any, Any]]:
    """Leaves that differ between two JSON values: name, before, after."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            difference
            for key in {**before, **after}
            for difference in _differences(
                before.get(key), after.get(key), f'{name}.{key}' if name else key
            )
        ]
    return [] if before == after else [(name, json.dumps(before), json.dumps(after))]
