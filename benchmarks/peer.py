"""Runs the scripts of `peers/` in environments of their own, and compares what they find."""

import pathlib
import subprocess
import tempfile
from typing import Any

import jax
import numpy as np
from absl import flags

from fedinv_jax import tree


def run(python: str, script: str, arrays: dict[str, Any], *arguments: str) -> dict[str, np.ndarray]:
    """The arrays that a script of `peers/` writes, run by the Python of its environment."""
    with tempfile.TemporaryDirectory() as folder:
        given, answers = f'{folder}/given.npz', f'{folder}/answers.npz'
        np.savez(given, **arrays)
        path = pathlib.Path(__file__).parent / 'peers' / script
        command = [python, path, given, answers, *arguments, f'--repeats={flags.FLAGS.repeats}']
        subprocess.run(command, check=True)
        with np.load(answers) as found:
            return dict(found)


def named(prefix: str, leaves: Any) -> dict[str, Any]:
    """The leaves by name, in the format that the scripts read."""
    pairs = zip(tree.names(leaves), jax.tree.leaves(leaves), strict=True)
    return {f'{prefix}/{name}': leaf for name, leaf in pairs}


def gap(a: jax.Array, b: np.ndarray) -> float:
    """The largest difference of entries, relative to the largest entry of b."""
    return float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b)))
