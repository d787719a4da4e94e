"""A work directory: all files of one run, which can be stopped and resumed at any time.

It holds `config.json`, `versions.json`, `run.json` (command and threat model), `victims.jsonl` (one
row per victim and setting; a shard writes `victims-0-of-3.jsonl` until the shards are merged),
`summary.json`, `report.md`, `report.html` and `figures/`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from fedinv_jax.audit import compatibility, defences, files
from fedinv_jax.audit.config import Config, default_config
from fedinv_jax.data import values
from fedinv_jax.report import rows as rows_lib
from fedinv_jax.report import stats
from fedinv_jax.report.rows import VictimRow

Shard = tuple[int, int]
"""`(index, count)`: a process does part `index` of `count` of a run; `(0, 1)` is the whole run."""

Key = tuple[str, int, int]
"""See `key`."""

_ALL: Shard = (0, 1)
_ROWS = 'victims*.jsonl'


def check_config(folder: str | os.PathLike, config: Mapping[str, Any]) -> None:
    """Refuses a folder that belongs to another config, and changes nothing.

    This is known before data are read or anything is compiled; `open_or_create` checks again.

    Raises:
        ValueError: see `open_or_create`, data aside.
    """
    folder = pathlib.Path(folder)
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ValueError(f'{place} is no folder that can be written to. Choose another --workdir.')
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
    """Creates the folder, or checks that it holds a run of the same config and data.

    One lock is held while `config.json` is compared or created, so that of two processes that start
    at once with different configs one is refused. A file that is there is never written again.

    Args:
        folder: the work directory.
        config: the config as nested dicts; its section 'run' may differ (it changes no result).
        data: values that identify the data, such as the hash of the fixed negatives.

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
    """The content of `config.json`; None if there is none, or a process stopped while writing it.

    Raises:
        ValueError: if the file holds no config of a run.
    """
    path = folder / 'config.json'
    if not path.exists():
        return None
    try:
        stored = json.loads(_text(path))
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
        f'{name} is {before} in the folder, {after} in this run'
        for name, before, after in _differences({**stored, 'config': own}, record)
        if not name.startswith('config.run.')
    ]
    if different:
        raise ValueError(
            f'{folder} holds another run: {"; ".join(different)}. Choose another --workdir, '
            'or remove the folder.'
        )


def config_hash(folder: pathlib.Path) -> str:
    """The hash of the config of a folder, without its section `run`; each row carries it.

    The hash is that of `config.json` as it was created: a version that renames a field gets the
    same one.

    Raises:
        ValueError: if the folder holds no run.
    """
    config = {name: value for name, value in _record(folder)['config'].items() if name != 'run'}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _record(folder: pathlib.Path) -> dict[str, Any]:
    """The content of `config.json` in a folder that must hold a run."""
    stored = _stored(folder)
    if stored is None:
        raise ValueError(f'{folder} holds no run: expected {folder / "config.json"}.')
    return stored


def read_config(folder: pathlib.Path) -> Config:
    """The config of the run in a folder.

    Raises:
        ValueError: if the folder holds no run.
    """
    return Config(compatibility.upgrade(_record(folder)['config'], default_config()))


def key(row: VictimRow) -> Key:
    """Setting, seed and user of a row; a work directory has at most one row per key."""
    return stats.setting(row), row['seed'], row['user']


def rows_file(folder: pathlib.Path, shard: Shard = _ALL) -> pathlib.Path:
    """The file to which a shard writes its rows."""
    index, count = shard
    return folder / ('victims.jsonl' if count == 1 else f'victims-{index}-of-{count}.jsonl')


def read_rows(folder: pathlib.Path) -> list[VictimRow]:
    """The rows of all shards so far, in the current schema.

    Each row is returned once, although an interrupted merge leaves some rows in two files. An
    incomplete last line is ignored. Columns that rows of version 0.1 lack are taken from the
    config.

    Raises:
        ValueError: for a line that is no row, or a row of another config; the message names file
            and line.
    """
    found = {
        path: text[: text.rfind('\n') + 1].splitlines()
        for path in sorted(folder.glob(_ROWS), key=_shard_number)
        for text in [_text(path)]
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
    """The row in a line of a file; it must belong to this folder's config."""
    try:
        row = rows_lib.upgrade(json.loads(line, parse_constant=_no_number), of_config)
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{where}: expected a JSON object: {error}. Remove the line; its victim is then '
            'attacked again.'
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
    """Locks a shard's rows file for this process, and removes an incomplete last line.

    Raises:
        ValueError: if another process has locked the file.
    """
    path = rows_file(folder, shard)
    with open(path, 'a+b') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f'Another process is writing {path}. Wait until it has ended, or choose another '
                '--workdir or --shard.'
            ) from error
        file.seek(0)
        text = file.read()
        whole = text.rfind(b'\n') + 1
        if whole < len(text):
            count = text.count(b'\n')
            log(
                f'warning: {path}: the last line was incomplete and has been removed; '
                f'the {count} rows before it are complete'
            )
            file.truncate(whole)
        yield


def append_rows(folder: pathlib.Path, rows: Iterable[VictimRow], shard: Shard = _ALL) -> None:
    """Appends rows and waits until they are on the disk.

    Raises:
        ValueError: if a row does not match `report.rows.VictimRow`, or belongs to another config
            than the folder, which somebody created anew; no row is written then.
    """
    rows = list(rows)
    text = ''.join(map(_line, rows))
    if {row['config_hash'] for row in rows} - {config_hash(folder)}:
        raise ValueError(f'{folder} now belongs to another config. Choose another --workdir.')
    with open(rows_file(folder, shard), 'a', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def merge(folder: pathlib.Path, rows: Iterable[VictimRow]) -> None:
    """Writes `rows` to `victims.jsonl`, and removes the shards' files."""
    files.write(rows_file(folder), ''.join(_line(row) for row in rows))
    for path in folder.glob('victims-*.jsonl'):
        path.unlink()


def _shard_number(path: pathlib.Path) -> list[int]:
    return [int(part) for part in re.findall(r'\d+', path.name)]


def _text(path: pathlib.Path) -> str:
    """The text of a file; bytes that are no UTF-8 are escaped: no JSON, whose reader says where."""
    return path.read_text(encoding='utf-8', errors='backslashreplace')


def _no_number(name: str) -> NoReturn:
    raise ValueError(f'expected a number, got {name}')


def _line(row: VictimRow) -> str:
    return json.dumps(rows_lib.check(row), allow_nan=False) + '\n'


def _differences(before: Any, after: Any, name: str = '') -> list[tuple[str, Any, Any]]:
    """The leaves that differ between two JSON values, each as (name, before, after)."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            difference
            for key in {**before, **after}
            for difference in _differences(
                before.get(key), after.get(key), f'{name}.{key}' if name else key
            )
        ]
    return [] if before == after else [(name, _short(before), _short(after))]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= values.LONGEST else f'{text[: values.LONGEST - 1]}…'
