"""What a capture may mean: what it does not say is read in several ways, the likeliest first."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fedinv_jax.capture import names


class Reading(NamedTuple):
    """One way to read the uploads of a capture.

    Attributes:
        words: what is assumed, beyond what capture.json says; '' for nothing.
        user_first: whether a concatenated first layer has the user embedding first.
        sign: -1 where uploads were recorded with the other sign.
        summed: whether the loss is a sum over the batch, not a mean.
        sized: whether the size of a step is known.
    """

    words: str
    user_first: bool = True
    sign: float = 1.0
    summed: bool = False
    sized: bool = True


def readings(known: Mapping[str, Any], kind: str, splits: bool) -> Iterator[Reading]:
    """What a capture may mean, the likeliest first.

    Args:
        known: the fields of capture.json.
        kind: what clients returned, one of `folder.KINDS`.
        splits: whether the model has a first layer on user and item together.

    Example:
        >>> known = {'learning_rate': 0.1, 'reduction': 'mean'}
        >>> [each.words for each in readings(known, 'returned', splits=False)]
        ['', 'a step of unknown size']
    """
    told = 'user_first' in known or not splits
    halves = [known.get('user_first', True)] if told else [True, False]
    signs = [1.0] if kind == 'returned' else [1.0, -1.0]
    rated = kind == 'gradient' or 'learning_rate' in known
    single = kind == 'gradient' or is_one_step(known)
    sizes = [(known.get('reduction') == 'sum', rated)]
    if rated and single and 'reduction' not in known:
        sizes.append((True, True))
    if rated and single:
        sizes.append((False, False))
    for summed, sized in sizes:
        for sign in signs:
            for user_first in halves:
                said = [
                    'the item row before the user embedding in the first layer' * (not user_first),
                    'uploads of the other sign' * (sign < 0),
                    'a loss summed over the batch' * (summed and 'reduction' not in known),
                    'a step of unknown size' * (not sized),
                ]
                yield Reading(', '.join(filter(None, said)), user_first, sign, summed, sized)


def is_one_step(known: Mapping[str, Any]) -> bool:
    """Whether a client takes one step of gradient descent on its whole batch."""
    plain = known.get('optimizer', 'sgd') == 'sgd' and not known.get('momentum')
    return plain and known.get('local_epochs', 1) == 1 and not known.get('batch_size')


def description(
    known: Mapping[str, Any], layout: names.Layout, kind: str, reading: Reading
) -> dict[str, Any]:
    """What a reading says of the clients, as fields of the config's sections.

    Args:
        known: the fields of capture.json, with `weight_decay`, which is taken out of single steps.
        layout: of the model.
        kind: what clients returned, one of `folder.KINDS`.
        reading: of the capture.
    """
    rate = float(known.get('learning_rate', 1.0))
    client: dict[str, Any] = {
        'loss': known.get('loss', 'bce'),
        'private_learning_rate': float(known.get('private_learning_rate', rate)),
        'weight_decay': 0.0 if is_one_step(known) else float(known['weight_decay']),
    }
    if kind == 'gradient':
        client['name'] = 'gradient_step'
    else:
        name, momentum = known.get('optimizer', 'sgd'), known.get('momentum')
        optimizer = {'name': name} | ({'momentum': momentum} if momentum else {})
        client |= {
            'name': 'local_sgd',
            'optimizer': {**optimizer, 'learning_rate': rate},
            'private_optimizer': optimizer,
            'num_epochs': known.get('local_epochs', 1),
            'batch_size': known.get('batch_size'),
            'shuffle': known.get('batch_size') is not None,
        }
    return {'model': dict(layout.model), 'client': client}
