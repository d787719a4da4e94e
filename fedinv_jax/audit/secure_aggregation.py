"""Facts of secure aggregation, for the table of defences."""

from typing import Any, TypeAlias

import ml_collections

Config: TypeAlias = ml_collections.ConfigDict

MEMBERSHIPS = {
    'fixed': 'the same in all rounds',
    'redrawn': 'drawn anew in each round',
    'sampled': 'the participants of each round',
}
"""By value of `observation.cohort_membership`, who is in a cohort."""


def changes(config: Config) -> bool:
    """Whether the server sees sums of cohorts that change from round to round."""
    section = config.observation
    return section.cohort > 1 and section.get('cohort_membership', 'fixed') != 'fixed'


def label(config: Config) -> str:
    """The defence as text, for a row."""
    words = [f'cohort {config.observation.cohort:g}']
    if changes(config):
        words[0] += f' {config.observation.cohort_membership}'
    part = config.server.clients_per_round
    if part is not None and config.observation.cohort_membership != 'sampled':
        words.append(f'{part:g} clients a round')
    return ', '.join(words)


def numbers(config: Config) -> dict[str, Any]:
    """The defence as numbers, for a row."""
    part = config.server.clients_per_round
    found: dict[str, Any] = {'cohort': config.observation.cohort}
    if changes(config):
        found[config.observation.cohort_membership] = 1
    return found | ({'clients_per_round': part} if part else {})


def sentence(config: Config) -> str:
    """The defence as a line of the threat model."""
    section = config.observation
    but = '' if section.batch_known else 'not '
    return (
        f'secure aggregation: only sums over cohorts of at most {section.cohort} clients are seen, '
        f'{MEMBERSHIPS[section.cohort_membership]}; which clients took part, and {but}with which '
        'items, is known'
    )
