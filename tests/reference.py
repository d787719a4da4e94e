"""An independent float64 NumPy reference: loops over interactions, gradients derived by hand.

Nothing here is imported from the package or from JAX, and nothing is vectorised over
interactions: what the package computes with autodiff, scatter and scan is written out.

Parameters: `{'items': {'embedding': [N, D], ('bias': [N])}, 'scorer': {}}` for matrix
factorisation; for NCF the scorer holds `private/kernel [D, H]`, `items/{kernel [D, H], bias [H]}`
and `layer_k/{kernel, bias}`, k = 1, 2, ..., the last of width 1.
"""

import copy

import numpy as np


def tree_map(function, *trees):
    """`function` on the leaves of nested dicts of the same structure."""
    if isinstance(trees[0], dict):
        return {name: tree_map(function, *(tree[name] for tree in trees)) for name in trees[0]}
    return function(*trees)


def to_float64(tree):
    """A deep copy with float64 NumPy leaves."""
    return tree_map(lambda leaf: np.array(leaf, np.float64), tree)


def zeros_like(tree):
    return tree_map(np.zeros_like, tree)


def sigmoid(z):
    return 1 / (1 + np.exp(-z)) if z >= 0 else np.exp(z) / (1 + np.exp(z))


def bce(z, y):
    """Loss `log(1 + e^z) - y z` and its derivative in z, `sigmoid(z) - y`."""
    return max(z, 0) + np.log1p(np.exp(-abs(z))) - y * z, sigmoid(z) - y


def squared_error(z, y):
    """Loss `(z - y)^2` and its derivative in z."""
    return (z - y) ** 2, 2 * (z - y)


def _mf_forward(shared, private, row):
    embedding = shared['items']['embedding'][row]
    z = sum(embedding[d] * private[d] for d in range(len(private)))
    return z + (shared['items']['bias'][row] if 'bias' in shared['items'] else 0)


def _mf_backward(shared, private, row, c, gradient, private_gradient):
    """Adds `c dz/dtheta`: dz/dq = p, dz/dp = q, dz/db = 1."""
    gradient['items']['embedding'][row] += c * private
    private_gradient += c * shared['items']['embedding'][row]
    if 'bias' in shared['items']:
        gradient['items']['bias'][row] += c


def _ncf_layers(scorer):
    return [f'layer_{k}' for k in range(1, len(scorer) - 1)]


def _ncf_activations(shared, private, row):
    """Pre-activations of every layer, the last one being the logit `[1]`."""
    scorer = shared['scorer']
    a = scorer['private']['kernel'].T @ private
    a = a + scorer['items']['kernel'].T @ shared['items']['embedding'][row]
    a = a + scorer['items'].get('bias', 0)
    activations = [a]
    for name in _ncf_layers(scorer):
        a = scorer[name]['kernel'].T @ np.maximum(a, 0) + scorer[name].get('bias', 0)
        activations.append(a)
    return activations


def _ncf_forward(shared, private, row):
    return _ncf_activations(shared, private, row)[-1][0]


def _ncf_backward(shared, private, row, c, gradient, private_gradient):
    """Adds `c dz/dtheta` by backpropagation; `back` is `c dz/da` of the current layer."""
    scorer, g = shared['scorer'], gradient['scorer']
    activations = _ncf_activations(shared, private, row)
    names = _ncf_layers(scorer)
    back = np.array([c])
    for k in range(len(names) - 1, -1, -1):
        below = activations[k]
        g[names[k]]['kernel'] += np.outer(np.maximum(below, 0), back)
        if 'bias' in g[names[k]]:
            g[names[k]]['bias'] += back
        back = (scorer[names[k]]['kernel'] @ back) * (below > 0)
    g['private']['kernel'] += np.outer(private, back)
    g['items']['kernel'] += np.outer(shared['items']['embedding'][row], back)
    if 'bias' in g['items']:
        g['items']['bias'] += back
    gradient['items']['embedding'][row] += scorer['items']['kernel'] @ back
    private_gradient += scorer['private']['kernel'] @ back


def _rows(shared, items):
    return range(len(shared['items']['embedding'])) if items is None else [int(i) for i in items]


def _functions(shared):
    return (_ncf_forward, _ncf_backward) if shared['scorer'] else (_mf_forward, _mf_backward)


def mean_loss(shared, private, items, labels, weights, loss):
    """`sum_b w_b loss(z_b, y_b) / sum_b w_b`; 0 without weight."""
    forward, _ = _functions(shared)
    total, value = sum(weights), 0.0
    for row, y, w in zip(_rows(shared, items), labels, weights, strict=True):
        if w > 0:
            value += w / total * loss(forward(shared, private, row), y)[0]
    return value


def gradients(shared, private, items, labels, weights, loss):
    """Gradients of `mean_loss` in (shared, private); a repeated item adds to one row."""
    forward, backward = _functions(shared)
    gradient, private_gradient = zeros_like(shared), np.zeros_like(private)
    total = sum(weights)
    for row, y, w in zip(_rows(shared, items), labels, weights, strict=True):
        if w > 0:
            c = w / total * loss(forward(shared, private, row), y)[1]
            backward(shared, private, row, c, gradient, private_gradient)
    return gradient, private_gradient


def gradient_step(loss, private_learning_rate):
    """FedSGD: the gradient, and one step of the private parameters at the same point."""

    def client_update(shared, private, items, labels, weights):
        gradient, private_gradient = gradients(shared, private, items, labels, weights, loss)
        return gradient, private - private_learning_rate * private_gradient

    return client_update


class Sgd:
    """`theta - rate g`."""

    def __init__(self, rate):
        self.rate = rate

    def start(self, parameters):
        return None

    def step(self, parameters, gradient, state):
        return tree_map(lambda x, g: x - self.rate * g, parameters, gradient), state


class Adam:
    """Kingma and Ba, arXiv:1412.6980, algorithm 1."""

    def __init__(self, rate, b1=0.9, b2=0.999, eps=1e-8):
        self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps

    def start(self, parameters):
        return zeros_like(parameters), zeros_like(parameters), 0

    def step(self, parameters, gradient, state):
        m, v, t = state
        t += 1
        m = tree_map(lambda m, g: self.b1 * m + (1 - self.b1) * g, m, gradient)
        v = tree_map(lambda v, g: self.b2 * v + (1 - self.b2) * g**2, v, gradient)

        def moved(x, m, v):
            m_hat, v_hat = m / (1 - self.b1**t), v / (1 - self.b2**t)
            return x - self.rate * m_hat / (np.sqrt(v_hat) + self.eps)

        return tree_map(moved, parameters, m, v), (m, v, t)


def local_sgd(loss, optimizer, private_optimizer, num_epochs=1, batch_size=None):
    """FedAvg: minibatches are consecutive blocks; optimiser moments start at zero every round."""

    def client_update(shared, private, items, labels, weights):
        rows = list(_rows(shared, items))
        size = batch_size or len(rows)
        start = shared
        state, private_state = optimizer.start(shared), private_optimizer.start(private)
        for _ in range(num_epochs):
            for first in range(0, len(rows), size):
                block = slice(first, first + size)
                if sum(weights[block]) == 0:
                    continue
                gradient, private_gradient = gradients(
                    shared, private, rows[block], labels[block], weights[block], loss
                )
                shared, state = optimizer.step(shared, gradient, state)
                private, private_state = private_optimizer.step(
                    private, private_gradient, private_state
                )
        return tree_map(lambda a, b: a - b, start, shared), private

    return client_update


def aggregate(shared, uploads, rows, how_items, how_scorer):
    """One round's aggregate of uploads whose item leaves are rows `rows[c]` of the table."""
    result = zeros_like(shared)
    num_items = len(next(iter(shared['items'].values())))
    count = [0] * num_items
    for upload, ids in zip(uploads, rows, strict=True):
        for b, row in enumerate(ids):
            count[row] += 1
            for name in result['items']:
                result['items'][name][row] += upload['items'][name][b]
        result['scorer'] = tree_map(lambda a, b: a + b, result['scorer'], upload['scorer'])
    clients = max(len(uploads), 1)
    for name in result['items']:
        for row in range(num_items):
            by = {'sum': 1, 'mean': clients, 'mean_over_touched': max(count[row], 1)}[how_items]
            result['items'][name][row] /= by
    by = {'sum': 1, 'mean': clients, 'mean_over_touched': clients}[how_scorer]
    result['scorer'] = tree_map(lambda a: a / by, result['scorer'])
    return result


def federated_run(
    shared, privates, clients, client_update, how_items, how_scorer, server_rate, participation
):
    """Rounds one after the other, clients one after the other.

    Args:
        shared: parameters before the first round.
        privates: user -> private parameters before the first round.
        clients: user -> `(items, labels, weights)`, unpadded, distinct items.
        client_update: of this module.
        how_items: aggregation of item rows.
        how_scorer: aggregation of the scorer.
        server_rate: of the server's SGD.
        participation: per round, the users that take part.

    Returns:
        Per round: `(shared before, privates before, user -> upload)`, and the final parameters.
    """
    history = []
    for users in participation:
        before = (copy.deepcopy(shared), copy.deepcopy(privates))
        uploads = {}
        for user in users:
            items, labels, weights = clients[user]
            table = {name: leaf[np.asarray(items)] for name, leaf in shared['items'].items()}
            local = {'items': table, 'scorer': shared['scorer']}
            uploads[user], privates[user] = client_update(
                local, privates[user], None, labels, weights
            )
        step = aggregate(
            shared, list(uploads.values()), [clients[u][0] for u in uploads], how_items, how_scorer
        )
        shared = tree_map(lambda a, b: a - server_rate * b, shared, step)
        history.append((*before, uploads))
    return history, shared
