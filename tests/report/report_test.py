"""Summaries against arithmetic, pairing by user, strict JSON, text and figures of made-up rows."""

import json
import math
import pathlib

import numpy as np
import pytest

from fedinv_jax.report import claims, document, figures, stats, tables
from fedinv_jax.report.figures import overview, study


@pytest.fixture
def without_studies(monkeypatch):
    """Figures of studies have tests of their own."""
    names = ('metrics_vs_first_round', 'metrics_vs_interval', 'attacks', 'distributions', 'runtime')
    for name in names:
        monkeypatch.setattr(study, name, lambda *_: None)


def row(user=0, auc=0.5, attack='mgradinv', steps=1, **changes):
    guesser = attack in stats.GUESSERS
    return {
        'schema': 1,
        'attack': attack,
        'dynamics': None if guesser else 'free',
        'num_gradients': steps,
        'first_round': 0,
        'interval': 10 if steps > 1 else None,
        'seen': ['scorer'],
        'batch_known': True,
        'defence': 'none',
        'attacker': 'adaptive',
        'data': 'synthetic',
        'model': 'ncf',
        'client': 'gradient_step',
        'seed': 0,
        'solver': None if guesser else 'adam',
        'iterations': 0 if guesser else 2000,
        'precision': 'float32',
        'upload_precision': 'float32',
        'user': user,
        'num_positives': 2,
        'num_negatives': 8,
        'status': 'ok',
        'reason': None,
        'drift': 0.2 if steps > 1 else None,
        'seconds': 0.5,
        'objective': None if guesser else 1e-3,
        'metrics': {
            'auc': auc,
            'average_precision': auc / 2,
            'f1': None,
            'precision': None,
            'recall': 0.0,
            'exact': 0.0,
            'recovered_at_known_count': 0.25,
            'label_mse': 0.1,
            'private_error': None if guesser else 1.0,
            'private_cosine': None if guesser else 0.5,
        },
        **changes,
    }


def study_rows(steps=(1, 2, 4), seens=(('scorer',), ('items', 'scorer')), victims=8, items=20):
    """Rows of an attack that gains .05 of AUC per gradient, beside both guessers."""
    rows = []
    for seen in map(list, seens):
        for step in steps:
            for attack in ('mgradinv', *stats.GUESSERS):
                for user in range(victims):
                    base = {'mgradinv': 0.75 + 0.05 * step, 'random': 0.5, 'popularity': 0.85}
                    made = row(user, base[attack] + 0.01 * user, attack, step, seen=seen)
                    if user < 2:
                        rng = np.random.default_rng(user)
                        made['scores'] = rng.random(items).tolist()
                        made['truth'] = (rng.random(items) < 0.3).astype(int).tolist()
                        made['item_ids'] = list(range(items))
                    rows.append(made)
    return rows


def markdown(summary):
    return document.markdown([document.Part('x', '', summary, [], [], '')], '', {}, {})


def by_setting(summary):
    return {stats.setting(row): row for row in summary['rows']}


def test_interval_as_arithmetic():
    nothing = {'mean': None, 'low': None, 'high': None}
    assert stats.interval([]) == {**nothing, 'undefined': 0}
    assert stats.interval([None, math.nan, math.inf]) == {**nothing, 'undefined': 3}
    # Mutant: without the guard for equal values scipy refuses one alone.
    third = {'mean': 1 / 3, 'low': 1 / 3, 'high': 1 / 3}
    assert stats.interval([1 / 3]) == {**third, 'undefined': 0}
    assert stats.interval([1 / 3, None, 1 / 3, 1 / 3]) == {**third, 'undefined': 1}


def test_interval_is_that_of_the_mean():
    # Of n coin flips the mean is .5 with a standard deviation of .5 / sqrt(n).
    value = stats.interval([0.0, 1.0] * 200)
    assert value['mean'] == 0.5
    assert value['low'] == pytest.approx(0.5 - 1.96 * 0.5 / math.sqrt(400), abs=0.005)
    assert value['high'] == pytest.approx(0.5 + 1.96 * 0.5 / math.sqrt(400), abs=0.005)
    assert value == stats.interval([0.0, 1.0] * 200)


def test_summary_as_arithmetic():
    rows = [row(0, 0.6, steps=2), row(1, steps=2, drift=0.4, seconds=1.5)]
    rows[1]['metrics'] = {**rows[0]['metrics'], 'auc': None}
    summary = stats.summarize(rows)
    assert summary['schema'] == 1
    (only,) = summary['rows']
    assert {key: only[key] for key in stats.SETTING} == {key: rows[0][key] for key in stats.SETTING}
    assert list(only['metrics']) == list(stats.METRICS)
    assert only['metrics']['auc'] == {'mean': 0.6, 'low': 0.6, 'high': 0.6, 'undefined': 1}
    assert only['metrics']['f1'] == {'mean': None, 'low': None, 'high': None, 'undefined': 2}
    assert only['drift'] == pytest.approx((0.2 + 0.4) / 2)
    assert only['seconds_per_victim'] == pytest.approx((0.5 + 1.5) / 2)
    assert only['difference_to_popularity'] is None
    assert only['difference_to_one_gradient'] is None


def test_no_drift_with_one_gradient():
    (only,) = stats.summarize([row(0), row(1)])['rows']
    assert only['drift'] is None
    assert only['interval'] is None


def test_failed_victims_are_counted_and_stay_in_the_averages():
    # Mutant: averaging rows of status 'ok' alone gives .9.
    failed = {'status': 'failed', 'reason': 'The objective is not finite.'}
    (only,) = stats.summarize([row(0, 0.9), row(1, 0.5, **failed), row(2, 0.5, **failed)])['rows']
    assert (only['num_victims'], only['num_failed']) == (3, 2)
    assert only['metrics']['auc']['mean'] == pytest.approx((0.9 + 0.5 + 0.5) / 3)
    assert only['failures'] == {'The objective is not finite.': 2}


def test_differences_pair_by_user():
    # Mutant: pairing by position (the guesser's rows come in another order, and one is missing).
    attack = [row(0, 0.6, steps=2), row(1, 0.7, steps=2), row(2, 0.9, steps=2)]
    guess = [row(2, 0.5, 'popularity', 2), row(0, 0.1, 'popularity', 2)]
    summary = stats.summarize(attack + guess)['rows'][0]
    difference = summary['difference_to_popularity']
    assert list(difference) == ['auc', 'average_precision', 'f1']
    assert difference['auc']['mean'] == pytest.approx(((0.6 - 0.1) + (0.9 - 0.5)) / 2)
    assert difference['auc']['low'] == pytest.approx(0.9 - 0.5)
    assert difference['auc']['high'] == pytest.approx(0.6 - 0.1)
    assert difference['auc']['undefined'] == 1
    assert difference['f1']['mean'] is None


def test_pairing_takes_noise_out_that_victims_share():
    rows = [
        row(user, 0.1 * user + 0.125 * steps, steps=steps) for user in range(6) for steps in (1, 2)
    ]
    one, two = stats.summarize(rows)['rows']
    assert one['difference_to_one_gradient'] is None
    difference = two['difference_to_one_gradient']['auc']
    for key in ('mean', 'low', 'high'):
        assert difference[key] == pytest.approx(0.125)
    assert one['metrics']['auc']['high'] > two['metrics']['auc']['low']  # Unpaired, they overlap.


@pytest.mark.parametrize(
    'change', [{'seen': ['items']}, {'first_round': 5}, {'seed': 1}, {'defence': 'clip'}]
)
def test_differences_stay_within_their_setting(change):
    # Mutant: joining on the user alone.
    others = [row(0, 0.1, 'popularity', 2, **change), row(0, 0.1, **change)]
    first = stats.summarize([row(0, 0.6, steps=2), *others])['rows'][0]
    assert first['difference_to_popularity'] is None
    assert first['difference_to_one_gradient'] is None


def test_one_gradient_of_another_dynamics_is_no_counterpart():
    rows = [row(0, 0.6, steps=2), row(0, 0.1, dynamics='static')]
    assert stats.summarize(rows)['rows'][0]['difference_to_one_gradient'] is None


def test_order_of_rows_is_irrelevant():
    # Mutant: victims resampled in order of appearance.
    rows = study_rows()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert by_setting(stats.summarize(rows)) == by_setting(stats.summarize(shuffled))


def test_settings_keep_the_order_of_first_appearance():
    rows = [row(0, steps=4), row(0, steps=1), row(1, steps=4), row(0, steps=2)]
    assert [each['num_gradients'] for each in stats.summarize(rows)['rows']] == [4, 1, 2]


def test_a_victim_twice_is_an_error():
    with pytest.raises(ValueError, match=r'one row per victim and setting, got two of user=3'):
        stats.summarize([row(3), row(3)])


@pytest.mark.parametrize('rows', [[], study_rows(), [row(0, math.nan)]])
def test_summary_is_strict_json(rows):
    summary = stats.summarize(rows)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


# The t quantile at .975 with 2 degrees of freedom.
T2 = 4.302652729911275


# Failed on the mutants without G / (G - 1) and with the normal quantile.
def test_interval_of_several_seeds_as_arithmetic():
    # Seeds of one size: the t-interval of the seeds' means .25, .5 and .75.
    values, seeds = [0.25, 0.25, 0.5, 0.5, 0.5, 1.0], [0, 0, 1, 1, 2, 2]
    found = stats.interval(values, seeds)
    half = T2 * math.sqrt((0.25**2 + 0 + 0.25**2) / 2 / 3)
    assert found['mean'] == pytest.approx(0.5)
    assert found['low'] == pytest.approx(0.5 - half)
    assert found['high'] == pytest.approx(0.5 + half)
    # Seeds of other sizes; what is undefined is of no seed. Mean 2, sums of residuals -2, 0, 2.
    found = stats.interval([1.0, 1.0, 2.0, 3.0, 3.0, None], [4, 4, 1, 2, 2, 2])
    half = T2 * math.sqrt(3 / 2 * (4 + 0 + 4)) / 5
    assert found['undefined'] == 1
    assert found['high'] - found['mean'] == pytest.approx(half)
    assert found['mean'] - found['low'] == pytest.approx(half)


def test_interval_of_several_seeds_edge_cases():
    equal = {'mean': 0.5, 'low': 0.5, 'high': 0.5, 'undefined': 0}
    assert stats.interval([0.5] * 4, [0, 0, 1, 1]) == equal
    # Clipped to what the numbers can be, the mean within.
    found = stats.interval([1.0, 1.0, 0.5, 0.5], [0, 0, 1, 1], (0.0, 1.0))
    assert (found['low'], found['mean'], found['high']) == (0.0, 0.75, 1.0)
    assert stats.interval([1.0, 1.0, 0.5, 0.5], [0, 0, 1, 1])['high'] > 1
    # One seed alone is the bootstrap over victims, also where the others have nothing defined.
    values = [0.1, 0.4, 0.9, None]
    alone = stats.interval(values[:3])
    assert stats.interval(values[:3], [7, 7, 7]) == alone
    assert stats.interval(values, [7, 7, 7, 8]) == {**alone, 'undefined': 1}


# Failed on the mutants with 'seed' in `SETTING`, and of `_group` by the user alone.
def test_seeds_are_pooled_and_pair_by_seed_and_user():
    rows = []
    for seed, shift in ((0, 0.0), (1, 0.2), (2, 0.1)):
        for user in (0, 1):
            rows.append(row(user, 0.5 + shift + 0.1 * user, steps=2, seed=seed))
            rows.append(row(user, 0.4 + shift, 'popularity', 2, seed=seed))
    attack, guess = stats.summarize(rows)['rows']
    assert (attack['seed'], attack['num_seeds'], attack['num_victims']) == ([0, 1, 2], 3, 6)
    assert guess['num_victims'] == 6
    assert attack['metrics']['auc']['mean'] == pytest.approx(0.65)
    half = T2 * math.sqrt((0.1**2 + 0.1**2 + 0) / 2 / 3)
    assert attack['metrics']['auc']['high'] == pytest.approx(0.65 + half)
    # The seeds' shift is in both: differences .1 and .2 in every seed.
    difference = attack['difference_to_popularity']['auc']
    for end in ('low', 'mean', 'high'):
        assert difference[end] == pytest.approx(0.15)
    text = tables.table(stats.summarize(rows))
    assert 'seeds 0, 1, 2.' in text.splitlines()[0]
    shown = markdown(stats.summarize(rows))
    assert '95% t-interval from the standard error clustered by seed' in shown
    assert 'bootstrap' not in shown


def test_differences_are_not_clipped():
    rows = [row(0, 1.0, steps=2, seed=seed) for seed in (0, 1)]
    rows += [row(0, 0.9 * seed, 'popularity', 2, seed=seed) for seed in (0, 1)]
    attack, guess = stats.summarize(rows)['rows']
    assert attack['difference_to_popularity']['auc']['high'] > 1
    assert guess['metrics']['auc']['high'] == 1


# The attack's precision and solver are its own, and one gradient may have taken another solver.
def test_an_exact_attack_has_its_counterparts():
    own = {'attack': 'exact', 'precision': 'float64', 'iterations': 0}
    rows = [
        row(0, 0.9, **own, solver='gram'),
        row(0, 1.0, steps=2, **own, solver='sparse'),
        row(0, 0.7, attack='popularity'),
        row(0, 0.7, attack='popularity', steps=2),
    ]
    one, two, *_ = stats.summarize(rows)['rows']
    assert one['difference_to_popularity']['auc']['mean'] == pytest.approx(0.2)
    assert two['difference_to_one_gradient']['auc']['mean'] == pytest.approx(0.1)
    text = tables.table(stats.summarize([*rows, row(0, 0.6), row(0, 0.6, steps=2)]))
    head, _, *body = columns_of(text)
    assert head[:3] == ['attack', 'T', 'solver']
    assert body[1][:3] == ['exact', '2', 'sparse']
    assert 'iterations 0 (exact); 2000 (mgradinv)' in text
    assert 'precision float64 (exact); float32 (mgradinv)' in text


def certified(user, auc=1.0, exact=1.0, certified=True, **changes):
    made = row(user, auc, 'exact', solver='gram', iterations=0, precision='float64')
    made['metrics'] = {**made['metrics'], 'exact': exact, 'f1': exact}
    noise = 1e-7
    margin = noise * (50 if certified else 0.1)
    numbers = {'margin': margin, 'noise': noise, 'rank': 40, 'determined': 30, 'unknowns': 50}
    return {**made, 'certified': certified, **numbers, **changes}


def test_certificates_as_arithmetic():
    rows = [certified(0), certified(1), certified(2, 0.9, 0.0, False), certified(3, rank=48)]
    rows += [row(user, 0.5) for user in range(4)]
    exact, other = stats.summarize(rows)['rows']
    assert (exact['num_certified'], exact['num_exact_certified']) == (3, 3)
    assert exact['certified']['mean'] == pytest.approx(3 / 4)
    assert 0 <= exact['certified']['low'] < 3 / 4 < exact['certified']['high'] <= 1
    assert (exact['rank'], exact['unknowns']) == (42, 50)
    assert other['certified'] is None
    assert other['num_certified'] is None
    assert tables.certificates(stats.summarize(rows)) == [
        'exact, T = 1: 3 of 4 histories recovered, certified, without looking at the truth.'
    ]
    head, _, first, second = columns_of(tables.table(stats.summarize(rows)))
    assert first[head.index('certified')] == '3/4'
    assert first[head.index('rank')] == '42/50'
    assert second[head.index('certified')] == '-'
    assert 'certified' not in tables.table(stats.summarize(rows[4:]))


# Failed on `num_exact_certified` over all rows.
def test_a_wrong_certificate_is_said_loudly():
    rows = [certified(0), certified(1, 0.9, 0.0), certified(2, 1.0, 1.0, False)]
    lines = tables.certificates(stats.summarize(rows))
    assert lines[0].startswith('exact, T = 1: 2 of 3 histories recovered')
    assert lines[1].startswith('WARNING: 1 of these 2 certified histories are NOT the truth')
    text = markdown(stats.summarize(rows))
    assert f'- **{lines[1]}**' in text


def columns_of(text):
    lines = [line for line in text.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]


def test_table_lists_settings_and_each_guesser_once():
    text = tables.table(stats.summarize(study_rows()))
    head, _, *body = columns_of(text)
    assert head[:3] == ['attack', 'T', 'seen']
    assert [line[0] for line in body] == ['mgradinv'] * 6 + ['random', 'popularity']
    assert [line[1] for line in body] == ['1', '2', '4'] * 2 + ['any'] * 2
    assert 'interval 10' in text.splitlines()[0]  # Shared by all attacks with an interval.
    assert len({len(line) for line in text.splitlines() if line.startswith('|')}) == 1
    gain = body[1][head.index('ΔAUC to one gradient')]
    assert gain == '+0.050 [+0.050, +0.050]'


def test_table_keeps_guessers_apart_whose_numbers_differ():
    # Mutant: the first one's numbers listed for all.
    rows = [row(0), row(0, steps=2), row(0, 0.6, 'random'), row(0, 0.7, 'random', 2)]
    _, _, *body = columns_of(tables.table(stats.summarize(rows)))
    assert [line[:2] for line in body[2:]] == [['random', '1'], ['random', '2']]


def test_table_without_rows():
    assert tables.table(stats.summarize([])) == 'No victims.\n'


def test_verdict_follows_the_intervals():
    text = tables.verdict(stats.summarize(study_rows()))
    assert text.startswith(
        'The attack beats one gradient in 4 of 4 settings. '
        'The attack beats the popularity guesser in 2 of 6 settings.'
    )
    assert 'Seen: items+scorer' in text
    assert 'it **is worse than** the popularity guesser (ΔAUC -0.050' in text


# Failed on the mutant that compares the seconds too.
def test_a_guesser_is_listed_once_whatever_its_seconds():
    rows = [{**row, 'seconds': 0.01 * (1 + i % 7)} for i, row in enumerate(study_rows())]
    text = tables.table(stats.summarize(rows))
    assert text.count('| popularity ') == text.count('| random ') == 1


def test_verdict_needs_victims():
    text = tables.verdict(stats.summarize(study_rows(victims=4)))
    assert 'beats one gradient in 0 of 4 settings' in text
    assert 'too few victims' in text


def test_markdown_holds_everything():
    rows = study_rows()
    rows[0] |= {'status': 'failed', 'reason': 'Non-finite upload.'}
    summary = stats.summarize(rows)
    part = document.Part(
        'x',
        'seed: 0',
        summary,
        claims.compare(rows),
        [pathlib.Path('figures/a_b.png')],
        'sees the scorer',
    )
    text = document.markdown([part], 'python scripts/attack.py', {'jax': '0.10.2'}, {})
    for part in (
        tables.table(summary),
        tables.verdict(summary),
        '![a b](figures/a_b.png)',
        '1 of 8 victims: Non-finite upload.',
        'sees the scorer',
        'python scripts/attack.py',
        '- jax 0.10.2',
        'seed: 0',
    ):
        assert part in text


@pytest.mark.parametrize('steps', [(1, 2, 4), (2,)])
def test_figures_are_written(tmp_path, steps):
    rows = study_rows(steps)
    paths = figures.draw(rows, stats.summarize(rows), tmp_path / 'figures')
    assert [path.name for path in paths] == [
        'metrics_vs_num_gradients.png',
        'recovered_vs_true.png',
    ]
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b'\x89PNG')
        assert len(content) > 10_000


# One gradient has no interval, and T = 4 at interval 50 is missing.
@pytest.mark.usefixtures('without_studies')
def test_figures_of_certificates(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            **certified(user, 1.0, 1.0, steps > 2, seed=seed, margin=1e-7 * 10 ** rng.normal()),
            'num_gradients': steps,
            'interval': span,
            'metrics': {**certified(0)['metrics'], 'f1': 0.5 + 0.05 * steps},
        }
        for steps, span in ((1, None), (2, 1), (2, 50), (4, 1))
        for seed in (0, 1)
        for user in range(3)
    ]
    paths = figures.draw(rows, stats.summarize(rows), tmp_path)
    assert [path.name for path in paths] == [
        'metrics_vs_num_gradients.png',
        'constraints_vs_num_gradients.png',
        'intervals.png',
        'margin_vs_f1.png',
    ]
    for path in paths:
        assert len(path.read_bytes()) > 10_000


# Two seeds may have a user of the same number.
def test_a_victim_of_a_figure_is_of_one_seed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(overview, '_draw_victim', lambda axis, row: drawn.append(row))
    scores = {'scores': [0.5, 0.1], 'truth': [1, 0]}
    rows = [row(0, steps=steps, seed=seed, **scores) for seed in (0, 1) for steps in (1, 2)]
    figures.draw(rows, stats.summarize(rows), tmp_path)
    assert [(row['seed'], row['num_gradients']) for row in drawn] == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]


@pytest.mark.usefixtures('without_studies')
def test_a_missing_ingredient_yields_fewer_figures(tmp_path):
    heat = [row(0, steps=steps, interval=span) for steps in (2, 4) for span in (1, 10)]
    for rows, expected in (
        (heat, 2),
        ([row(0), *heat, certified(0)], 4),
        (heat[:3:2], 1),
        ([certified(0), row(0)], 3),
        ([certified(0, margin=None), row(0)], 2),
        ([certified(0, margin=0.0, noise=0.0, certified=False, rank=0)], 3),
        ([], 0),
        ([row(0, attack='random')], 0),
        ([row(0)], 1),
        ([row(0, scores=[0.5, 0.1], truth=[1, 0])], 2),
        ([row(0), row(1, steps=2, scores=[], truth=[])], 2),
    ):
        assert len(figures.draw(rows, stats.summarize(rows), tmp_path)) == expected
