"""Compares the answers of attacks with the truth, and makes the rows. Nothing else reads both."""

import dataclasses
import functools
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import compilation, metrics, rating_metrics, tree
from fedinv_jax.audit import plan, training
from fedinv_jax.data import ratings
from fedinv_jax.report import stats
from fedinv_jax.report.rows import VictimRow
from fedinv_jax.types import Answer, Certificate, GroundTruth, PyTree, Transcript

# Number of victims whose rows hold the scores, for a figure.
_EXAMPLES = 4
_TOGETHER = 16  # victims that are evaluated in one call


class Run(NamedTuple):
    """Numbers that the rows of a call share.

    Attributes:
        training_loss: mean over all clients, before the first observed round.
        quality: metrics of the trained model, see `quality.evaluate`; None without held-out data.
        epsilon: against the server, see `accounting.against_server`; None without a guarantee.
        seconds: run time per victim.
    """

    training_loss: float
    quality: dict[str, float | None] | None
    epsilon: dict[str, Any] | None
    seconds: float


def rows(
    block: plan.Block, answers: Answer, seen: Transcript, truths: GroundTruth, run: Run
) -> list[VictimRow]:
    """The rows of a block's victims.

    Args:
        block: a block of V victims.
        answers: answers of the attack, leading axis >= V; later entries are padding.
        seen: the transcripts that the attack read, with the same leading axis.
        truths: ground truth of the V victims.
        run: numbers that the rows share.
    """
    case, setting = block.case, block.setting
    finite, present = _finite(seen.seen, len(block.users)), np.any(seen.participated, axis=1)
    if setting.dynamics is not None:  # an attack that reads uploads; without one it has no answer
        there = np.resize(finite & present[: len(finite)], len(answers.objective))
        objective: Any = np.where(there, np.asarray(answers.objective), np.nan)
        answers = answers._replace(objective=objective)
    scale = training.rating_scale(case.config) if training.is_explicit(case.config) else None
    values = _evaluate_block(answers, truths, scale)
    certificates, fits, kept, sizes = jax.device_get(
        (answers.certificate, answers.fits, answers.kept, answers.step_sizes)
    )
    true_sizes = training.step_sizes(case.config.client)
    choice = case.attacks[plan.attack_setting(setting)]
    group = plan.group_of(case, block.users[0])
    places = {int(user): place for place, user in enumerate(group.users)}
    # Private parameters besides the rows of a private table, and those of one more row.
    private, more = (plan.num_private(case, setting, number) for number in (0, 1))
    columns = {'schema': 2, **plan.columns(case, setting)}
    measured = {
        'training_loss': _number(run.training_loss),
        'quality': run.quality,
        'epsilon': run.epsilon,
        'seconds': run.seconds,
    }

    def row(index: int, user: int) -> VictimRow:
        """The row of one victim; undefined numbers are null."""
        found, truth, place = tree.take(values, index), tree.take(truths, index), places[user]
        ok, size = bool(found['ok']), int(np.sum(truth.weights > 0))
        certificate = None if certificates is None else tree.take(certificates, index)
        reason = 'the objective is not finite' if finite[index] else 'the upload is not finite'
        if not present[index]:
            reason = 'the client took part in none of the observed rounds'
        new = {
            **columns,
            'user': user,
            'user_id': case.interactions.user_ids[user],
            'num_positives': int(group.num_positives[place]),
            'num_negatives': int(group.num_negatives[place]),
            'status': 'ok' if ok else 'failed',
            'reason': None if ok else reason,
            'drift': _number(found['drift']) if setting.num_gradients > 1 else None,
            **measured,
            'objective': _number(found['objective']),
            'fits': None if fits is None or not ok else fits_of(fits[index]),
            'kept': None if kept is None else choice.compared[int(kept[index])],
            'symmetry': '; '.join(choice.symmetries) or None,
            **_step_sizes(tree.take(sizes, index) if ok else None, true_sizes),
            **_certificate(certificate, ok, private + (1 + more - private) * size),
            'metrics': {name: _number(value) for name, value in found['metrics'].items()},
        }
        if user in case.victims[:_EXAMPLES] and scale is None:
            where = truth.weights > 0
            new['scores'] = [round(float(x), 4) for x in found['scores'][: len(where)][where]]
            new['truth'] = [int(x > 0) for x in truth.labels[where]]
        return cast(VictimRow, new)

    return [row(index, user) for index, user in enumerate(block.users)]


def _evaluate_block(
    answers: Answer, truths: GroundTruth, scale: ratings.Scale | None
) -> dict[str, Any]:
    """`evaluate` of a block in float64, in small calls that are padded to a few shapes."""
    count, size = truths.labels.shape
    most = 64
    while most < size:
        most *= 4

    def padded(leaf: Any, width: int = 0) -> Any:
        pad = [(0, -count % _TOGETHER), (0, width)][: leaf.ndim]
        return np.pad(leaf, [*pad, *[(0, 0)] * (leaf.ndim - len(pad))])

    answers = tree.take(answers, slice(count))  # the rest is padding of the call
    answers, truths = tree.cast_floats(jax.device_get((answers, truths)), np.float64)
    wide = partial(padded, width=most - size)
    answers = Answer(
        wide(answers.scores),
        wide(answers.labels),
        jax.tree.map(padded, answers.private),
        padded(answers.objective),
    )
    truths = dataclasses.replace(
        jax.tree.map(padded, truths), labels=wide(truths.labels), weights=wide(truths.weights)
    )
    with jax.enable_x64():
        found = [
            jax.device_get(
                _evaluate_many(scale)(
                    *tree.take((answers, truths), slice(start, start + _TOGETHER))
                )
            )
            for start in range(0, count, _TOGETHER)
        ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *found)


def evaluate(
    answer: Answer, truth: GroundTruth, scale: ratings.Scale | None = None
) -> dict[str, Any]:
    """One victim's metrics; a failed attack counts as the answer 'score 0.5 for every item'.

    `scale` is that of explicit ratings; None: labels are binary.
    """
    ok = jnp.isfinite(answer.objective) & jnp.all(jnp.isfinite(answer.scores))
    counted = Answer(
        jnp.where(ok, answer.scores, 0.5),
        answer.labels & ok,
        jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.nan), answer.private),
        answer.objective,
    )
    measured = metrics.evaluate(counted, truth)
    if scale is not None:
        measured = rating_metrics.evaluate(counted, truth, scale)
    return {
        'metrics': measured,
        'drift': metrics.drift(tree.take(truth.private, 0), tree.take(truth.private, -1)),
        'objective': answer.objective,
        'scores': counted.scores,
        'ok': ok,
    }


@functools.cache
def _evaluate_many(scale: ratings.Scale | None) -> Any:
    """`evaluate` over a leading axis of victims, compiled."""
    return compilation.jit(jax.vmap(partial(evaluate, scale=scale)))


def _finite(seen: PyTree, count: int) -> np.ndarray:
    """Whether the uploads seen are finite, for the first `count` clients: bool `[count]`."""
    leaves = [np.isfinite(np.asarray(leaf[:count])) for leaf in jax.tree.leaves(seen)]
    each = [leaf.reshape(count, -1).all(axis=1) for leaf in leaves]
    return np.all([np.ones(count, bool), *each], axis=0)


def _certificate(found: Certificate | None, ok: bool, unknowns: int) -> dict[str, Any]:
    """The certificate columns of a row; null for an attack without certificates."""
    if found is None:
        return dict.fromkeys(stats.CERTIFICATE)
    return {
        'certified': bool(found.certified and ok),
        'locally_unique': bool(found.locally_unique and ok),
        'margin': _number(found.margin),
        'noise': _number(found.noise),
        'rank': int(found.rank) if ok else None,
        'determined': int(found.determined) if ok else None,
        'unknowns': unknowns,
    }


def _step_sizes(found: dict[str, Any] | None, truth: dict[str, float]) -> dict[str, Any]:
    """The columns of estimated step sizes; null for an attack without estimates."""
    if found is None:
        return {'step_sizes': None, 'step_size_errors': None}
    errors = {part: _number(size / truth[part] - 1) for part, size in found.items()}
    return {
        'step_sizes': {part: _number(size) for part, size in found.items()},
        'step_size_errors': errors,
    }


def fits_of(fits: Any) -> bool | None:
    """`Answer.fits` as a row has it: None if unknown."""
    return None if fits is None or fits < 0 else bool(fits)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
