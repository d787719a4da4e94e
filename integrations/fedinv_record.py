"""Records what a server sends and what clients return, for `fedinv audit FOLDER`.

Copy this file into your project; it needs NumPy only. In a training loop:

    record = fedinv_record.recorder('capture', framework='torch', loss='bce', learning_rate=0.1)
    ...
    record(round, client, sent, returned)  # two state_dicts, or anything from names to arrays

`docs/capture.md` of fedinv_jax has the format and every field. Nothing that is recorded is changed.
"""

import json
import os
import pathlib
import threading
import urllib.parse

import numpy as np


def array(value):
    """A copy of a tensor or an array; bfloat16, which NumPy lacks, as two bytes a number (V2)."""
    if hasattr(value, 'detach'):  # of PyTorch
        value = value.detach().cpu()
        if str(value.dtype) == 'torch.bfloat16':
            return np.array(value.view(dtype=__import__('torch').int16).numpy()).view('V2')
    return np.array(value, order='C')


def write(path, save):
    """Writes a file so that it is there as a whole, or not at all; several processes may."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.{threading.get_ident()}.part')
    with open(part, 'wb') as file:
        save(file)
    os.replace(part, path)


def recorder(folder, kind='returned', **known):
    """`record(round, client, sent, returned, **more)`; `known` is what an auditor may know.

    `kind` says what clients return: 'returned' weights, their 'delta' (returned - sent) or a
    'gradient'. `more` may have `num_examples` and `items`, the items of the client's batch. Under
    secure aggregation `returned` is the mean of some `clients`, with their `weights` if it has any.
    """
    described = {'format': 'fedinv_jax.capture', 'version': 1, **known}
    about = pathlib.Path(folder, 'capture.json')
    if not about.exists():
        write(about, lambda file: file.write(json.dumps(described, indent=2).encode() + b'\n'))
    elif json.loads(about.read_text(encoding='utf-8')) != json.loads(json.dumps(described)):
        raise ValueError(f'{about} describes another training: give another folder.')
    of_round = {}  # what was sent in the last round

    def record(round, client, sent, returned, **more):
        sent = {name: array(value) for name, value in sent.items()}
        path = about.parent / 'rounds' / f'{int(round):06d}'
        if of_round.get('path') != path:
            if not (path / 'sent.npz').exists():
                write(path / 'sent.npz', lambda file: np.savez_compressed(file, **sent))
            with np.load(path / 'sent.npz') as file:  # of a training that goes on, too
                of_round.update(path=path, sent=dict(file))
        common = of_round['sent']
        arrays = {k: np.asarray([*map(str, v)] if k == 'clients' else v) for k, v in more.items()}
        for name, value in sent.items():  # where this client was sent something else
            if name not in common or value.tobytes() != common[name].tobytes():
                arrays[f'sent/{name}'] = value
        for name, value in zip(returned, map(array, returned.values())):
            start = sent.get(name) if kind == 'returned' else np.zeros_like(value)
            if value.ndim > 1 and start is not None and start.shape == value.shape:
                raw = [each.reshape(len(each), -1).view('u1') for each in (value, start)]
                rows = np.nonzero(np.any(raw[0] != raw[1], axis=1))[0]
                if 2 * len(rows) < len(value):  # the other rows are as they were sent, or zero
                    arrays[f'rows/{name}'], value = rows, value[rows]
            arrays[f'{kind}/{name}'] = value
        part = 'sums' if 'clients' in more else 'clients'
        path = path / part / f'{urllib.parse.quote(str(client), safe="")}.npz'
        write(path, lambda file: np.savez_compressed(file, **arrays))

    return record
