"""MGradInv in PyTorch, batched over victims and compiled: the strongest peer that we know.

The objective is that of `fedinv_jax.attack.objective` for NCF, binary cross-entropy and one
gradient per step: the squared distance of each leaf to the seen one, divided by the squared norm of
the seen one, averaged over leaves and steps. One function, `torch.func.vmap` of value and gradient
and a step of Adam, is compiled by `torch.compile`; `--eager` leaves that out. The program reads
victims from an .npz file with leaf names joined by slashes. `items`, `labels`, `private` and
`seen/...` have a leading axis of victims; all but `labels` have an axis of steps after it. It
writes the objective and its gradient at the start, the seconds of the first iteration, which
compiles, and those of every repeat. It needs torch, numpy and, to compile on a CPU, a C++ compiler.

    python benchmarks/peers/torch_mgradinv.py victims.npz answers.npz --iterations=20 --repeats=3
"""

import argparse
import functools
import time

import numpy as np
import torch

_DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
_RATE, _DECAY, _SQUARED_DECAY, _EPS = 0.1, 0.9, 0.999, 1e-8  # of Adam


def logits(scorer, rows, private):
    """The scorer's logits `[K]` for item rows `[K, D]` and one private embedding `[D]`."""
    x = private @ scorer['private/kernel'] + rows @ scorer['items/kernel'] + scorer['items/bias']
    for layer in range(1, len(scorer) // 2):
        x = torch.relu(x) @ scorer[f'layer_{layer}/kernel'] + scorer[f'layer_{layer}/bias']
    return x[..., 0]


def read(path):
    """The arrays of an .npz file as tensors by name, on the GPU where there is one."""
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]).to(_DEVICE) for name in file.files}


def wait():
    """Waits until the GPU, if there is one, has done all that it was asked for."""
    if _DEVICE == 'cuda':
        torch.cuda.synchronize()


def part(arrays, prefix):
    """The arrays whose names start with `prefix`, by the rest of the name."""
    return {
        name.removeprefix(prefix): leaf for name, leaf in arrays.items() if name.startswith(prefix)
    }


def step_distance(private, labels, items, scorer, seen):
    """The mean over leaves of `|g' - g|^2 / |g|^2` of one step."""

    def loss(parameters):
        found = logits(parameters['scorer'], parameters['items'], private)
        return torch.mean(torch.nn.functional.softplus(found) - labels * found)

    predicted = torch.func.grad(loss)({'items': items, 'scorer': scorer})
    leaves = {f'scorer/{name}': leaf for name, leaf in predicted['scorer'].items()}
    leaves['items/embedding'] = predicted['items']
    ratios = [
        torch.sum((leaves[name] - leaf) ** 2) / torch.sum(leaf**2) for name, leaf in seen.items()
    ]
    return torch.stack(ratios).mean()


def objective(unknown, victim, scorer):
    """The objective of one victim; `unknown` has logits of labels `[K]` and privates `[T, D]`."""
    labels = torch.sigmoid(unknown['labels'])
    steps = torch.func.vmap(step_distance, in_dims=(0, None, 0, 0, 0))
    return steps(unknown['private'], labels, victim['items'], scorer, victim['seen']).mean()


def adam(state, gradient, count):
    """One step of Adam on every unknown: state is (unknown, mean, mean of squares)."""
    unknown, mean, square = state
    found = ({}, {}, {})
    for name, slope in gradient.items():
        m = _DECAY * mean[name] + (1 - _DECAY) * slope
        v = _SQUARED_DECAY * square[name] + (1 - _SQUARED_DECAY) * slope**2
        scale = torch.sqrt(v / (1 - _SQUARED_DECAY**count)) + _EPS
        found[0][name] = unknown[name] - _RATE * m / (1 - _DECAY**count) / scale
        found[1][name], found[2][name] = m, v
    return found


def slopes(unknown, victims, scorer):
    """Gradients and values of the objectives of all victims."""
    one = torch.func.vmap(torch.func.grad_and_value(objective), in_dims=(0, 0, None))
    return one(unknown, victims, scorer)


def iterate(state, count, victims, scorer):
    """One iteration of all victims: their objectives, and the next state."""
    gradient, value = slopes(state[0], victims, scorer)
    return value, adam(state, gradient, count)


def main():
    """Reads victims; writes objectives, gradients and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('victims')
    parser.add_argument('answers')
    parser.add_argument('--iterations', type=int, default=20)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=None)
    parser.add_argument('--eager', action='store_true', help='batched, not compiled')
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arrays = read(arguments.victims)
    unknown = {name: arrays[name] for name in ('labels', 'private')}
    victims = {'items': arrays['items'], 'seen': part(arrays, 'seen/')}
    scorer = part(arrays, 'scorer/')
    gradient, value = slopes(unknown, victims, scorer)
    run = iterate if arguments.eager else torch.compile(iterate, dynamic=False)

    def attack(iterations):
        state = (unknown, *({k: torch.zeros_like(v) for k, v in unknown.items()} for _ in range(2)))
        for count in range(1, iterations + 1):
            found, state = run(state, torch.tensor(float(count), device=_DEVICE), victims, scorer)
        return found

    timed = functools.partial(_seconds, attack)
    first = timed(1)
    timed(3)
    seconds = [timed(arguments.iterations) for _ in range(arguments.repeats)]
    np.savez(
        arguments.answers,
        first=first,
        seconds=np.array(seconds),
        threads=torch.get_num_threads(),
        version=np.array(torch.__version__),
        value=value.cpu().numpy(),
        **{name: leaf.cpu().numpy() for name, leaf in gradient.items()},
    )


def _seconds(attack, iterations):
    start = time.perf_counter()
    attack(iterations)
    wait()
    return time.perf_counter() - start


if __name__ == '__main__':
    main()
