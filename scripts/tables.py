"""Writes the tables of measured numbers into the pages, from the files in results/.

    python scripts/tables.py
    python scripts/tables.py --keep WORKDIR ... --name NAME [--where 'attack=exact|mgradinv']

With `--keep`, the numbers of work directories are first put into results/NAME/summary.json.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fedinv_jax.audit import capture_audit, files, reporting
from fedinv_jax.report import pages, results

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
    """Parses the flags, keeps what is asked for, and writes the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--keep', nargs='+', metavar='WORKDIR', help='runs, studies or audits, complete'
    )
    parser.add_argument('--name', help='name of the folder in results/')
    parser.add_argument('--command', help='how the run was started, if not as recorded')
    parser.add_argument('--device', help='the machine, as "2 cores of an AMD EPYC (Zen 5)"')
    parser.add_argument('--where', default='', help='settings to keep, as a table names them')
    flags = parser.parse_args()
    if bool(flags.keep) != bool(flags.name):
        parser.error('--keep and --name belong together')
    try:
        if flags.keep:
            said = {key: getattr(flags, key) for key in ('command', 'device')}
            changed = {key: value for key, value in said.items() if value}
            if (pathlib.Path(flags.keep[0]) / 'audit.json').exists():
                found = capture_audit.keep(flags.keep) | changed
            else:
                found = reporting.keep(flags.keep, flags.where) | changed
            folder = ROOT / 'results' / flags.name
            folder.mkdir(parents=True, exist_ok=True)
            files.write(folder / 'summary.json', results.text(found))
        kept = {
            path.parent.name: json.loads(path.read_text(encoding='utf-8'))
            for path in ROOT.glob('results/*/summary.json')
        }
        for path in pages.files(ROOT):
            files.write(path, pages.render(path.read_text(encoding='utf-8'), kept))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
