"""The commands: `attack`, `study`, `report`, `configs`; their flags, and errors that are a line."""

import contextlib
import os
import pathlib
import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from fedinv_jax import _validate, _version
from fedinv_jax.audit import (
    capture_audit,
    defences,
    distributed,
    optional,
    packaged,
    process,
    registry,
    reporting,
    runner,
    study,
    transcript_file,
    workdir,
)
from fedinv_jax.audit import config as config_lib

_HELP = ('--help', '-h', '-help')
_GO_ON = 'the rows so far are kept; the same command goes on from there'
_FLAGS = flags.FLAGS
_MISFIT = 3  # exit status of a transcript that contradicts its description

Do = Callable[[Any, str, str, workdir.Shard, bool], None]
"""`do(config, work directory, command line, shard, merge)`: what a command does."""


class Command(NamedTuple):
    """A command of the console.

    Attributes:
        run: `run(program)`; `program` is how the user calls the command.
        summary: what it does, a line.
        examples: what may stand behind the program.
    """

    run: Callable[[str], None]
    summary: str
    examples: tuple[str, ...] = ()


def main() -> None:
    """The console command `fedinv`."""
    process.print_anywhere()
    name, *rest = sys.argv[1:] or ['--help']
    if name == 'help' and rest:
        name, rest = rest[0], ['--help']
    if name in (*_HELP, 'help'):
        print(_usage())
    elif name == '--version':
        print(f'fedinv_jax {_version.__version__}, jax {jax.__version__}')
    elif name not in COMMANDS:
        sys.exit(f'error: no command {name!r}.{_validate.hint(name, COMMANDS)}\n\n{_usage()}')
    else:
        sys.argv = [f'fedinv {name}', *rest]
        run(name)


def run(name: str, program: str | None = None) -> None:
    """Runs a command on `sys.argv[1:]`.

    Args:
        name: in `COMMANDS`.
        program: how the user calls it; None: `sys.argv[0]`.
    """
    process.print_anywhere()
    program, command = program or sys.argv[0], COMMANDS[name]
    examples = [f'  {program} {example}' for example in command.examples]
    sys.modules['__main__'].__doc__ = '\n'.join([command.summary, '', 'Examples:', *examples])
    command.run(program)


def _usage() -> str:
    lines = [f'  {name:<10} {command.summary}' for name, command in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: fedinv COMMAND ...',
            *lines,
            '  --version  Prints the versions.',
            '`fedinv COMMAND --help` describes the flags of a command; a first run:',
            '  fedinv attack --config=quickstart:smoke',
        ]
    )


def _run_attack(program: str) -> None:
    _define_run_flags()
    flags.DEFINE_string(
        'save_transcript',
        None,
        'Write what the server saw of the first victim to this .npz and stop.',
    )
    flags.DEFINE_string(
        'transcript', None, 'Attack this .npz, without the simulator and without the truth.'
    )
    _start(program, _attack)


def _run_study(program: str) -> None:
    _define_run_flags()
    flags.DEFINE_list('arms', [], 'Arms to run, by name; all of them unless given.')
    _start(program, _study)


def _run_report(program: str) -> None:
    def write(argv: list[str]) -> None:
        if len(argv) < 2:
            sys.exit(f'error: Expected one or more work directories: {program} WORKDIR ...')
        with _errors_as_lines():
            for folder in argv[1:]:
                reporting.rewrite(folder)

    app.run(write, flags_parser=_parse)


def _run_configs(program: str) -> None:
    def show(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f'error: Expected no arguments: {program}')
        print(packaged.listing())

    app.run(show, flags_parser=_parse)


def _run_audit(program: str) -> None:
    flags.DEFINE_string(
        'truth', None, 'A CSV file of lines client,item, for metrics; items are rows of the item '
        'table, from 0.'
    )  # fmt: skip
    flags.DEFINE_string(
        'workdir', None, 'Folder for rows, summary and report; a stopped audit goes on there. '
        'Default: runs/<capture>.'
    )  # fmt: skip
    flags.DEFINE_integer('rounds', 4, 'Uploads that are used of a client, the first ones.', 1)
    line = f'{program} {shlex.join(sys.argv[1:])}'
    process.configure()

    def audit(argv: list[str]) -> None:
        folder = _folder(argv, program)
        out = _FLAGS.workdir or f'runs/{pathlib.Path(folder).name}'
        with _errors_as_lines(out):
            process.keep_compiled(out)
            if not capture_audit.run(folder, out, line, _FLAGS.truth, _FLAGS.rounds):
                sys.exit(_MISFIT)

    for flag in _FLAGS.get_flags_for_module(__name__):
        _FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(audit, flags_parser=_parse)


def _run_check(program: str) -> None:
    def check(argv: list[str]) -> None:
        with _errors_as_lines():
            capture_audit.check(_folder(argv, program))

    app.run(check, flags_parser=_parse)


def _folder(argv: list[str], program: str) -> str:
    """The only argument, the folder of a capture."""
    if len(argv) != 2:
        sys.exit(f'error: Expected the folder of a capture: {program} FOLDER')
    return argv[1]


_RUN_EXAMPLES = (
    '--config=quickstart',
    '--config=ml100k_ncf --workdir=runs/ml100k',
    '--config=ml100k_ncf:smoke --config.attack.num_gradients=4',
    '--config=my/own_config.py',
    '--config=quickstart --save_transcript=t.npz',
    '--config=quickstart --transcript=t.npz',
)
_STUDY_EXAMPLES = (
    '--config=study_attacks',
    '--config=study_interval:smoke',
    '--config=study_convergence --arms=synthetic',
    '--config=study_convergence --shard=0/3 --workdir=runs/c',
    '--config=study_convergence --merge --workdir=runs/c',
    '--config=study_attacks --workdir=runs/a --distributed',
)

COMMANDS: dict[str, Command] = {
    'attack': Command(
        _run_attack,
        'Attacks the users of a federated recommender with what the server saw of them.',
        _RUN_EXAMPLES,
    ),
    'study': Command(
        _run_study,
        "Runs a study: several arms, one report with the paper's claims.",
        _STUDY_EXAMPLES,
    ),
    'audit': Command(
        _run_audit,
        'Attacks every client of a capture: a training that was recorded elsewhere.',
        ('capture', 'capture --truth=interactions.csv'),
    ),
    'check': Command(
        _run_check, 'Reads every file of a capture, and says what it is.', ('capture',)
    ),
    'report': Command(
        _run_report,
        'Writes summary, figures and report of work directories anew from their rows.',
        ('runs/quickstart', 'runs/study_interval'),
    ),
    'configs': Command(_run_configs, 'Lists the configs that come with the package.', ('',)),
}
"""The commands of the console, by name."""


def _attack(config: Any, folder: str, line: str, shard: workdir.Shard, merge: bool) -> None:
    if _FLAGS.save_transcript:
        transcript_file.save_transcript(config, _FLAGS.save_transcript)
    elif _FLAGS.transcript:
        if transcript_file.attack_transcript(config, _FLAGS.transcript, folder)['fits'] is False:
            sys.exit(_MISFIT)
    else:
        process.keep_compiled(folder)
        runner.run(config, folder, line, shard=shard, merge=merge)


def _study(config: Any, folder: str, line: str, shard: workdir.Shard, merge: bool) -> None:
    process.keep_compiled(folder)
    study.run(config, folder, line, _FLAGS.arms, shard=shard, merge=merge)


def tables_help() -> str:
    """Every attack and defence that a config can name, a line each."""
    attacks = {name: spec.summary for name, spec in registry.ATTACKS.items()}
    switched = {each.field: f'{each.summary} (off: {each.off})' for each in defences.DEFENCES}
    return '\n\n'.join(
        _listed(title, entries)
        for title, entries in (('Attacks (attack.name)', attacks), ('Defences', switched))
    )


def _listed(title: str, entries: Mapping[str, str]) -> str:
    width = max(map(len, entries))
    lines = [f'  {name:<{width}}  {text}' for name, text in entries.items()]
    return '\n'.join([f'{title}:', *lines])


def _define_run_flags() -> None:
    """The flags that `attack` and `study` share."""
    config_flags.DEFINE_config_file(
        'config', None, 'A config by name (`fedinv configs` lists them) or the path of a config '
        'file; `:smoke` after it shrinks the run to seconds. Override a field by '
        f'--config.section.field=value; {config_lib.__file__} documents all fields.'
    )  # fmt: skip
    flags.DEFINE_string(
        'workdir', None, 'Folder for rows, summary, report and figures; a stopped run goes on '
        'there. Default: runs/<config>, and for a variant runs/<config>_<variant>.'
    )  # fmt: skip
    flags.DEFINE_string(
        'shard', None, 'i/n: do the i-th of n parts (0/n to (n-1)/n), in any order, side by side, '
        'on any machine that shares the folder. Default: from SLURM_ARRAY_TASK_ID, or all of it.'
    )  # fmt: skip
    flags.DEFINE_bool('merge', False, 'Join the rows of all shards and write the report.')
    flags.DEFINE_bool(
        'distributed', False, 'Be one of several processes, on one machine or many, that share the '
        'work and the folder; process 0 writes the report. On SLURM, TPU pods and GKE processes '
        'find each other.'
    )  # fmt: skip
    flags.DEFINE_string(
        'coordinator',
        None,
        'With --distributed, outside SLURM, TPU pods and GKE: HOST:PORT of process 0.',
    )
    flags.DEFINE_integer('num_processes', None, 'With --distributed: how many.')
    flags.DEFINE_integer('process', None, 'With --distributed: which one, from 0.')
    module = sys.modules['__main__']
    module.__doc__ = '\n\n'.join([textwrap.dedent(module.__doc__ or '').strip(), tables_help()])


def _start(program: str, do: Do) -> None:
    """Parses the flags and does what a command does, in this process's part of the work."""
    line = f'{program} {shlex.join(sys.argv[1:])}'
    process.configure()

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f'error: Unexpected arguments: {" ".join(argv[1:])}. Quote blanks.')
        logging.set_verbosity(logging.WARNING)
        name = config_flags.get_config_filename(_FLAGS['config'])
        path, _, variant = name.partition(':')
        default = pathlib.Path(path).stem + f'_{variant}' * bool(variant)
        folder = _FLAGS.workdir or f'runs/{default}'
        with _errors_as_lines():
            _FLAGS.config.lock()  # any use of a config whose file could not be read is an error
        work = partial(do, _FLAGS.config, folder, line)
        lost = f'error: this process was lost, or another one of the run: {_GO_ON}'
        with _errors_as_lines(folder), distributed.watch(lost):
            if _FLAGS.distributed:
                _run_distributed(work)
            else:
                work(_shard(), _FLAGS.merge)

    for flag in _FLAGS.get_flags_for_module(__name__):  # shown by `--help`
        _FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    warnings.filterwarnings('once', 'The field', FutureWarning)
    warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
    if not set(sys.argv) & {*_HELP, '--helpfull'}:
        with _errors_as_lines():
            # In place: ml_collections reads the overrides of fields there.
            sys.argv[1:] = packaged.resolve(sys.argv[1:])
    app.run(main, flags_parser=_parse)


@contextlib.contextmanager
def _errors_as_lines(folder: str | None = None) -> Iterator[None]:
    """Where what is asked for cannot be done, the process ends with a line that says why.

    The line says that a run goes on where the work directory has rows.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        rows = folder is not None and any(pathlib.Path(folder).rglob('victims*.jsonl'))
        sys.exit(f'error: {error}' + f' ({_GO_ON})' * rows)
    except KeyboardInterrupt:
        print(f'interrupted: {_GO_ON}')
        sys.exit(130)


def _slurm() -> str | None:
    """The part that a SLURM array gives this task: i/n of its n tasks."""
    if 'SLURM_ARRAY_TASK_ID' not in os.environ:
        return None
    task, first, last, step = (
        int(os.environ.get(f'SLURM_ARRAY_TASK_{name}') or default)
        for name, default in (('ID', 0), ('MIN', 0), ('MAX', -1), ('STEP', 1))
    )
    count = (last - first) // step + 1
    if last < first or int(os.environ.get('SLURM_ARRAY_TASK_COUNT') or count) != count:
        raise ValueError(
            'Expected a SLURM array of tasks in even steps, as --array=0-7, and its first and last '
            'in SLURM_ARRAY_TASK_MIN and _MAX. Or say --shard=i/n.'
        )
    return f'{(task - first) // step}/{count}'


def _shard() -> workdir.Shard:
    """The part of the work that the flag or SLURM asks for."""
    if _FLAGS.merge:
        return 0, 1
    text = _FLAGS.shard or _slurm() or '0/1'
    index, _, count = text.partition('/')
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f'Expected --shard={text} to be i/n with 0 <= i < n, as in 0/3.')
    return int(index), int(count)


def _run_distributed(work: Callable[[workdir.Shard, bool], None]) -> None:
    """Does this process's part; when all have done theirs, process 0 joins them."""
    if _FLAGS.shard or _FLAGS.merge:
        raise ValueError('--distributed gives each process its part: leave --shard and --merge.')
    shard = distributed.initialize(_FLAGS.coordinator, _FLAGS.num_processes, _FLAGS.process)
    work(shard, False)
    distributed.barrier('attacked')
    if shard[0] == 0:
        work((0, 1), True)
    distributed.barrier('reported')


def _parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags; what cannot be parsed ends in one line."""
    if set(argv) & set(_HELP):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    try:
        return _FLAGS(argv)
    except flags.Error as error:  # a config file that raises is quoted with its traceback
        sys.exit(f'error: {optional.plain(str(error).strip().splitlines()[-1])}')
    except (AttributeError, KeyError) as error:
        text = str(error)
        wrong = re.search(r'instead of "(\w+)"', text) or re.search(r'(\w+)', text)
        near = re.search(r'Did you mean "(\w+)"', text)
        hint = f' Did you mean {near[1]!r}?' if near else ''
        sys.exit(f'error: The config has no field {wrong and wrong[1]!r}.{hint}')
