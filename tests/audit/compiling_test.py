"""Functions are compiled once for all seeds, and dropped when no seed needs them."""

import gc
import re

import pytest

from fedinv_jax.audit import executor, plan, runner
from tests.audit.helpers import attacked, seeds
from tests.helpers import no_figures, run, tiny  # noqa: F401


# Failed on the runner that keeps them all: 144 functions took 65,530 memory maps, and it crashed.
@pytest.mark.slow
def test_functions_that_no_later_seed_needs_are_dropped():
    config = tiny(num_gradients=(1,), num_victims=12, name=('popularity',))
    config.data.synthetic.update({'num_items': 400, 'min_activity': 4, 'activity_sigma': 1.5})
    config.data.update({'min_positives': 1, 'max_positives': None})
    config.num_seeds = 3
    blocks, kept = plan.blocks(plan.make_cases(config)), []

    def watched(case):
        gc.collect()
        kept.append(sum(isinstance(found, executor.Compiled) for found in gc.get_objects()))
        return runner.train(case)

    assert attacked(blocks, record=watched)
    by_seed = [
        {executor.shape(block) for block in blocks if block.case.config.seed == seed}
        for seed in range(3)
    ]
    assert kept == [
        0,
        len(by_seed[0] & (by_seed[1] | by_seed[2])),
        len((by_seed[0] | by_seed[1]) & by_seed[2]),
    ]
    assert kept[1] < len(by_seed[0])


# Failed on the mutant of `executor.shape` with the seed.
@pytest.mark.slow
def test_seeds_share_compiled_functions(tmp_path):
    lines = []
    _, rows = run(seeds(3), tmp_path, lines.append)
    assert len(rows) == 3 * 2 * 2
    told = [line for line in lines if 'predicted: ' in line]
    assert [re.match(r'seed \d: compiled \d', line)[0] for line in told] == [
        'seed 0: compiled 2',
        'seed 1: compiled 0',
        'seed 2: compiled 0',
    ]
    assert '6 blocks of up to 2 victims, 3 seeds' in told[0]
    assert '2 blocks of up to 2 victims; ' in told[2]
