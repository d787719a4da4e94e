"""The summary as a table and as sentences, the parts of which `document` makes a report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedinv_jax.report import stats
from fedinv_jax.report.rows import ConfidenceInterval, Summary, SummaryRow
from fedinv_jax.report.stats import SETTING

_TITLES = {
    'num_gradients': 'T', 'first_round': 'first round', 'batch_known': 'batch known',
    'auc': 'AUC', 'average_precision': 'AP', 'f1': 'F1', 'exact': 'exact match',
    'label_mse': 'label MSE', 'rmse': 'RMSE',
    'private_error': 'private error', 'private_cosine': 'private cosine',
    'recovered_at_known_count': 'recovered at n',
}  # fmt: skip
# Keys that usually follow from the attack's name.
_OF_ATTACK = ('dynamics', 'iterations', 'dtype', 'solver')


def title(name: str) -> str:
    """The name of a key in tables: `title('num_gradients') == 'T'`."""
    return _TITLES.get(name, name)


def show(value: Any) -> str:
    """A setting's value as text: `show(['items', 'scorer']) == 'items+scorer'`."""
    if value is None:
        return '-'
    return '+'.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def attack_name(row: Mapping[str, Any]) -> str:
    """The attack of a row as tables have it.

    Example:
        >>> attack_name({'attack': 'exact', 'placebo': True})
        'exact (placebo)'
    """
    return f'{row["attack"]} (placebo)' if row['placebo'] else str(row['attack'])


def distinct(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The distinct values of each key of the setting, as text; the interval at T = 1 is ignored."""
    values: dict[str, dict[str, None]] = {key: {} for key in SETTING}
    for row in rows:
        for key in SETTING:
            if key != 'interval' or row[key] is not None:
                values[key][show(row[key])] = None
    return {key: list(shown) for key, shown in values.items()}


def varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the setting that vary over the rows, without T.

    A key in `_OF_ATTACK` counts only if it varies within one attack.
    """
    values = distinct(rows)
    attacks = [[row for row in rows if row['attack'] == name] for name in values['attack']]
    within = [distinct(own) for own in attacks]
    return [
        key
        for key in SETTING
        if key != 'num_gradients'
        and (
            any(len(own[key]) > 1 for own in within) if key in _OF_ATTACK else len(values[key]) > 1
        )
    ]


def attacks_of(summary: Summary) -> list[SummaryRow]:
    """The summary rows of attacks that read uploads, i.e. without baselines."""
    return [row for row in summary['rows'] if row['family'] != 'baseline']


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned as plain text too.

    Example:
        >>> print(markdown(['attack', 'T'], [['exact', '1']]))
        | attack | T |
        |--------|---|
        | exact  | 1 |
    """
    cells = [head, *lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)]
              for line in cells]  # fmt: skip
    texts = [f'| {" | ".join(line)} |' for line in padded]
    rule = f'|{"|".join("-" * (width + 2) for width in widths)}|'
    return '\n'.join([texts[0], rule, *texts[1:]])


def estimate(value: ConfidenceInterval | None, victims: int, sign: str = '') -> str:
    """`mean [low, high]` with three decimals, and n if not all victims are defined; or a dash."""
    if value is None or value['mean'] is None:
        return '-'
    count = f' n={victims - value["undefined"]}' if value['undefined'] else ''
    return '{mean:{s}.3f} [{low:{s}.3f}, {high:{s}.3f}]'.format(s=sign, **value) + count


def auc_of(difference: Mapping[str, ConfidenceInterval] | None) -> ConfidenceInterval | None:
    """The AUC of a paired difference, of ratings the accuracy; None without a counterpart."""
    return None if difference is None else difference[deciding(difference)]


def deciding(metrics: Iterable[str]) -> str:
    """The metric by which settings are compared: AUC, or the accuracy of ratings."""
    return stats.compared_by(metrics)[0]


def _line(row: SummaryRow, keys: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """One line of the table: column -> text."""
    victims, failed = row['num_victims'], row['num_failed']
    popularity = auc_of(row['difference_to_popularity'])
    one = auc_of(row['difference_to_one_gradient'])
    fewer = auc_of(row['difference_to_fewer_gradients'])
    values: Mapping[str, Any] = row
    delta = f'Δ{title(deciding(row["metrics"]))}'
    return {
        **{title(key): show(values[key]) for key in keys},
        'attack': attack_name(row),
        'drift': '-' if row['drift'] is None else f'{row["drift"]:.3f}',
        'victims': f'{victims} ({failed} failed)' if failed else str(victims),
        'certified': '-' if row['certified'] is None else f'{row["num_certified"]}/{victims}',
        'rank': '-' if row['rank'] is None else f'{row["rank"]:.0f}/{row["unknowns"]:.0f}',
        **{title(name): estimate(row['metrics'].get(name), victims) for name in metrics},
        f'{delta} to popularity': estimate(popularity, victims, '+'),
        f'{delta} to one gradient': estimate(one, victims, '+'),
        f'{delta} to fewer gradients': estimate(fewer, victims, '+'),
        's per victim': f'{row["seconds_per_victim"]:.2g}',
    }


def _baseline_lines(
    rows: Sequence[SummaryRow], lines: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """A baseline's lines, merged into one if they are equal for every T, round and upload."""
    blank = {**dict.fromkeys(('T', 'first round', 'seen'), 'any'), 'interval': '-', 'drift': '-'}
    to_others = (' to one gradient', ' to fewer gradients', 's per victim')
    blank |= {column: '-' for line in lines[:1] for column in line if column.endswith(to_others)}
    groups: dict[str, list[dict[str, str]]] = {}
    for row, line in zip(rows, lines, strict=True):
        rest = stats.setting(row, (*stats.STEPS, 'first_round', 'seen'))
        groups.setdefault(rest, []).append(line)
    merged = []
    for group in groups.values():
        short = [{column: blank.get(column, line[column]) for column in line} for line in group]
        merged += short[:1] if all(line == short[0] for line in short) else group
    return merged


def table(
    summary: Summary,
    metrics: Sequence[str] = (
        'auc',
        'average_precision',
        'f1',
        'rmse',
        'accuracy',
        'exact',
        'private_error',
    ),
) -> str:
    """The summary as an aligned Markdown table with a line per setting, baselines last.

    A line above the table has the keys with the same value for all attacks. Numbers are
    `mean [95% confidence interval]`. A placebo is a baseline like 'exact (placebo)'. A baseline
    with equal numbers for every T and upload has one line. The column 'certified' is the number of
    certified victims, 'rank' the mean rank of the uploads' Jacobian / its number of columns.

    Args:
        summary: the result of `stats.summarize`.
        metrics: the metrics to list, of those that the rows have.
    """
    rows, attacks = summary['rows'], attacks_of(summary)
    if not rows:
        return 'No victims.\n'
    metrics = [name for name in metrics if any(name in row['metrics'] for row in rows)]
    baselines = [row for row in rows if row['family'] == 'baseline']
    varied = varying(attacks or rows)
    keys = [key for key in SETTING if key in ('attack', 'num_gradients') or key in varied]
    others = [key for key in SETTING if key not in (*keys, 'placebo')]  # in the attack's name
    lines = [_line(row, keys, metrics) for row in attacks]
    lines += _baseline_lines(baselines, [_line(row, keys, metrics) for row in baselines])
    columns = [
        column
        for column in lines[0]
        if column not in ('drift', 'certified', 'rank')
        or any(line[column] != '-' for line in lines)
    ]
    grid = markdown(columns, [[line[column] for column in columns] for line in lines])
    seeds = dict.fromkeys(seed for row in rows for seed in row['seed'])
    shared = [f'{title(key)} {_each(attacks or rows, key)}' for key in others]
    shared.append(f'seed{"s" * (len(seeds) > 1)} {", ".join(map(str, seeds))}')
    return f'All attacks: {", ".join(shared)}.\n\n{grid}\n'


def _each(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """The value of a key that all attacks share, or each value with its attacks."""
    if len(values := distinct(rows)[key]) < 2:
        return ''.join(values) or '-'
    own: dict[str, dict[str, None]] = {}
    for row in rows:
        own.setdefault(show(row[key]), {})[row['attack']] = None
    return '; '.join(f'{value} ({", ".join(attacks)})' for value, attacks in own.items())


UNPAIRED, LEVEL = 'has no counterpart for', 'cannot be distinguished from'


def outcome(difference: Mapping[str, ConfidenceInterval] | None, victims: int) -> tuple[str, str]:
    """The verb for a paired difference of AUC ('beats', ...), and the difference as text."""
    auc = auc_of(difference)
    if auc is None or auc['low'] is None or auc['high'] is None:
        return UNPAIRED, ''
    number = f' (Δ{title(deciding(difference or ()))} {estimate(auc, victims, "+")})'
    if victims - auc['undefined'] < stats.FEW:
        return 'was run on too few victims for a verdict against', number
    if auc['low'] > 0:
        return 'beats', number
    return 'is worse than' if auc['high'] < 0 else LEVEL, number


def verdict(summary: Summary) -> str:
    """Sentences that compare each attack with its counterparts, grouped by upload seen.

    An attack beats a counterpart if the 95% confidence interval of the paired difference of AUC, or
    of the accuracy of ratings, is above 0.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        Markdown; empty without an attack.
    """
    attacks = attacks_of(summary)
    varied = [key for key in varying(attacks) if key != 'seen']
    verbs: dict[tuple[str, str], list[str]] = {}
    paragraphs: dict[str, list[str]] = {}
    for row in attacks:
        found = _rivals(row)
        for rival, (verb, _) in found.items():
            name = row['attack'] if 'attack' in varied else 'The attack'
            verbs.setdefault((name, rival), []).append(verb)
        metric = deciding(row['metrics'])
        value = f'{title(metric)} {estimate(row["metrics"][metric], row["num_victims"])}'
        said = [f'it **{verb}** {rival}{number}' for rival, (verb, number) in found.items()]
        lines = paragraphs.setdefault(show(row['seen']), [])
        lines.append(f'- {", ".join(_where(row, varied))}: {value}; {"; ".join(said)}.')
    head = ' '.join(
        f'{name} beats {rival} in {said.count("beats")} of {len(said)} settings.'
        for (name, rival), said in sorted(verbs.items())
    )
    body = [f'Seen: {seen}\n\n' + '\n'.join(lines) for seen, lines in paragraphs.items()]
    return '\n\n'.join([head, *body]).strip()


def _rivals(row: SummaryRow) -> dict[str, tuple[str, str]]:
    """The `outcome` of an attack against each of its counterparts: name -> (verb, number)."""
    victims = row['num_victims']
    found = {'the popularity baseline': outcome(row['difference_to_popularity'], victims)}
    if row['num_gradients'] == 1:
        return found
    return {'one gradient': outcome(row['difference_to_one_gradient'], victims), **found}


def _where(row: SummaryRow, keys: Iterable[str]) -> list[str]:
    """T and the values of the given keys of a setting: `['T = 2', 'interval 10']`."""
    values: Mapping[str, Any] = row
    shown = [f'{title(key)} {show(values[key])}' for key in keys if values[key] is not None]
    return [f'T = {row["num_gradients"]}', *shown]


def certificates(summary: Summary) -> list[str]:
    """The number of certified answers, a line per setting; a warning if a certificate is wrong.

    Args:
        summary: the result of `stats.summarize`.
    """
    attacks = [row for row in summary['rows'] if row['certified'] is not None]
    varied = [key for key in varying(attacks) if key not in ('attack', 'placebo', 'solver')]
    lines = []
    for row in attacks:
        certified, exact = row['num_certified'] or 0, row['num_exact_certified'] or 0
        lines.append(
            f'{", ".join([attack_name(row), *_where(row, varied)])}: {certified} of '
            f'{row["num_victims"]} histories are certified as fully recovered; certificates do not '
            'use the truth.'
        )
        if unique := row['num_locally_unique']:
            lines.append(
                f'{unique} more are locally unique: no other labels explain the uploads near the '
                'private states that were found, but other private states were not excluded.'
            )
        if row['labels_changed']:
            lines.append(
                'These certificates are about the labels that the clients trained on, which a '
                'defence has changed.'
            )
        elif exact != certified:
            lines.append(
                f'WARNING: {certified - exact} of these {certified} certified histories are NOT '
                'the truth: the certificates of this setting are wrong.'
            )
    return lines
