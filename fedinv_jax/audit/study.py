"""A study: several runs (arms), each with some fields of the config changed, and one report."""

import pathlib
from collections.abc import Mapping, Sequence

from fedinv_jax import _validate
from fedinv_jax.audit import checks, files, plan, reporting, run_record, runner, training, workdir
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit.config import Config


def arms(config: Config, names: Sequence[str] = ()) -> dict[str, Config]:
    """The config of each arm: the study's config with the fields changed that `config.arms` lists.

    Args:
        config: a config with a section `arms`, name -> changed fields; without it, the config is
            the only arm, 'all'.
        names: names of the arms to return; empty: all of them.

    Raises:
        ValueError: for an unknown arm or field.
    """
    changes = config.get('arms', {'all': {}})
    base = config.copy_and_resolve_references()
    if 'arms' in base:
        with base.unlocked():
            del base.arms
    found = {}
    for name in names or changes:
        _validate.lookup('arm', name, changes)
        found[name] = base.copy_and_resolve_references()
        try:
            found[name].update(changes[name])
        except (KeyError, TypeError) as error:
            raise ValueError(f'arms.{name}: {config_lib.refusal(error)}') from error
    return found


def without_data(arms: Mapping[str, Config]) -> dict[str, str]:
    """The arms whose data set is missing: name -> reason."""
    missing = {}
    for name, arm in arms.items():
        try:
            training.make_interactions(arm)
        except FileNotFoundError as error:
            missing[name] = str(error)
    return missing


def later(work: Sequence[float]) -> list[float]:
    """For each arm, the work of all later arms divided by the arm's own work.

    Example:
        >>> later([1.0, 2.0, 4.0])
        [6.0, 2.0, 0.0]
    """
    return [sum(work[number:]) / own for number, own in enumerate(work, start=1)]


def _check_folders(root: pathlib.Path, every: Mapping[str, Config]) -> None:
    """Refuses a work directory of another study before anything there is changed.

    Raises:
        ValueError: if the folder holds an arm that this study lacks, or an arm of another config.
    """
    there = {path.parent.name for path in root.glob('*/config.json')}
    if others := sorted(there - every.keys()):
        raise ValueError(
            f'{root} holds another study, with the arm {others[0]!r}. Choose another --workdir, or '
            'remove the folder.'
        )
    for name in every:
        workdir.check_config(root / name, every[name].to_dict())


def run(
    config: Config,
    folder: str,
    command: str,
    names: Sequence[str] = (),
    log: runner.Log = print,
    shard: workdir.Shard = (0, 1),
    merge: bool = False,
) -> None:
    """Runs every arm in a folder of its own, and writes one report once all are complete.

    Args:
        config: see `arms`.
        folder: the work directory of the study.
        command: the command line, for the report.
        names: names of the arms to run; the report also contains arms that are complete in the
            folder. Empty: all arms whose data exist; the report lists the others.
        log: prints a line.
        shard: see `runner.run`.
        merge: see `runner.run`.

    Raises:
        ValueError: see `arms` and `runner.run`.
        FileNotFoundError: if the data of a named arm, or of all arms, do not exist.
    """
    root, chosen, every = pathlib.Path(folder), arms(config, names), arms(config)
    if (root / 'config.json').exists():
        raise ValueError(
            f'{root} holds a run of `fedinv attack`, not a study. Choose another --workdir.'
        )
    _check_folders(root, every)
    for arm in chosen.values():
        checks.check(arm)
    missing = {} if names else without_data(chosen)
    # Arms that are complete stay in the report.
    there = {name: arm for name, arm in every.items() if (root / name / 'summary.json').exists()}
    chosen = {name: arm for name, arm in every.items() if name in chosen or name in there}
    if len(missing) < len(chosen):
        for reason in dict.fromkeys(missing.values()):
            without = [name for name in missing if missing[name] == reason]
            log(f'warning: skipping arm{"s" * (len(without) > 1)} {", ".join(without)}: {reason}')
        chosen = {name: arm for name, arm in chosen.items() if name not in missing}
    files.clear_parts(root)
    parts, after = [], later([plan.work(arm) for arm in chosen.values()])
    for number, (name, arm) in enumerate(chosen.items()):
        log(f'arm {number + 1} of {len(chosen)}: {name}')
        part = runner.run(arm, str(root / name), command, log, shard, merge, after[number])
        if part is not None:
            parts.append(part)
    if len(parts) == len(chosen):
        reporting.study(root, parts, command, log, run_record.versions(), missing)
