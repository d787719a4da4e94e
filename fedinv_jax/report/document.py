"""The report: first the verdict, then each run, as Markdown and as one HTML page."""

import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedinv_jax.report import arms, claims, conclusions, html, tables
from fedinv_jax.report.rows import Summary

# Columns of the table of a claim.
_COLUMNS = ('attack', 'verdict', 'compared', 'AUC', 'ΔAUC', 'p (Holm)', 'ΔF1', 'ΔAUC to popularity')


def claims_table(comparisons: Sequence[claims.Comparison]) -> str:
    """The paper's claims with effect sizes, as Markdown; empty without comparisons.

    Args:
        comparisons: the result of `claims.compare`.
    """
    blocks = []
    for verdict in claims.verdicts(comparisons):
        members = verdict['comparisons']
        blocks += [
            f'**{verdict["claim"]}, {verdict["title"]}** ({tables.show(verdict["seen"])} seen): '
            f'**{verdict["word"]}**.',
            tables.markdown(_COLUMNS, [_cells(each, members) for each in members]),
        ]
    return '\n\n'.join(blocks)


def _cells(comparison: claims.Comparison, among: Sequence[claims.Comparison]) -> list[str]:
    """One line of a claim's table."""
    effect, victims = comparison.effect, comparison.num_victims
    means = ['-' if mean is None else f'{mean:.3f}' for mean in comparison.means['auc']]
    return [
        claims.name_of(comparison.better, among),
        claims.outcome(comparison),
        _sides(comparison),
        ', '.join(means),
        tables.estimate(effect['auc'], victims, '+'),
        _p(comparison),
        tables.estimate(effect['f1'], victims, '+'),
        tables.estimate(tables.auc_of(comparison.popularity), victims, '+'),
    ]


def _p(comparison: claims.Comparison) -> str:
    p = comparison.p['auc']
    return '-' if p is None else f'{p:.1g}'


def _sides(comparison: claims.Comparison) -> str:
    """The differences between the two settings of a comparison: 'T = 2 against T = 1'."""
    better, worse = comparison.better, comparison.worse

    def side(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
        keys = ('num_gradients', 'interval', 'first_round')
        varying = [key for key in keys if row[key] != other[key] and row[key] is not None]
        return ', '.join(f'{tables.title(key)} = {row[key]}' for key in varying)

    return f'{side(better, worse)} against {side(worse, better)}'


class Part(NamedTuple):
    """One run of a report.

    Attributes:
        name: name of the run.
        config: the configuration, as text.
        summary: the result of `stats.summarize`.
        fitting: the same for the rows that `stats.fitting` keeps, which a verdict is about.
        comparisons: the result of `claims.compare`.
        figures: paths of PNGs, relative to the report.
        threat_model: what the attacker sees, knows and assumes, as text.
        note: a warning at the top, for example that rows are missing.
    """

    name: str
    config: str
    summary: Summary
    fitting: Summary
    comparisons: Sequence[claims.Comparison]
    figures: Sequence[pathlib.PurePath]
    threat_model: str
    note: str = ''


_CAPTIONS = {
    'metrics_vs_num_gradients': 'Metrics of each attack against the number of gradients; bars: 95% '
    'confidence intervals',
    'recovered_vs_true': 'Recovered scores of a few victims, items sorted by score; the colour is '
    'the true label',
    'constraints_vs_num_gradients': 'Rank of the Jacobian, certified share and F1 against the '
    'number of gradients; bars: 95% confidence intervals',
    'intervals': 'F1 and certified share by number of gradients and interval (rounds between them)',
    'margin_vs_f1': 'F1 of each victim against the margin of its certificate, relative to the '
    'noise',
    'metrics_vs_first_round': 'AUC and F1 against the first observed round, and the training '
    'loss; bars: 95% confidence intervals',
    'metrics_vs_interval': 'AUC and F1 against the interval (rounds between gradients), and the '
    'drift of the private embedding; bars: 95% confidence intervals',
    'attacks': 'AUC and F1 of each attack; bars: 95% confidence intervals',
    'distributions': 'F1 of every victim, for each attack',
    'runtime': 'F1 against the run time per victim',
}


def _caption(path: pathlib.PurePath) -> str:
    """The caption of a figure, from its file name."""
    return _CAPTIONS.get(path.stem, path.stem.replace('_', ' '))


def _sections(part: Part) -> dict[str, str]:
    """The sections of one run: title -> text; empty texts are not printed."""
    summary = part.summary
    clustered = any(row['num_seeds'] > 1 for row in summary['rows'])
    images = [f'![{_caption(path)}]({path.as_posix()})' for path in part.figures]
    return {
        'Threat model': _verbatim(part.threat_model),
        "The paper's claims": _claims(part.comparisons, clustered),
        'Figures': '\n\n'.join(images) or 'None.',
        'Results': f'{tables.table(summary)}\n{_note(clustered)}',
        'Certificates': '\n'.join(
            f'- **{line}**' if line.startswith('WARNING') else f'- {line}'
            for line in tables.certificates(summary)
        ),
        'Comparison': tables.verdict(part.fitting),
        'Failures': '\n'.join(_failures(summary)) or 'None.',
        'Configuration': _verbatim(part.config),
    }


def _verbatim(text: str) -> str:
    return f'```\n{text.strip()}\n```'


def _claims(comparisons: Sequence[claims.Comparison], clustered: bool) -> str:
    """The paper's claims and the test used; empty without comparisons."""
    test = 'a t-test clustered by seed' if clustered else 'a permutation test of the mean'
    text = claims_table(comparisons)
    note = f'ΔAUC and ΔF1 are paired by victim; p: {test} of ΔAUC.'
    return f'{text}\n\n{note}' if text else ''


def _note(clustered: bool) -> str:
    """The legend of the table of results."""
    interval = 't-interval, standard error clustered by seed' if clustered else 'bootstrap'
    return (
        f'Numbers are means over victims [95% confidence interval: {interval}]. A failed victim '
        'counts as an answer with equal scores for all items; n is the number of victims with a '
        'defined value, if not all have one. Differences are paired by victim.'
    )


def _failures(summary: Summary) -> list[str]:
    """The numbers of failed victims, one line for each setting and reason."""
    return [
        f'- {row["attack"]}, T = {row["num_gradients"]}, {tables.show(row["seen"])} seen: {count} '
        f'of {row["num_victims"]} victims: {reason}'
        for row in summary['rows']
        for reason, count in row['failures'].items()
    ]


def markdown(
    parts: Sequence[Part],
    command: str,
    versions: Mapping[str, Any],
    missing: Mapping[str, str],
    defences: str = '',
) -> str:
    """The text of `report.md`: first the verdict, then each run.

    Args:
        parts: one run, or the runs of a study.
        command: the exact command.
        versions: version by package.
        missing: by name of a run that the study lacks, the reason.
        defences: the section on leakage and utility, as Markdown; empty if no models were
            evaluated.
    """
    several = len(parts) > 1
    short = [
        (f'### {part.name}\n\n' if several else '')
        + '\n'.join(
            f'- {line}'
            for line in [
                *([f'**{part.note}**'] if part.note else []),
                *conclusions.leaks(part.fitting),
                *conclusions.misfits(part.summary),
                *_words(part.comparisons),
            ]
        )
        for part in parts
    ]
    blocks = [f'# Privacy audit by gradient inversion: {_names(parts)}', '## Verdict', *short]
    if side_by_side := arms.table({part.name: part.summary for part in parts}):
        blocks.insert(1, f'## Arms side by side\n\n{side_by_side}')
    if defences:
        blocks.insert(1, f'## Leakage against utility\n\n{defences}')
    if missing:
        reasons = [f'- {name}: {reason}' for name, reason in missing.items()]
        blocks.append('### Not run\n\n' + '\n'.join(reasons))
    for part in parts:
        if several:
            blocks.append(f'## {part.name}')
        for name, text in _sections(part).items():
            if text:
                blocks += [f'{"###" if several else "##"} {name}', text]
    blocks += [
        '## Versions',
        '\n'.join(f'- {name} {version}' for name, version in versions.items()),
        '## Command',
        _verbatim(command),
    ]
    return '\n\n'.join(blocks) + '\n'


def _words(comparisons: Sequence[claims.Comparison]) -> list[str]:
    """The verdict of each claim, one line each, with the largest effect that supports it."""
    lines = []
    for verdict in claims.verdicts(comparisons):
        members = verdict['comparisons']
        telling = [one for one in members if claims.outcome(one) == claims.HOLDS] or [
            one for one in members if claims.outcome(one) == claims.REVERSE
        ]
        shown = max(telling or members, key=lambda one: abs(one.effect['auc']['mean'] or 0))
        victims = shown.num_victims
        effect = tables.estimate(shown.effect['auc'], victims, '+')
        numbers = [
            f'{claims.name_of(shown.better, members)}: ΔAUC {effect}',
            f'p = {_p(shown)} (Holm)',
        ]
        if shown.popularity:
            over = tables.estimate(shown.popularity['auc'], victims, '+')
            numbers.append(f'ΔAUC to popularity {over}')
        lines.append(
            f'{verdict["claim"]}, {verdict["title"]} ({tables.show(verdict["seen"])} seen): '
            f'**{verdict["word"]}** ({", ".join(numbers)}).'
        )
    return lines


def pages(
    folder: pathlib.Path,
    parts: Sequence[Part],
    command: str,
    versions: Mapping[str, Any],
    missing: Mapping[str, str] = types.MappingProxyType({}),
    defences: str = '',
) -> dict[str, str]:
    """The texts of `report.md` and `report.html`, one page with the figures in it, by file name.

    Args:
        folder: folder of the report; the figures' paths are relative to it.
        parts: the runs.
        command: the exact command.
        versions: version by package.
        missing: by name of a run that the study lacks, the reason.
        defences: see `markdown`.
    """
    family = claims.corrected([part.comparisons for part in parts])
    parts = [part._replace(comparisons=own) for part, own in zip(parts, family, strict=True)]
    text = markdown(parts, command, versions, missing, defences)
    return {
        'report.md': text,
        'report.html': html.html(text, folder, f'Privacy audit: {_names(parts)}'),
    }


def _names(parts: Sequence[Part]) -> str:
    """The runs of a report as its title has them; their number if they are many."""
    return ', '.join(part.name for part in parts) if len(parts) <= 8 else f'{len(parts)} arms'
