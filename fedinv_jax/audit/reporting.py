"""Work directories -> summary, figures and report, for a run and for a study of several arms."""

import itertools
import json
import pathlib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedinv_jax.audit import defences, files, run_record, workdir
from fedinv_jax.report import claims, document, figures, results, stats, tables, tradeoff
from fedinv_jax.report import rows as rows_lib
from fedinv_jax.report.figures import rounds
from fedinv_jax.report.figures import tradeoff as tradeoff_figure
from fedinv_jax.report.rows import VictimRow

Log = Callable[[str], None]

_NOTHING: Mapping[str, str] = types.MappingProxyType({})


def run(path: pathlib.Path, rows: Sequence[VictimRow], log: Log) -> document.Part:
    """Writes the summary, figures and report of a run into its work directory.

    Args:
        path: the work directory.
        rows: its rows, see `workdir.read_rows`.
        log: prints a line.

    Returns:
        The run's part of a report of several runs.
    """
    summary, record = rows_lib.check_summary(stats.summarize(rows)), run_record.read(path)
    kept, note = stats.fitting(rows), ''
    if record.num_rows is not None and len(rows) < record.num_rows:
        note = f'This run is incomplete: it has {len(rows)} of {record.num_rows} rows.'
    else:  # the file summary.json marks a run as complete
        text = json.dumps(summary, indent=1, allow_nan=False)
        files.write(path / 'summary.json', text + '\n')
    (path / 'figures').mkdir(exist_ok=True)
    drawn = figures.draw(rows, summary, path / 'figures')
    part = document.Part(
        path.name,
        str(workdir.read_config(path)),
        summary,
        stats.summarize(kept),
        claims.compare(kept),
        [figure.relative_to(path) for figure in drawn],
        record.threat_model,
        note,
    )
    pages = document.pages(path, [part], record.command, run_record.read_versions(path))
    files.write_all(path, pages)
    # All files are written before the terminal can fail.
    if note:
        log(f'warning: {path}: {note}')
    log(tables.table(summary, ('auc', 'f1', 'rmse', 'accuracy', 'exact')))
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
    """Writes the report of a study, whose runs are in the folders of its work directory.

    Args:
        root: the work directory of the study.
        parts: what `run` returned for each of its runs.
        command: the command line.
        log: prints a line.
        versions: packages and devices of the study, see `run_record.versions`.
        missing: by name of an arm that was not run, the reason; stored in `study.json`.
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
    """Writes the report of a work directory again from its rows, of this version or of 0.1.

    Args:
        folder: the work directory of a run or of a study.
        log: prints a line.

    Raises:
        ValueError: if the folder does not exist or has no rows of a run.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise ValueError(f'There is no folder {root}.')
    runs = _runs(root)
    found = [(path, workdir.read_rows(path)) for path in runs]
    found = [(path, rows) for path, rows in found if rows]
    if not found:
        raise ValueError(f'Neither {root} nor a folder in it has rows of a run.')
    parts = [run(path, rows, log) for path, rows in found]
    if runs == [root]:
        return
    record = _study(root)
    command = record.get('command') or run_record.read(found[0][0]).command
    without = {p.name: 'no rows yet' for p in runs if p not in dict(found)}
    missing = {**record.get('missing', {}), **without}
    study(root, parts, command, log, run_record.read_versions(found[0][0]), missing)


def _defences(root: pathlib.Path, parts: Sequence[document.Part]) -> str:
    """The section on leakage and utility, as Markdown; '' for fewer than two defences."""
    found = tradeoff.points([part.summary for part in parts], defences.kinds())
    path = tradeoff_figure.draw(found, root / 'figures' / 'frontier.png')
    if path is None:
        return ''
    caption = 'AUC of the best attack against hit rate and NDCG; larger markers: stronger defence'
    images = [f'![{caption}]({path.relative_to(root).as_posix()})']
    if over := rounds.draw(found, root / 'figures' / 'rounds.png'):
        caption = 'AUC of the best attack on sums against the number of rounds'
        images.append(f'![{caption}]({over.relative_to(root).as_posix()})')
    return '\n\n'.join(
        [
            *images,
            'For each defence, the weakest strength at which no attack has a larger mean AUC than '
            'the popularity baseline (paired by victim), and the quality of the model trained with '
            'it:',
            tradeoff.table(found),
            'All defences and strengths:',
            tradeoff.details(found),
        ]
    )


def keep(folders: Sequence[str], conditions: str = '') -> dict[str, Any]:
    """The content of `results/NAME/summary.json`, see `report.results`, from work directories.

    Rows of several runs are told apart by `arm`, the name of the run's folder. The command is
    without the work directory, and without folders before `scripts/` and `configs/`.

    Args:
        folders: work directories of runs, of arms of a study, or of whole studies, all complete.
        conditions: which settings to keep, see `report.results.select`; claims and best attacks
            are those of all settings.

    Raises:
        ValueError: if a folder has no complete run or study, if two runs have one name, or if no
            row has a value of the conditions.
    """
    roots = [pathlib.Path(folder) for folder in folders]
    runs = [run for root in roots for run in _complete(root)]
    for one, other in itertools.combinations(runs, 2):
        if one.name == other.name:
            raise ValueError(
                f'Two runs are called {one.name}: {one} and {other}. Leave one out, or rename its '
                'folder.'
            )
    victims = [workdir.read_rows(path) for path in runs]
    summaries = [stats.summarize(rows) for rows in victims]
    tests = claims.corrected([claims.compare(stats.fitting(rows)) for rows in victims])
    points = tradeoff.points(summaries, defences.kinds())
    lists: dict[str, list[results.Row]] = {'rows': [], 'claims': [], 'defences': []}
    for path, summary, found in zip(runs, summaries, tests, strict=True):
        arm = {'arm': path.name} if len(runs) > 1 else {}
        lists['rows'] += [arm | row for row in results.rows(summary['rows'])]
        lists['claims'] += [arm | row for row in results.claims(found, summary['rows'])]
    if len({point.defence for point in points}) > 1:
        lists['defences'] = results.defences(points)
    head = described(runs, '\n'.join(_command(root) for root in roots))
    lists['rows'] = results.select(lists['rows'], conditions)
    return results.pack(head, lists)


def described(folders: Sequence[pathlib.Path], command: str) -> dict[str, Any]:
    """Command, date, device and versions of work directories, the head of `results.pack`.

    Args:
        folders: work directories with `versions.json`.
        command: how they were started.
    """
    about = [run_record.read_versions(path) for path in folders]
    machine = about[-1]
    devices = ' and '.join(dict.fromkeys(machine.get('devices', ())))
    return {
        'command': command,
        'date': max(str(each.get('date', ''))[:10] for each in about),
        'device': f'{machine.get("cpus")} CPU cores' if devices == 'cpu: cpu' else devices,
        'versions': {
            name: value
            for name, value in machine.items()
            if name not in ('date', 'cpus', 'devices', 'platform')
        },
    }


def _runs(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a work directory's runs: its own, or those of the arms of a study."""
    single = (root / 'config.json').exists()
    return [root] if single else sorted(path.parent for path in root.glob('*/config.json'))


def _complete(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a work directory's runs, if none is missing and all are complete."""
    single, record = (root / 'config.json').exists(), _study(root)
    if not single and not record:
        raise ValueError(
            f'{root} is no run and no complete study: it has neither config.json nor study.json. '
            'Complete the study, or name the folders of the arms to keep.'
        )
    if without := ', '.join(record.get('missing', ())):
        raise ValueError(
            f'The study {root} is without {without}. Complete it, or name the folders of the arms '
            'to keep.'
        )
    runs = _runs(root)
    for path in runs:
        if not (path / 'summary.json').exists():
            raise ValueError(f'{path} holds no complete run: expected {path / "summary.json"}.')
    return runs


def _study(root: pathlib.Path) -> dict[str, Any]:
    """The record of a study; empty for a run, and for a study that is not complete."""
    path = root / 'study.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}


def _command(root: pathlib.Path) -> str:
    """The command of a work directory, without places of the machine."""
    command = _study(root).get('command') or run_record.read(_runs(root)[0]).command
    command = re.sub(r""" --workdir[= ]('[^']*'|\S+)""", '', command)
    return re.sub(r'(?<=[ =])/\S*?/(?=(scripts|configs)/)', '', command)
