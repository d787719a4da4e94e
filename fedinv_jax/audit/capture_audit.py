"""From a capture to a report: every client attacked, a row for each, a page for who must decide."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedinv_jax.audit import (
    captured,
    captured_clients,
    captured_scoring,
    files,
    progress,
    reporting,
    run_record,
    workdir,
)
from fedinv_jax.capture import folder as folder_lib
from fedinv_jax.capture import names, uploads
from fedinv_jax.capture import own as own_model
from fedinv_jax.capture import sums as sums_lib
from fedinv_jax.report import captured as report
from fedinv_jax.report import html, results


def run(
    folder: str,
    out: str,
    command: str,
    truth: str | None = None,
    most: int = 4,
    log: Callable[[str], None] = print,
    model: str | None = None,
    data: str | None = None,
) -> bool:
    """Attacks every client of a capture, and writes the report.

    A stopped audit goes on: clients that have a row are not attacked again.

    Args:
        folder: of the capture.
        out: the work directory.
        command: the command line.
        truth: path of a CSV file of lines `client,item`; items are rows of the item table.
        most: number of uploads that are used of a client, the first ones.
        log: prints a line.
        model: path of a file with a model of the user's own, see `capture.own.load`.
        data: path of a CSV file of lines `user,item` by which popularity counts; None: the truth.

    Returns:
        Whether no upload contradicts what the capture says, and no reading that fits does.

    Raises:
        ValueError: for a capture or a file that cannot be read.
    """
    capture, path = folder_lib.read(folder), pathlib.Path(out)
    own = None if model is None else own_model.load(model)
    layout = captured.subject(capture, own).layout
    summed, unread = _summed(capture, layout)
    clients = _clients(capture, summed)
    known = None
    if truth is not None:
        known = captured_scoring.read_truth(truth, layout.num_items)
        captured_scoring.check_clients(truth, known, clients)
    others = None if data is None else captured_scoring.read_truth(data, layout.num_items)
    path.mkdir(parents=True, exist_ok=True)
    about = _about(capture, layout, model)
    if capture.clients:
        about += f'\nused of each client: at most {most} uploads'
    log(about)
    with workdir.locked_rows(path, log=log):
        _check_same(path, capture, most, model)
        rows = _rows(path)
        left = [client for client in clients if client not in rows]
        if left:
            attacks, said = captured_clients.attacks(capture, summed, most, own, log)
            said['why'] += unread
            about = f'{about}\n{said["letter"]}'
            run_record.write(path, run_record.Record(command, about, len(clients)))
            files.write(path / 'reading.json', json.dumps(said) + '\n')
            with progress.bar(f'{len(left)} clients', on=True) as update:
                for number, client in enumerate(left, start=1):
                    rows[client] = _row(client, attacks[client])
                    _append(path / 'victims.jsonl', rows[client])
                    update(number, len(left))
    record = run_record.read(path)
    reading = json.loads((path / 'reading.json').read_text(encoding='utf-8'))
    scored = [captured_scoring.scored(rows[client], known, others) for client in sorted(rows)]
    facts: report.Facts = {
        'name': pathlib.Path(folder).name,
        'threat_model': record.threat_model,
        'layout': [[leaf, source.name] for leaf, source in layout.leaves.items()],
        'why': reading['why'],
        'command': record.command,
        'versions': run_record.read_versions(path),
    }
    summary = report.summarize(scored)
    text = report.markdown(scored, facts)
    files.write_all(
        path,
        {
            'summary.json': json.dumps(summary, indent=1) + '\n',
            'report.md': text,
            'report.html': html.html(text, path, f'Privacy audit: {facts["name"]}'),
        },
    )
    for line in report.verdict(summary, facts):
        log(line.replace('**', ''))
    log(f'{path}/report.html, report.md, summary.json, victims.jsonl')
    return summary['num_misfits'] == 0 and not reading['contradicts']


def check(folder: str, log: Callable[[str], None] = print, model: str | None = None) -> None:
    """Reads every file of a capture, and says what is in it.

    Args:
        folder: of the capture.
        log: prints a line.
        model: as in `run`.

    Raises:
        ValueError: if something is wrong; what and where is in the message, or logged before.
    """
    capture = folder_lib.read(folder)
    own = None if model is None else own_model.load(model)
    layout = captured.subject(capture, own).layout
    log(_about(capture, layout, model))
    wrong = 0
    for leaf, source in layout.leaves.items():
        log(f'  {leaf}: {source.name}')
    for name, reason in layout.dropped.items():
        log(f'  not used: {name}, {reason}')
    summed, unread = _summed(capture, layout)
    for note in summed.notes if summed else unread:
        log(note)
        wrong += note.startswith((uploads.LEFT_OUT, 'no sum'))
    for client in capture.clients:
        try:
            notes = uploads.captured(capture, client, layout).notes
        except ValueError as error:
            notes = (f'{uploads.LEFT_OUT}s all: {error}',)
        for note in notes:
            log(f'{client}: {note}')
            wrong += note.startswith(uploads.LEFT_OUT)
    if wrong:
        raise ValueError(f'{folder}: {wrong} uploads or clients cannot be used; see above.')
    log(f'{folder}: {len(_clients(capture, summed))} clients can be attacked')


def _summed(
    capture: folder_lib.Capture, layout: names.Layout
) -> tuple[sums_lib.Summed | None, tuple[str, ...]]:
    """What is seen in sums, None without any; and why they cannot be read, if not.

    Raises:
        ValueError: if they cannot be read, and there is nothing else.
    """
    try:
        return (sums_lib.summed(capture, layout) if capture.sums else None), ()
    except ValueError as error:
        if not capture.clients:
            raise
        return None, (f'no sum is used: {error}',)


def _clients(capture: folder_lib.Capture, summed: sums_lib.Summed | None) -> list[str]:
    """All clients: those whose uploads are seen, and those that are only seen in sums."""
    return list(dict.fromkeys([*capture.clients, *(summed.clients if summed else ())]))


def _about(capture: folder_lib.Capture, layout: names.Layout, own: str | None) -> str:
    """What was captured and what is assumed, a line each."""
    alone = {round_ for of in capture.clients.values() for round_ in of}
    rounds = sorted(alone | set(capture.sums))
    said = ', '.join(f'{name} {value}' for name, value in capture.known.items())
    model = ', '.join(f'{name} {value}' for name, value in layout.model.items())
    return '\n'.join(
        [
            f'uploads of {len(capture.clients)} clients, {sum(map(len, capture.sums.values()))} '
            f'sums, {len(rounds)} rounds ({rounds[0]} to {rounds[-1]}), {layout.num_items} items',
            f'model: {own or model}',
            f'capture.json says: {said or "nothing"}',
            'the server sees what was captured, and follows the protocol',
        ]
    )


def _check_same(
    path: pathlib.Path, capture: folder_lib.Capture, most: int, model: str | None
) -> None:
    """Refuses a folder with answers of another audit."""
    file = path / 'audit.json'
    this = {'capture.json': dict(capture.known), 'rounds': most, 'model': model}
    if not file.exists():
        files.write(file, json.dumps(this) + '\n')
    elif (other := json.loads(file.read_text(encoding='utf-8'))) != this:
        what = ', '.join(
            f'{name} {other.get(name)}, now {this[name]}'
            for name in this
            if other.get(name) != this[name]
        )
        raise ValueError(f'{path} has answers of another audit ({what}): choose another --workdir.')


def _rows(path: pathlib.Path) -> dict[str, report.ClientRow]:
    """The rows of an audit that was stopped."""
    lines = (path / 'victims.jsonl').read_text(encoding='utf-8').splitlines()
    return {row['client']: row for row in map(json.loads, lines)}


def _append(path: pathlib.Path, row: report.ClientRow) -> None:
    """Appends a row and waits until it is on the disk."""
    with open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(row) + '\n')
        file.flush()
        os.fsync(file.fileno())


def _row(client: str, attack: captured_clients.Attack) -> report.ClientRow:
    """The answer for one client; a failure is a row as well."""
    row: dict[str, Any] = {
        'client': client,
        'rounds': [],
        'num_candidates': 0,
        'interactions': [],
        'scores': [],
        'candidates': [],
        'solver': None,
        'fits': None,
        'certified': None,
        'margin': None,
        'status': 'failed',
        'reason': None,
        'notes': [],
    }
    found = attack()
    row |= {'notes': list(found.notes), 'seconds': found.seconds}
    row |= {'reason': found.found} if isinstance(found.found, str) else _answer(found.found)
    return row  # type: ignore[return-value]


def _answer(found: captured.Found) -> dict[str, Any]:
    answer, items = found.answer, np.asarray(found.seen.items)
    certificate = answer.certificate
    return {
        'status': 'ok',
        'rounds': np.asarray(found.seen.rounds).tolist(),
        'num_candidates': len(items),
        'candidates': items.tolist(),
        'scores': [round(float(score), 4) for score in answer.scores],
        'interactions': items[np.asarray(answer.labels)].tolist(),
        'solver': found.kept or found.solver,
        'fits': found.fits,
        'certified': None if certificate is None else bool(certificate.certified),
        'margin': None if certificate is None else _finite(certificate.margin),
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def keep(folders: Sequence[str]) -> dict[str, Any]:
    """The content of `results/NAME/summary.json`, see `report.results`: a row for each audit.

    Args:
        folders: work directories of audits, all complete.

    Raises:
        ValueError: if a folder has no complete audit.
    """
    rows = []
    paths = [pathlib.Path(folder) for folder in folders]
    for path in paths:
        if not all((path / name).exists() for name in ('audit.json', 'summary.json')):
            raise ValueError(f'{path} has no complete audit of a capture.')
        summary = json.loads((path / 'summary.json').read_text(encoding='utf-8'))
        rows.append(
            {
                'arm': path.name,
                'num_gradients': json.loads((path / 'audit.json').read_text(encoding='utf-8'))[
                    'rounds'
                ],
                'num_seeds': 1,
                'num_victims': summary['num_clients'],
                'confidence_intervals': 'over clients',
                **{name: summary[name] for name in report.COUNTS},
                'solver': ', '.join(summary['solvers']),
                'seconds': summary['seconds_per_client'],
                **(summary['metrics'] or {}),
            }
        )
    head = reporting.described(paths, '\n'.join(run_record.read(path).command for path in paths))
    return results.pack(head, {'rows': rows})
