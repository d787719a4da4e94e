"""Report: rows of victims -> summaries with intervals, a table, a text for people. NumPy only.

A row is one JSON object of `victims.jsonl`: the keys of `SETTING`, then `user`, `status`
('ok' or 'failed'), `reason`, `drift`, `seconds` and `metrics` (null where undefined). Failed
victims stay in every average with the metrics that were recorded for them.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

Row = Mapping[str, Any]

SETTING = (
    'attack', 'dynamics', 'num_gradients', 'first_round', 'interval', 'seen', 'batch_known',
    'defence', 'data', 'model', 'client', 'seed', 'solver', 'iterations', 'precision',
)  # fmt: skip
METRICS = (
    'auc', 'average_precision', 'f1', 'precision', 'recall', 'exact', 'recovered_at_known_count',
    'label_mse', 'private_error', 'private_cosine',
)  # fmt: skip
COMPARED = ('auc', 'average_precision', 'f1')
GUESSERS = ('random', 'popularity')
"""Attacks that read no upload."""

_OWN = ('attack', 'dynamics', 'solver', 'iterations')  # What a guesser does not share.
_STEPS = ('num_gradients', 'interval')  # What one gradient does not share.
_RESAMPLES = 2000
_FEW = 5  # Below that many victims there is no verdict.
_TITLES = {
    'num_gradients': 'T', 'first_round': 'first round', 'batch_known': 'batch known',
    'auc': 'AUC', 'average_precision': 'AP', 'f1': 'F1', 'label_mse': 'label MSE',
    'private_error': 'private error', 'private_cosine': 'private cosine',
    'recovered_at_known_count': 'recovered at n',
}  # fmt: skip


def title(name: str) -> str:
    """A key's name for people: `title('num_gradients') == 'T'`."""
    return _TITLES.get(name, name)


def show(value: Any) -> str:
    """A setting's value for people: `show(['items', 'scorer']) == 'items+scorer'`."""
    if value is None:
        return '-'
    return '+'.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def setting(row: Row, without: Sequence[str] = ()) -> str:
    """A hashable form of a row's setting, less some of its keys."""
    return json.dumps([row[key] for key in SETTING if key not in without])


def same_but_steps(row: Row, other: Row) -> bool:
    """Whether two rows differ in nothing but T and the interval."""
    return setting(row, _STEPS) == setting(other, _STEPS)


def _defined(values: Iterable[float | None]) -> np.ndarray:
    """The finite ones among the values, float64."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return numbers[np.isfinite(numbers)]


def interval(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean of the defined values with its 95% percentile bootstrap interval over victims.

    Args:
        values: one number a victim; None, NaN or infinite where undefined.

    Returns:
        `{'mean', 'low', 'high', 'undefined'}`: three floats, or three None when nothing is
        defined, and the number of undefined values. Equal values (one alone too) are their own
        interval. The generator's seed is fixed: equal values give equal intervals.

    Example:
        >>> interval([0.5, None, 0.5])
        {'mean': 0.5, 'low': 0.5, 'high': 0.5, 'undefined': 1}
    """
    values = list(values)
    defined = _defined(values)
    undefined = len(values) - defined.size
    if not defined.size:
        return {'mean': None, 'low': None, 'high': None, 'undefined': undefined}
    mean, low, high = (float(defined[0]),) * 3
    if np.ptp(defined) > 0:
        bounds = scipy.stats.bootstrap(
            (defined,),
            np.mean,
            n_resamples=_RESAMPLES,
            batch=200,
            method='percentile',
            rng=np.random.default_rng(0),
        ).confidence_interval
        mean, low, high = float(np.mean(defined)), float(bounds.low), float(bounds.high)
    return {'mean': mean, 'low': low, 'high': high, 'undefined': undefined}


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values, or None."""
    defined = _defined(values)
    return float(np.mean(defined)) if defined.size else None


def _group(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by setting, in order of first appearance; victims in order of their id."""
    groups: dict[str, dict[Any, Row]] = {}
    for row in rows:
        victims = groups.setdefault(setting(row), {})
        if row['user'] in victims:
            raise ValueError(
                f'Expected one row per victim and setting, got two of user={row["user"]} in '
                f'{ {key: row[key] for key in SETTING} }.'
            )
        victims[row['user']] = row
    return [[victims[user] for user in sorted(victims)] for victims in groups.values()]


def _difference(victims: Sequence[Row], others: Sequence[Row] | None) -> dict[str, Any] | None:
    """Mean over users of `metric - metric of the same user in others`, with its interval."""
    metrics = {row['user']: row['metrics'] for row in others or ()}
    if not any(row['user'] in metrics for row in victims):
        return None

    def paired(row: Row, name: str) -> float | None:
        pair = row['metrics'].get(name), metrics.get(row['user'], {}).get(name)
        return None if None in pair else pair[0] - pair[1]

    return {name: interval(paired(row, name) for row in victims) for name in COMPARED}


def summarize(rows: Iterable[Row]) -> dict[str, Any]:
    """One summary row per setting: what `summary.json` holds.

    Args:
        rows: rows of victims, in any order.

    Returns:
        `{'schema': 1, 'rows': [...]}`, strict JSON (null where undefined), settings in order of
        first appearance. `metrics` and both differences hold `interval`s over victims.
        `difference_to_popularity` pairs each victim with the popularity guesser's answer in the
        same setting (all but attack, dynamics, solver and iterations),
        `difference_to_one_gradient` with T = 1 (all but num_gradients and interval); null
        without a counterpart. `failures` counts the reasons of the failed victims.

    Raises:
        ValueError: a victim has two rows in one setting.
    """
    groups = _group(rows)
    guesses = {setting(v[0], _OWN): v for v in groups if v[0]['attack'] == 'popularity'}
    single = {setting(v[0], _STEPS): v for v in groups if v[0]['num_gradients'] == 1}

    def summary(victims: list[Row]) -> dict[str, Any]:
        first = victims[0]
        failed = [row for row in victims if row['status'] != 'ok']
        reasons = [str(row['reason']) for row in failed]
        names = {name for row in victims for name in row['metrics']}.difference(METRICS)
        guess = guesses.get(setting(first, _OWN)) if first['attack'] != 'popularity' else None
        one = single.get(setting(first, _STEPS)) if first['num_gradients'] > 1 else None
        return {
            **{key: first[key] for key in SETTING},
            'num_victims': len(victims),
            'num_failed': len(failed),
            'drift': _mean(row['drift'] for row in victims),
            'seconds_per_victim': _mean(row['seconds'] for row in victims),
            'metrics': {
                name: interval(row['metrics'].get(name) for row in victims)
                for name in (*METRICS, *sorted(names))
            },
            'difference_to_popularity': _difference(victims, guess),
            'difference_to_one_gradient': _difference(victims, one),
            'failures': {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        }

    return {'schema': 1, 'rows': [summary(victims) for victims in groups]}


def distinct(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Values by key of the setting, for people, over summary rows; an interval at T = 1 aside."""
    values: dict[str, dict[str, None]] = {key: {} for key in SETTING}
    for row in rows:
        for key in SETTING:
            if key != 'interval' or row[key] is not None:
                values[key][show(row[key])] = None
    return {key: list(shown) for key, shown in values.items()}


def attacks_of(summary: Row) -> list[Row]:
    """The summary rows of attacks that read uploads: all but the guessers'."""
    return [row for row in summary['rows'] if row['attack'] not in GUESSERS]


def _number(value: Mapping[str, Any] | None, victims: int, sign: str = '') -> str:
    """`mean [low, high]` with three decimals, and n where not every victim counts; or a dash."""
    if value is None or value['mean'] is None:
        return '-'
    count = f' n={victims - value["undefined"]}' if value['undefined'] else ''
    return '{mean:{s}.3f} [{low:{s}.3f}, {high:{s}.3f}]'.format(s=sign, **value) + count


def _line(row: Row, keys: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """One line of the table by column."""
    victims, failed = row['num_victims'], row['num_failed']
    popularity, one = row['difference_to_popularity'], row['difference_to_one_gradient']
    return {
        **{title(key): show(row[key]) for key in keys},
        'drift': '-' if row['drift'] is None else f'{row["drift"]:.3f}',
        'victims': f'{victims} ({failed} failed)' if failed else str(victims),
        **{title(name): _number(row['metrics'].get(name), victims) for name in metrics},
        'ΔAUC to popularity': _number(popularity and popularity['auc'], victims, '+'),
        'ΔAUC to one gradient': _number(one and one['auc'], victims, '+'),
    }


def _guesser_lines(rows: Sequence[Row], lines: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """A guesser's lines, as one where its numbers are the same for every T and upload."""
    blank = {'T': 'any', 'seen': 'any', 'interval': '-', 'drift': '-', 'ΔAUC to one gradient': '-'}
    groups: dict[str, list[dict[str, str]]] = {}
    for row, line in zip(rows, lines, strict=True):
        groups.setdefault(setting(row, (*_STEPS, 'seen')), []).append(line)
    merged = []
    for group in groups.values():
        short = [{column: blank.get(column, line[column]) for column in line} for line in group]
        merged += short[:1] if all(line == short[0] for line in short) else group
    return merged


def table(
    summary: Row,
    metrics: Sequence[str] = ('auc', 'average_precision', 'f1', 'exact', 'private_error'),
) -> str:
    """The summary as an aligned Markdown table, one line a setting, guessers last.

    What every attack shares stands above it, in one line; numbers are
    `mean [95% interval]`. A guesser that does as well for every T and upload is listed once.

    Args:
        summary: what `summarize` returns.
        metrics: the metrics to list; fewer of them fit a narrow terminal.

    Returns:
        Markdown that reads well unrendered too.
    """
    rows = summary['rows']
    if not rows:
        return 'No victims.\n'
    attacks = attacks_of(summary)
    guesses = [row for row in rows if row['attack'] in GUESSERS]
    values = distinct(attacks or rows)
    keys = [key for key in SETTING if key in ('attack', 'num_gradients') or len(values[key]) > 1]
    lines = [_line(row, keys, metrics) for row in attacks]
    lines += _guesser_lines(guesses, [_line(row, keys, metrics) for row in guesses])
    columns = list(lines[0])
    if all(line['drift'] == '-' for line in lines):
        columns.remove('drift')
    widths = [max(len(column), *(len(line[column]) for line in lines)) for column in columns]

    def join(cells: Iterable[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f'| {" | ".join(padded)} |'

    shared = [f'{title(key)} {"".join(values[key]) or "-"}' for key in SETTING if key not in keys]
    rule = f'|{"|".join("-" * (width + 2) for width in widths)}|'
    body = [join(columns), rule, *(join(line[column] for column in columns) for line in lines)]
    return '\n'.join([f'All attacks: {", ".join(shared)}.', '', *body, ''])


def _outcome(difference: Row | None, victims: int) -> tuple[str, str]:
    """A paired difference of AUC as a verb, and its number."""
    if difference is None or difference['auc']['mean'] is None:
        return 'has no counterpart for', ''
    auc = difference['auc']
    number = f' (ΔAUC {_number(auc, victims, "+")})'
    if victims - auc['undefined'] < _FEW:
        return 'was run on too few victims for a verdict against', number
    if auc['low'] > 0:
        return 'beats', number
    return 'is worse than' if auc['high'] < 0 else 'cannot be told from', number


def verdict(summary: Row) -> str:
    """What the numbers say in plain words, by kind of upload seen.

    An attack beats another when the 95% interval of the paired difference of AUC lies above 0.

    Args:
        summary: what `summarize` returns.

    Returns:
        Markdown; empty without an attack.
    """
    attacks = attacks_of(summary)
    values = distinct(attacks)
    told = [key for key in SETTING if len(values[key]) > 1 and key not in ('num_gradients', 'seen')]
    rivals = {
        'one gradient': 'difference_to_one_gradient',
        'the popularity guesser': 'difference_to_popularity',
    }
    verbs: dict[str, list[str]] = {rival: [] for rival in rivals}
    paragraphs: dict[str, list[str]] = {}
    for row in attacks:
        victims, steps = row['num_victims'], row['num_gradients']
        said = []
        for rival, key in rivals.items():
            if rival == 'one gradient' and steps == 1:
                continue
            verb, number = _outcome(row[key], victims)
            verbs[rival].append(verb)
            said.append(f'it **{verb}** {rival}{number}')
        where = [f'T = {steps}', *(f'{title(key)} {show(row[key])}' for key in told)]
        auc = _number(row['metrics']['auc'], victims)
        lines = paragraphs.setdefault(show(row['seen']), [])
        lines.append(f'- {", ".join(where)}: AUC {auc}; {"; ".join(said)}.')
    head = ' '.join(
        f'The attack beats {rival} in {said.count("beats")} of {len(said)} settings.'
        for rival, said in verbs.items()
        if said
    )
    body = [f'Seen: {seen}\n\n' + '\n'.join(lines) for seen, lines in paragraphs.items()]
    return '\n\n'.join([head, *body]).strip()


def markdown(
    config_text: str,
    summary: Row,
    figures: Iterable[str | pathlib.Path],
    threat_model: str,
    command: str,
    versions: Mapping[str, str],
) -> str:
    """The text of `report.md`.

    Args:
        config_text: the configuration, as text.
        summary: what `summarize` returns.
        figures: paths of PNGs in a folder next to the report.
        threat_model: what is seen, known and unknown, as text.
        command: the exact command of the run.
        versions: version by package.

    Returns:
        Markdown: verdict, threat model, table, figures, failures, versions, command, config.
    """
    failures = [
        f'- {row["attack"]}, T = {row["num_gradients"]}, {show(row["seen"])} seen: {count} of '
        f'{row["num_victims"]} victims: {reason}'
        for row in summary['rows']
        for reason, count in row['failures'].items()
    ]
    paths = [pathlib.Path(figure) for figure in figures]
    images = [f'![{path.stem.replace("_", " ")}]({path.parent.name}/{path.name})' for path in paths]
    note = (
        'Mean over victims [95% bootstrap interval]; failed victims count, with the answer of an '
        'attacker who knows nothing; n: victims with a defined value, where not all. Differences '
        'are paired by victim.'
    )
    sections = {
        'Verdict': verdict(summary) or 'No attack was run.',
        'Threat model': f'```\n{threat_model.strip()}\n```',
        'Results': f'{table(summary)}\n{note}',
        'Figures': '\n\n'.join(images) or 'None.',
        'Failures': '\n'.join(failures) or 'None.',
        'Versions': '\n'.join(f'- {name} {version}' for name, version in versions.items()),
        'Command': f'```\n{command.strip()}\n```',
        'Configuration': f'```\n{config_text.strip()}\n```',
    }
    body = '\n\n'.join(f'## {name}\n\n{text}' for name, text in sections.items())
    return f'# Privacy audit by gradient inversion\n\n{body}\n'
