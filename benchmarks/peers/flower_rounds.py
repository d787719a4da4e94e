"""A round of training with Flower in one process: its clients, its messages' bytes, its FedAvg.

`others.py` compares its parameters and times with ours. One loop calls every client's
`fit`: Flower's `NumPyClient` turns bytes into arrays and back, as for a client behind a network,
and `FedAvg.aggregate_fit` averages what comes back. Nothing is sent, and no Ray, gRPC or
`run_simulation` takes part, so this is a lower bound of what a round in Flower costs. The
clients of the round are given: choosing them takes no time here.

What makes it fast, as far as we found: a client gets and gives only the rows of its batch, where
FedAvg alone needs the whole table from everybody (the rows are summed here, next to FedAvg); the
scorer is one vector, as each array costs a header; and the client is NumPy with the gradient
written out (120 microseconds a client; compiled PyTorch took 240, PyTorch as usual 680).

The program reads an .npz file, `table [N, D]`, `scorer/... [...]`, `items [C, B]`, `labels [C, B]`
and `private [C, D]`. It writes the table, the scorer and the private embeddings after one round,
the seconds of the first round and those of every repeat, and the version. The repeats are the
rounds that follow, with the same clients.

    python benchmarks/peers/flower_rounds.py given.npz answers.npz --repeats=3
"""

import argparse
import dataclasses
import math
import os
import time

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # products of a client are small

import flwr
import numpy as np
from flwr.client import NumPyClient
from flwr.common import (
    FitIns,
    Parameters,
    bytes_to_ndarray,
    ndarray_to_bytes,
    parameters_to_ndarrays,
)
from flwr.server.strategy import FedAvg


def gradients(scorer, rows, private, labels):
    """Gradients of binary cross-entropy: those of the scorer by name, of rows, of private."""
    depth = len(scorer) // 2
    x = private @ scorer['private/kernel'] + rows @ scorer['items/kernel'] + scorer['items/bias']
    layers = []
    for layer in range(1, depth):
        layers.append((x > 0, np.maximum(x, 0)))
        x = layers[-1][1] @ scorer[f'layer_{layer}/kernel'] + scorer[f'layer_{layer}/bias']
    signal = ((1 / (1 + np.exp(-x[:, 0])) - labels) / len(labels))[:, None]
    found = {}
    for layer in reversed(range(1, depth)):
        positive, below = layers[layer - 1]
        found[f'layer_{layer}/kernel'] = below.T @ signal
        found[f'layer_{layer}/bias'] = signal.sum(0)
        signal = signal @ scorer[f'layer_{layer}/kernel'].T * positive
    total = signal.sum(0)
    found['items/kernel'], found['items/bias'] = rows.T @ signal, total
    found['private/kernel'] = np.outer(private, total)
    return found, signal @ scorer['items/kernel'].T, scorer['private/kernel'] @ total


class Client(NumPyClient):
    """A device: its labels and its private embedding stay here."""

    def __init__(self, shapes, labels, private):
        self.shapes, self.labels, self.private = shapes, labels, private

    def fit(self, parameters, config):
        """The gradients of the scorer, as one vector, and of the client's item rows."""
        vector, rows = parameters
        found, slope, own = gradients(named(vector, self.shapes), rows, self.private, self.labels)
        self.private = self.private - np.float32(0.1) * own
        leaves = [found[name].ravel() for name in self.shapes]
        return [np.concatenate(leaves), slope], len(rows), {}


def named(vector, shapes):
    """The leaves of a vector, by name."""
    leaves, start = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        leaves[name] = vector[start : start + size].reshape(shape)
        start += size
    return leaves


def play(strategy, table, vector, clients, items):
    """One round: the scorer's new vector; the table is changed in place."""
    scorer, replies, uploads = ndarray_to_bytes(vector), [], []
    for client, own in zip(clients, items, strict=True):
        given = Parameters([scorer, ndarray_to_bytes(table[own])], 'numpy.ndarray')
        reply = client.fit(FitIns(given, {}))
        seen, rows = reply.parameters.tensors
        replies.append((None, dataclasses.replace(reply, parameters=Parameters([seen], 'numpy'))))
        uploads.append(rows)
    mean = parameters_to_ndarrays(strategy.aggregate_fit(2, replies, [])[0])[0]
    for own, rows in zip(items, uploads, strict=True):  # no batch has an item twice
        table[own] -= np.float32(0.1) * bytes_to_ndarray(rows)
    return vector - np.float32(0.1) * mean


def main():
    """Reads clients; writes parameters and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('given')
    parser.add_argument('answers')
    parser.add_argument('--repeats', type=int, default=3)
    arguments = parser.parse_args()
    with np.load(arguments.given) as file:
        arrays = dict(file)
    names = [name for name in arrays if name.startswith('scorer/')]
    shapes = {name.removeprefix('scorer/'): arrays[name].shape for name in names}
    table, vector = arrays['table'], np.concatenate([arrays[name].ravel() for name in names])
    clients = [
        Client(shapes, *own) for own in zip(arrays['labels'], arrays['private'], strict=True)
    ]
    wrapped = [client.to_client() for client in clients]
    strategy, seconds, answers = FedAvg(), [], {}
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        vector = play(strategy, table, vector, wrapped, arrays['items'])
        seconds.append(time.perf_counter() - start)
        answers = answers or {
            'table': table.copy(),
            'private': np.stack([client.private for client in clients]),
            **{f'scorer/{name}': leaf for name, leaf in named(vector, shapes).items()},
        }
    np.savez(
        arguments.answers,
        first=seconds[0],
        seconds=np.array(seconds[1:]),
        version=np.array(f'flwr {flwr.__version__}'),
        **answers,
    )


if __name__ == '__main__':
    main()
