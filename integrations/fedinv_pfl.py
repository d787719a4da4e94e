"""Records a simulation in pfl-research for `fedinv audit FOLDER`.

Copy this file and fedinv_record.py beside your code. As the last postprocessor, which sees what
leaves the device:

    recorder = fedinv_pfl.Recorder(model, 'capture', loss='bce', learning_rate=0.1)
    backend = SimulatedBackend(data, val_data, postprocessors=[*postprocessors, recorder])

`model` is the one that you train. Users need a user_id. Nothing that passes is changed.
"""

import fedinv_record
from pfl.metrics import Metrics
from pfl.postprocessor.base import Postprocessor


class Recorder(Postprocessor):
    """A postprocessor that records; statistics are new - old, times their weight.

    `first_round` is the number of the first round, of a training that goes on.
    """

    def __init__(self, model, folder, first_round=0, **known):
        self.model, self.round = model, first_round
        self.record = fedinv_record.recorder(folder, 'delta', **known)

    def postprocess_one_user(self, *, stats, user_context):  # noqa: D102
        if user_context.user_id is None:
            raise ValueError('Expected a user_id in the data of each user.')
        sent = self.model.get_parameters()  # the local training has ended: as it was before
        returned = {name: fedinv_record.array(leaf) for name, leaf in stats.items()}
        if stats.weight != 1:
            returned = {name: leaf / stats.weight for name, leaf in returned.items()}
        self.record(
            self.round,
            user_context.user_id,
            dict(sent.items()),
            returned,
            num_examples=user_context.num_datapoints,
        )
        return stats, Metrics()

    def postprocess_server(self, *, stats, central_context, aggregate_metrics):  # noqa: D102
        self.round = central_context.current_central_iteration + 1
        return stats, Metrics()
