"""Trains the example in Flower's simulation; each device says what it uploaded.

python flower_run.py CAPTURE MOD DUMPED: the server's capture, the devices' capture, the dumped.
"""

import pathlib
import sys

import common
import fedinv_flower
import flwr.simulation
import train
from flwr.clientapp import ClientApp

FAILS = (3, 2)  # client 3 in round 2


def devices(app, mod, dumped):
    """The example's ClientApp, recorded by the mod; sent - returned goes to a file."""
    outer = ClientApp()

    @outer.train(mods=[mod])
    def train_and_dump(message, context):
        user = context.node_config['partition-id']
        round_ = message.content['config']['server-round']
        if (user, round_) == FAILS:
            raise ValueError('this client fails on purpose')
        sent = message.content['arrays'].to_torch_state_dict()
        reply = app(message, context)
        returned = reply.content['arrays'].to_torch_state_dict()
        common.dump(dumped, round_, user, sent, returned)
        message.content['arrays'].clear()  # the mod has its copy
        return reply

    return outer


def main():
    folder, of_mod, dumped = map(pathlib.Path, sys.argv[1:])
    dumped.mkdir()
    args = train.parse(
        ['--clients=10', '--rounds=3', '--items=50', '--dim=8', f'--capture={folder}']
    )
    num_items, histories = train.load(args)
    common.write_truth(dumped / 'truth.csv', dict(enumerate(histories)))
    mod = fedinv_flower.mod(of_mod, framework='flower', loss='bce')
    flwr.simulation.run_simulation(
        server_app=train.server_app(args, num_items),
        client_app=devices(train.client_app(args, num_items, histories), mod, dumped),
        num_supernodes=len(histories),
        # One process at a time: several devices write to the mod's folder.
        backend_config={'init_args': {'num_cpus': 1}, 'client_resources': {'num_cpus': 1}},
    )


if __name__ == '__main__':
    main()
