"""A round of training with fedjax's `for_each_client`.

`others.py` compares its parameters and times with ours. A client gathers its item rows from the
shared table (`client_init`), takes one gradient and one step on its private embedding
(`client_step`), and gives back both. The server sums item rows, averages the scorer and takes a
step. The clients of the round are given: choosing them takes no time here.

fedjax calls three compiled functions for each client, and most of the time goes into the calls.
With `--together=16` the same loop over 16 clients is traced by one `jax.jit`. fedjax's own programs
do not do so, and it compiles for many seconds, but it is the fastest use that we found. Its backend
'pmap' needs an older jax, and took seven times as long as 'jit' on two cores.

The program reads an .npz file, `table [N, D]`, `scorer/... [...]`, `items [C, B]`, `labels [C, B]`
and `private [C, D]`. It writes the table, the scorer and the private embeddings after one round,
the seconds of the first round, which compiles, and those of every repeat, and the versions.

    python benchmarks/peers/fedjax_rounds.py given.npz answers.npz --together=16 --repeats=3
"""

import argparse
import importlib.metadata
import os
import time

os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')  # as ours

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
import optax


def logits(scorer, rows, private):
    """The scorer's logits `[B]` for item rows `[B, D]` and one private embedding `[D]`."""
    x = private @ scorer['private/kernel'] + rows @ scorer['items/kernel'] + scorer['items/bias']
    for layer in range(1, len(scorer) // 2):
        x = jax.nn.relu(x) @ scorer[f'layer_{layer}/kernel'] + scorer[f'layer_{layer}/bias']
    return x[..., 0]


def loss(parameters, labels):
    """Binary cross-entropy of a client."""
    found = logits(parameters['scorer'], parameters['rows'], parameters['private'])
    return optax.sigmoid_binary_cross_entropy(found, labels).mean()


def client_init(shared, own):
    """What a client trains: its rows of the table, the scorer, its private embedding."""
    rows = shared['table'][own['items']]
    return {'rows': rows, 'scorer': shared['scorer'], 'private': own['private']}


def client_step(state, batch):
    """The gradients of rows and scorer, and the private embedding after a step."""
    gradient = jax.grad(loss)(state, batch['labels'])
    return {**gradient, 'private': state['private'] - 0.1 * gradient['private']}


@jax.jit
def server(shared, items, uploads):
    """The shared parameters after a step, from the rows' sum and the scorers' mean."""
    rows, scorers = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(upload[name] for upload in uploads))
        for name in ('rows', 'scorer')
    )

    def average(old, leaf):
        return old - 0.1 * leaf.reshape(-1, *old.shape).mean(0)

    table = shared['table'].at[items.reshape(rows.shape[:-1])].add(-0.1 * rows)
    return {'table': table, 'scorer': jax.tree.map(average, shared['scorer'], scorers)}


def trainer(data, together):
    """A function from the shared parameters to the uploads, each of `together` clients."""
    each = fedjax.for_each_client(client_init, client_step)

    def clients(labels, items, private):
        return [
            (number, [{'labels': label}], {'items': item, 'private': own})
            for number, (label, item, own) in enumerate(zip(labels, items, private, strict=True))
        ]

    @jax.jit
    def several(shared, *part):
        uploads = [upload for _, upload in each(shared, clients(*part))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *uploads)

    if together == 1:
        ready = clients(*map(list, data))
        return lambda shared: [upload for _, upload in each(shared, ready)]
    split = [leaf.reshape(-1, together, leaf.shape[1]) for leaf in data]
    parts = list(zip(*map(list, split), strict=True))
    return lambda shared: [several(shared, *part) for part in parts]


def main():
    """Reads clients; writes parameters and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('given')
    parser.add_argument('answers')
    parser.add_argument('--together', type=int, default=1, help='clients of a compiled loop')
    parser.add_argument('--repeats', type=int, default=3)
    arguments = parser.parse_args()
    with np.load(arguments.given) as file:
        arrays = {name: jnp.asarray(file[name]) for name in file.files}
    names = [name for name in arrays if name.startswith('scorer/')]
    scorer = {name.removeprefix('scorer/'): arrays[name] for name in names}
    shared = {'table': arrays['table'], 'scorer': scorer}
    data = [arrays[name] for name in ('labels', 'items', 'private')]
    train = trainer(data, arguments.together)

    def call():
        uploads = train(shared)
        new = server(shared, arrays['items'], uploads)
        return jax.block_until_ready((new, [upload['private'] for upload in uploads]))

    seconds = []
    for _ in range(arguments.repeats + 1):
        start = time.perf_counter()
        new, private = call()
        seconds.append(time.perf_counter() - start)
    np.savez(
        arguments.answers,
        first=seconds[0],
        seconds=np.array(seconds[1:]),
        version=np.array(f'fedjax {importlib.metadata.version("fedjax")}, jax {jax.__version__}'),
        table=new['table'],
        private=np.reshape(private, arrays['private'].shape),
        **{f'scorer/{name}': leaf for name, leaf in new['scorer'].items()},
    )


if __name__ == '__main__':
    main()
