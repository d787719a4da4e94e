"""The rows that a run writes and a report reads: their keys and types, checked before writing.

A victim row is one JSON object of `victims.jsonl`, a summary row one of `summary.json`; null stands
for what is undefined. A victim is a user of one seed, and has one row per setting.
"""

import functools
import inspect
import re
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NotRequired, TypedDict

Family = Literal['baseline', 'descent', 'recipe', 'exact']
"""Kind of attack: a baseline reads no upload."""

Defences = dict[str, float | list[str]]
"""How strong each defence is, by its field: `{'clip': 20.0, 'uploaded': ['items']}`."""


class Setting(TypedDict):
    """What tells the settings of a run apart: rows with equal values belong to one setting."""

    attack: str
    dynamics: str | None
    num_gradients: int
    first_round: int
    interval: int | None
    seen: list[str]
    batch_known: bool
    defence: str
    attacker: Literal['adaptive', 'blind']
    data: str
    model: str
    client: str
    solver: str | None
    iterations: int
    dtype: str
    upload_dtype: str


class Certificate(TypedDict):
    """What an attack says of its own answer, see `types.Certificate`, and its number of unknowns.

    All are None where the attack makes no certificate.
    """

    certified: bool | None
    margin: float | None
    noise: float | None
    rank: int | None
    determined: int | None
    unknowns: int | None


class Epsilon(TypedDict):
    """Differential privacy of a whole training against the server, see `accounting`."""

    epsilon: float
    delta: float
    against: str
    unit: str
    adjacency: str
    sensitivity: float | None
    releases: int


class ConfidenceInterval(TypedDict):
    """A mean with its 95% interval, and the number of values that are undefined."""

    mean: float | None
    low: float | None
    high: float | None
    undefined: int


class _Shared(Setting):
    """What victim rows and summary rows share beside the setting.

    `labels_changed`: whether a defence makes the clients train on other labels than their own.
    """

    family: Family
    defences: Defences
    labels_changed: bool
    epsilon: Epsilon | None


class VictimRow(_Shared, Certificate):
    """One victim in one setting; a failed one (`reason` says why) has metrics too.

    `config_hash`: which config the row belongs to, see `audit.workdir.config_hash`. The first rows
    of schema 2 lack the key; a reader fills it in from the config beside them (`upgrade`).
    """

    schema: Literal[2]
    config_hash: str
    seed: int
    user: int
    user_id: str
    num_positives: int
    num_negatives: int
    status: Literal['ok', 'failed']
    reason: str | None
    drift: float | None
    training_loss: float | None
    quality: dict[str, float] | None
    seconds: float
    objective: float | None
    metrics: dict[str, float | None]
    scores: NotRequired[list[float]]
    truth: NotRequired[list[int]]


class SummaryRow(_Shared):
    """All victims of one setting, see `stats.summarize`."""

    seed: list[int]
    num_seeds: int
    num_victims: int
    num_failed: int
    drift: float | None
    training_loss: float | None
    quality: dict[str, ConfidenceInterval] | None
    seconds_per_victim: float | None
    metrics: dict[str, ConfidenceInterval]
    difference_to_popularity: dict[str, ConfidenceInterval] | None
    difference_to_one_gradient: dict[str, ConfidenceInterval] | None
    certified: ConfidenceInterval | None
    num_certified: int | None
    num_exact_certified: int | None
    rank: float | None
    unknowns: float | None
    failures: dict[str, int]


class Summary(TypedDict):
    """What `summary.json` holds."""

    schema: Literal[2]
    rows: list[SummaryRow]


def check(row: Mapping[str, Any]) -> VictimRow:
    """The row itself, where it is a victim row of schema 2.

    Raises:
        ValueError: for a key that is missing or unknown, or a value of another type; it names the
            key, what was expected and what was found.
    """
    if problem := mismatch(row, VictimRow):
        raise ValueError(problem)
    return typing.cast(VictimRow, row)


def check_summary(summary: Summary) -> Summary:
    """The summary, if its rows are what `SummaryRow` says.

    Raises:
        ValueError: if one is not, with the key.
    """
    for row in summary['rows']:
        if wrong := mismatch(row, SummaryRow):
            raise ValueError(wrong)
    return summary


def mismatch(row: Mapping[str, Any], kind: Any) -> str | None:
    """The first way in which a row is not of a TypedDict; None where it is.

    Example:
        >>> mismatch({'mean': 0.5, 'low': 'x', 'high': 0.5, 'undefined': 0}, ConfidenceInterval)
        "Expected row['low'] of type float | None, got 'x'."
    """
    tests = _tests(kind)
    if missing := kind.__required_keys__ - row.keys():
        return f'Expected row[{min(missing)!r}], got a row without it.'
    for key, value in row.items():
        if key not in tests:
            return f'Expected no row[{key!r}], got {reprlib.repr(value)}: no row has that key.'
        expected, fits = tests[key]
        if not fits(value):
            return f'Expected row[{key!r}] of type {expected}, got {reprlib.repr(value)}.'
    return None


@functools.cache
def _tests(kind: Any) -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """By key of a TypedDict, the type as text and the test whether a value is of it."""
    hints = typing.get_type_hints(kind)
    return {key: (inspect.formatannotation(hint), _test(hint)) for key, hint in hints.items()}


def _test(kind: Any) -> Callable[[Any], bool]:
    """The test whether a JSON value is of a type; a bool is no number, an int is a float too."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if typing.is_typeddict(kind):
        return lambda value: isinstance(value, dict) and mismatch(value, kind) is None
    if origin is Literal:
        return lambda value: value in of
    if origin in (typing.Union, types.UnionType):
        tests = [_test(one) for one in of]
        return lambda value: any(fits(value) for fits in tests)
    if origin is list:
        inner = _test(of[0])
        return lambda value: isinstance(value, list) and all(map(inner, value))
    if origin is dict:
        inner = _test(of[1])
        return lambda value: isinstance(value, dict) and all(map(inner, value.values()))
    types_ = (int, float) if kind is float else kind
    return lambda value: isinstance(value, types_) and (kind is bool or not isinstance(value, bool))


_ATTACKS_OF_SCHEMA_1: dict[Family, tuple[str, ...]] = {
    'baseline': ('random', 'popularity'),
    'descent': ('mgradinv',),
    'recipe': ('dlg', 'imia', 'inverting_gradients', 'raifle', 'raifle_joint', 'tgias_ro'),
    'exact': ('exact', 'sign', 'spectral', 'summed'),
}


# What the first rows of schema 1 do not have.
_LATER: dict[str, Any] = {
    'attacker': 'adaptive', 'reason': None, 'training_loss': None, 'quality': None,
    'epsilon': None, **dict.fromkeys(Certificate.__annotations__),
}  # fmt: skip


_RENAMED = {'precision': 'dtype', 'upload_precision': 'upload_dtype'}


def upgrade(row: Mapping[str, Any], of_config: Mapping[str, Any]) -> VictimRow:
    """A victim row of schema 1 as one of schema 2; one of schema 2 as it is.

    Rows of schema 2 that were written before they carried `config_hash` get that of the config.

    Args:
        row: as read from `victims.jsonl`.
        of_config: `defence`, `defences` and `labels_changed` of the run's config; schema 1 has the
            text alone, in its own words. And `config_hash`.

    Raises:
        ValueError: for another schema, or an attack that schema 1 did not know.
    """
    if row.get('schema') == 2:
        lacks = 'config_hash' not in row
        return typing.cast(
            VictimRow, {**row, 'config_hash': of_config['config_hash']} if lacks else row
        )
    if row.get('schema') != 1:
        raise ValueError(
            f'Expected rows of schema 1 or 2, got {row.get("schema")!r}. Another version of '
            'fedinv_jax wrote them.'
        )
    families = [name for name, known in _ATTACKS_OF_SCHEMA_1.items() if row['attack'] in known]
    if not families:
        raise ValueError(f'Expected an attack of schema 1, got {row["attack"]!r}.')
    renamed = {_RENAMED.get(name, name): value for name, value in row.items()}
    solver = row.get('solver') and re.sub(r'\brough$', 'approximate_embedding', row['solver'])
    new = {'schema': 2, 'family': families[0], 'solver': solver, **of_config}
    return check({**_LATER, **renamed, **new})
