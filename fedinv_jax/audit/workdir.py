"""A work directory: the record of one run, safe to stop and to go on with.

`config.json`, `versions.json`, `run.json` (command and threat model), `victims.jsonl` (one row per
victim and setting; of a shard `victims-0-of-3.jsonl`, until they are merged), `summary.json`,
`report.md`, `report.html`, `figures/`; by the commands also `compiled/`, JAX's compilation cache.
"""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from fedinv_jax import _version
from fedinv_jax.audit import compatibility, defences, files
from fedinv_jax.audit.config import Config, default_config
from fedinv_jax.report import rows as rows_lib
from fedinv_jax.report import stats
from fedinv_jax.report.rows import VictimRow

Shard = tuple[int, int]
"""Which part of a run a process does, and of how many: `(0, 1)` is all of it."""

Key = tuple[str, int, int]
"""See `key`."""

_ALL: Shard = (0, 1)
_ROWS = 'victims*.jsonl'
_PACKAGES = ('jax', 'jaxlib', 'optax', 'flax', 'numpy', 'chex', 'scipy')


def check_config(folder: str | os.PathLike, config: Mapping[str, Any]) -> None:
    """Refuses a folder that belongs to another config, and changes nothing.

    This is known before data are read or anything is compiled; `open_or_create` checks again.

    Raises:
        ValueError: see `open_or_create`, data aside.
    """
    folder = pathlib.Path(folder)
    stored = _stored(folder)
    if (folder / 'study.json').exists():
        raise ValueError(
            f'{folder} holds a study, not a run of `fedinv attack`. Choose another --workdir.'
        )
    if stored is not None:
        _refuse_another(folder, stored, {**stored, 'config': config})
    elif any(rows.stat().st_size for rows in folder.glob(_ROWS)):
        raise ValueError(f'{folder} holds rows but no config.json. Choose another --workdir.')


def open_or_create(
    folder: str | os.PathLike, config: Mapping[str, Any], data: Mapping[str, Any]
) -> pathlib.Path:
    """Makes the folder, or checks that it belongs to the same config and data.

    One lock is held while `config.json` is compared or created, so that of two processes that start
    at once with different configs one is refused. A file that is there is never written again.

    Args:
        folder: the work directory.
        config: as nested dicts; its section 'run' may differ (it cannot change a result).
        data: what identifies the data, such as the hash of the fixed negatives.

    Raises:
        ValueError: if the folder holds a run of another config or on other data, with rows or
            without; the differences are listed. If it holds a study, or rows without a config.
    """
    folder = pathlib.Path(folder)
    check_config(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'config.json', 'a', encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        stored, record = _stored(folder), {'config': config, 'data': data}
        if stored is not None:
            _refuse_another(folder, stored, record)
        else:
            file.truncate(0)
            file.write(json.dumps(record, indent=2) + '\n')
    return folder


def _stored(folder: pathlib.Path) -> dict[str, Any] | None:
    """What `config.json` holds; None where there is none, or not all of it as a process stopped.

    Raises:
        ValueError: if it is of something else.
    """
    path = folder / 'config.json'
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError:
        return None
    if not (isinstance(stored, dict) and isinstance(stored.get('config'), dict)):
        raise ValueError(f'{path} is no config of a run. Choose another --workdir.')
    return stored


def _refuse_another(
    folder: pathlib.Path, stored: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Refuses a config, or data, that are not those of the folder."""
    record = json.loads(json.dumps(record))
    own = compatibility.upgrade(stored['config'], Config(record['config']))
    different = [
        f'{name} is {before} there, {after} here'
        for name, before, after in _differences({**stored, 'config': own}, record)
        if not name.startswith('config.run.')
    ]
    if different:
        raise ValueError(
            f'{folder} holds another run: {"; ".join(different)}. Choose another --workdir, '
            'or remove the folder.'
        )


def config_hash(folder: pathlib.Path) -> str:
    """Which config a folder belongs to, `run` aside: what each of its rows carries.

    Of `config.json` as it was created, so that a version that names a field otherwise agrees.

    Raises:
        ValueError: if the folder holds no run.
    """
    config = {name: value for name, value in _record(folder)['config'].items() if name != 'run'}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _record(folder: pathlib.Path) -> dict[str, Any]:
    """What `config.json` holds, of a folder that must hold a run."""
    stored = _stored(folder)
    if stored is None:
        raise ValueError(f'{folder} holds no run: expected {folder / "config.json"}.')
    return stored


class Record(NamedTuple):
    """How a run was started, for the report.

    Attributes:
        command: its command line.
        threat_model: as it was printed.
        num_rows: how many rows it has in the end; None where that was not recorded.
    """

    command: str
    threat_model: str
    num_rows: int | None = None


def write_record(folder: pathlib.Path, record: Record) -> None:
    """Keeps it in `run.json`, and what the run runs on in `versions.json`."""
    files.write(folder / 'run.json', json.dumps(record._asdict(), indent=2) + '\n')
    files.write(folder / 'versions.json', json.dumps(versions(), indent=2) + '\n')


def read_record(folder: pathlib.Path) -> Record:
    """What `run.json` holds; of a folder of version 0.1, which has none, what its report says."""
    path, report = folder / 'run.json', folder / 'report.md'
    if path.exists():
        return Record(**json.loads(path.read_text(encoding='utf-8')))
    text = report.read_text(encoding='utf-8') if report.exists() else ''
    command, model = (
        re.search(rf'^## {title}\n\n```\n(.*?)\n```$', text, re.S | re.M)
        for title in ('Command', 'Threat model')
    )
    nothing = 'not recorded'
    return Record(command[1] if command else nothing, model[1] if model else nothing)


def read_config(folder: pathlib.Path) -> Config:
    """The config of the run in a folder.

    Raises:
        ValueError: if the folder holds no run.
    """
    return Config(compatibility.upgrade(_record(folder)['config'], default_config()))


def read_versions(folder: pathlib.Path) -> dict[str, Any]:
    """What the run in a folder ran on, see `versions`."""
    path = folder / 'versions.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else versions()


def versions() -> dict[str, Any]:
    """What the run runs on: packages, Python, device, date (UTC)."""
    return {
        'fedinv_jax': _version.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        'python': platform.python_version(),
        'platform': platform.platform(),
        'cpus': os.cpu_count(),
        'devices': [f'{device.platform}: {device.device_kind}' for device in jax.devices()],
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }


def key(row: VictimRow) -> Key:
    """Setting, seed and victim of a row: what may be in a work directory once."""
    return stats.setting(row), row['seed'], row['user']


def rows_file(folder: pathlib.Path, shard: Shard = _ALL) -> pathlib.Path:
    """Where a shard writes its rows."""
    index, count = shard
    return folder / ('victims.jsonl' if count == 1 else f'victims-{index}-of-{count}.jsonl')


def read_rows(folder: pathlib.Path) -> list[VictimRow]:
    """The rows so far, of all shards, each once: a merge that was killed leaves some twice.

    A last line that is not whole is left out. Rows of version 0.1 become such as this version
    writes: what they lack is in the config.

    Raises:
        ValueError: for a line that is no row, or a row of another config; the message names file
            and line.
    """
    found = {
        path: text[: text.rfind('\n') + 1].splitlines()
        for path in sorted(folder.glob(_ROWS), key=_shard_number)
        for text in [path.read_text(encoding='utf-8')]
    }
    if not any(found.values()):
        return []
    config = read_config(folder)
    of_config = {
        'defence': defences.label(config),
        'defences': defences.numbers(config),
        'labels_changed': defences.labels_changed(config),
        'config_hash': config_hash(folder),
    }
    rows = [
        _parse(line, f'{path}, line {number}', of_config)
        for path, lines in found.items()
        for number, line in enumerate(lines, start=1)
    ]
    return list({key(row): row for row in rows}.values())


def _parse(line: str, where: str, of_config: Mapping[str, Any]) -> VictimRow:
    """The row that a line of a file holds, of this folder's config."""
    try:
        row = rows_lib.upgrade(json.loads(line), of_config)
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{where}: expected a JSON object: {error}. Remove that line: its victims are attacked '
            'again.'
        ) from error
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    if row['config_hash'] != of_config['config_hash']:
        raise ValueError(
            f'{where}: expected rows of the config {of_config["config_hash"]} that config.json '
            f'holds, got one of {row["config_hash"]}. Move that file to the folder of its own run.'
        )
    return row


@contextlib.contextmanager
def locked_rows(
    folder: pathlib.Path, shard: Shard = _ALL, log: Callable[[str], None] = print
) -> Iterator[None]:
    """Makes a shard's rows file this process's alone, its last line whole.

    A line that was cut off while being written is dropped, and `log` says so.

    Raises:
        ValueError: if another process writes it.
    """
    path = rows_file(folder, shard)
    with open(path, 'a+b') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f'Another process writes {path}. Wait for it, or choose another --workdir or '
                '--shard.'
            ) from error
        file.seek(0)
        text = file.read()
        whole = text.rfind(b'\n') + 1
        if whole < len(text):
            count = text.count(b'\n')
            log(
                f'warning: {path}: the last line was cut off while being written and is dropped; '
                f'the {count} rows before it are whole'
            )
            file.truncate(whole)
        yield


def append_rows(folder: pathlib.Path, rows: Iterable[VictimRow], shard: Shard = _ALL) -> None:
    """Appends rows and waits until they are on the disk.

    Raises:
        ValueError: for a row that is not as `report.rows` has it, or of another config than the
            folder's, where somebody made the folder anew; none is written then.
    """
    rows = list(rows)
    text = ''.join(map(_line, rows))
    if {row['config_hash'] for row in rows} - {config_hash(folder)}:
        raise ValueError(f'{folder} now belongs to another config: no row was written.')
    with open(rows_file(folder, shard), 'a', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def merge(folder: pathlib.Path, rows: Iterable[VictimRow]) -> None:
    """Makes `rows` the one rows file, and removes those of the shards."""
    files.write(rows_file(folder), ''.join(_line(row) for row in rows))
    for path in folder.glob('victims-*.jsonl'):
        path.unlink()


def _shard_number(path: pathlib.Path) -> list[int]:
    return [int(part) for part in re.findall(r'\d+', path.name)]


def _line(row: VictimRow) -> str:
    return json.dumps(rows_lib.check(row), allow_nan=False) + '\n'


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
