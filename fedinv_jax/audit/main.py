"""The commands and their flags."""

import pathlib
import shlex
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from fedinv_jax import _validate, _version
from fedinv_jax.audit import (
    capture_audit,
    command_line,
    defences,
    distributed,
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
    if name in (*command_line.HELP, 'help'):
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
        with command_line.errors_as_lines():
            for folder in argv[1:]:
                reporting.rewrite(folder)

    app.run(write, flags_parser=command_line.parse)


def _run_configs(program: str) -> None:
    def show(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f'error: Expected no arguments: {program}')
        print(packaged.listing())

    app.run(show, flags_parser=command_line.parse)


def _run_audit(program: str) -> None:
    flags.DEFINE_string(
        'truth', None, 'A CSV file of lines client,item, for metrics; items are rows of the item '
        'table, from 0.'
    )  # fmt: skip
    flags.DEFINE_string(
        'data', None, 'A CSV file of lines user,item of other people, by which the baseline counts '
        'popularity. Default: the other clients of --truth.'
    )  # fmt: skip
    flags.DEFINE_string(
        'workdir', None, 'Folder for rows, summary and report; a stopped audit goes on there. '
        'Default: runs/<capture>.'
    )  # fmt: skip
    flags.DEFINE_integer('rounds', 4, 'Uploads that are used of a client, the first ones.', 1)
    _define_model()
    line = f'{program} {shlex.join(sys.argv[1:])}'
    process.configure()

    def audit(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) != 2:
            sys.exit(f'error: Expected the folder of a capture: {program} FOLDER')
        folder = argv[1]
        out = _FLAGS.workdir or f'runs/{pathlib.Path(folder).resolve().name}'
        with command_line.errors_as_lines(out):
            process.keep_compiled()
            if _FLAGS.data and not _FLAGS.truth:
                raise ValueError('--data is for the baseline of --truth, which was not given.')
            more = {'model': _FLAGS.model, 'data': _FLAGS.data}
            if not capture_audit.run(folder, out, line, _FLAGS.truth, _FLAGS.rounds, **more):
                sys.exit(_MISFIT)

    _show_in_help()
    app.run(audit, flags_parser=command_line.parse)


def _show_in_help() -> None:
    """Lets `--help` show the flags that were defined here."""
    for flag in _FLAGS.get_flags_for_module(__name__):
        _FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _define_model() -> None:
    flags.DEFINE_string(
        'model', None, 'A Python file with the score function of your model, where the capture is '
        'not recognised; docs/capture.md has an example.'
    )  # fmt: skip


def _run_capture(program: str) -> None:
    _define_model()

    def check(argv: list[str]) -> None:
        if argv[1:2] != ['check'] or len(argv) != 3:
            sys.exit(f'error: Expected: {program} check FOLDER')
        with command_line.errors_as_lines():
            capture_audit.check(argv[2], model=_FLAGS.model)

    _show_in_help()
    app.run(check, flags_parser=command_line.parse)


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
    'capture': Command(
        _run_capture,
        'Reads every file of a capture, and says what it is: `capture check FOLDER`.',
        ('check capture',),
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
        process.keep_compiled()
        runner.run(config, folder, line, shard=shard, merge=merge)


def _study(config: Any, folder: str, line: str, shard: workdir.Shard, merge: bool) -> None:
    process.keep_compiled()
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
        with command_line.errors_as_lines():
            _FLAGS.config.lock()  # any use of a config whose file could not be read is an error
        work = partial(do, _FLAGS.config, folder, line)
        with command_line.errors_as_lines(folder), distributed.watch(command_line.LOST):
            if _FLAGS.distributed:
                command_line.run_distributed(work)
            else:
                work(command_line.shard(), _FLAGS.merge)

    _show_in_help()
    warnings.filterwarnings('once', 'The field', FutureWarning)
    warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
    if not set(sys.argv) & {*command_line.HELP, '--helpfull'}:
        with command_line.errors_as_lines():
            # In place: ml_collections reads the overrides of fields there.
            sys.argv[1:] = packaged.resolve(sys.argv[1:])
    app.run(main, flags_parser=command_line.parse)
