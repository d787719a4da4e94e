"""Compares the rows of two work directories, of this version or of 0.1, without the timings.

    python benchmarks/same_rows.py BEFORE AFTER

A work directory may contain several runs in folders, as that of a study does. Answers to transcript
files are compared too. The program prints the number of differences and the first ones, and its
exit status is 1 if there is any.
"""

import json
import pathlib
import sys
from typing import Any

from absl import app

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fedinv_jax.audit import workdir

_ASIDE = ('seconds', 'schema', 'config_hash')
_SHOWN = 5


def rows_of(folder: pathlib.Path) -> dict[tuple, dict[str, Any]]:
    """The rows of a run by setting, seed and user, without timings and hashes of the config."""
    return {
        workdir.key(row): {name: value for name, value in row.items() if name not in _ASIDE}
        for row in workdir.read_rows(folder)
    }


def differences(before: pathlib.Path, after: pathlib.Path) -> list[str]:
    """The differences between the rows of two runs, one line each."""
    one, other = rows_of(before), rows_of(after)
    found = [f'only in {before}: {key}' for key in one.keys() - other.keys()]
    found += [f'only in {after}: {key}' for key in other.keys() - one.keys()]
    for key in one.keys() & other.keys():
        names = sorted(one[key].keys() | other[key].keys())
        found += [
            f'{key}: {name} {one[key].get(name)} != {other[key].get(name)}'
            for name in names
            if one[key].get(name) != other[key].get(name)
        ]
    return found


def _answer(path: pathlib.Path) -> Any:
    """What `answer.json` holds."""
    return json.loads(path.read_text(encoding='utf-8'))


def main(argv: list[str]) -> None:
    """Compares every run and answer in the first folder with its counterpart in the second."""
    if len(argv) != 3:
        raise app.UsageError('Expected two work directories.')
    before, after = map(pathlib.Path, argv[1:])
    names = {
        path.relative_to(folder)
        for folder in (before, after)
        for name in ('config.json', 'answer.json')
        for path in folder.rglob(name)
    }
    total, positions = 0, [before / name for name in sorted(names)]
    if not positions:
        raise app.UsageError(f'Neither {before} nor {after} contains a run.')
    for path in positions:
        other = after / path.relative_to(before)
        if not (path.exists() and other.exists()):
            found = [f'{other if path.exists() else path} does not exist']
        elif path.name == 'answer.json':
            same = _answer(path) == _answer(other)
            found = [] if same else [f'{path} and {other} differ']
        else:
            found = differences(path.parent, other.parent)
        count = len(rows_of(path.parent)) if path.name == 'config.json' and path.exists() else 1
        found += [] if count else [f'{path.parent} has no rows']
        print(f'{path.parent.relative_to(before)}: {count} rows, {len(found)} differences')
        print(''.join(f'  {line}\n' for line in found[:_SHOWN]), end='')
        total += len(found)
    sys.exit(min(total, 1))


if __name__ == '__main__':
    app.run(main)
