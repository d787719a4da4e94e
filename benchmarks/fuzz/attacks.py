"""The members of the exact attack on the clients of a cell: a row for each client and member."""

import importlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.fuzz import clients, models
from fedinv_jax import compilation
from fedinv_jax.attack import exact
from fedinv_jax.attack.exact import Choice, Known
from fedinv_jax.types import Answer

# The package's `choose` is the function of that module.
MEMBERS: tuple[str, ...] = tuple(
    sorted(importlib.import_module('fedinv_jax.attack.exact.choose').MEMBERS)
)
POSITIVES = 0.2
"""What attackers take for the share of interactions, whatever it is."""

Row = dict[str, Any]


def asked_of(cell: clients.Cell, members: Sequence[str] = ()) -> tuple[str, ...]:
    """The members that run on a cell: the given ones, or 'auto' and one more in its turn.

    Example:
        >>> asked_of(clients.draw_cell(0, 0))
        ('auto', 'aligned')
    """
    turn = MEMBERS[cell.number // len(models.MODELS) % len(MEMBERS)]
    return tuple(members) or ('auto', turn)


def fuzz_cell(
    cell: clients.Cell, count: int, members: Sequence[str], step_sizes_known: bool = True
) -> list[Row]:
    """Rows of the first `count` clients of a cell; members that are one solver have them once.

    If the step sizes are not known, each client has its own, of item rows and of the scorer.
    """
    federation, made = clients.make(cell, count)
    if not step_sizes_known:
        made = clients.stepped(cell, made)
    rows: list[Row] = []
    with jax.enable_x64(True):
        known = exact.probe(
            federation.client_update, federation.observation, federation.model.init_private,
            clients.probing_draws(federation.model), federation.rounding, POSITIVES,
            federation.linear_update, federation.signs, step_sizes_known,
        )  # fmt: skip
        for asked in members:
            if asked not in {row['member'] for row in rows}:
                rows += _member(cell, known, made, asked)
    described = {**cell._asdict(), 'hidden': list(cell.hidden)}
    return [{**described, **row} for row in rows]


def _member(cell: clients.Cell, known: Known, made: clients.Clients, asked: str) -> list[Row]:
    """The rows of one member, in float64; ValueError is a refusal, with its reason."""
    sizes = [
        {'client': v, 'batch': int(real.sum()), 'positives': int(made.labels[v].sum())}
        for v, real in enumerate(made.real)
    ]
    try:
        choice = exact.choose(known, solver=asked)
        answers = _attack(cell, choice, made)
    except ValueError as error:
        refused = {'asked': asked, 'member': asked, 'outcome': 'refused', 'reason': str(error)}
        return [{**size, **refused} for size in sizes]
    wrong = (np.asarray(answers.labels) != made.labels) & made.real
    rows = []
    for v, size in enumerate(sizes):
        outcome = 'wrong' if wrong[v].any() else 'right'
        row = {**size, 'asked': asked, 'member': choice.solver, 'outcome': outcome}
        row |= {'mistakes': int(wrong[v].sum()), 'objective': float(answers.objective[v])}
        if answers.certificate is not None:
            fields = answers.certificate._asdict()
            row |= {name: leaf[v].item() for name, leaf in fields.items() if leaf is not None}
        rows.append(row)
    return rows


def _attack(cell: clients.Cell, choice: Choice, made: clients.Clients) -> Answer:
    """The answers, one client after the other in one compiled function."""
    keys = clients.keys(cell, len(made.labels))

    def attacks(given: tuple) -> Answer:
        return jax.lax.map(lambda each: choice.attack(*each), given)

    return jax.device_get(compilation.jit(attacks)((made.transcripts, keys)))
