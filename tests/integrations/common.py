"""What the runs share, in any environment with PyTorch."""

import itertools
import pathlib
import random

import numpy as np
import torch
from torch import nn


class NCF(nn.Module):
    """The shared part of the model: the user's embedding comes with the batch."""

    def __init__(self, num_items=50, dim=8):
        super().__init__()
        self.item_embedding = nn.Embedding(num_items, dim)
        widths = (2 * dim, 2 * dim, dim, 1)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )

    def forward(self, user, items):
        rows = self.item_embedding(items)
        x = torch.cat([user.expand_as(rows), rows], dim=1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x).squeeze(1)


def loss(model, user, items, labels):
    return nn.functional.binary_cross_entropy_with_logits(model(user, items), labels)


def embedding(seed, dim=8):
    """A user's embedding, before the first round."""
    return 0.3 * torch.randn(dim, generator=torch.Generator().manual_seed(seed))


def batch(seed, num_items=50):
    """A user's items and labels."""
    rng = random.Random(seed)
    items = rng.sample(range(num_items), rng.randint(15, 25))
    labels = [float(n < len(items) // 5) for n in range(len(items))]
    return torch.tensor(items), torch.tensor(labels)


def dump(folder, round_, client, sent, returned):
    """What the server subtracts, as the device itself has it."""
    arrays = {name: (leaf - returned[name]).numpy() for name, leaf in sent.items()}
    np.savez(pathlib.Path(folder) / f'{round_}_{client}.npz', **arrays)


def write_truth(path, histories):
    """The interactions of each client, as lines client,item."""
    lines = (f'{client},{item}\n' for client, items in histories.items() for item in items)
    pathlib.Path(path).write_text(''.join(lines), encoding='utf-8')
