"""A federated recommender in Flower: NCF, each user's embedding stays on the device.

    python train.py --data=u.data --clients=20 --rounds=5 --capture=capture

Needs examples/requirements-flower.txt; --capture needs fedinv_flower.py and fedinv_record.py of
integrations/ beside this file. Seven lines serve it: the option, the block and 'config'.
"""

import argparse
import collections
import csv
import itertools
import random

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn


class NCF(nn.Module):
    """Multilayer perceptron on a user's embedding and an item's."""

    def __init__(self, num_items, dim=16):
        super().__init__()
        self.user_embedding = nn.Parameter(0.1 * torch.randn(dim))
        self.item_embedding = nn.Embedding(num_items, dim)
        nn.init.normal_(self.item_embedding.weight, std=0.1)
        widths = (2 * dim, 2 * dim, dim, 1)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )

    def forward(self, items):
        """The logits of items."""
        rows = self.item_embedding(items)
        x = torch.cat([self.user_embedding.expand_as(rows), rows], dim=1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x).squeeze(1)


def shared(model):
    """What a client and the server exchange: all but the user's embedding."""
    return {name: leaf for name, leaf in model.state_dict().items() if name != 'user_embedding'}


def read(path, num_clients):
    """The number of items, and the items of the first users of MovieLens-100K's u.data."""
    histories = collections.defaultdict(set)
    with open(path, encoding='utf-8') as file:
        for user, item, *_ in csv.reader(file, delimiter='\t'):
            histories[int(user)].add(int(item) - 1)
    num_items = 1 + max(max(items) for items in histories.values())
    return num_items, [sorted(histories[user]) for user in sorted(histories)[:num_clients]]


def synthetic(num_clients, num_items):
    """The number of items, and random items of each user."""
    rng = random.Random(0)
    most = max(num_items // 10, 6)
    return num_items, [
        sorted(rng.sample(range(num_items), rng.randint(5, most))) for _ in range(num_clients)
    ]


def batch(positives, num_items, seed, each=4):
    """A user's items and labels: the positives, and four times as many negatives."""
    others = sorted(set(range(num_items)) - set(positives))
    number = min(each * len(positives), len(others))
    negatives = random.Random(seed).sample(others, number)
    labels = torch.tensor([1.0] * len(positives) + [0.0] * len(negatives))
    return torch.tensor([*positives, *negatives]), labels


def fit(model, items, labels, args):
    """Local training; returns the last loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    for _ in range(args.epochs):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(items), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def client_app(args, num_items, histories):
    """The program of a device."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        user = context.node_config['partition-id']
        torch.manual_seed(user)
        model = NCF(num_items, args.dim)
        model.load_state_dict(message.content['arrays'].to_torch_state_dict(), strict=False)
        if 'private' in context.state:  # of the last round in which this user took part
            private = context.state['private'].to_torch_state_dict()
            model.load_state_dict(private, strict=False)
        items, labels = batch(histories[user], num_items, seed=user)
        loss = fit(model, items, labels, args)
        context.state['private'] = ArrayRecord({'user_embedding': model.user_embedding.data})
        content = {
            'arrays': ArrayRecord(shared(model)),
            'metrics': MetricRecord({'loss': loss, 'num-examples': len(items)}),
            'config': ConfigRecord({'partition-id': user}),
        }
        return Message(RecordDict(content), reply_to=message)

    return app


def server_app(args, num_items):
    """The program of the server."""
    app = ServerApp()

    @app.main()
    def main(grid, context):
        torch.manual_seed(args.seed)
        strategy = FedAvg(fraction_evaluate=0.0)
        if args.capture:
            import fedinv_flower  # with fedinv_record.py, beside this file

            known = {'loss': 'bce', 'optimizer': 'sgd', 'learning_rate': args.lr}
            known.update(framework='flower', local_epochs=args.epochs, batch_size=None)
            strategy = fedinv_flower.Recorded(strategy, args.capture, **known)
        arrays = ArrayRecord(shared(NCF(num_items, args.dim)))
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=args.rounds)

    return app


def parse(argv=None):
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', help='u.data of MovieLens-100K; synthetic data without it')
    parser.add_argument('--items', type=int, default=400, help='of the synthetic data')
    parser.add_argument('--clients', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--dim', type=int, default=16)
    parser.add_argument('--lr', type=float, default=0.1)
    parser.add_argument('--epochs', type=int, default=1)
    parser.add_argument('--capture', help='folder to record to')
    parser.add_argument('--truth', help='file for the interactions, client,item')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args(argv)


def load(args):
    """The number of items, and each user's items."""
    return read(args.data, args.clients) if args.data else synthetic(args.clients, args.items)


def main():
    """Simulates the server and the devices."""
    args = parse()
    num_items, histories = load(args)
    if args.truth:
        with open(args.truth, 'w', encoding='utf-8') as file:
            file.writelines(f'{u},{i}\n' for u, items in enumerate(histories) for i in items)
    run_simulation(
        server_app=server_app(args, num_items),
        client_app=client_app(args, num_items, histories),
        num_supernodes=len(histories),
        backend_config={'client_resources': {'num_cpus': 1}},
    )


if __name__ == '__main__':
    main()
