"""The configs that come with the package, by name."""

import ast
import pathlib
import re
from collections.abc import Sequence

from fedinv_jax import _validate


def folder() -> pathlib.Path:
    """Where the config files are: in an installed package, or beside it in a clone."""
    package = pathlib.Path(__file__).parents[1]
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def files() -> dict[str, pathlib.Path]:
    """Every config file by name.

    Example:
        >>> 'quickstart' in files()
        True
    """
    return {path.stem: path for path in sorted(folder().glob('*.py')) if path.stem != '__init__'}


def summary(path: pathlib.Path) -> str:
    """The first line of a config file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return text.partition('\n')[0]


def variants(path: pathlib.Path) -> list[str]:
    """What may stand behind a config's name, as the docstring of its `get_config` says.

    Example:
        >>> variants(files()['exact_small_head'])
        ['smoke', 'intervals']
    """
    body = ast.parse(path.read_text(encoding='utf-8')).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    texts = [ast.get_docstring(each) or '' for each in functions if each.name == 'get_config']
    return re.findall(r"'(\w+)'", ''.join(texts))


def listing() -> str:
    """A line for each config: its name, what it is, and its variants."""
    found = files()
    width = max(map(len, found))
    return '\n'.join(
        f'{name:<{width}}  {summary(path)} Variants: {", ".join(variants(path))}.'
        for name, path in found.items()
    )


def find(text: str) -> str:
    """The path that a value of `--config` means: `NAME`, `NAME:VARIANT`, or a path as it is.

    Raises:
        ValueError: if there is neither such a config nor such a file.

    Example:
        >>> find('quickstart:smoke').endswith('quickstart.py:smoke')
        True
    """
    name, colon, variant = text.partition(':')
    if pathlib.Path(name).is_file():
        return text
    if name.endswith('.py') or '/' in name:
        hint = f' --config={pathlib.Path(name).stem} names the packaged one.'
        known = pathlib.Path(name).stem in files()
        raise ValueError(f'There is no config file {name}.{hint if known else ""}')
    try:
        path = _validate.lookup('config', name, files())
    except ValueError as error:
        raise ValueError(
            f'{error} `fedinv configs` lists them; a path to a file works too.'
        ) from None
    if variant:
        _validate.lookup(f'variant of {name}', variant, variants(path))
    return f'{path}{colon}{variant}'


def resolve(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments, the value of `--config` as a path.

    Raises:
        ValueError: if there is no `--config`, or no such config.

    Example:
        >>> resolve(['--merge', '--config', 'quickstart'])[2].endswith('configs/quickstart.py')
        True
    """
    found, named = list(arguments), False
    for index, argument in enumerate(found):
        if match := re.fullmatch(r'(--?config=)(.*)', argument):
            found[index], named = match[1] + find(match[2]), True
        elif index and found[index - 1] in ('--config', '-config'):
            found[index], named = find(argument), True
    if named:
        return found
    near = [name for name in found if name.partition(':')[0] in files()]
    hint = f'Did you mean --config={near[0]}?' if near else '`fedinv configs` lists the names.'
    raise ValueError(f'Expected --config=NAME or --config=FILE. {hint}')
