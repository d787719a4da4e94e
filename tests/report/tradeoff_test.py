"""The frontier over arms: which defence stops the attacks, at which strength, at what cost."""

import numpy as np
import pytest
from PIL import Image

from fedinv_jax.report import stats, tradeoff


def row(defence, steps, attack, auc, gap, hit=0.5, attacker='adaptive', epsilon=None):
    interval = {'low': auc - 0.01, 'mean': auc, 'high': auc + 0.01, 'undefined': 0}
    worth = {'low': hit, 'mean': hit, 'high': hit, 'undefined': 0}
    difference = {'low': gap - 0.01, 'mean': gap, 'high': gap + 0.01, 'undefined': 0}
    return {
        **dict.fromkeys(stats.SETTING),
        'client': 'gradient_step',
        'attack': attack,
        'attacker': attacker,
        'defence': defence,
        'num_gradients': steps,
        'num_victims': 30,
        'num_seeds': 3,
        'metrics': {'auc': interval},
        'difference_to_popularity': {'auc': difference},
        'quality': {'hr@10_loo99': worth, 'ndcg@10_loo99': worth},
        'epsilon': epsilon,
    }


EPSILON = {
    'epsilon': 12.5, 'delta': 1e-5, 'against': 'the server', 'unit': 'one user',
    'adjacency': 'replace', 'releases': 160,
}  # fmt: skip
SUMMARIES = [
    {'rows': [row('none', t, 'exact', 1.0, 0.14, hit=0.6) for t in (1, 8)]},
    {
        'rows': [
            row('clip 1, noise 3', 1, 'exact', 0.6, -0.26, 0.4, epsilon=EPSILON),
            row('clip 1, noise 3', 8, 'exact', 0.7, -0.16, 0.4, epsilon=EPSILON),
            row('clip 1, noise 3', 8, 'exact', 0.8, -0.06, 0.4, 'blind', EPSILON),
        ]
    },
    {
        'rows': [
            row('clip 1, noise 1', 1, 'exact', 0.8, -0.06, 0.5),
            row('clip 1, noise 1', 1, 'spectral', 0.7, -0.16, 0.5),
            row('clip 1, noise 1', 8, 'exact', 0.95, 0.09, 0.5),
            row('clip 1, noise 1', 8, 'spectral', 0.8, -0.06, 0.5),
        ]
    },
]


# Failed on: strongest first; the first attack for the best; stopped where one attack fails; the
# attacks with exactly T gradients.
def test_points():
    found = tradeoff.points(SUMMARIES)
    names = [
        (p.defence, p.num_gradients, p.stopped, p.best['metrics']['auc']['mean']) for p in found
    ]
    assert names == [
        ('none', 1, False, 1.0),
        ('none', 8, False, 1.0),
        ('clip 1, noise 1', 1, True, 0.8),
        ('clip 1, noise 1', 8, False, 0.95),
        ('clip 1, noise 3', 1, True, 0.6),
        ('clip 1, noise 3', 8, True, 0.8),
    ]
    assert found[-1].best['attacker'] == 'blind'


def test_the_weakest_strength_that_stops():
    text = tradeoff.table(tradeoff.points(SUMMARIES))
    lines = [line for line in text.splitlines() if line.startswith('|')]
    cells = [cell.strip() for cell in lines[-1].split('|')][1:-1]
    assert cells[:3] == ['clip, noise', 'clip 1, noise 1', 'clip 1, noise 3']
    assert cells[3:6] == ['0.500', '0.500', '-']
    assert cells[6:] == ['0.400', '0.400', '12.5 [1]']
    assert text.splitlines()[-1] == (
        '[1] Epsilon against the server; unit: one user, replace; delta = 1e-05, 160 releases.'
    )
    assert 'none tried (AUC 1.000 at least)' in lines[2]
    assert len({line.count('|') for line in lines}) == 1


# With 8 gradients an attacker may use one. Failed on: the attacks with exactly T gradients.
def test_more_gradients_never_leak_less():
    rows = [row('top 0.1', 1, 'exact', 0.95, 0.09), row('top 0.1', 8, 'exact', 0.7, -0.16)]
    _, last = tradeoff.points([{'rows': rows}])
    assert (last.num_gradients, last.stopped, last.best['num_gradients']) == (8, False, 1)


# Failed on: the weakest strength that stops, though a stronger one does not.
def test_stronger_ones_must_stop_too():
    gaps = {4: 0.1, 2: -0.1, 1: 0.1, 0.5: -0.1}
    rows = [{'rows': [row(f'clip {c}', 1, 'exact', 0.8, gap)]} for c, gap in gaps.items()]
    assert '| clip | clip 0.5 |' in tradeoff.table(tradeoff.points(rows))


def test_another_client_is_another_family():
    rows = [row('none', 1, 'exact', 1.0, 0.1), row('clip 1', 1, 'exact', 1.0, 0.1)]
    local = {**row('none', 1, 'exact', 0.9, 0.0), 'client': 'local_sgd'}
    found = tradeoff.points([{'rows': [one]} for one in (*rows, local)])
    assert [p.family for p in found] == ['none', 'clip', 'none (local_sgd)']


def test_details_list_every_point():
    lines = tradeoff.details(tradeoff.points(SUMMARIES)).splitlines()
    lines = [line for line in lines if line.startswith('|')]
    assert len(lines) == 2 + 6
    assert 'exact (blind)' in lines[-1]
    assert len({line.count('|') for line in lines}) == 1


# Failed on: `_FALLING` without 'random', which 'randomised response' must not stand in for.
@pytest.mark.parametrize(
    'weak_to_strong',
    [
        ('randomised response 4', 'randomised response 0.5'),
        ('random 0.1', 'random 0.01'),
        ('top 0.1 with error feedback', 'top 0.001 with error feedback'),
        ('levels 4', 'levels 1'),
        ('clip 20, noise 0.3', 'clip 20, noise 1e+02'),
        ('cohort 2', 'cohort 128'),
        ('pseudo-interactions 0.1', 'pseudo-interactions 0.4'),
    ],
)
def test_strengths(weak_to_strong):
    weak, strong = weak_to_strong
    assert tradeoff.family(weak) == tradeoff.family(strong)
    assert tradeoff.strength(weak) < tradeoff.strength(strong)


def test_arms_that_were_not_evaluated_have_no_point(tmp_path):
    bare = {'rows': [{**row('none', 1, 'exact', 1.0, 0.1), 'quality': None}]}
    assert tradeoff.points([bare]) == []
    assert tradeoff.draw(tradeoff.points(SUMMARIES[:1]), tmp_path / 'one.png') is None


def test_the_figure_is_written(tmp_path):
    path = tradeoff.draw(tradeoff.points(SUMMARIES), tmp_path / 'figures' / 'frontier.png')
    image = np.asarray(Image.open(path).convert('L'))
    assert min(image.shape) > 500
    assert image.std() > 5
