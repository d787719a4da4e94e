"""The writer of captures, which is no part of the package."""

import importlib.util
import pathlib

_PATH = pathlib.Path(__file__).parents[2] / 'integrations' / 'fedinv_record.py'
_spec = importlib.util.spec_from_file_location('fedinv_record', _PATH)
record_lib = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record_lib)
