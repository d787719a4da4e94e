"""A site's training in NVFlare; it says what it uploaded. Its embedding stays in a file of its own.

python nvflare_client.py DUMPED
"""

import pathlib
import sys

import common
import nvflare.client as flare
import torch


def main():
    dumped = pathlib.Path(sys.argv[1])
    flare.init()
    site = flare.get_site_name()
    seed = int(site.removeprefix('site-'))
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        model = common.NCF()
        sent = {name: torch.as_tensor(leaf).clone() for name, leaf in received.params.items()}
        model.load_state_dict(sent)
        private = dumped / f'{site}.pt'
        user = torch.load(private) if private.exists() else common.embedding(seed)
        user.requires_grad_()
        optimizer = torch.optim.SGD([user, *model.parameters()], lr=0.5)
        items, labels = common.batch(seed)
        for _ in range(2):
            optimizer.zero_grad()
            common.loss(model, user, items, labels).backward()
            optimizer.step()
        torch.save(user.detach(), private)
        returned = {name: leaf.detach().clone() for name, leaf in model.state_dict().items()}
        common.dump(dumped, received.current_round, site, sent, returned)
        flare.send(flare.FLModel(params=returned, meta={'NUM_STEPS_CURRENT_ROUND': 2}))


if __name__ == '__main__':
    main()
