"""The public surface: `__all__` everywhere, the doctests, and the README's synopsis."""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import pathlib
import pkgutil
import re

import pytest

import fedinv_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = [
    'fedinv_jax',
    *(info.name for info in pkgutil.walk_packages(fedinv_jax.__path__, 'fedinv_jax.')),
]
PACKAGES = [
    'fedinv_jax',
    'fedinv_jax.attack',
    'fedinv_jax.attack.exact',
    'fedinv_jax.data',
    'fedinv_jax.models',
    'fedinv_jax.report',
    'fedinv_jax.simulate',
]
# So many examples at the time of writing: a finder that finds nothing must not pass.
FEWEST_EXAMPLES = 60


# Failed on these mutants of attack/__init__.py: 'relax' before 'priors', 'relux'; and on a
# fedinv_jax/__init__.py without `__all__`.
@pytest.mark.parametrize('name', PACKAGES)
def test_all_is_sorted_unique_importable_and_documented(name):
    package = importlib.import_module(name)
    names = package.__all__
    assert list(names) == sorted(names)
    assert len(set(names)) == len(names)
    for entry in names:
        value = getattr(package, entry)
        if entry != '__version__':
            assert inspect.getdoc(value), f'{name}.{entry}'
    assert inspect.getdoc(package)


# Failed on a fedinv_jax/attack/__init__.py without 'recipes'.
@pytest.mark.parametrize('name', ['fedinv_jax', 'fedinv_jax.attack', 'fedinv_jax.data'])
def test_all_of_a_namespace_covers_its_modules(name):
    package = importlib.import_module(name)
    modules = {info.name for info in pkgutil.iter_modules(package.__path__)}
    modules = {module for module in modules if not module.startswith('_')}
    # The program on top of the library.
    assert modules - set(package.__all__) <= {'audit'}


def doctests(name):
    return [t for t in doctest.DocTestFinder().find(importlib.import_module(name)) if t.examples]


# Failed on the mutant of tree.take's doctest `[2, 1]`.
@pytest.mark.parametrize('name', MODULES)
def test_doctests(name):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    text = io.StringIO()
    for test in doctests(name):
        runner.run(test, out=text.write)
    assert not runner.failures, text.getvalue()


def test_there_are_doctests():
    examples = sum(len(test.examples) for name in MODULES for test in doctests(name))
    assert examples >= FEWEST_EXAMPLES


def synopsis() -> tuple[str, str]:
    """The README's first Python block and the text right behind it."""
    readme = (ROOT / 'README.md').read_text()
    blocks = re.search(r'^```python\n(.*?)^```\n(.*)', readme, re.S | re.M)
    assert blocks, 'README.md has no ```python block'
    return blocks[1], blocks[2]


def test_readme_synopsis_is_short():
    code, _ = synopsis()
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    ast.parse(code)


@pytest.mark.slow
def test_readme_synopsis_prints_what_it_claims():
    """A claim is a comment behind `print(...)`, or the ```text block right behind the code."""
    code, rest = synopsis()
    claims = re.findall(r'^print\(.*\)\s+# (.*?)\s*$', code, re.M)
    if not claims:
        output = re.match(r'\s*```(?:text)?\n(.*?)^```', rest, re.S | re.M)
        assert output, 'the synopsis claims nothing that could be checked'
        claims = output[1].splitlines()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, 'README.md', 'exec'), {'__name__': 'readme'})
    assert [line.strip() for line in printed.getvalue().splitlines()] == claims
