"""From answers to rows: the one place where answers and truth meet."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import metrics, plan, stats, tree, workdir
from fedinv_jax.experiment import Setting
from fedinv_jax.types import Answer, Array, Certificate, GroundTruth, PyTree

# Victims whose scores are kept in their rows, for a figure.
_EXAMPLES = 4


class Run(NamedTuple):
    """What a block's rows share.

    Attributes:
        training_loss: mean over all clients, before the first observed round.
        quality: of the trained model, see `quality.evaluate`; None where nothing was held out.
        epsilon: against the server, see `accounting.against_server`; None where there is none.
        seconds: that a victim took.
    """

    training_loss: float
    quality: dict[str, float] | None
    epsilon: dict[str, Any] | None
    seconds: float


def rows(
    block: plan.Block, answers: Answer, seen: PyTree, truths: GroundTruth, run: Run
) -> list[workdir.Row]:
    """The rows of a block's victims.

    Args:
        block: its users are the first ones of the leading axis of the rest.
        answers: of the attack.
        seen: what the server saw.
        truths: what it did not.
        run: what they share.
    """
    values, finite = _judge(block.case, answers, truths), _finite(seen)
    certificates = jax.device_get(answers.certificate)
    return [
        _row(
            block,
            user,
            {**tree.take(values, lane), 'seen_ok': finite[lane]},
            None if certificates is None else tree.take(certificates, lane),
            tree.take(truths, lane),
            {
                'training_loss': _number(run.training_loss),
                'quality': run.quality,
                'epsilon': run.epsilon,
                'seconds': run.seconds,
            },
        )
        for lane, user in enumerate(block.users)
    ]


def _judge(case: plan.Case, answers: Answer, truths: GroundTruth) -> dict[str, Any]:
    """`evaluate` of a block, in float64, padded so that one function serves all blocks."""
    most = max(group.items.shape[1] for group in case.clients)

    def padded(leaf: Array) -> Array:
        return jnp.pad(leaf, ((0, 0), (0, max(most - leaf.shape[1], 0))))

    with jax.enable_x64():
        answers = Answer(
            padded(answers.scores), padded(answers.labels), answers.private, answers.objective
        )
        truths = dataclasses.replace(
            truths, labels=padded(truths.labels), weights=padded(truths.weights)
        )
        both = tree.cast_floats(jax.device_get((answers, truths)), np.float64)
        return jax.device_get(_evaluate(*both))


def evaluate(answer: Answer, truth: GroundTruth) -> dict[str, Any]:
    """One victim's numbers; a failed attack counts as an answer that knows nothing."""
    ok = jnp.isfinite(answer.objective) & jnp.all(jnp.isfinite(answer.scores))
    counted = Answer(
        jnp.where(ok, answer.scores, 0.5),
        answer.labels & ok,
        jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.nan), answer.private),
        answer.objective,
    )
    return {
        'metrics': metrics.evaluate(counted, truth),
        'drift': metrics.drift(tree.take(truth.private, 0), tree.take(truth.private, -1)),
        'objective': answer.objective,
        'scores': counted.scores,
        'ok': ok,
    }


_evaluate = jax.jit(jax.vmap(evaluate))


def _finite(seen: PyTree) -> np.ndarray:
    """Whether all that was seen is finite, bool `[V]`."""
    leaves = [np.isfinite(np.asarray(leaf)) for leaf in jax.tree.leaves(seen)]
    return np.all([leaf.reshape(len(leaf), -1).all(axis=1) for leaf in leaves], axis=0)


def _row(
    block: plan.Block,
    user: int,
    values: dict[str, Any],
    certificate: Certificate | None,
    truth: GroundTruth,
    measured: workdir.Row,
) -> workdir.Row:
    """One victim's row; undefined numbers are null."""
    case, setting = block.case, block.setting
    group = plan.group_of(case, user)
    place = int(np.flatnonzero(group.users == user)[0])
    reason = None if values['ok'] else (
        'the objective is not finite' if values['seen_ok'] else 'the upload is not finite'
    )  # fmt: skip
    row = {
        'schema': 1,
        **plan.columns(case, setting),
        'user': user,
        'user_id': case.interactions.user_ids[user],
        'num_positives': int(group.num_positives[place]),
        'num_negatives': int(group.num_negatives[place]),
        'status': 'ok' if reason is None else 'failed',
        'reason': reason,
        'drift': _number(values['drift']) if setting.num_gradients > 1 else None,
        **measured,
        'objective': _number(values['objective']),
        **_certificate(case, setting, certificate, values['ok'], truth),
        'metrics': {name: _number(value) for name, value in values['metrics'].items()},
    }
    if user in case.victims[:_EXAMPLES]:
        where = truth.weights > 0
        row['scores'] = [round(float(x), 4) for x in values['scores'][: len(where)][where]]
        row['truth'] = [int(x > 0) for x in truth.labels[where]]
    return row


def _certificate(
    case: plan.Case, setting: Setting, found: Certificate | None, ok: bool, truth: GroundTruth
) -> workdir.Row:
    """A row's columns of its certificate; null where the attack makes none."""
    if found is None:
        return dict.fromkeys(stats.CERTIFICATE)
    return {
        'certified': bool(found.certified and ok),
        'margin': _number(found.margin),
        'noise': _number(found.noise),
        'rank': int(found.rank) if ok else None,
        'determined': int(found.determined) if ok else None,
        'unknowns': int(np.sum(truth.weights > 0)) + plan.num_private(case, setting),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
