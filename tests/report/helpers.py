"""Rows for the tests of the report: victims of made-up attacks, all keys there."""

import re
import shutil
import subprocess

import numpy as np
import pytest

FAMILIES = {
    'popularity': 'baseline', 'random': 'baseline', 'mgradinv': 'descent', 'dlg': 'recipe',
    'imia': 'recipe', 'exact': 'exact', 'spectral': 'exact',
}  # fmt: skip


def victim_row(user=0, auc=0.5, attack='mgradinv', steps=1, **changes):
    """A victim row of schema 2 with that AUC at T = `steps`."""
    baseline = FAMILIES[attack] == 'baseline'
    return {
        'schema': 2,
        'config_hash': '0123456789abcdef',
        'attack': attack,
        'family': FAMILIES[attack],
        'dynamics': None if baseline else 'free',
        'num_gradients': steps,
        'first_round': 0,
        'interval': 10 if steps > 1 else None,
        'seen': ['scorer'],
        'batch_known': True,
        'defence': 'none',
        'defences': {},
        'labels_changed': False,
        'attacker': 'adaptive',
        'placebo': False,
        'reader': None,
        'data': 'synthetic',
        'model': 'ncf',
        'client': 'gradient_step',
        'seed': 0,
        'solver': None if baseline else 'adam',
        'iterations': 0 if baseline else 2000,
        'dtype': 'float32',
        'upload_dtype': 'float32',
        'user': user,
        'user_id': str(user),
        'num_positives': 2,
        'num_negatives': 8,
        'status': 'ok',
        'reason': None,
        'drift': 0.2 if steps > 1 else None,
        'training_loss': None,
        'quality': None,
        'epsilon': None,
        'seconds': 0.5,
        'objective': None if baseline else 1e-3,
        'fits': None,
        'certified': None,
        'margin': None,
        'noise': None,
        'kept': None,
        'symmetry': None,
        'step_sizes': None,
        'step_size_errors': None,
        'locally_unique': None,
        'rank': None,
        'determined': None,
        'unknowns': None,
        'metrics': {
            'auc': auc,
            'average_precision': auc / 2,
            'f1': None,
            'precision': None,
            'recall': 0.0,
            'exact': 0.0,
            'recovered_at_known_count': 0.25,
            'label_mse': 0.1,
            'private_error': None if baseline else 1.0,
            'private_cosine': None if baseline else 0.5,
        },
        **changes,
    }


def certified_row(user, auc=1.0, exact=1.0, certified=True, **changes):
    """A row of an exact attack that certifies its answer or not, and recovers all or nothing."""
    made = victim_row(user, auc, 'exact', solver='gram', iterations=0, dtype='float64')
    noise = 1e-7
    return {
        **made,
        'metrics': {**made['metrics'], 'exact': exact, 'f1': exact},
        'certified': certified,
        'margin': noise * (50 if certified else 0.1),
        'noise': noise,
        'rank': 40,
        'determined': 30,
        'unknowns': 50,
        **changes,
    }


def placebo_row(user, auc=0.6, **changes):
    """A row of an exact attack that read the uploads of another victim."""
    made = certified_row(user, auc, 0.0, certified=False)
    return {**made, 'family': 'baseline', 'placebo': True, **changes}


def study_rows(steps=(1, 2, 4), seens=(('scorer',), ('items', 'scorer')), victims=8, items=20):
    """Rows of an attack that gains .05 of AUC per gradient, beside both baselines."""
    rows = []
    for seen in map(list, seens):
        for step in steps:
            for attack in ('mgradinv', 'random', 'popularity'):
                for user in range(victims):
                    base = {'mgradinv': 0.75 + 0.05 * step, 'random': 0.5, 'popularity': 0.85}
                    made = victim_row(user, base[attack] + 0.01 * user, attack, step, seen=seen)
                    if user < 2:
                        rng = np.random.default_rng(user)
                        made['scores'] = rng.random(items).tolist()
                        made['truth'] = (rng.random(items) < 0.3).astype(int).tolist()
                    rows.append(made)
    return rows


def rows_of(table, attack='mgradinv', victims=6, **changes):
    """Rows by (T, first round, interval) -> mean AUC; victims differ by .01, the seeds are two."""
    return [
        victim_row(user, auc + 0.01 * user, attack, steps, first_round=first, interval=interval,
                   seed=user % 2, **changes)
        for (steps, first, interval), auc in table.items()
        for user in range(victims)
    ]  # fmt: skip


def cells_of(text):
    """The cells of the lines of a Markdown table, without the rule below its head."""
    lines = [line for line in text.splitlines() if line.startswith('|')]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return [cells[0], *cells[2:]]


def browse(folder, text, width, probe):
    """What a script says in a real browser, after the page `text` has loaded at a width."""
    browser = shutil.which('chromium')
    if browser is None:
        pytest.skip('there is no chromium (Debian package of that name)')
    script = f'<script>const said = [];\n{probe}\ndocument.title = said.join(" ");</script></body>'
    (folder / 'page.html').write_text(text.replace('</body>', script))
    # The flags keep it from looking for a network, a screen and a sandbox.
    command = [
        browser, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
        '--disable-background-networking', '--disable-component-update', '--disable-sync',
        f'--user-data-dir={folder}/profile', f'--window-size={width},800', '--dump-dom',
        f'file://{folder}/page.html',
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return re.search('<title>(.*?)</title>', found).group(1)


def defended_row(defences, steps, attack, auc, gap, hit=0.5, attacker='adaptive', epsilon=None):
    """What a summary row of an attack behind defences says to `tradeoff`."""

    def about(mean, half=0.0):
        return {'low': mean - half, 'mean': mean, 'high': mean + half, 'undefined': 0}

    return {
        'client': 'gradient_step',
        'model': 'ncf',
        'batch_known': True,
        'attack': attack,
        'family': FAMILIES[attack],
        'attacker': attacker,
        'defence': ', '.join(f'{name} {value}' for name, value in defences.items()) or 'none',
        'defences': defences,
        'num_gradients': steps,
        'num_victims': 30,
        'num_seeds': 3,
        'metrics': {'auc': about(auc, 0.01)},
        'difference_to_popularity': {'auc': about(gap, 0.01)},
        'quality': {'hr@10_loo99': about(hit), 'ndcg@10_loo99': about(hit)},
        'epsilon': epsilon,
    }


EPSILON = {
    'epsilon': 12.5, 'delta': 1e-5, 'against': 'the server', 'unit': 'one user',
    'adjacency': 'replace', 'sensitivity': None, 'releases': 160,
}  # fmt: skip
STRONG, WEAK = {'clip': 1, 'noise': 3}, {'clip': 1, 'noise': 1}
SUMMARIES = [
    {'rows': [defended_row({}, t, 'exact', 1.0, 0.14, hit=0.6) for t in (1, 8)]},
    {
        'rows': [
            defended_row(STRONG, 1, 'exact', 0.6, -0.26, 0.4, epsilon=EPSILON),
            defended_row(STRONG, 8, 'exact', 0.7, -0.16, 0.4, epsilon=EPSILON),
            defended_row(STRONG, 8, 'exact', 0.8, -0.06, 0.4, 'blind', EPSILON),
        ]
    },
    {
        'rows': [
            defended_row(WEAK, 1, 'exact', 0.8, -0.06, 0.5),
            defended_row(WEAK, 1, 'spectral', 0.7, -0.16, 0.5),
            defended_row(WEAK, 8, 'exact', 0.95, 0.09, 0.5),
            defended_row(WEAK, 8, 'spectral', 0.8, -0.06, 0.5),
        ]
    },
]
"""Three arms of a study: no defence, a strong and a weak one."""
