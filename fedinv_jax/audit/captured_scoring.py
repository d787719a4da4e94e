"""Compares the answers on a capture with the truth, where somebody has it."""

import collections
import csv
from collections.abc import Iterable, Mapping, Set

import jax.numpy as jnp
import numpy as np

from fedinv_jax import metrics
from fedinv_jax.report import captured as report

Truth = Mapping[str, frozenset[int]]
"""By client, the rows of the item table that the client interacted with."""


def read_truth(path: str, num_items: int) -> Truth:
    """The interactions of each client.

    Args:
        path: of a CSV file of lines `client,item`, with or without a line of names.
        num_items: number of rows of the item table.

    Raises:
        ValueError: for a line that is no pair, or an item outside the table.
    """
    found: dict[str, set[int]] = collections.defaultdict(set)
    with open(path, encoding='utf-8', newline='') as file:
        for number, line in enumerate(csv.reader(file), start=1):
            if number == 1 and len(line) >= 2 and not line[1].strip().isdigit():
                continue  # names
            if len(line) < 2 or not line[1].strip().isdigit() or int(line[1]) >= num_items:
                raise ValueError(
                    f'{path}, line {number}: expected client,item with an item from 0 to '
                    f'{num_items - 1}, a row of the item table; found {",".join(line)!r:.40}.'
                )
            found[line[0].strip()].add(int(line[1]))
    return {client: frozenset(items) for client, items in found.items()}


def scored(
    row: report.ClientRow, truth: Truth | None, others: Truth | None = None
) -> report.ClientRow:
    """A row with the metrics of its answer, and those of popularity.

    Args:
        row: of a client.
        truth: of all clients; None: there are no metrics.
        others: interactions of people by whom popularity counts; None: the truth of other clients.
    """
    if truth is None:
        return row
    own = truth[row['client']]
    return {**row, 'metrics': metrics_of(row, own, truth if others is None else others)}


def check_clients(path: str, truth: Truth, clients: Iterable[str]) -> None:
    """Refuses a truth that lacks a client of the capture."""
    if missing := [client for client in clients if client not in truth]:
        raise ValueError(
            f'{path} has no line of client {missing[0]!r} of the capture; its clients are '
            f'{", ".join(map(repr, sorted(truth)[:5]))}, ...: expected the ids that were recorded.'
        )


def metrics_of(
    row: report.ClientRow, own: frozenset[int], others: Truth
) -> dict[str, float | None]:
    """The metrics of an answer, and of popularity among other people.

    Interactions that are not among the candidates (`outside`) count as missed. A client without an
    answer has F1 0 and AUC 1/2, and no popularity: its candidates are not known.

    Args:
        row: of the client.
        own: the client's interactions.
        others: interactions of people, of whom the one with the client's id does not count.
    """
    items = np.asarray(row['candidates'], int)
    counts = collections.Counter(
        item for who, of in others.items() if who != row['client'] for item in of
    )
    popularity = np.array([counts[int(item)] for item in items], float)
    most = np.argsort(-popularity, kind='stable')[: len(own)]
    where = np.isin(items, list(own))
    return {
        'f1': _f1(set(row['interactions']), own),
        'auc': _auc(np.asarray(row['scores']), where),
        'exact': float(row['status'] == 'ok' and set(row['interactions']) == own),
        'outside': float(len(own - set(items.tolist())) if row['status'] == 'ok' else 0),
        'popularity_f1': _f1(set(items[most].tolist()), own) if items.size else None,
        'popularity_auc': _auc(popularity, where) if items.size else None,
    }


def _f1(found: Set[int], own: Set[int]) -> float:
    return 2 * len(found & own) / max(len(found) + len(own), 1)


def _auc(scores: np.ndarray, where: np.ndarray) -> float | None:
    """AUC; 1/2 without an answer, None without both classes."""
    if not scores.size:
        return 0.5
    if where.all() or not where.any():
        return None
    return float(metrics.auc(*map(jnp.asarray, (scores, where, np.ones(where.shape, bool)))))
