"""Rows of a fuzz run -> wrong certificates with a bound on their rate, and what was certified.

The unit is a client under one member (seed, cell, client, member): clients are drawn independently.
"""

import collections
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import scipy.stats

Row = dict[str, Any]
WORDS = ('certified', 'locally_unique')
"""What an answer may be said to be: bool fields of a certificate, read where they are."""


def upper_bound(failures: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided Clopper-Pearson upper bound on a rate.

    Example:
        >>> round(upper_bound(0, 299), 4), upper_bound(2, 2), upper_bound(0, 0)
        (0.01, 1.0, 1.0)

    References:
        Clopper, Pearson, The use of confidence or fiducial limits illustrated in the case of the
        binomial, Biometrika 26(4), 1934, doi:10.1093/biomet/26.4.404.
    """
    if failures == trials:
        return 1.0
    return float(scipy.stats.beta.ppf(confidence, failures + 1, trials - failures))


def unit(row: Row) -> tuple[int, int, int, str]:
    """What a row is about."""
    return row['seed'], row['number'], row['client'], row['member']


def read(path: str | os.PathLike) -> list[Row]:
    """The rows of a file, none twice; a last line that was not written to its end is left out."""
    path = pathlib.Path(path)
    lines = path.read_text(encoding='utf-8').splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith('\n')]
    return list({unit(row): row for row in rows}.values())


def append(path: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Adds rows to a file, which begins a line of its own."""
    path = pathlib.Path(path)
    if path.exists() and (text := path.read_text(encoding='utf-8')) and not text.endswith('\n'):
        path.write_text(text[: text.rfind('\n') + 1], encoding='utf-8')
    with open(path, 'a', encoding='utf-8') as file:
        file.write(''.join(json.dumps(row) + '\n' for row in rows))


def wrong(rows: Iterable[Row], word: str = 'certified') -> list[Row]:
    """Answers that are said to be the only ones and are wrong, the smallest problems first."""
    found = [row for row in rows if row.get(word) and row['outcome'] == 'wrong']
    return sorted(found, key=lambda row: (row['steps'], row['dim'], row['batch'], unit(row)))


def lines(rows: list[Row], shown: int = 3) -> Iterator[str]:
    """The summary as Markdown: totals, tables by member and model, the smallest wrong cases."""
    words = [word for word in WORDS if any(word in row for row in rows)]
    outcomes = collections.Counter(row['outcome'] for row in rows)
    clients = len({unit(row)[:3] for row in rows})
    counts = ', '.join(f'{outcomes[name]} {name}' for name in ('right', 'wrong', 'refused'))
    yield f'{clients} clients, {len(rows)} units (client, seed, member): {counts}.'
    for word in words:
        said = [row for row in rows if row.get(word)]
        failures = len(wrong(rows, word))
        yield (
            f'{word}: {len(said)}, of which {failures} wrong; failure rate below '
            f'{upper_bound(failures, len(said)):.3g} (95%, one-sided Clopper-Pearson).'
        )
    yield from ['', *_table(rows, words), '']
    for word in words:
        for kind in _kinds(wrong(rows, word)).values():
            yield from (f'wrong, {word}: {_told(row)}' for row in kind[:shown])
    reasons = collections.Counter(
        (row['member'], row['reason']) for row in rows if row['outcome'] == 'refused'
    )
    yield from (f'refused {count} times, {at[0]}: {at[1]}' for at, count in reasons.items())


def _kinds(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by member and model."""
    found = collections.defaultdict(list)
    for row in rows:
        found[row['member'], row['model']].append(row)
    return dict(sorted(found.items()))


def _table(rows: list[Row], words: list[str]) -> Iterator[str]:
    heads = [f'{word}, share of right | {word} and wrong' for word in words]
    yield f'| {" | ".join(["member", "model", "answered", "right", *heads])} |'
    yield '|---' * (4 + 2 * len(words)) + '|'
    for (member, model), kind in _kinds(rows).items():
        answered = [row for row in kind if row['outcome'] != 'refused']
        right = [row for row in answered if row['outcome'] == 'right']
        if not answered:
            continue
        cells = [member, model, str(len(answered)), str(len(right))]
        for word in words:
            said = sum(bool(row.get(word)) for row in right)
            share = f'{said} ({said / len(right):.0%})' if right else '0'
            cells += [share, str(len(wrong(kind, word)))]
        yield f'| {" | ".join(cells)} |'


def _told(row: Row) -> str:
    """A wrong case with all that makes it again."""
    every = row['mistakes'] == row['batch']
    return (
        f'{row["model"]}, {row["member"]}: --seed={row["seed"]} --cell={row["number"]} '
        f'client {row["client"]}; D={row["dim"]} hidden={row["hidden"]} scale={row["scale"]:g} '
        f'seen={row["seen"]} T={row["steps"]} {row["loss"]} {row["channel"]} '
        f'level={row["level"]:g}; {row["positives"]} of {row["batch"]} are positives, '
        f'{"all" if every else row["mistakes"]} labels wrong; margin {row["margin"]:.3g}, '
        f'noise {row["noise"]:.3g}, objective {row["objective"]:.3g}'
    )
