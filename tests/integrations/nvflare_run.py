"""Trains NCF in NVFlare's simulator with ten sites; each says what it uploaded.

python nvflare_run.py CAPTURE DUMPED FULL|DIFF
"""

import pathlib
import sys

import common
import fedinv_nvflare
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import TransferType
from nvflare.recipe import SimEnv


def main():
    folder, dumped = map(pathlib.Path, sys.argv[1:3])
    dumped.mkdir()
    batches = {f'site-{n}': common.batch(n) for n in range(1, 11)}
    truth = {site: items[labels > 0].tolist() for site, (items, labels) in batches.items()}
    common.write_truth(dumped / 'truth.csv', truth)
    torch.manual_seed(0)
    recipe = FedAvgRecipe(
        name='ncf',
        model=common.NCF(),
        min_clients=10,
        num_rounds=3,
        train_script=str(pathlib.Path(__file__).with_name('nvflare_client.py')),
        train_args=str(dumped),
        params_transfer_type=TransferType[sys.argv[3]],
    )
    known = {'framework': 'nvflare', 'loss': 'bce', 'learning_rate': 0.5, 'local_epochs': 2}
    recipe.add_server_output_filter(fedinv_nvflare.Recorder(str(folder), known), ['train'])
    recipe.add_server_input_filter(fedinv_nvflare.Recorder(str(folder), known), ['train'])
    # A process a site: with fewer threads, each task of each site starts another process.
    recipe.execute(SimEnv(num_clients=10, num_threads=10, workspace_root=str(dumped / 'work')))


if __name__ == '__main__':
    main()
