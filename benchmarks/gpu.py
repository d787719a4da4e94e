"""Speed on one GPU, in one command that needs no network: `make bench-gpu`.

MGradInv at 50, 200 and 1,682 items, with more and more victims until the rate grows no more or the
memory ends; there in tfloat32 and bfloat16 products too, with the AUC of a whole attack beside.
PyTorch, batched and compiled, runs MGradInv on the same card, on as many victims as fill it for us.
Also the exact attacks in float64, rounds of training, and peak memory. Shares are of the rate of
8,192 x 8,192 products of the same precision. What does not fit `--minutes` is said to be not
measured. On a CPU it runs with small matrices, as a test of the command.

    python benchmarks/gpu.py [--torch=PYTHON] [--minutes=5] [--json=out.json]
"""

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks import mgradinv, others
from fedinv_jax import metrics
from fedinv_jax.attack import batching
from fedinv_jax.audit import process, run_record

_MINUTES = flags.DEFINE_float('minutes', 5.0, 'Starts no measurement after this time.')
_VICTIMS = flags.DEFINE_list(
    'victims', ['1', '16', '256', '4096', '16384', '65536'], 'Numbers of victims, rising.'
)
_SEEN, _STEPS = ('items', 'scorer'), 2
_ITEMS = (50, 200, 1682)
_PRECISIONS = ('highest', 'tensorfloat32', 'bfloat16')
_ENOUGH = 1.1  # growth of the rate below which more victims fill the chip no better
_ATTACKED, _ITERATIONS = 64, 2000  # of the attacks whose AUC is compared


def product_rate(precision: str) -> float:
    """Operations a second of products in that precision."""
    size = 1024 if jax.default_backend() == 'cpu' else 8192
    with jax.default_matmul_precision(precision):
        return mgradinv.matrix_rate(size)


def growing(items: int, rate: float) -> Iterator[dict[str, Any]]:
    """Rows of MGradInv in float32 with more and more victims, until the chip is full."""
    before = 0.0
    for count in map(int, _VICTIMS.value):
        row = {'items': items, 'victims': count, 'precision': 'highest'}
        try:
            victims = mgradinv.make(items, count, _STEPS, None, _SEEN)
            row |= measured(victims, items, rate)
        except jax.errors.JaxRuntimeError as error:  # too little memory
            yield {**row, 'not_measured': str(error).splitlines()[0]}
            return
        yield row
        if row['rate'] < _ENOUGH * before:
            return
        before = row['rate']


def measured(victims: mgradinv.Victims, items: int, rate: float) -> dict[str, Any]:
    """The rate, the memory and the share of the product rate."""
    row: dict[str, Any] = mgradinv.in_step(victims)
    row['share'] = row['rate'] * mgradinv.useful_operations(items, _STEPS, _SEEN) / rate
    return row


def auc(victims: mgradinv.Victims) -> float:
    """Mean AUC of whole attacks, replayed in the precision of the context."""
    count, where = len(victims.keys), np.ones(victims.labels.shape[1])

    @jax.jit
    def attack(transcripts, keys):
        own, axes = mgradinv.descent(victims.problem), mgradinv.axes()
        return batching.stream(own, transcripts, axes, keys, _ITERATIONS, count, count).scores

    scores = attack(victims.transcripts, victims.keys)
    pairs = zip(scores, victims.labels, strict=True)
    return float(np.mean([metrics.auc(own, labels, where) for own, labels in pairs]))


def in_precision(full: dict[str, Any], precision: str, rate: float) -> dict[str, Any]:
    """The row of the fastest number of victims in that precision, with the AUC.

    What the victims sent is in float32; the precision is that of the attacker's replays.
    """
    items, count = full['items'], full['victims']
    many, few = (mgradinv.make(items, v, _STEPS, None, _SEEN) for v in (count, _ATTACKED))
    row = {**full, 'precision': precision}
    with jax.default_matmul_precision(precision):
        if precision != 'highest':
            row |= measured(many, items, rate)
        elif flags.FLAGS.torch:  # its products are float32 too
            try:
                row['torch'] = mgradinv.in_torch(many)
            except subprocess.CalledProcessError as error:  # too little memory
                print(f'PyTorch: {error}')
        return {**row, 'auc': auc(few)}


def shown(row: dict[str, Any]) -> str:
    """A line of a row of MGradInv."""
    text = f'MGradInv B={row["items"]:<5} V={row["victims"]:<6} {row["precision"]:14}'
    if 'not_measured' in row:
        return f'{text} not measured: {row["not_measured"]}'
    text += (
        f'{row["rate"]:10.0f} victim-iterations/s, {row["share"]:.0%} of the product rate, '
        f'{row["bytes"] / 2**20:.0f} MiB, compiled in {row["compile_seconds"]:.0f} s'
    )
    if 'torch' in row:
        text += f', {row["rate"] / row["torch"]["rate"]:.1f} times PyTorch'
    return text + (f', AUC {row["auc"]:.3f}' if 'auc' in row else '')


def main(argv: list[str]) -> None:
    """Measures and prints everything, as far as the time allows."""
    process.configure()
    del argv
    logging.set_verbosity(logging.WARNING)
    end = time.monotonic() + 60 * _MINUTES.value
    found: dict[str, Any] = {**run_record.versions(), 'mgradinv': [], 'not_measured': []}
    print(found, flush=True)
    device = jax.devices()[0]

    def in_time(what: str) -> bool:
        if time.monotonic() < end:
            return True
        found['not_measured'].append(what)
        print(f'{what}: not measured, the time is over')
        return False

    def keep() -> None:  # after each part, whatever comes after
        if flags.FLAGS.json:
            pathlib.Path(flags.FLAGS.json).write_text(json.dumps(found, indent=1) + '\n', 'utf-8')

    def add(row: dict[str, Any]) -> None:
        found['mgradinv'].append(row)
        print(shown(row), flush=True)
        keep()

    rates = {precision: product_rate(precision) for precision in _PRECISIONS}
    found['product_rates'] = rates
    print({name: f'{rate / 1e12:.2f} TFLOP/s' for name, rate in rates.items()}, flush=True)
    for items in _ITEMS:
        full: dict[str, Any] | None = None
        if not in_time(f'MGradInv with {items} items'):
            continue
        for row in growing(items, rates['highest']):
            add(row)
            full = row if 'rate' in row and (not full or row['rate'] > full['rate']) else full
            if time.monotonic() > end:
                break
        for precision in _PRECISIONS:
            if full and in_time(f'MGradInv with {items} items in {precision}'):
                add(in_precision(full, precision, rates[precision]))
    flags.FLAGS.torch = None  # compiling PyTorch's exact attacks and training takes too long here
    for name, part in (('exact', others.exact), ('training', others.training)):
        if in_time(name):
            found[name] = part()
            keep()
    found['peak_bytes'] = (device.memory_stats() or {}).get('peak_bytes_in_use')
    print(f'peak memory: {found["peak_bytes"]} bytes of {device.device_kind}')
    keep()


if __name__ == '__main__':
    app.run(main)
