"""The summary as a table and in words: settings, baselines once, verdicts, certificates."""

from fedinv_jax.report import stats, tables
from tests.report.helpers import cells_of, certified_row, placebo_row, study_rows, victim_row


def test_a_table_is_aligned():
    text = tables.markdown(['a', 'long'], [['xyz', '1'], ['', '2']])
    assert text.splitlines() == [
        '| a   | long |',
        '|-----|------|',
        '| xyz | 1    |',
        '|     | 2    |',
    ]
    assert tables.markdown(['a'], []) == '| a |\n|---|'


def test_several_seeds_are_listed():
    rows = [victim_row(0, steps=2, seed=seed) for seed in (0, 1, 2)]
    assert 'seeds 0, 1, 2.' in tables.table(stats.summarize(rows)).splitlines()[0]


# The attack's precision and solver are its own, and one gradient may have taken another solver.
def test_what_an_attack_has_of_its_own():
    own = {'attack': 'exact', 'dtype': 'float64', 'iterations': 0}
    rows = [
        victim_row(0, 0.9, **own, solver='gram'),
        victim_row(0, 1.0, steps=2, **own, solver='sparse'),
        victim_row(0, 0.6),
        victim_row(0, 0.6, steps=2),
    ]
    text = tables.table(stats.summarize(rows))
    head, *body = cells_of(text)
    assert head[:3] == ['attack', 'T', 'solver']
    assert body[1][:3] == ['exact', '2', 'sparse']
    assert 'iterations 0 (exact); 2000 (mgradinv)' in text
    assert 'dtype float64 (exact); float32 (mgradinv)' in text


def test_certificates_in_words_and_cells():
    rows = [certified_row(0), certified_row(1), certified_row(2, 0.9, 0.0, False)]
    rows += [certified_row(3, rank=48), *(victim_row(user, 0.5) for user in range(4))]
    summary = stats.summarize(rows)
    assert tables.certificates(summary) == [
        'exact, T = 1: 3 of 4 histories are certified as fully recovered; certificates do not '
        'use the truth.'
    ]
    head, first, second = cells_of(tables.table(summary))
    assert first[head.index('certified')] == '3/4'
    assert first[head.index('rank')] == '42/50'
    assert second[head.index('certified')] == '-'
    assert 'certified' not in tables.table(stats.summarize(rows[4:]))


# Failed on `num_exact_certified` over all rows.
def test_a_wrong_certificate_is_said_loudly():
    rows = [certified_row(0), certified_row(1, 0.9, 0.0), certified_row(2, 1.0, 1.0, False)]
    lines = tables.certificates(stats.summarize(rows))
    assert lines[0].startswith('exact, T = 1: 2 of 3 histories are certified')
    assert lines[1].startswith('WARNING: 1 of these 2 certified histories are NOT the truth')


# Failed on the mutant that looks at the text of the defence.
def test_certificates_of_changed_labels_are_no_warning():
    rows = [certified_row(user, 0.9, 0.0, labels_changed=True) for user in (0, 1)]
    _, line = tables.certificates(stats.summarize(rows))
    assert line.startswith('These certificates are about the labels that the clients trained on')
    hidden = [{**row, 'labels_changed': False, 'defence': 'randomised response 2'} for row in rows]
    assert tables.certificates(stats.summarize(hidden))[1].startswith('WARNING: 2 of these 2')


# Failed on the mutant that knows baselines by their names.
def test_a_baseline_is_known_by_its_family():
    rows = [victim_row(0), victim_row(0, attack='random'), victim_row(0, attack='popularity')]
    others = [{**row, 'attack': f'other {row["attack"]}'} for row in rows]
    attacks = tables.attacks_of(stats.summarize([*others, *rows]))
    assert [row['attack'] for row in attacks] == ['other mgradinv', 'mgradinv']


def test_table_lists_settings_and_each_baseline_once():
    text = tables.table(stats.summarize(study_rows()))
    head, *body = cells_of(text)
    assert head[:3] == ['attack', 'T', 'seen']
    assert [line[0] for line in body] == ['mgradinv'] * 6 + ['random', 'popularity']
    assert [line[1] for line in body] == ['1', '2', '4'] * 2 + ['any'] * 2
    assert 'interval 10' in text.splitlines()[0]  # Shared by all attacks with an interval.
    assert len({len(line) for line in text.splitlines() if line.startswith('|')}) == 1
    gain = body[1][head.index('ΔAUC to one gradient')]
    assert gain == '+0.050 [+0.050, +0.050]'


def test_table_keeps_baselines_apart_whose_numbers_differ():
    # Mutant: the first one's numbers listed for all.
    rows = [
        victim_row(0),
        victim_row(0, steps=2),
        victim_row(0, 0.6, 'random'),
        victim_row(0, 0.7, 'random', 2),
    ]
    _, *body = cells_of(tables.table(stats.summarize(rows)))
    assert [line[:2] for line in body[2:]] == [['random', '1'], ['random', '2']]


# Failed on: the placebo among the attacks, without the popularity baseline as its counterpart, and
# named like the attack itself.
def test_a_placebo_is_a_baseline_with_a_name_of_its_own():
    rows = [
        row
        for user in range(6)
        for row in (
            certified_row(user, 0.9),
            placebo_row(user),
            victim_row(user, 0.5, 'popularity'),
        )
    ]
    summary = stats.summarize(rows)
    text = tables.table(summary)
    assert 'placebo' not in text.splitlines()[0]
    head, *body = cells_of(text)
    assert [line[0] for line in body] == ['exact', 'exact (placebo)', 'popularity']
    gains = [line[head.index('ΔAUC to popularity')][:6] for line in body]
    assert gains == ['+0.400', '+0.100', '-']
    assert [row['placebo'] for row in tables.attacks_of(summary)] == [False]
    lines = tables.certificates(summary)
    assert [line[:20] for line in lines] == ['exact, T = 1: 6 of 6', 'exact (placebo), T =']
    wrong = stats.summarize([placebo_row(0, certified=True)])
    assert 'NOT the truth' in tables.certificates(wrong)[1]


def test_table_without_rows():
    assert tables.table(stats.summarize([])) == 'No victims.\n'


def test_verdict_follows_the_intervals():
    text = tables.verdict(stats.summarize(study_rows()))
    assert text.startswith(
        'The attack beats one gradient in 4 of 4 settings. '
        'The attack beats the popularity baseline in 2 of 6 settings.'
    )
    assert 'Seen: items+scorer' in text
    assert 'it **is worse than** the popularity baseline (ΔAUC -0.050' in text


# Failed on the mutant that compares the seconds too.
def test_a_baseline_is_listed_once_whatever_its_seconds():
    rows = [{**row, 'seconds': 0.01 * (1 + i % 7)} for i, row in enumerate(study_rows())]
    text = tables.table(stats.summarize(rows))
    assert text.count('| popularity ') == text.count('| random ') == 1


def test_verdict_needs_victims():
    text = tables.verdict(stats.summarize(study_rows(victims=4)))
    assert 'beats one gradient in 0 of 4 settings' in text
    assert 'too few victims' in text
