"""Keys and types of the rows that a run writes and a report reads; checked before writing.

A victim row is a JSON object in `victims.jsonl`, a summary row one in `summary.json`; null means
undefined. A victim is a user in the training run of one seed, and has one row per setting.
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
"""Kind of attack: a baseline reads no upload of the victim."""

Defences = dict[str, float | list[str]]
"""Strength of each defence, by the name of its field: `{'clip': 20.0, 'uploaded': ['items']}`."""


class Setting(TypedDict):
    """The keys that identify a setting: rows with equal values belong to the same setting.

    `placebo`: whether the attack read the uploads of another victim instead of the victim's own.
    `reader`: the attack that read what `unmix` separated; None for other attacks.
    """

    attack: str
    dynamics: str | None
    num_gradients: int
    first_round: int
    interval: int | None
    seen: list[str]
    batch_known: bool
    defence: str
    attacker: Literal['adaptive', 'blind']
    placebo: bool
    reader: str | None
    data: str
    model: str
    client: str
    solver: str | None
    iterations: int
    dtype: str
    upload_dtype: str


class Certificate(TypedDict):
    """An attack's certificate for its answer, see `types.Certificate`, and the number of unknowns.

    All values are None for an attack without certificates.
    """

    certified: bool | None
    locally_unique: bool | None
    margin: float | None
    noise: float | None
    rank: int | None
    determined: int | None
    unknowns: int | None


class Epsilon(TypedDict):
    """Differential privacy of the whole training against the server, see `accounting`."""

    epsilon: float
    delta: float
    against: str
    unit: str
    adjacency: str
    sensitivity: float | None
    releases: int


class ConfidenceInterval(TypedDict):
    """A mean with its 95% confidence interval, and the number of undefined values."""

    mean: float | None
    low: float | None
    high: float | None
    undefined: int


class _Shared(Setting):
    """Keys, besides the setting, of both victim rows and summary rows.

    `labels_changed`: whether clients train on labels that a defence has changed.
    """

    family: Family
    defences: Defences
    labels_changed: bool
    epsilon: Epsilon | None


class VictimRow(_Shared, Certificate):
    """One victim in one setting. A failed victim has metrics too; `reason` says why it failed.

    `fits`: whether the uploads are what the client is said to send; None if unknown.

    `step_sizes`: estimates by part of the upload, `step_size_errors` their relative errors; None
    where the attacker knows the step sizes or does not determine them.

    `config_hash` is that of the row's config, see `audit.workdir.config_hash`. The first rows of
    schema 2 lack the key; a reader takes it from the config beside them (`upgrade`).
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
    quality: dict[str, float | None] | None
    seconds: float
    objective: float | None
    fits: bool | None
    kept: str | None
    symmetry: str | None
    step_sizes: dict[str, float | None] | None
    step_size_errors: dict[str, float | None] | None
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
    difference_to_fewer_gradients: dict[str, ConfidenceInterval] | None
    certified: ConfidenceInterval | None
    num_certified: int | None
    num_exact_certified: int | None
    num_locally_unique: int | None
    num_exact_locally_unique: int | None
    rank: float | None
    unknowns: float | None
    num_fits: int
    num_misfits: int
    step_size_errors: dict[str, float | None] | None
    failures: dict[str, int]


class Summary(TypedDict):
    """The content of `summary.json`."""

    schema: Literal[2]
    rows: list[SummaryRow]


def check(row: Mapping[str, Any]) -> VictimRow:
    """Returns the row if it is a victim row of schema 2.

    Raises:
        ValueError: if a key is missing or unknown, or a value has the wrong type; the message has
            the key, the expected type and the value.
    """
    if problem := mismatch(row, VictimRow):
        raise ValueError(problem)
    return typing.cast(VictimRow, row)


def check_summary(summary: Summary) -> Summary:
    """Returns the summary if its rows match `SummaryRow`.

    Raises:
        ValueError: if a row does not; the message has the key.
    """
    for row in summary['rows']:
        if wrong := mismatch(row, SummaryRow):
            raise ValueError(wrong)
    return summary


def mismatch(row: Mapping[str, Any], kind: Any) -> str | None:
    """The first mismatch between a row and a TypedDict, as a sentence; None if the row matches.

    Example:
        >>> mismatch({'mean': 0.5, 'low': 'x', 'high': 0.5, 'undefined': 0}, ConfidenceInterval)
        "Expected row['low'] of type float | None, got 'x'."
    """
    tests = _tests(kind)
    if missing := kind.__required_keys__ - row.keys():
        return f'Expected row[{min(missing)!r}], got a row without that key.'
    for key, value in row.items():
        if key not in tests:
            return f'Unknown key row[{key!r}] with value {reprlib.repr(value)}.'
        expected, fits = tests[key]
        if not fits(value):
            return f'Expected row[{key!r}] of type {expected}, got {reprlib.repr(value)}.'
    return None


@functools.cache
def _tests(kind: Any) -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """For each key of a TypedDict: the type as text, and a function that tests a value."""
    hints = typing.get_type_hints(kind)
    return {key: (inspect.formatannotation(hint), _test(hint)) for key, hint in hints.items()}


def _test(kind: Any) -> Callable[[Any], bool]:
    """A function that tests a JSON value's type; a bool is no number, an int is a float too."""
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


# What older rows do not have.
_LATER: dict[str, Any] = {
    'attacker': 'adaptive', 'placebo': False, 'reader': None, 'reason': None, 'training_loss': None,
    'quality': None, 'epsilon': None, 'fits': None, 'kept': None, 'symmetry': None,
    'step_sizes': None, 'step_size_errors': None,
    **dict.fromkeys(Certificate.__annotations__),
}  # fmt: skip


_RENAMED = {'precision': 'dtype', 'upload_precision': 'upload_dtype'}


def upgrade(row: Mapping[str, Any], of_config: Mapping[str, Any]) -> VictimRow:
    """Converts a victim row of schema 1 to schema 2, and adds the keys that older rows lack.

    Args:
        row: a row as read from `victims.jsonl`.
        of_config: `defence`, `defences` and `labels_changed` of the run's config (schema 1 has only
            a text of the defences, in other words), and its `config_hash`.

    Raises:
        ValueError: for any other schema, an attack that schema 1 does not have, or a value that is
            missing or of the wrong type.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f'Expected a JSON object, got {reprlib.repr(row)}.')
    if row.get('schema') == 2:
        full = {**_LATER, 'config_hash': of_config['config_hash'], **row}
        check({name: value for name, value in full.items() if name in VictimRow.__annotations__})
        return typing.cast(VictimRow, full)
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
