"""Records an NVFlare training for `fedinv audit FOLDER`, on the server.

Copy this file and fedinv_record.py beside your job's script; the job takes both with it:

    known = {'loss': 'bce', 'learning_rate': 0.1}
    recipe.add_server_output_filter(fedinv_nvflare.Recorder('/tmp/capture', known), ['train'])
    recipe.add_server_input_filter(fedinv_nvflare.Recorder('/tmp/capture', known), ['train'])

The first filter keeps what each site is sent, the second one records what the site returns: weights
or their difference. The folder is on the server. Arrays are copied, and nothing is changed.
"""

import threading

import fedinv_record
from nvflare.apis.dxo import DataKind, MetaKey
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.filter import FilterChainType, FilterContextKey
from nvflare.app_common.app_constant import AppConstants

_KINDS = {DataKind.WEIGHTS: 'returned', DataKind.WEIGHT_DIFF: 'delta'}
_SENT = {}  # what was sent by both filters' folder and by site, with the round
_LOCK = threading.Lock()  # the server answers several sites at a time


class Recorder(DXOFilter):
    """A filter that records; one for each direction."""

    def __init__(self, folder: str, known: dict | None = None):
        super().__init__(list(_KINDS), list(_KINDS))
        self.folder, self.known = folder, known  # NVFlare writes them to the job by these names
        self.records = {}  # by kind

    def process_dxo(self, dxo, shareable, fl_ctx):  # noqa: D102
        site = fl_ctx.get_peer_context().get_identity_name()
        key = self.folder, site
        with _LOCK:
            if self.get_prop(FilterContextKey.CHAIN_TYPE) == FilterChainType.TASK_DATA_CHAIN:
                sent = {name: fedinv_record.array(leaf) for name, leaf in dxo.data.items()}
                _SENT[key] = shareable.get_header(AppConstants.CURRENT_ROUND), sent
            elif key in _SENT and not dxo.get_meta_prop(MetaKey.PROCESSED_ALGORITHM):  # encrypted
                kind = _KINDS[dxo.data_kind]
                made = fedinv_record.recorder(self.folder, kind, **(self.known or {}))
                round_, sent = _SENT.pop(key)
                self.records.setdefault(kind, made)(round_, site, sent, dxo.data)
        return None  # unchanged
