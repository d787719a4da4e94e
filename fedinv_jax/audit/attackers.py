"""Config -> attacks, with what an attacker knows about the clients and the channel."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import _validate, client, compilation, item_table, losses, observe, tree
from fedinv_jax.attack import (
    batching,
    dynamics,
    exact,
    recipes,
)
from fedinv_jax.attack.exact import probing
from fedinv_jax.attack.exact.known import Draw
from fedinv_jax.audit import channel, defences, precision, secure_aggregation, training
from fedinv_jax.audit.config import Config
from fedinv_jax.types import (
    Answer,
    Array,
    Batch,
    ClientUpdate,
    InitPrivate,
    Key,
    Model,
    Observation,
    PyTree,
    Transcript,
)

DYNAMICS = ('free', 'static', 'unrolled')
Attack: TypeAlias = Callable[[Transcript, Key, int | Array], Answer]
Probe: TypeAlias = Callable[[tuple[str, ...], bool], exact.Known]


class Target(NamedTuple):
    """What an attack is built for: a client as the config describes it, and what is seen of it.

    Attributes:
        config: the config.
        attack: name of the attack, a key of `registry.ATTACKS`.
        seen: parts of the upload that the attacker sees.
        adaptive: whether the attacker knows the defences.
        dynamics: name of the hypothesis; None for an attack that reads no upload.
        rounds: the observed rounds, `[T]`; only the differences between them matter.
        model: the recommender.
        share: public share of interactions among the candidates; mean label of explicit ratings.
        probe: `probe(seen, adaptive) -> Known`: the function `probe` of this module with config and
            model bound. It takes seconds; its result depends on neither the attack, nor the rounds,
            nor the seed.
        reader: what reads the rows that `unmix` separates; None for another attack.
    """

    config: Config
    attack: str
    seen: tuple[str, ...]
    adaptive: bool
    dynamics: str | None
    rounds: tuple[int, ...]
    model: Model
    share: float
    probe: Probe
    reader: str | None = None


class Choice(NamedTuple):
    """An attack, its solver, and why this solver was chosen.

    Attributes:
        solver: name of the solver, a column of the rows; None for an attack that reads no upload.
        why: why this solver was chosen, one sentence; empty where the config names the solver.
        attack: `attack(transcript, key, num_iterations) -> Answer`, on one client.
        batched: the iterative part, which can run on several clients in step; None for an attack
            that solves one client after the other.
        compared: see `exact.Choice`.
        symmetries: see `exact.Choice`.
    """

    solver: str | None
    why: str
    attack: Attack
    batched: batching.Batched | None = None
    compared: tuple[str, ...] = ()
    symmetries: tuple[str, ...] = ()


def make_observation(config: Config, seen: Sequence[str], adaptive: bool = True) -> Observation:
    """The channel as the attacker models it, restricted to the parts of the upload in `seen`."""
    return observe.chain(channel.replayed(config, adaptive), observe.share(*seen))


def make_replay(
    config: Config, model: Model, adaptive: bool = True, loss: losses.AnyLoss | None = None
) -> ClientUpdate:
    """The client's training as an attacker replays it; for a cohort, the training of all members.

    The sum of a cohort hides which entries each member kept. The attacker therefore clips the
    predicted upload of each member and ignores the other stages. An attacker that does not know the
    defences ignores the penalty on the drift of item rows too. `loss` replaces the client's. An
    attacker that does not know the step sizes predicts gradients.
    """
    told = config if adaptive else channel.undefended(config)
    if not config.attack.step_sizes_known:
        told = training.gradients_of(told)
    client_update = training.make_client_update(told, model, loss)
    size, before = config.observation.cohort, channel.before_sum(config)
    if size > 1 and before is not None and adaptive:
        client_update = client.through(client_update, before)
    return client.cohort(client_update, size) if size > 1 else client_update


def make_init_private(config: Config, model: Model) -> InitPrivate:
    """`init(key)` of the private parameters to recover: of one client, or of a whole cohort."""
    size = config.observation.cohort
    if size == 1 or secure_aggregation.changes(config):
        return model.init_private
    return lambda key: jax.vmap(model.init_private)(jax.random.split(key, size))


def make_dynamics(name: str, rounds: Sequence[int], init_private: InitPrivate) -> dynamics.Dynamics:
    """The hypothesis called `name` (`DYNAMICS`), for the observed rounds `[T]`."""
    if _validate.lookup('dynamics.name', name, DYNAMICS) == 'static':
        return dynamics.static(init_private)
    if name == 'free':
        return dynamics.free(init_private, len(rounds))
    return dynamics.unrolled(init_private, [round_ - rounds[0] for round_ in rounds])


def probe(config: Config, model: Model, seen: Sequence[str], adaptive: bool = True) -> exact.Known:
    """The structure of the client update, as an attacker that sees `seen` probes it on draws.

    Raises:
        ValueError: if the device does not compute in float64.
    """
    precision.check_float64()
    client_update = make_replay(config, model, adaptive)
    observation = make_observation(config, seen, adaptive)
    sent = jnp.finfo(config.client.upload_dtype or config.client.precision)
    rounding = float(sent.eps) / 2
    with jax.enable_x64():
        share = channel.trained_share(
            config, 1 / (1 + config.data.negatives_per_positive), adaptive
        )
        if config.observation.cohort > 1:
            init_private = make_init_private(config, model)
            known = probing.unprobed(client_update, observation, init_private, rounding, share)
            known = known._replace(max_dense_candidates=config.attack.max_dense_candidates)
            return precision.assumed(known, precision.of(known))
        # Several steps of minibatches, and enough rows to see whether they are on a line.
        draws = _draws(model, max((config.client.batch_size or 0) + 1, 8))
        known = exact.probe(
            client_update,
            observation,
            model.init_private,
            draws,
            rounding,
            share,
            make_replay(config, model, adaptive, losses.linear),
            training.signs_are_labels(config.client),
            config.attack.step_sizes_known,
        )._replace(
            differences=config.client.name == 'local_sgd',
            interactions_vanish=training.interactions_vanish(config),
            largest=adaptive and any(each.keeps_largest for each in defences.used(config)),
            resample_negatives=config.data.resample_negatives,
            max_dense_candidates=config.attack.max_dense_candidates,
            grid=training.rating_scale(config).grid if training.is_explicit(config) else 1.0,
        )
        return precision.assumed(known, precision.of(known))


def make_exact(target: Target, solver: str | None = None) -> Choice:
    """The exact attack whose assumptions this client meets, and why it was chosen.

    Args:
        target: what the attack is built for.
        solver: name of an attack that solves for the labels; None: the target's own attack.
    """
    solver = solver or target.attack
    with jax.enable_x64():
        choice = exact.choose(
            target.probe(target.seen, target.adaptive),
            target.config.observation.batch_known,
            'auto' if solver == 'exact' else solver,
        )
    return Choice(
        choice.solver,
        choice.why,
        lambda seen, key, _: choice.attack(seen, key),
        compared=choice.compared,
        symmetries=choice.symmetries,
    )


def _draws(model: Model, size: int) -> list[Draw]:
    """Two random clients with a batch of `size` items each, in float64, with non-zero biases."""

    @compilation.jit
    def parameters(key: Key) -> tuple[PyTree, PyTree]:
        shared_key, private_key = jax.random.split(key)
        whole = model.init_shared(shared_key), model.init_private(private_key)
        return tree.cast_floats(item_table.gather_both(*whole, jnp.arange(size)), np.float64)

    draws = []
    for seed in range(2):
        rng = np.random.default_rng([seed, size])
        shared, private = parameters(jax.random.key(seed))
        shared, private = jax.tree.map(
            lambda leaf, rng=rng: leaf + 0.05 * rng.normal(size=leaf.shape), (shared, private)
        )
        labels, weights = jnp.asarray(rng.random(size)), jnp.asarray(0.5 + rng.random(size))
        draws.append(Draw(shared, private, Batch(None, labels, weights)))
    return draws


def make_recipe(recipe: recipes.Recipe) -> Callable[[Target], Choice]:
    """`make(target) -> Choice` for an attack of the literature."""

    def make(target: Target) -> Choice:
        config, adaptive = target.config, target.adaptive
        known = recipes.Known(
            make_replay(config, target.model, adaptive),
            make_observation(config, target.seen, adaptive),
            make_init_private(config, target.model),
            channel.trained_share(config, target.share, adaptive),
        )
        return Choice(recipe.solver, '', recipe.make(known))

    return make
