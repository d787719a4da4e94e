"""A small federated recommender in PyTorch: NCF, a user embedding that stays on the device.

    python train.py --data=u.data --clients=20 --rounds=5 --capture=capture

The three lines with `record` are all that an audit needs; without --capture they do nothing.
"""

import argparse
import collections
import copy
import csv
import random

import torch
from torch import nn


class NCF(nn.Module):
    def __init__(self, num_items, dim=16, hidden=(32, 16)):
        super().__init__()
        self.user_embedding = nn.Parameter(0.1 * torch.randn(dim))
        self.item_embedding = nn.Embedding(num_items, dim)
        nn.init.normal_(self.item_embedding.weight, std=0.1)
        widths = (2 * dim, *hidden, 1)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(widths, widths[1:])
        )

    def forward(self, items):
        rows = self.item_embedding(items)
        x = torch.cat([self.user_embedding.expand_as(rows), rows], dim=1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x).squeeze(1)


class NeuMF(nn.Module):
    def __init__(self, num_items, dim=16, hidden=(32, 16)):
        super().__init__()
        self.user_mf = nn.Parameter(0.1 * torch.randn(dim))
        self.user_mlp = nn.Parameter(0.1 * torch.randn(dim))
        self.item_mf = nn.Embedding(num_items, dim)
        self.item_mlp = nn.Embedding(num_items, dim)
        for table in (self.item_mf, self.item_mlp):
            nn.init.normal_(table.weight, std=0.1)
        widths = (2 * dim, *hidden)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(widths, widths[1:])
        )
        self.output = nn.Linear(dim + hidden[-1], 1)

    def forward(self, items):
        mlp = self.item_mlp(items)
        x = torch.cat([self.user_mlp.expand_as(mlp), mlp], dim=1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        products = self.user_mf * self.item_mf(items)
        return self.output(torch.cat([products, x], dim=1)).squeeze(1)


MODELS = {'ncf': NCF, 'neumf': NeuMF}
OPTIMIZERS = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam}


def read(path, num_clients):
    """The number of items, and the items of the first users."""
    histories = collections.defaultdict(list)
    with open(path, encoding='utf-8') as file:
        for user, item, *_ in csv.reader(file, delimiter='\t'):
            histories[int(user)].append(int(item) - 1)
    num_items = 1 + max(max(items) for items in histories.values())
    users = sorted(histories)[:num_clients]
    return num_items, {user: sorted(set(histories[user])) for user in users}


def synthetic(num_clients, num_items=400):
    rng = random.Random(0)
    histories = {
        user: sorted(rng.sample(range(num_items), rng.randint(10, 40)))
        for user in range(1, num_clients + 1)
    }
    return num_items, histories


def negatives(positives, num_items, rng, each=4):
    others = sorted(set(range(num_items)) - set(positives))
    return rng.sample(others, min(each * len(positives), len(others)))


def train(model, batch, args):
    """Local training on a client's items and labels."""
    items, labels = batch
    optimizer = OPTIMIZERS[args.optimizer](
        model.parameters(), lr=args.lr, weight_decay=args.weight_decay
    )
    size = args.batch_size or len(items)
    for _ in range(args.epochs):
        order = torch.randperm(len(items)) if args.batch_size else torch.arange(len(items))
        for index in order.split(size):
            optimizer.zero_grad()
            logits = model(items[index])
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[index])
            loss.backward()
            optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', help='u.data of MovieLens-100K; synthetic data without it')
    parser.add_argument('--model', choices=MODELS, default='ncf')
    parser.add_argument('--clients', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--optimizer', choices=OPTIMIZERS, default='sgd')
    parser.add_argument('--lr', type=float, default=0.1)
    parser.add_argument('--weight_decay', type=float, default=0.0)
    parser.add_argument('--epochs', type=int, default=1)
    parser.add_argument('--batch_size', type=int, default=0, help='0: the whole batch')
    parser.add_argument('--fresh_negatives', action='store_true')
    parser.add_argument('--half', action='store_true', help='send float16')
    parser.add_argument('--scorer_only', action='store_true', help='do not share the item table')
    parser.add_argument('--sampled', type=int, help='clients of a round; all without it')
    parser.add_argument('--secure_aggregation', action='store_true', help='the server sees means')
    parser.add_argument('--capture', help='folder to record to')
    parser.add_argument('--truth', help='file for the interactions, client,item')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    num_items, histories = read(args.data, args.clients) if args.data else synthetic(args.clients)
    server = MODELS[args.model](num_items)
    private = {name for name, _ in server.named_parameters() if name.startswith('user_')}
    clients = {user: copy.deepcopy(server) for user in histories}
    for model in clients.values():
        for name, value in model.named_parameters():
            if name in private:
                nn.init.normal_(value, std=0.1)
    fixed = {user: negatives(items, num_items, rng) for user, items in histories.items()}

    def shared(model):
        kind = torch.float16 if args.half else torch.float32
        return {
            name: value.detach().to(kind).clone()
            for name, value in model.state_dict().items()
            if name not in private
        }

    if args.truth:
        with open(args.truth, 'w', encoding='utf-8') as file:
            file.writelines(f'{u},{i}\n' for u, items in histories.items() for i in items)

    record = None
    if args.capture:
        import fedinv_record  # one file beside this one

        record = fedinv_record.recorder(
            args.capture,
            framework='torch',
            loss='bce',
            optimizer=args.optimizer,
            learning_rate=args.lr,
            local_epochs=args.epochs,
            batch_size=args.batch_size or None,
        )

    for round_ in range(args.rounds):
        sent = shared(server)
        total = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in sent.items()}
        users = sorted(rng.sample(list(histories), args.sampled)) if args.sampled else histories
        for user in users:
            model, positives = clients[user], histories[user]
            model.load_state_dict(sent, strict=False)
            own = negatives(positives, num_items, rng) if args.fresh_negatives else fixed[user]
            items = torch.tensor([*positives, *own])
            labels = torch.tensor([1.0] * len(positives) + [0.0] * len(own))
            train(model, (items, labels), args)
            returned = shared(model)
            if args.scorer_only:
                returned = {k: v for k, v in returned.items() if not k.startswith('item_')}
            if record and not args.secure_aggregation:
                more = {'items': items} if args.scorer_only else {}
                record(round_, user, sent, returned, num_examples=len(items), **more)
            for name, value in returned.items():
                total[name] += value
        new = {
            name: value / len(users) if value.any() else sent[name].float()
            for name, value in total.items()
        }
        if record and args.secure_aggregation:
            record(round_, 'sum', sent, new, clients=list(users))
        server.load_state_dict(new, strict=False)
        print(f'round {round_}: {len(users)} clients', flush=True)


if __name__ == '__main__':
    main()
