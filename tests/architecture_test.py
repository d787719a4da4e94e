"""The package's structure, by parsing its sources: who imports whom, and what never occurs."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'fedinv_jax'
LONGEST = 350
# Modules above LONGEST lines, each with the reason why it is not split.
LONGER: dict[str, str] = {}
# Folders that are no part of the repository.
SKIPPED = {'.git', '.venv', '.pytest_cache', '.mypy_cache', '.ruff_cache', '.hypothesis'}
SKIPPED |= {'__pycache__', 'runs', 'build', 'dist'}
ABSL_AND_CONFIGS = {'absl', 'ml_collections'}
JAX = {'jax', 'jaxlib', 'optax', 'flax', 'chex'}


def module_name(path: pathlib.Path) -> str:
    """`fedinv_jax/attack/relax.py` -> `attack.relax`; a package's `__init__` -> `attack`."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


TREES = {
    module_name(path): ast.parse(path.read_text(), str(path)) for path in PACKAGE.rglob('*.py')
}
PATHS = {module_name(path): path for path in PACKAGE.rglob('*.py')}


def imports(tree: ast.AST) -> tuple[set[str], set[str]]:
    """What a source imports: modules of the package, and top-level names of other packages.

    `from fedinv_jax.types import Array` imports `types`, `from fedinv_jax import tree` imports
    `tree`; names inside functions and `if TYPE_CHECKING` count too.
    """
    own, foreign = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, 'relative imports are not used here'
            base = str(node.module)
            names = [f'{base}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition('.')
            if top != 'fedinv_jax':
                foreign.add(top)
            elif rest in TREES:
                own.add(rest)
            else:  # A name of a module, or of the package itself.
                own.add(rest.rpartition('.')[0])
    return own, foreign


OWN = {module: imports(tree)[0] for module, tree in TREES.items()}
FOREIGN = {module: imports(tree)[1] for module, tree in TREES.items()}


def in_folder(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f'{folder}.')


def test_the_sources_are_found():
    assert {'types', 'attack.objective', 'attack.exact.choose', 'report.stats', ''} <= set(TREES)
    assert OWN['attack.objective']
    assert 'jax' in FOREIGN['attack.objective']


ROOTS = {'types', 'tree', '_version', '_validate', 'compilation'}
VICTIM = {
    'item_table',
    'models',
    'losses',
    'client',
    'cohorts',
    'sampling',
    'observe',
    'compress',
    'perturb',
    'regularizers',
    'server',
    'train',
}
METRICS = {'metrics', 'rating_metrics'}
VICTIM |= {'simulate', 'transcripts', '_transcript_checks', 'quality', 'accounting'}
# The ladder: who may import whom, by folder or module; roots and the own folder besides.
MAY_IMPORT = {
    'types': set(),
    '_version': set(),
    '_validate': set(),
    'compilation': set(),
    'tree': {'types'},
    'data': {'_validate'},
    **{module: {*ROOTS, *VICTIM, 'data'} for module in VICTIM},
    'attack': {'types', 'tree', '_validate', 'item_table'},
    'metrics': {'types', 'tree'},
    'rating_metrics': {'types', 'tree', 'metrics'},
    'report': {'_validate'},
    'capture': {'types', '_validate'},
    'audit': {*ROOTS, *VICTIM, 'data', 'attack', *METRICS, 'report', 'capture'},
    '': {*ROOTS, *VICTIM, 'data', 'attack', *METRICS, 'report', 'capture'},
}


def step_of(module: str) -> str:
    """The step of the ladder that a module is on: its name up to the first dot."""
    return module.partition('.')[0]


# Failed on these mutants, one each: `from fedinv_jax import tree` in types.py; `from fedinv_jax
# import client` in attack/objective.py, in metrics.py and in data/clients.py; `from fedinv_jax
# import attack` in train.py; `from fedinv_jax import client` in report/stats.py; `from fedinv_jax
# import audit` in simulate/recording.py and in __init__.py.
@pytest.mark.parametrize('module', sorted(TREES))
def test_imports_go_down_the_ladder(module):
    step = step_of(module)
    others = {m for m in OWN[module] if step_of(m) not in MAY_IMPORT[step] | {step}}
    assert not others, f'{module} imports {others}'


# Failed on `from fedinv_jax.attack import exact` in attack/inversion.py.
def test_the_seams_do_not_know_the_exact_attacks():
    seams = [m for m in TREES if in_folder(m, 'attack') and not in_folder(m, 'attack.exact')]
    users = [m for m in seams if any(in_folder(other, 'attack.exact') for other in OWN[m])]
    assert users == ['attack']  # which re-exports it


# Failed on `import jax` inside a function of data/clients.py and of report/stats.py.
@pytest.mark.parametrize('folder', ['data', 'report'])
def test_data_and_report_do_without_jax(folder):
    modules = [module for module in TREES if in_folder(module, folder)]
    assert len(modules) >= 5
    assert not [module for module in modules if FOREIGN[module] & JAX]


# Failed on `import ml_collections` in report/tables.py.
def test_configs_and_flags_belong_to_the_audit():
    users = {module for module, foreign in FOREIGN.items() if foreign & ABSL_AND_CONFIGS}
    assert users
    assert all(in_folder(module, 'audit') for module in users)


# Failed on `import matplotlib` at the top of report/figures/canvas.py, on `from fedinv_jax import
# audit` in __init__.py, and on `os.environ['HOME']` at the top of compilation.py.
def test_importing_the_package_loads_the_library_only():
    code = (
        'import os, sys, jax, optax, flax, chex, scipy.stats\n'
        'class Watched(dict):\n'
        '    def __getitem__(self, name): raise SystemExit(f"reads {name}")\n'
        '    get = __contains__ = __getitem__\n'
        'os.environ = Watched()\n'
        'before = set(sys.modules)\n'
        'import fedinv_jax\n'
        'new = set(sys.modules) - before\n'
        'names = {"matplotlib", "ml_collections", "absl.app", "rich", "dp_accounting"}\n'
        'print(sorted(name for name in new if name.startswith("fedinv_jax.audit")))\n'
        'print(sorted(names & new))\n'
    )
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert found.stdout.splitlines() == ['[]', '[]'], found


def test_imports_have_no_cycle():
    # A package's own `__init__` re-exports its modules: that is not a cycle.
    rank: dict[str, int] = {}

    def visit(module: str, above: tuple[str, ...]) -> int:
        assert module not in above, f'import cycle: {" -> ".join((*above, module))}'
        if module not in rank:
            below = [
                visit(other, (*above, module))
                for other in OWN[module]
                if not in_folder(module, other)
            ]
            rank[module] = 1 + max(below, default=0)
        return rank[module]

    for module in TREES:
        visit(module, ())


def mentions(tree: ast.AST, name: str) -> bool:
    """Whether a name occurs in code, as a name, an attribute, an import or an annotation text."""
    for node in ast.walk(tree):
        found = (
            (isinstance(node, ast.Name) and node.id)
            or (isinstance(node, ast.Attribute) and node.attr)
            or (isinstance(node, ast.alias) and node.name)
        )
        if found == name:
            return True
    return False


def constructs(tree: ast.AST, name: str) -> bool:
    """Whether a class is called: `name(...)`, `types.name(...)`."""
    return any(
        isinstance(node, ast.Call)
        and name in (getattr(node.func, 'id', None), getattr(node.func, 'attr', None))
        for node in ast.walk(tree)
    )


# Failed on the mutants `truth: GroundTruth` in attack/objective.py's import, and
# `GroundTruth(...)` in runner.py.
def test_the_truth_has_one_source_and_few_readers():
    sources = [m for m, tree in TREES.items() if constructs(tree, 'GroundTruth')]
    assert sources == ['simulate.slices']
    readers = {m for m, tree in TREES.items() if mentions(tree, 'GroundTruth')}
    assert readers <= {'simulate.slices', *METRICS, 'audit.scoring', 'audit.knowledge'}


# Failed on `-> tuple[Transcript, GroundTruth]` in simulate/slices.py, and on a `found:
# list[tuple[GroundTruth, types.Transcript]]` among the arguments of a function of audit/runner.py.
def test_the_truth_never_shares_a_tuple_with_a_transcript():
    seen = 0
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            arguments = [each for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            for annotation in (node.returns, *(each.annotation for each in arguments)):
                for part in ast.walk(annotation) if annotation else ():
                    if isinstance(part, ast.Subscript) and mentions(part.value, 'tuple'):
                        seen += 1
                        both = mentions(part, 'Transcript') and mentions(part, 'GroundTruth')
                        assert not both, f'{module}:{part.lineno}'
    assert seen > 50


# Failed on `_ = truth.labels` in a function of attack/baselines.py.
def test_no_attack_reads_anything_called_truth():
    for module, tree in TREES.items():
        if in_folder(module, 'attack'):
            assert not mentions(tree, 'truth'), module
            arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
            assert not arguments & {'truth', 'truths', 'ground_truth'}, module


# Failed on `assert steps > 0` in attack/dynamics.py.
@pytest.mark.parametrize('module', sorted(TREES))
def test_no_assert_statements(module):
    lines = [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, ast.Assert)]
    assert not lines, f'{module}: bad input gets a ValueError, also under `python -O`'


def test_no_module_is_too_long():
    lengths = {module: len(path.read_text().splitlines()) for module, path in PATHS.items()}
    long = {module: length for module, length in lengths.items() if length > LONGEST}
    unexplained = {module: length for module, length in long.items() if module not in LONGER}
    assert not unexplained, f'Above {LONGEST} lines, split or give a reason: {unexplained}'
    assert set(LONGER) <= set(long), 'LONGER lists modules that are short enough'


# Failed on a public function without docstring in tree.py.
@pytest.mark.parametrize('module', sorted(TREES))
def test_everything_public_has_a_docstring(module):
    tree = TREES[module]
    missing = [] if ast.get_docstring(tree) else ['the module']

    def visit(body: list[ast.stmt], inside: str) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith('_') and node.name != '__call__':
                continue
            if not ast.get_docstring(node):
                missing.append(inside + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f'{inside}{node.name}.')

    visit(tree.body, '')
    assert not missing


def functions(module: str) -> dict[str, ast.FunctionDef]:
    """The top-level functions of a module, by name."""
    return {node.name: node for node in TREES[module].body if isinstance(node, ast.FunctionDef)}


def called(node: ast.AST) -> set[str]:
    """Names of what is called, with or without a module before it."""
    calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {getattr(call, 'attr', None) or getattr(call, 'id', '') for call in calls}


# Failed on `compress.low_rank` left out of the table of defences.
def test_every_stage_is_in_the_table_of_defences():
    stages = {
        name
        for module in ('observe', 'compress', 'perturb')
        for name, node in functions(module).items()
        if not name.startswith('_')
        and isinstance(node.returns, ast.Name)
        and node.returns.id == 'Observation'
    } - {'chain', 'blind', 'cast'}
    assert len(stages) >= 9
    assert stages <= called(TREES['audit.defences'])


# Failed on an `attackers` with a list of stages of its own.
def test_stages_are_made_in_one_place():
    stages = {'clip_by_global_norm', 'quantize', 'low_rank', 'top_k', 'random_k'}
    makers = {module for module, tree in TREES.items() if stages & called(tree)}
    assert makers == {'audit.defences'}
    assert 'channel' in called(functions('audit.training')['make_federation'])
    assert 'replayed' in called(functions('audit.attackers')['make_observation'])


def text_files():
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(
            f for f in folders
            if f not in SKIPPED and not f.startswith('.venv-') and not f.endswith('.egg-info')
        )  # fmt: skip
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if path.stat().st_size < 2**20 and not path.is_symlink():
                try:
                    yield path, path.read_text()
                except UnicodeDecodeError:
                    continue


# Failed on a README.md that names the path of the checkout.
def test_nothing_depends_on_the_place_of_the_checkout():
    # Joined, so that this file does not hold them itself.
    places = '|'.join(re.escape('/'.join(parts)) for parts in (['', 'work', ''], ['..', 'shared']))
    allowed = {ROOT / '.ci' / 'run'}
    found = [
        f'{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}'
        for path, text in text_files()
        if path not in allowed
        for match in re.finditer(places, text)
    ]
    assert not found


def says_no_encoding(call: ast.Call) -> bool:
    """Whether a call opens a file as text in the encoding of whatever locale there is."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', '')
    if name not in {'open', 'fdopen', 'read_text', 'write_text', 'NamedTemporaryFile'}:
        return False
    method = isinstance(call.func, ast.Attribute)
    if method and ast.unparse(call.func.value) == 'zipped':
        return False  # a member of an archive is binary
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    modes = texts + [k.value.value for k in call.keywords if k.arg == 'mode']
    binary = 'text' not in name and any(mode in modes for mode in ('rb', 'wb', 'ab', 'a+b', 'rb+'))
    encoded = any(k.arg == 'encoding' for k in call.keywords)
    return not (binary or encoded or (name == 'write_text' and len(call.args) > 1))


# Failed on `path.read_text()` in audit/reporting.py, and on `open(path, 'a')` in audit/workdir.py.
@pytest.mark.parametrize('folder', ['fedinv_jax', 'scripts', 'benchmarks', 'configs'])
def test_files_are_utf_8_whatever_the_locale(folder):
    paths = sorted((ROOT / folder).rglob('*.py'))
    assert paths
    found = [
        f'{path.relative_to(ROOT)}:{node.lineno}'
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.Call) and says_no_encoding(node)
    ]
    assert not found, f'Name the encoding, as in open(path, encoding="utf-8"): {found}'
