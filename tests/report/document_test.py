"""The report: first what leaks, then each run with all that belongs to it."""

import pathlib

from fedinv_jax.report import claims, document, stats, tables
from tests.report.helpers import (
    cells_of,
    certified_row,
    placebo_row,
    rows_of,
    study_rows,
    victim_row,
)

TABLE = {(1, 0, None): 0.6, (4, 0, 10): 0.8, (4, 50, 10): 0.7}
BETTER = {(1, 0, None): 0.6, (2, 0, 10): 0.7}


def part_of(rows, **changes):
    summary, fitting = stats.summarize(rows), stats.summarize(stats.fitting(rows))
    part = document.Part('x', '', summary, fitting, claims.compare(rows), [], '')
    return part._replace(**changes)


def markdown(rows):
    return document.markdown([part_of(rows)], '', {}, {})


def test_markdown_holds_everything():
    rows = study_rows()
    rows[0] |= {'status': 'failed', 'reason': 'Non-finite upload.'}
    figures = [pathlib.Path('figures/a_b.png')]
    part = part_of(rows, config='seed: 0', figures=figures, threat_model='sees the scorer')
    text = document.markdown([part], 'python scripts/attack.py', {'jax': '0.10.2'}, {})
    for words in (
        tables.table(part.summary),
        tables.verdict(part.summary),
        '![a b](figures/a_b.png)',
        '1 of 8 victims: Non-finite upload.',
        'sees the scorer',
        'python scripts/attack.py',
        '- jax 0.10.2',
        'seed: 0',
    ):
        assert words in text


def test_a_report_of_several_runs():
    parts = [part_of([victim_row(0)], name=name) for name in ('one', 'two')]
    text = document.markdown(parts, '', {}, {'three': 'no data'}, 'The frontier.')
    heads = [line for line in text.splitlines() if line.startswith('#')]
    assert heads[:7] == [
        '# Privacy audit by gradient inversion: one, two',
        '## Leakage against utility',
        '## Arms side by side',
        '## Verdict',
        '### one',
        '### two',
        '### Not run',
    ]
    assert '- three: no data' in text
    assert heads.count('### Results') == 2
    many = [part_of([victim_row(0)], name=f'arm{number}') for number in range(9)]
    title = document.markdown(many, '', {}, {}).splitlines()[0]
    assert title == '# Privacy audit by gradient inversion: 9 arms'


def test_the_kind_of_interval_is_said():
    one = markdown([victim_row(user) for user in (0, 1)])
    assert '[95% confidence interval: bootstrap]' in one
    several = markdown([victim_row(0, seed=seed) for seed in (0, 1)])
    assert '95% confidence interval: t-interval, standard error clustered by seed' in several
    assert 'bootstrap' not in several


def test_a_warning_is_bold():
    rows = [certified_row(0), certified_row(1, 0.9, 0.0)]
    lines = tables.certificates(stats.summarize(rows))
    assert lines[1].startswith('WARNING')
    assert f'- **{lines[1]}**' in markdown(rows)


def test_pages_show_their_figures(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'PNG')
    part = part_of([victim_row(0)], figures=[pathlib.PurePath('a.png')])
    found = document.pages(tmp_path, [part], 'command', {'jax': '1'})
    assert list(found) == ['report.md', 'report.html']
    assert '![a](a.png)' in found['report.md']
    assert 'data:image/png;base64,UE5H' in found['report.html']


def test_the_table_of_claims_says_what_was_compared():
    text = document.claims_table(claims.compare(rows_of(TABLE)))
    assert '**C1, several gradients reveal more than one** (scorer seen): **holds**.' in text
    tables_ = [block for block in text.split('\n\n') if block.startswith('|')]
    (one,), (two,) = (cells_of(table)[1:] for table in tables_)
    assert one[:4] == ['mgradinv', 'holds', 'T = 4, interval = 10 against T = 1', '0.825, 0.625']
    assert one[4].startswith('+0.200 [')
    assert two[1:3] == ['holds', 'first round = 0 against first round = 50']
    assert document.claims_table([]) == ''


def first_page(rows):
    return markdown(rows).split('## Threat model')[0]


# Failed on mutants: stopped without a defence; any row instead of every row; too few victims, or no
# baseline, as stopped.
def test_the_first_page_says_what_stops_it():
    above, below = rows_of({(1, 0, None): 0.9}), rows_of({(1, 0, None): 0.2}, seen=['items'])
    guesses = [
        one for seen in (['scorer'], ['items'])
        for one in rows_of({(1, 0, None): 0.5}, 'popularity', seen=seen)
    ]  # fmt: skip
    text = first_page([*above, *below, *guesses])
    asked = 'Do defences stop the attacks, {} seen? '.format
    assert f'{asked("scorer")}No defence was on, an attack beats the popularity baseline' in text
    assert f'{asked("items")}There is nothing to stop: no attack beats' in text
    clipped = [
        {**one, 'defence': 'clip 1', 'defences': {'clip': 1.0}} for one in [*below, *guesses]
    ]
    assert f'{asked("items")}Yes, no attack beats' in first_page(clipped)
    assert 'Not known: the popularity baseline was not run' in first_page(above)
    few = [one for one in [*above, *guesses] if one['user'] < 4 and one['seen'] == ['scorer']]
    assert 'Not known: there are fewer than 5 victims' in first_page(few)
    assert 'No attack was run.' in first_page([])


# Failed before: 59 of 64 histories found, the rest as their flip, and nothing to stop.
def test_the_first_page_says_that_f1_is_larger_where_auc_does_not_tell():
    def rows(attack, found, count=16):
        made = rows_of({(1, 0, None): 0.5}, attack)
        users = [{**made[0], 'user': user, 'user_id': str(user)} for user in range(count)]
        values = [{'auc': auc, 'f1': f1} for auc, f1 in (found * count)[:count]]
        return [
            {**row, 'metrics': {**row['metrics'], **value}}
            for row, value in zip(users, values, strict=True)
        ]

    # Half of the victims recovered, half flipped.
    attacked, guessed = [(1.0, 1.0), (0.0, 0.0)], [(0.5, 0.1)]
    said = 'an attack has a larger F1 than the popularity baseline'
    both = [*rows('mgradinv', attacked), *rows('popularity', guessed)]
    assert f'No defence was on, {said}' in first_page(both)
    defended = [{**one, 'defence': 'clip 1', 'defences': {'clip': 1.0}} for one in both]
    assert f'No, {said}' in first_page(defended)
    few = [*rows('mgradinv', attacked, 4), *rows('popularity', guessed, 4)]
    assert said not in first_page(few)
    as_good = [*rows('mgradinv', attacked), *rows('popularity', [(0.5, 0.5)])]
    assert said not in first_page(as_good)


# Failed on the mutant `min` of `leaks`, and without the effect beside the word.
def test_the_first_page_has_the_strongest_attack_and_the_effects():
    weak = rows_of({(1, 0, None): 0.1, (2, 0, 10): 0.1}, 'dlg')
    made = rows_of(BETTER)
    for each in made:
        each['metrics'] = {**each['metrics'], 'exact': 1.0, 'f1': 1.0}
    text = first_page([*weak, *made])
    assert 'Upload seen: **scorer**. The strongest attack, mgradinv (T = 1' in text
    assert 'recovers **6 of 6** histories' in text
    claim = next(line for line in text.splitlines() if line.startswith('- C1'))
    assert '**holds only for mgradinv** (mgradinv: ΔAUC +0.100 [' in claim
    assert 'p = ' in claim


# Failed on `leaks(part.summary)`: two histories recovered of four.
def test_answers_that_do_not_fit_are_counted_apart():
    fine, wrong = [certified_row(0), certified_row(1, exact=0.0, certified=False)], []
    wrong = [certified_row(user, certified=False, fits=False) for user in (2, 3)]
    text = markdown([*fine, *wrong])
    assert 'recovers **1 of 2** histories without error' in text
    assert '**2 of 4 answers do not fit** (exact, T = 1, scorer seen)' in text
    assert 'answers do not fit' not in markdown(fine)
    assert 'No attack was run' in markdown(wrong)
    assert '**2 of 2 answers do not fit**' in markdown(wrong)
    placebo = [placebo_row(user, fits=False) for user in range(4)]
    assert 'answers do not fit' not in markdown([*fine, *placebo])
