"""The exact attacks and a round of training in plain PyTorch, one client after the other.

`others.py` compares its results and times with these. The program reads an .npz file with leaf
names joined by slashes, and writes its results and the seconds of every repeat. It needs torch and
numpy only.

    python benchmarks/torch_others.py given.npz answers.npz closed_form --repeats=3

The attacks run in float64. They read `items [V, K, D]`, `scorer/... [...]` and `seen/... [V, ...]`,
the leaves of the seen part, and write labels `[V, K]`. `training` runs in float32. It reads
`table [N, D]`, `scorer/...`, `items [C, B]`, `labels [C, B]` and `private [C, D]`, and writes the
table, the scorer and the private embeddings after one round.
"""

import argparse
import time

import numpy as np
import torch
from torch_mgradinv import logits, part, read

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
    return (cosines > 0) == (abs(share - _SHARE) <= abs(1 - share - _SHARE))


def sign(scorer, rows, seen):
    """Labels from the item rows' gradients: their sign along the logit's gradient at p = 0."""
    rows = rows.clone().requires_grad_()
    value = logits(scorer, rows, torch.zeros(rows.shape[1], dtype=rows.dtype)).sum()
    (slope,) = torch.autograd.grad(value, rows)
    return (slope * seen['embedding']).sum(1) < 0


_ATTACKS = {'closed_form': closed_form, 'spectral': spectral, 'sign': sign}


def training(arrays, scorer):
    """One round: a gradient step of every client; the server sums rows and averages scorers."""
    table, items = arrays['table'].clone(), arrays['items'].long()
    labels, private = arrays['labels'], arrays['private'].clone()
    scorer = {name: leaf.clone().requires_grad_() for name, leaf in scorer.items()}
    total = torch.zeros_like(table)
    for user in range(len(items)):
        rows = table[items[user]].requires_grad_()
        own = private[user].clone().requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits(scorer, rows, own), labels[user]
        )
        loss.backward()
        total.index_add_(0, items[user], rows.grad)
        private[user] -= 0.1 * own.grad
    new = {name: (leaf - 0.1 * leaf.grad / len(items)).detach() for name, leaf in scorer.items()}
    return {
        'table': table - 0.1 * total,
        'private': private,
        **{f'scorer/{name}': leaf for name, leaf in new.items()},
    }


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

    def call():
        if arguments.what == 'training':
            return training(arrays, scorer)
        attack, items = _ATTACKS[arguments.what], arrays['items']
        found = [attack(scorer, items[v], part(arrays, 'seen/', v)) for v in range(len(items))]
        return {'labels': torch.stack(found)}

    found, seconds = call(), []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    np.savez(
        arguments.answers,
        seconds=np.array(seconds),
        **{name: value.numpy() for name, value in found.items()},
    )


if __name__ == '__main__':
    main()
