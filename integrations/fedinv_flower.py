"""Records a Flower training for `fedinv audit FOLDER`; on the server, or on a client.

Copy this file and fedinv_record.py beside your apps. On the server, around your strategy:

    strategy = fedinv_flower.Recorded(FedAvg(), 'capture', loss='bce', learning_rate=0.1)

or on the clients, where the first mod sees what leaves the device:

    app = ClientApp(mods=[fedinv_flower.mod('capture', loss='bce', learning_rate=0.1)])

A client's id is 'partition-id' in a record of its reply, where it has one; else its node's id.
Of several ArrayRecords in a message, the first is recorded. Messages pass unchanged.
"""

import fedinv_record
from flwr.serverapp.strategy import Strategy


def _arrays(content):
    record = next(iter(content.array_records.values()), {})
    return {name: leaf.numpy() for name, leaf in record.items()}


def _find(content, key, default=None):
    return next((record[key] for record in content.values() if key in record), default)


def _write(record, round_, client, sent, content):
    more = {'num_examples': number} if (number := _find(content, 'num-examples')) else {}
    record(round_, client, sent, _arrays(content), **more)


class Recorded(Strategy):
    """A strategy that records, around the one that does the work."""

    def __init__(self, strategy, folder, kind='returned', **known):
        self.strategy, self.sent = strategy, {}
        self.record = fedinv_record.recorder(folder, kind, **known)

    def configure_train(self, server_round, arrays, config, grid):  # noqa: D102
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        contents = {id(each.content): each.content for each in messages}  # often one for all
        copies = {key: _arrays(content) for key, content in contents.items()}
        self.sent = {each.metadata.dst_node_id: copies[id(each.content)] for each in messages}
        return messages

    def aggregate_train(self, server_round, replies):  # noqa: D102
        replies = list(replies)  # recorded before the strategy may change them
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in self.sent and not reply.has_error():
                client = _find(reply.content, 'partition-id', node)
                _write(self.record, server_round, client, self.sent[node], reply.content)
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(self, *args, **kwargs):  # noqa: D102
        return self.strategy.configure_evaluate(*args, **kwargs)

    def aggregate_evaluate(self, *args, **kwargs):  # noqa: D102
        return self.strategy.aggregate_evaluate(*args, **kwargs)

    def summary(self):  # noqa: D102
        self.strategy.summary()


def mod(folder, kind='returned', **known):
    """A client mod that records what this client is sent and returns."""
    record = fedinv_record.recorder(folder, kind, **known)

    def capture(message, context, call_next):
        sent = _arrays(message.content)  # before the client may take it apart
        round_ = _find(message.content, 'server-round', message.metadata.group_id)
        reply = call_next(message, context)
        if message.metadata.message_type.startswith('train') and not reply.has_error():
            client = context.node_config.get('partition-id', context.node_id)
            _write(record, round_, client, sent, reply.content)
        return reply

    return capture
