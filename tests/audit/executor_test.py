"""Compiled attacks: their memory, what they are tried on, and how many run at a time."""

import functools
import os
import threading
import time

import jax
import numpy as np
import pytest

from fedinv_jax import tree
from fedinv_jax.audit import executor, knowledge, plan, runner
from tests.audit.helpers import bias_sign, replace_attack
from tests.helpers import no_figures, run, tiny  # noqa: F401


# Failed on the mutant of `warm_up` that knows of exact attacks only, and on one of `run` that
# computes twice what was tried.
@pytest.mark.slow
def test_what_is_tried_to_its_end(monkeypatch):
    replace_attack(monkeypatch, 'exact', bias_sign)
    names = ('exact', 'dlg', 'mgradinv', 'popularity')
    config = tiny(name=names, num_gradients=(1,), num_victims=2, num_iterations=60)
    case = plan.make_case(config)
    arguments = functools.partial(knowledge.arguments, runner.train(case))
    for block in plan.blocks([case]):
        with executor.dtype_scope(block):
            made = executor.compile_(block, arguments, 2.0**40)
            warm_up_block = executor.warm_up(made, block, arguments)
            assert (warm_up_block.answers is None) == (block.setting.attack == 'mgradinv')
            assert warm_up_block.seconds > 0
            if block.setting.attack == 'exact':
                found = executor.run(warm_up_block, block, *arguments(block, made.slots))
                assert found == (warm_up_block.answers, warm_up_block.seconds)


def test_on_a_cpu_each_core_has_a_block(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(7)))
    assert executor.cores() == 7
    assert executor.side_by_side() == 7
    monkeypatch.setattr(jax, 'local_device_count', lambda: 2)
    assert executor.side_by_side() == 1


# Failed on: one victim's bound that of a worker; several victims' that of all.
@pytest.mark.slow
def test_one_victim_may_take_the_memory_of_the_other_workers(block_and_arguments):
    block, arguments = block_and_arguments
    one = executor.compile_(block._replace(users=block.users[:1], size=1), arguments, 2.0**40)
    for times in (1.1, 3.9, 4.1):
        bound = executor.compile_(block, arguments, times * one.memory, workers=4)
        assert bound.slots == 1
    with pytest.raises(ValueError, match=r'Raise run\.memory_mib'):
        executor.compile_(block, arguments, 0.9 * one.memory, workers=4)


# Failed on: the whole block in each call; parts that all begin at the block's first victim.
def test_a_memory_bound_makes_calls_smaller_and_changes_rounding_only(block_and_arguments):
    block, arguments = block_and_arguments
    free = executor.compile_(block, arguments, 2.0**40)
    bound = executor.compile_(block, arguments, 0.9 * free.memory)
    assert (free.slots, bound.slots) == (2, 1)
    (whole,) = executor.parts(block, free.slots)
    expected, _ = executor.run(free, whole, *arguments(whole, 2))
    parts = executor.parts(block, bound.slots)
    assert [part.users for part in parts] == [(user,) for user in block.users]
    for place, part in enumerate(parts):
        answers, _ = executor.run(bound, part, *arguments(part, 1))
        one, other = tree.take(answers, 0), tree.take(expected, place)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.fixture(scope='module')
def block_and_arguments():
    """Two victims of MGradInv, and what a compiled attack on them is called with."""
    case = plan.make_case(tiny(name=('mgradinv',)))
    return plan.blocks([case])[0], functools.partial(knowledge.arguments, runner.train(case))


# Failed on: memory that nobody waits for.
def test_memory_is_never_held_twice():
    reserve, lock, held, most = executor.memory_semaphore(100), threading.Lock(), [], []

    def work(part):
        with reserve(part):
            with lock:
                held.append(part)
                most.append(sum(held))
            time.sleep(0.002)
            with lock:
                held.remove(part)
        return part

    parts = [90, 90, 10, 10, 40, 60, 70, 100, 10] * 3
    assert list(executor.parallel_map(work, parts, 4)) == parts
    assert max(most) == 100


# Never ends on: no check where nothing can be left out any more.
def test_a_memory_bound_too_small_for_one_victim_is_told(tmp_path):
    config = tiny(name=('mgradinv',))
    config.model.dim, config.run.memory_mib = 1024, 1
    with pytest.raises(ValueError, match=r'mgradinv on one victim of 40 candidates needs .* Raise'):
        run(config, tmp_path)
