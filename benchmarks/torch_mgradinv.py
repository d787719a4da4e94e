"""MGradInv in plain PyTorch, one victim after the other, to compare its speed with JAX.

The objective is that of `fedinv_jax.attack.objective` for NCF, binary cross-entropy and one
gradient per step: the squared distance of each leaf to the seen one, divided by the squared norm of
the seen one, averaged over leaves and steps. The program reads victims from an .npz file with leaf
names joined by slashes. `items`, `labels`, `private` and `seen/...` have a leading axis of victims;
all but `labels` have an axis of steps after it. It writes the objective and its gradient at the
start, and the seconds of every repeat. It needs torch and numpy only.

    python benchmarks/torch_mgradinv.py victims.npz answers.npz --iterations=20 --repeats=3
"""

import argparse
import time

import numpy as np
import torch


def logits(scorer, rows, private):
    """The scorer's logits `[K]` for item rows `[K, D]` and one private embedding `[D]`."""
    x = private @ scorer['private/kernel'] + rows @ scorer['items/kernel'] + scorer['items/bias']
    for layer in range(1, len(scorer) // 2):
        x = torch.relu(x) @ scorer[f'layer_{layer}/kernel'] + scorer[f'layer_{layer}/bias']
    return x[..., 0]


def read(path):
    """The arrays of an .npz file as tensors, by name."""
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def part(arrays, prefix, index=slice(None)):
    """The arrays whose names start with `prefix`, indexed, by the rest of the name."""
    return {
        name.removeprefix(prefix): leaf[index]
        for name, leaf in arrays.items()
        if name.startswith(prefix)
    }


def uploads(items, scorer, private, labels):
    """Differentiable gradients of one step's mean loss in the item rows and the scorer."""
    rows = items.detach().requires_grad_()
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in scorer.items()}
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits(leaves, rows, private), labels
    )
    found = torch.autograd.grad(loss, [rows, *leaves.values()], create_graph=True)
    names = ['items/embedding', *(f'scorer/{name}' for name in leaves)]
    return dict(zip(names, found, strict=True))


def objective(victim, logits, private):
    """The mean over steps of the mean over leaves of `|g' - g|^2 / |g|^2`."""
    total = 0.0
    for t, items in enumerate(victim['items']):
        scorer = {name: leaf[t] for name, leaf in victim['scorer'].items()}
        predicted = uploads(items, scorer, private[t], torch.sigmoid(logits))
        ratios = [
            torch.sum((predicted[name] - leaf[t]) ** 2) / torch.sum(leaf[t] ** 2)
            for name, leaf in victim['seen'].items()
        ]
        total = total + torch.stack(ratios).mean()
    return total / len(victim['items'])


def attack(victim, iterations):
    """Runs Adam on labels and embeddings from the start in the file; returns the objective."""
    logits = victim['labels'].clone().requires_grad_()
    private = victim['private'].clone().requires_grad_()
    optimizer = torch.optim.Adam([logits, private], lr=0.1)
    for _ in range(iterations):
        optimizer.zero_grad()
        value = objective(victim, logits, private)
        value.backward()
        optimizer.step()
    return value


def main():
    """Reads victims; writes objectives, gradients and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('victims')
    parser.add_argument('answers')
    parser.add_argument('--iterations', type=int, default=20)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arrays = read(arguments.victims)
    victims = [
        {
            **{name: arrays[name][v] for name in ('items', 'labels', 'private')},
            'scorer': part(arrays, 'scorer/'),
            'seen': part(arrays, 'seen/', v),
        }
        for v in range(len(arrays['labels']))
    ]
    found = {'value': [], 'labels': [], 'private': []}
    for victim in victims:
        logits = victim['labels'].clone().requires_grad_()
        private = victim['private'].clone().requires_grad_()
        value = objective(victim, logits, private)
        value.backward()
        found['value'].append(value.item())
        found['labels'].append(logits.grad.numpy())
        found['private'].append(private.grad.numpy())
    attack(victims[0], 3)
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        for victim in victims:
            attack(victim, arguments.iterations)
        seconds.append(time.perf_counter() - start)
    np.savez(
        arguments.answers,
        seconds=np.array(seconds),
        threads=torch.get_num_threads(),
        version=np.array(torch.__version__),
        **{name: np.stack(value) for name, value in found.items()},
    )


if __name__ == '__main__':
    main()
