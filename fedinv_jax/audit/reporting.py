"""Work directories -> summary, figures and report: of a run, and of a study with all its arms."""

import json
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedinv_jax.audit import defences, files, workdir
from fedinv_jax.report import claims, document, figures, stats, tables, tradeoff
from fedinv_jax.report import rows as rows_lib
from fedinv_jax.report.figures import tradeoff as tradeoff_figure
from fedinv_jax.report.rows import VictimRow

Log = Callable[[str], None]

_NOTHING: Mapping[str, str] = types.MappingProxyType({})


def run(path: pathlib.Path, rows: Sequence[VictimRow], log: Log) -> document.Part:
    """Writes summary, figures and report of a run's work directory.

    Args:
        path: the work directory.
        rows: its rows, see `workdir.read_rows`.
        log: prints a line.

    Returns:
        What a report of several runs says of this one.
    """
    summary, record = rows_lib.check_summary(stats.summarize(rows)), workdir.read_record(path)
    note = ''
    if record.num_rows is not None and len(rows) < record.num_rows:
        note = f'This run is not complete: {len(rows)} of {record.num_rows} rows are there.'
    else:  # a summary says that a run is complete
        text = json.dumps(summary, indent=1, allow_nan=False)
        files.write(path / 'summary.json', text + '\n')
    (path / 'figures').mkdir(exist_ok=True)
    drawn = figures.draw(rows, summary, path / 'figures')
    part = document.Part(
        path.name,
        str(workdir.read_config(path)),
        summary,
        claims.compare(rows),
        [figure.relative_to(path) for figure in drawn],
        record.threat_model,
        note,
    )
    pages = document.pages(path, [part], record.command, workdir.read_versions(path))
    files.write_all(path, pages)
    # All files are written before the terminal can fail.
    if note:
        log(f'warning: {path}: {note}')
    log(tables.table(summary, ('auc', 'f1', 'exact')))
    for line in tables.certificates(summary):
        log(line)
    log(f'{path}/report.html, report.md, summary.json, victims.jsonl, figures/')
    return part


def study(
    root: pathlib.Path,
    parts: Sequence[document.Part],
    command: str,
    log: Log,
    versions: Mapping[str, Any],
    missing: Mapping[str, str] = _NOTHING,
) -> None:
    """Writes the report of a study, the runs in the folders of its work directory.

    Args:
        root: the work directory.
        parts: of its runs, as `run` returns them.
        command: the command line.
        log: prints a line.
        versions: what it ran on, see `workdir.versions`.
        missing: why arms were left out, by name; kept in `study.json`.
    """
    moved = [
        part._replace(figures=[pathlib.Path(part.name) / path for path in part.figures])
        for part in parts
    ]
    record = {'command': command, 'missing': dict(missing)}
    files.write(root / 'study.json', json.dumps(record, indent=2) + '\n')
    pages = document.pages(root, moved, command, versions, missing, _defences(root, parts))
    files.write_all(root, pages)
    log(f'{root}/report.html, report.md')


def rewrite(folder: str, log: Log = print) -> None:
    """Writes the report of a work directory anew from its rows, of this version or of 0.1.

    Args:
        folder: of a run, or of a study.
        log: prints a line.

    Raises:
        ValueError: if it is neither, or holds no rows.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise ValueError(f'There is no folder {root}.')
    single = (root / 'config.json').exists()
    runs = [root] if single else sorted(path.parent for path in root.glob('*/config.json'))
    found = [(path, workdir.read_rows(path)) for path in runs]
    found = [(path, rows) for path, rows in found if rows]
    if not found:
        raise ValueError(f'{root} holds no rows of a run, nor do its folders.')
    parts = [run(path, rows, log) for path, rows in found]
    if single:
        return
    path = root / 'study.json'
    record = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    command = record.get('command') or workdir.read_record(found[0][0]).command
    without = {p.name: 'it has no rows yet' for p in runs if p not in dict(found)}
    missing = {**record.get('missing', {}), **without}
    study(root, parts, command, log, workdir.read_versions(found[0][0]), missing)


def _defences(root: pathlib.Path, parts: Sequence[document.Part]) -> str:
    """Leakage against utility, as Markdown with its figure; empty below two defences."""
    found = tradeoff.points([part.summary for part in parts], defences.kinds())
    path = tradeoff_figure.draw(found, root / 'figures' / 'frontier.png')
    if path is None:
        return ''
    caption = 'AUC of the best attack against hit rate and NDCG; larger markers: stronger'
    return '\n\n'.join(
        [
            f'![{caption}]({path.relative_to(root).as_posix()})',
            'The weakest strength at which no attack exceeds the popularity baseline (mean AUC in '
            'pairs), and what is left of the model:',
            tradeoff.table(found),
            'Everything that was tried:',
            tradeoff.details(found),
        ]
    )
