"""docs/messages.md has every message of the package, in its words, and no other.

A message is a text of an error or a warning. In `SPEAKERS`, which hand texts to those that raise,
every sentence is a message or a part of one.
"""

import ast
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping

import markdown_it

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'fedinv_jax'
PAGE = ROOT / 'docs' / 'messages.md'
# Folders, modules or functions, and those of them that describe what is well.
SPEAKERS = (
    '_transcript_checks', '_validate', 'data', 'transcripts', 'report.rows',
    'audit.transcript_file._read', 'audit.transcript_file._verdict', 'audit.changed_uploads',
    'audit.checks', 'audit.defence_checks',
    'audit.command_line.errors_as_lines', 'audit.command_line.parse.hint',
    'audit.compatibility', 'audit.layout',
    'audit.misfit', 'audit.packaged', 'audit.reporting.rewrite.without', 'audit.reporting.run.note',
    'audit.runner.run', 'audit.scoring', 'audit.threat_model._TOO_FEW',
    'audit.threat_model._left_out', 'audit.threat_model._provenance', 'audit.training',
    'audit.workdir', 'report.conclusions.misfits',
)  # fmt: skip
SILENT = ('data.provenance', 'data.sniffing._columns', 'data.values._DAY_FIRST')
HOLE = '…'


def words(text: str) -> int:
    return len(re.findall(r'[A-Za-z]\w+', text)) if ' ' in text.strip() else 0


def plain(text: str) -> str:
    """A message without the holes at its ends, file and line, and without the names of the rest."""
    text = re.sub(r'\{[^{}]*\}', HOLE, ' '.join(text.split()))
    text = re.sub(rf'{HOLE}+', HOLE, text)
    return re.sub(rf'^[{HOLE}\s:\d]+|[\s{HOLE}]+$', '', text)


def constants(tree: ast.Module) -> dict[str, str]:
    """Texts that a module gives a name."""
    return {
        ast.unparse(node.targets[0]): node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def text_of(node: ast.AST, named: Mapping[str, str]) -> str | None:
    """A string, the holes of an f-string as '…'; a named text stands for itself."""
    if isinstance(node, ast.JoinedStr):
        return ''.join(text_of(part, named) or HOLE for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return named.get(ast.unparse(node.value)) if node.conversion == -1 else None
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else None


def said(
    node: ast.AST, name: str, named: Mapping[str, str], raised: bool = False
) -> Iterator[tuple[str, int]]:
    """The messages below a node of a module or function, and their lines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        name = f'{name}.{node.name}'
    elif isinstance(node, ast.Assign):
        name = f'{name}.{ast.unparse(node.targets[0])}'
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    inner = raised or isinstance(node, ast.Raise)
    text = text_of(node, named)
    if text is not None and not isinstance(node, ast.FormattedValue):
        speaks = any(f'{name}.'.startswith(f'{each}.') for each in SPEAKERS)
        speaks = speaks and not any(f'{name}.'.startswith(f'{each}.') for each in SILENT)
        speaks |= bool(re.match('(error|warning|interrupted): ', text, re.I))
        if words(text) >= (1 if raised else 3 if speaks else 1000):
            yield plain(text), node.lineno
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from said(child, name, named, inner)


def in_code() -> dict[str, str]:
    """By message, file and line."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        module = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        for text, line in said(tree, module.removesuffix('.__init__'), constants(tree)):
            found.setdefault(text, f'{path.relative_to(ROOT)}:{line}')
    return found


def rows_of_page() -> list[list[str]]:
    """The rows of the tables of messages: message, meaning, what to do."""
    tokens = markdown_it.MarkdownIt('commonmark').enable('table').parse(PAGE.read_text('utf-8'))
    cells, rows = [], []
    for before, token in itertools.pairwise(tokens):
        if before.type == 'td_open':
            code = [child.content for child in token.children if child.type == 'code_inline']
            cells.append(code[0] if not cells and code else token.content)
        elif before.type == 'tr_close':
            rows, cells = [*rows, cells], []
    return [row for row in rows if len(row) == 3]


CODE = in_code()
ROWS = rows_of_page()
ON_PAGE = [plain(row[0]) for row in ROWS]


# Failed when rows of the page were removed, one of each kind: a constant (`_GO_ON`), a raise, a
# warning, the reason of a helper (`plausibility._alike`), one half of a conditional expression.
def test_every_message_is_on_the_page():
    missing = [f'{where}: {text}' for text, where in CODE.items() if text not in ON_PAGE]
    assert not missing, 'add to docs/messages.md:\n' + '\n'.join(missing)


# Failed when a word of the message `Expected {name}={value} {bound}.` was changed in the code.
def test_the_page_has_no_other_message():
    others = [row[0] for row, text in zip(ROWS, ON_PAGE, strict=True) if text not in CODE]
    assert not others, 'not in the code; remove from docs/messages.md:\n' + '\n'.join(others)


# Failed on a row that was there twice, and on an empty cell.
def test_rows_of_the_page_are_whole():
    twice = {row[0] for row, text in zip(ROWS, ON_PAGE, strict=True) if ON_PAGE.count(text) > 1}
    assert not twice
    assert [row for row in ROWS if not all(row)] == []


def test_messages_of_every_kind_are_found():
    for text in (
        'error: The config has no field ….',  # sys.exit
        'interrupted: the rows so far are kept; the same command goes on from there',  # a constant
        'Expected …=… ….',  # holes only
        'a bzip2 file; unpack it: bunzip2',  # a table of reasons
        '; transposed?',  # inside an f-string
        'warning: skipping arm… …:',  # a log line
        'The field … is now ….',  # warnings.warn
    ):
        assert text in CODE
