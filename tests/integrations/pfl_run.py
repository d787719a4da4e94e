"""Trains NCF in a simulation of pfl-research; each device says what it uploaded.

python pfl_run.py CAPTURE DUMPED WEIGHTED
"""

import copy
import pathlib
import sys

import common
import fedinv_pfl
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel


class Module(common.NCF):
    def loss(self, items, labels, user):
        return common.loss(self, user, items, labels)

    def metrics(self, items, labels, user):
        return {'loss': Weighted(len(items) * self.loss(items, labels, user).item(), len(items))}


class Averaging(FederatedAveraging):
    """Federated averaging whose devices say what they return."""

    dumped = None

    def train_one_user(self, initial, model, user_dataset, central_context):
        sent = copy.deepcopy(model.pytorch_model.state_dict())
        done = super().train_one_user(initial, model, user_dataset, central_context)
        round_ = central_context.current_central_iteration
        returned = model.pytorch_model.state_dict()
        common.dump(self.dumped, round_, user_dataset.user_id, sent, returned)
        return done


def main():
    folder, dumped = map(pathlib.Path, sys.argv[1:3])
    weighted = sys.argv[3] == 'True'
    dumped.mkdir()
    torch.manual_seed(0)
    users = [f'user {n}' for n in range(10)]

    def data_of(user):
        seed = users.index(user)
        items, labels = common.batch(seed)
        vectors = common.embedding(seed).expand(len(items), -1)
        return Dataset((items, labels, vectors), user_id=user)

    module = Module()
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    recorder = fedinv_pfl.Recorder(model, folder, framework='pfl', loss='bce', learning_rate=0.5)
    before = [WeightByDatapoints()] if weighted else []
    data = FederatedDataset(data_of, get_user_sampler('minimize_reuse', users))
    algorithm = Averaging()
    algorithm.dumped = dumped
    algorithm.run(
        NNAlgorithmParams(
            central_num_iterations=3,
            evaluation_frequency=1,
            train_cohort_size=len(users),
            val_cohort_size=2,
        ),
        SimulatedBackend(data, data, postprocessors=[*before, recorder]),
        model,
        NNTrainHyperParams(local_num_epochs=2, local_learning_rate=0.5, local_batch_size=None),
        NNEvalHyperParams(local_batch_size=None),
    )


if __name__ == '__main__':
    main()
