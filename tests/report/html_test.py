"""The HTML page: self-contained, escaped, and read by a real browser."""

import base64
import re

import pytest

from fedinv_jax.report import html
from tests.report.helpers import browse

# One white dot.
PNG = base64.b64decode(
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=='
)
TEXT = """# Report

## One

Words with <script>alert(1)</script> and a [link](#two).

| attack | AUC |
|---|---|
| b | 0.90 [0.8, 1.0] |
| c | - |
| a | 0.10 [0.0, 0.2] |

## Two

![a figure](figures/a.png)

## Two
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'figures').mkdir()
    (tmp_path / 'figures' / 'a.png').write_bytes(PNG)
    return tmp_path


# Failed on mutants: `'html': True`; images by their path; the same id twice.
def test_the_page_needs_nothing_else(folder):
    text = html.html(TEXT, folder, 'A & B')
    assert '<title>A &amp; B</title>' in text
    assert '&lt;script&gt;alert(1)' in text
    assert 'http' not in re.sub(r'base64,[^"]*', '', text)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 5
    assert all(source.startswith(('data:image/png;base64,', '#')) for source in sources)
    assert base64.b64encode(PNG).decode() in text
    assert '<figcaption>a figure</figcaption></figure>' in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert ids == ['report', 'one', 'two', 'two-2']
    assert set(re.findall(r'href="#([^"]*)"', text)) == {'one', 'two', 'two-2'}


def test_a_missing_figure_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r'a\.png, which does not exist'):
        html.html(TEXT, tmp_path, '')


# Failed on the mutants that sort as text, and without `overflow-x` around tables.
@pytest.mark.slow
@pytest.mark.parametrize('width', [400, 1280])
def test_a_browser_sorts_the_tables_and_nothing_sticks_out(folder, width):
    wide = '| ' + ' | '.join(f'column number {i}' for i in range(20)) + ' |\n' + '|---' * 20 + '|\n'
    probe = """
    const order = () => [...document.querySelector('table').tBodies[0].rows]
      .map(row => row.cells[0].textContent).join('');
    const head = document.querySelectorAll('th')[1];
    said.push(order());
    head.click(); said.push(order(), head.getAttribute('aria-sort'));
    head.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}));
    said.push(order(), head.getAttribute('aria-sort'));
    said.push(document.documentElement.scrollWidth <= window.innerWidth);
    said.push(document.querySelector('img').naturalWidth);
    """
    title = browse(folder, html.html(TEXT + '\n' + wide, folder, ''), width, probe)
    assert title == 'bca abc ascending bac descending true 1'
