"""The exact attacks and a round of training in PyTorch, batched over clients and compiled.

`others.py` compares its results and times with these. The program reads an .npz file with leaf
names joined by slashes, and writes its results, the seconds of the first call, which compiles,
those of every repeat, and the version. It needs torch, numpy and, to compile on a CPU, a C++
compiler.

    python benchmarks/peers/torch_others.py given.npz answers.npz closed_form --repeats=3

The attacks run in float64. They read `items [V, K, D]`, `scorer/... [...]` and `seen/... [V, ...]`,
the leaves of the seen part, and write labels `[V, K]`. `training` runs in float32. It reads
`table [N, D]`, `scorer/...`, `items [C, B]`, `labels [C, B]` and `private [C, D]`, and writes the
table, the scorer and the private embeddings after one round.
"""

import argparse
import time

import numpy as np
import torch
from torch_mgradinv import logits, part, read, wait

_BYTES = 2e8  # of the columns of the clients that are solved together
_SHARE = 0.2  # share of interactions in a batch, which decides the sign in the spectral attack


def closed_form(scorer, rows, seen):
    """Labels from the scorer's gradient: p from the first layer, then linear least squares."""
    bias = seen['items/bias']
    private = seen['private/kernel'] @ bias / (bias @ bias)

    def loss(scorer, row, label):
        logit = logits(scorer, row, private)
        return torch.nn.functional.binary_cross_entropy_with_logits(logit, label)

    def gradients(label):
        labels = torch.full((len(rows),), label, dtype=rows.dtype)
        return torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(scorer, rows, labels)

    # The private kernel's gradient is p times the bias's, which adds no equation.
    names = [name for name in seen if name != 'private/kernel']
    zeros, ones = (
        torch.cat([leaves[name].flatten(1) for name in names], 1) / len(rows)
        for leaves in (gradients(0.0), gradients(1.0))
    )
    columns = ones - zeros  # [K, M]
    left = torch.cat([seen[name].flatten() for name in names]) - zeros.sum(0)
    # Columns of unit norm: the error is then 1e-14 of the labels, not of the largest column.
    length = columns.norm(dim=1)
    units = columns / length[:, None]
    factor = torch.linalg.cholesky(units @ units.T)
    labels = torch.cholesky_solve((units @ left)[:, None], factor)[:, 0] / length
    return labels > 0.5


def spectral(scorer, rows, seen):
    """Labels from the item rows' gradients: their sign along the first principal direction."""
    del scorer, rows
    units = torch.nn.functional.normalize(seen['embedding'], dim=1)
    cosines = units @ torch.linalg.eigh(units.T @ units)[1][:, -1]
    share = (cosines > 0).double().mean()
    return (cosines > 0) == ((share - _SHARE).abs() <= (1 - share - _SHARE).abs())


def sign(scorer, rows, seen):
    """Labels from the item rows' gradients: their sign along the logit's gradient at p = 0."""
    zeros = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
    slope = torch.func.grad(lambda rows: logits(scorer, rows, zeros).sum())(rows)
    return (slope * seen['embedding']).sum(1) < 0


_ATTACKS = {'closed_form': closed_form, 'spectral': spectral, 'sign': sign}


def training(arrays, scorer):
    """One round: a gradient step of every client; the server sums rows and averages scorers."""
    table, items = arrays['table'], arrays['items'].long()

    def loss(rows, scorer, private, labels):
        found = logits(scorer, rows, private)
        return torch.nn.functional.binary_cross_entropy_with_logits(found, labels)

    one = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), in_dims=(0, None, 0, 0))
    rows, kernels, private = one(table[items], scorer, arrays['private'], arrays['labels'])
    total = torch.zeros_like(table).index_add_(0, items.flatten(), rows.flatten(0, 1))
    return {
        'table': table - 0.1 * total,
        'private': arrays['private'] - 0.1 * private,
        **{f'scorer/{name}': leaf - 0.1 * kernels[name].mean(0) for name, leaf in scorer.items()},
    }


def solved(attack, scorer, items, seen):
    """Labels `[V, K]`, a few clients at a time, so that their columns stay within `_BYTES`."""
    weights = sum(leaf.numel() for leaf in scorer.values())
    step = max(int(_BYTES / (8 * weights * items.shape[1])), 1)
    found = []
    for start in range(0, len(items), step):
        some = {name: leaf[start : start + step] for name, leaf in seen.items()}
        found.append(attack(scorer, items[start : start + step], some))
    return torch.cat(found)


def main():
    """Reads clients; writes results and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('given')
    parser.add_argument('answers')
    parser.add_argument('what', choices=[*_ATTACKS, 'training'])
    parser.add_argument('--repeats', type=int, default=3)
    arguments = parser.parse_args()
    arrays = read(arguments.given)
    scorer = part(arrays, 'scorer/')

    if arguments.what == 'training':
        run = torch.compile(training, dynamic=False)
    else:
        run = torch.compile(torch.func.vmap(_ATTACKS[arguments.what], in_dims=(None, 0, 0)))
    seen = part(arrays, 'seen/')

    def call():
        if arguments.what == 'training':
            found = run(arrays, scorer)
        else:
            found = {'labels': solved(run, scorer, arrays['items'], seen)}
        wait()
        return found

    start = time.perf_counter()
    found, seconds = call(), []
    first = time.perf_counter() - start
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    np.savez(
        arguments.answers,
        first=first,
        seconds=np.array(seconds),
        version=np.array(f'torch {torch.__version__}'),
        **{name: value.cpu().numpy() for name, value in found.items()},
    )


if __name__ == '__main__':
    main()
