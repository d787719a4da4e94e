"""Which figures are drawn from which rows, as files."""

import numpy as np
import pytest

from fedinv_jax.report import figures, stats
from tests.report.helpers import certified_row, study_rows, victim_row


def names(rows, folder):
    return [path.stem for path in figures.draw(rows, stats.summarize(rows), folder)]


@pytest.mark.parametrize('steps', [(1, 2, 4), (2,)])
def test_figures_are_written(tmp_path, steps):
    rows = study_rows(steps)
    paths = figures.draw(rows, stats.summarize(rows), tmp_path / 'figures')
    assert [path.name for path in paths] == [
        'metrics_vs_num_gradients.png',
        'recovered_vs_true.png',
    ]
    for path in paths:
        assert path.read_bytes().startswith(b'\x89PNG')
        assert path.stat().st_size > 10_000


# One gradient has no interval, and T = 4 at interval 50 is missing.
def test_figures_of_certificates(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            **certified_row(user, 1.0, 1.0, steps > 2, seed=seed, margin=1e-7 * 10 ** rng.normal()),
            'num_gradients': steps,
            'interval': span,
            'metrics': {**certified_row(0)['metrics'], 'f1': 0.5 + 0.05 * steps},
        }
        for steps, span in ((1, None), (2, 1), (2, 50), (4, 1))
        for seed in (0, 1)
        for user in range(3)
    ]
    assert names(rows, tmp_path) == [
        'metrics_vs_num_gradients',
        'constraints_vs_num_gradients',
        'intervals',
        'margin_vs_f1',
        'metrics_vs_interval',
        'distributions',
    ]
    assert all(path.stat().st_size > 10_000 for path in tmp_path.glob('*.png'))


HEAT = [victim_row(0, steps=steps, interval=span) for steps in (2, 4) for span in (1, 10)]
BASIC, SCORES, RANK, HEATS, MARGIN, INTERVAL, DOTS = (
    'metrics_vs_num_gradients', 'recovered_vs_true', 'constraints_vs_num_gradients', 'intervals',
    'margin_vs_f1', 'metrics_vs_interval', 'distributions',
)  # fmt: skip


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        (HEAT, [BASIC, HEATS, INTERVAL]),
        ([victim_row(0), *HEAT, certified_row(0)], [BASIC, RANK, HEATS, MARGIN, INTERVAL, DOTS]),
        (HEAT[:3:2], [BASIC]),
        ([certified_row(0), victim_row(0)], [BASIC, RANK, MARGIN, DOTS]),
        ([certified_row(0, margin=None), victim_row(0)], [BASIC, RANK, DOTS]),
        (
            [certified_row(0, margin=0.0, noise=0.0, certified=False, rank=0)],
            [BASIC, RANK, MARGIN, DOTS],
        ),
        ([], []),
        ([victim_row(0, attack='random')], []),
        ([victim_row(0)], [BASIC]),
        ([victim_row(0, scores=[0.5, 0.1], truth=[1, 0])], [BASIC, SCORES]),
        ([victim_row(0), victim_row(1, steps=2, scores=[], truth=[])], [BASIC, SCORES]),
    ],
)
def test_a_missing_ingredient_yields_fewer_figures(tmp_path, rows, expected):
    assert names(rows, tmp_path) == expected
