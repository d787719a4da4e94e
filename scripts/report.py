"""Writes summary, figures and report of work directories anew from their rows.

Examples:
  python scripts/report.py runs/quickstart
  python scripts/report.py runs/study_interval
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fedinv_jax.audit import main

if __name__ == '__main__':
    main.report_command()
