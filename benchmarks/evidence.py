"""How often were certified answers wrong, and up to which rate may they be?

    python benchmarks/evidence.py PATH [PATH ...]

adds up the rows of work directories (a folder: every `victims.jsonl` below it) and of fuzz runs (a
`.jsonl` file of `fuzz_certificates.py`). Rows of one client depend on each other, so the unit is a
client under one member: (data, seed, client, member). A unit counts as certified if one of its rows
is, and as wrong if one of its certified rows is wrong. The exit status is 1 if one is.
"""

import collections
import pathlib
import sys
from collections.abc import Iterable, Iterator

from absl import app

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.fuzz import summary
from fedinv_jax.audit import workdir

Unit = tuple[str, int, str, str]
"""Data, seed, client, member."""


def units_of(path: pathlib.Path) -> Iterator[tuple[Unit, dict[str, bool], bool]]:
    """For each answer in a folder or file: its unit, what it is said to be, whether it is right.

    Raises:
        ValueError: the path holds no rows.
    """
    if path.is_dir():
        folders = sorted(file.parent for file in path.rglob('victims.jsonl'))
        rows = [row for folder in folders for row in workdir.read_rows(folder)]
    else:
        rows = summary.read(path)
    if not rows:
        raise ValueError(f'{path} holds no rows: give work directories or files of a fuzz run.')
    for row in rows:
        said = {word: bool(row.get(word)) for word in summary.WORDS}
        if 'outcome' in row:
            seed, number, client, member = summary.unit(row)
            unit = (f'fuzz, {row["model"]}', seed, f'{number}-{client}', member)
            yield unit, said, row['outcome'] == 'right'
        elif row['family'] == 'exact':
            unit = (row['data'], row['seed'], row['user_id'], row['solver'] or '')
            yield unit, said, row['metrics']['exact'] == 1


def add_up(paths: Iterable[pathlib.Path]) -> dict[str, dict[Unit, bool]]:
    """For each word: the units whose answers it is said of, and whether one of them is wrong."""
    wrong: dict[str, dict[Unit, bool]] = {word: {} for word in summary.WORDS}
    for path in paths:
        for unit, said, right in units_of(path):
            for word in summary.WORDS:
                if said[word]:
                    wrong[word][unit] = wrong[word].get(unit, False) or not right
    return wrong


def table(wrong: dict[str, dict[Unit, bool]]) -> list[str]:
    """The counts as Markdown, by word, data and member, each with the bound on its rate."""
    found = [
        '| word | data | member | units | wrong | rate of wrong answers below |',
        '|---' * 6 + '|',
    ]
    for word, units in wrong.items():
        kinds = collections.defaultdict(list)
        for (data, _, _, member), failed in sorted(units.items()):
            kinds[data, member].append(failed)
        kinds['all', 'all'] = list(units.values())
        for (data, member), failures in kinds.items():
            bound = summary.upper_bound(sum(failures), len(failures))
            cells = (word, data, member, str(len(failures)), str(sum(failures)), f'{bound:.3g}')
            found.append(f'| {" | ".join(cells)} |')
    return found


def main(argv: list[str]) -> None:
    """Prints the table of all rows in the given folders and files."""
    if len(argv) < 2:
        raise app.UsageError('Expected work directories or files of a fuzz run.')
    wrong = add_up(map(pathlib.Path, argv[1:]))
    print('\n'.join(table(wrong)))
    sys.exit(any(wrong['certified'].values()))


if __name__ == '__main__':
    app.run(main)
