"""Is a certificate of the exact attack ever wrong? Thousands of small random clients of many kinds.

    python benchmarks/fuzz_certificates.py --clients=20000 --json=fuzz.jsonl

draws cells of clients (`fuzz/clients.py`: model, D, scale, what is seen, T, batch, loss, noise or
precision of the uploads), runs 'auto' and one more member on each, writes a row for each client and
member, and prints the summary of all rows in the file. Rows that the file holds are not computed
again. The exit status is 1 if a certificate is wrong. `--cell=N` makes the rows of one cell; a row
depends on its seed, cell, client and member only.
"""

import functools
import itertools
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from benchmarks.fuzz import attacks, clients, models, summary
from fedinv_jax.audit import process, progress

_CLIENTS = flags.DEFINE_integer('clients', 20_000, 'Clients, rounded up to whole cells.', 1)
_PER_CELL = flags.DEFINE_integer('per_cell', 40, 'Clients of a cell, which share all shapes.', 1)
_SEED = flags.DEFINE_integer('seed', 0, 'All clients are a function of it.', 0)
_CELL = flags.DEFINE_integer('cell', None, 'Only the cell of that number.', 0)
_MODELS = flags.DEFINE_multi_enum(
    'model', [], list(models.MODELS), 'Only cells of that model; may be given several times.'
)
_MEMBERS = flags.DEFINE_list('members', [], "Members; none: 'auto' and one more in its turn.")
_KNOWN = flags.DEFINE_bool('step_sizes_known', True, 'If not, each client has sizes of its own.')
_JSON = flags.DEFINE_string('json', None, 'JSON lines to read and add to.')
_WORKERS = flags.DEFINE_integer('workers', len(os.sched_getaffinity(0)), 'Processes.', 1)

_PER_PROCESS = 25  # cells, whose compiled functions stay in memory
Task = tuple[clients.Cell, tuple[str, ...]]


def cells() -> Iterator[clients.Cell]:
    """The cells of this run."""
    if _CELL.value is not None:
        return iter([clients.draw_cell(_SEED.value, _CELL.value)])
    every = (clients.draw_cell(_SEED.value, number) for number in itertools.count())
    wanted = (cell for cell in every if not _MODELS.value or cell.model in _MODELS.value)
    return itertools.islice(wanted, -(-_CLIENTS.value // _PER_CELL.value))


def tasks(rows: list[summary.Row]) -> list[Task]:
    """The cells of this run, each with the members whose rows are not there."""
    there = {
        (*summary.unit(row)[:3], name) for row in rows for name in (row['asked'], row['member'])
    }
    found = []
    for cell in cells():
        left = tuple(
            member
            for member in attacks.asked_of(cell, _MEMBERS.value)
            if any((*cell[:2], v, member) not in there for v in range(_PER_CELL.value))
        )
        found += [(cell, left)] if left else []
    return found


def computed(todo: list[Task]) -> Iterator[list[summary.Row]]:
    """The rows of each cell as they come, of several processes."""
    # Not concurrent.futures: its pool may hang when it replaces processes (CPython issue 115634).
    spawn = multiprocessing.get_context('spawn')
    with spawn.Pool(_WORKERS.value, process.configure, maxtasksperchild=_PER_PROCESS) as pool:
        each = functools.partial(_fuzz, _PER_CELL.value, _KNOWN.value)
        yield from pool.imap_unordered(each, todo)


def _fuzz(count: int, step_sizes_known: bool, task: Task) -> list[summary.Row]:
    cell, members = task
    return attacks.fuzz_cell(cell, count, members, step_sizes_known)


def told(done: int, total: int, seconds: float, rows: list[summary.Row]) -> str:
    """A line of progress."""
    left = progress.duration(seconds / done * (total - done))
    wrong = len(summary.wrong(rows))
    return f'{done} of {total} cells, {left} left, {wrong} wrong certificates'


def main(argv: list[str]) -> None:
    """Computes the rows that are missing, prints the summary of all."""
    if len(argv) > 1:
        raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
    if 'xla_backend_optimization_level' not in os.environ.get('XLA_FLAGS', ''):
        # Functions of a few milliseconds: most of the time is spent compiling.
        os.environ['XLA_FLAGS'] = (
            f'--xla_backend_optimization_level=0 {os.environ.get("XLA_FLAGS", "")}'
        )
    rows = summary.read(_JSON.value) if _JSON.value else []
    todo, start = tasks(rows), time.perf_counter()
    for done, new in enumerate(computed(todo), start=1):
        rows += new
        if _JSON.value:
            summary.append(_JSON.value, new)
        seconds = time.perf_counter() - start
        print(told(done, len(todo), seconds, rows), file=sys.stderr, flush=True)
    print('\n'.join(summary.lines(rows)))
    sys.exit(bool(summary.wrong(rows)))


if __name__ == '__main__':
    app.run(main)
