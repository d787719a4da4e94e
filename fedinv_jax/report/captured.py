"""The report on a capture: what leaks, for how many clients, how sure, and what was not tried."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from fedinv_jax.report import inference, pages, tables
from fedinv_jax.report.rows import ConfidenceInterval

METRICS = ('f1', 'auc', 'exact', 'popularity_auc', 'popularity_f1')
"""Of a client, where the truth is given."""
COUNTS = ('num_failed', 'num_fits', 'num_misfits', 'num_certified')
"""Of a summary, besides `num_clients`."""

_STOPS = pathlib.Path(__file__).with_name('what_would_stop_it.md')  # `make tables` fills it
_UNTRIED = (
    'servers that change what they send',
    'what the recovered items say of a person',
)
_JOINT = ('a search for all clients of the sums at once (`joint`), which needs their batches',)
_LISTED = 100  # clients in the table of the report


class ClientRow(TypedDict):
    """One client of a capture, a line of `victims.jsonl`; None means unknown.

    `candidates` and `interactions` are rows of the item table. `fits`: whether the uploads are what
    the capture is read as. `solver` is the one whose answer was kept. `metrics` are those of
    `METRICS`; None without the truth.
    """

    client: str
    rounds: list[int]
    num_candidates: int
    candidates: list[int]
    scores: list[float]
    interactions: list[int]
    solver: str | None
    fits: bool | None
    certified: bool | None
    margin: float | None
    seconds: float
    status: str
    reason: str | None
    notes: list[str]
    metrics: NotRequired[dict[str, float | None] | None]


class Facts(TypedDict):
    """What a report says besides the rows."""

    name: str
    threat_model: str
    layout: list[list[str]]
    why: list[str]
    command: str
    versions: Mapping[str, Any]


def summarize(rows: Sequence[ClientRow]) -> dict[str, Any]:
    """The content of `summary.json`: counts, and means with confidence intervals.

    Clients without an answer count as a loss: F1 0, AUC 1/2, not exact.
    """
    scored = [found for row in rows if (found := row.get('metrics'))]

    def estimate(name: str) -> ConfidenceInterval:
        values = [each.get(name) for each in scored]
        if name == 'exact':
            return inference.proportion_interval(values)
        return inference.confidence_interval(values, limits=(0, 1))

    return {
        'num_clients': len(rows),
        'num_failed': sum(row['status'] != 'ok' for row in rows),
        'num_fits': sum(row['fits'] is True for row in rows),
        'num_misfits': sum(row['fits'] is False for row in rows),
        'num_certified': sum(row['certified'] is True for row in rows),
        'num_contested': sum(map(_is_contested, rows)),
        'num_outside': sum(int(each['outside'] or 0) for each in scored),
        'solvers': sorted({row['solver'] or '-' for row in rows}),
        'seconds_per_client': inference.mean(row['seconds'] for row in rows),
        'metrics': {name: estimate(name) for name in METRICS} if scored else None,
    }


def _has_sums(rows: Sequence[ClientRow]) -> bool:
    return any((row['solver'] or '').startswith('unmix') for row in rows)


def _is_contested(row: ClientRow) -> bool:
    """Whether a certified history is not that of the truth that was given."""
    found = row.get('metrics')
    return bool(row['certified'] and found and not found['exact'])


def markdown(rows: Sequence[ClientRow], facts: Facts) -> str:
    """The text of `report.md`.

    Args:
        rows: of all clients.
        facts: what the report says besides.
    """
    summary = summarize(rows)
    blocks = [
        f'# Privacy audit of a capture: {facts["name"]}',
        '## Verdict',
        '\n'.join(f'- {line}' for line in verdict(summary, facts)),
        '## What would stop it',
        pages.without_marks(_STOPS.read_text(encoding='utf-8')),
        '## What was not tried',
        '\n'.join(f'- {line}' for line in (*_UNTRIED, *_JOINT * _has_sums(rows))),
        '## Clients',
        _table(rows),
    ]
    if len(rows) > _LISTED:
        blocks.append(f'The first {_LISTED} of {len(rows)}; victims.jsonl has all.')
    said = [(row['client'], [row['reason'], *row['notes']]) for row in rows[:_LISTED]]
    if any(any(texts) for _, texts in said):
        blocks.append(
            '\n'.join(f'- {client}: {text}' for client, texts in said for text in texts if text)
        )
    blocks += [
        '## Threat model',
        _verbatim(facts['threat_model']),
        '## What was read',
        tables.markdown(['leaf of the model', 'array of the capture'], facts['layout']),
        '## Versions',
        '\n'.join(f'- {name} {version}' for name, version in facts['versions'].items()),
        '## Command',
        _verbatim(facts['command']),
    ]
    return '\n\n'.join(blocks) + '\n'


def verdict(summary: Mapping[str, Any], facts: Facts) -> list[str]:
    """What leaks, in sentences."""
    clients, metrics = summary['num_clients'], summary['metrics']
    lines = []
    if metrics is not None:
        exact = round((metrics['exact']['mean'] or 0) * clients)
        lines.append(
            f'**{exact} of {clients} histories were recovered without error** '
            f'(F1 {tables.estimate(metrics["f1"], clients)}, '
            f'AUC {tables.estimate(metrics["auc"], clients)}; by popularity alone '
            f'F1 {tables.estimate(metrics["popularity_f1"], clients)}, '
            f'AUC {tables.estimate(metrics["popularity_auc"], clients)}).'
        )
    certain = summary['num_certified']
    lines.append(
        f'**{certain} of {clients} histories are certified**: no other history explains the '
        'uploads, whatever the truth is.'
        if certain
        else f'No history of {clients} is certified.'
    )
    if contested := summary['num_contested']:
        lines.append(
            f'**{contested} certified histories differ from the truth that was given.** Is it of '
            'these clients, and are its items rows of the item table, from 0? Else please report '
            'it.'
        )
    if outside := summary['num_outside']:
        lines.append(
            f'{outside} interactions of the truth are not among the candidates, the items whose '
            'rows moved or that were recorded as the batch: they count as missed.'
        )
    fits, misfits = summary['num_fits'], summary['num_misfits']
    if fits:
        lines.append(
            f'{fits} of {clients} answers explain every number that was uploaded, to rounding.'
        )
    if misfits:
        lines.append(
            f'**{misfits} of {clients} uploads do not fit what the capture says of the training.** '
            'Their answers are those of an attack that needs no model, where item rows are seen. '
            'They say neither that anything leaks nor that nothing does.'
        )
    unknown = clients - fits - misfits - summary['num_failed']
    if unknown:
        lines.append(
            f'For {unknown} of {clients} answers it cannot be told whether they explain the '
            'uploads: too few numbers came back, or only sums of clients, or the order of '
            'minibatches is not known.'
        )
    if summary['num_failed']:
        lines.append(
            f'**{summary["num_failed"]} of {clients} clients have no answer** (reasons are below '
            'the table). That is no evidence that nothing leaks.'
        )
    return [*lines, *facts['why']]


def _table(rows: Sequence[ClientRow]) -> str:
    scored = any(row.get('metrics') for row in rows)
    head = ['client', 'gradients', 'candidates', 'interactions', 'solver', 'fits', 'certified']
    head += ['seconds']
    head += ['F1', 'AUC', 'all right'] if scored else []
    lines = []
    for row in rows[:_LISTED]:
        line = [
            row['client'],
            str(len(row['rounds'])),
            str(row['num_candidates']),
            str(len(row['interactions'])),
            row['solver'] or '-',
            _word(row['fits']),
            _word(row['certified']),
            f'{row["seconds"]:.2g}',
        ]
        found = row.get('metrics') or {}
        if scored:
            line += [_number(found.get('f1')), _number(found.get('auc'))]
            line.append(_word(None if not found else bool(found['exact'])))
        lines.append(line)
    return tables.markdown(head, lines)


def _word(value: bool | None) -> str:
    return {True: 'yes', False: 'no', None: '-'}[value]


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


def _verbatim(text: str) -> str:
    return f'```\n{text}\n```'
