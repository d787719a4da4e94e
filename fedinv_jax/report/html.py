"""Converts a Markdown report to one self-contained HTML page, with the figures embedded."""

import base64
import html as html_lib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<nav aria-label="Contents">{contents}</nav>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1f; --page: #fff; --line: #d5d5dc;
  --soft: #f4f4f7; --link: #0b5fa5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e3e8; --page: #16161a; --line: #3c3c46; --soft: #222229; --link: #7cbcf5; }
  figure img { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--text);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
nav { font-size: .9rem; } nav a { margin-right: 1rem; white-space: nowrap; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; }
th { background: var(--soft); cursor: pointer; }
th[aria-sort=ascending]::after { content: ' \\25B2'; }
th[aria-sort=descending]::after { content: ' \\25BC'; }
pre { overflow-x: auto; white-space: pre-wrap; padding: .8rem; background: var(--soft);
  font-size: .8rem; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: .85rem; }
@media (max-width: 45rem) {  /* a wide figure scrolls instead of shrinking */
  figure { overflow-x: auto; } figure img { max-width: none; width: 44rem; }
}
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""

# Sorts numbers by value first, then words, then missing values.
_SCRIPT = """
for (const head of document.querySelectorAll('th')) {
  head.tabIndex = 0;
  head.title = 'Sort by this column';
  const value = row => row.cells[head.cellIndex].textContent.trim();
  const rank = text => text === '-' ? 2 : isNaN(parseFloat(text)) ? 1 : 0;
  const sort = () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const body = head.closest('table').tBodies[0];
    body.append(...[...body.rows].sort((one, two) => {
      const a = value(one), b = value(two), ranks = rank(a) - rank(b);
      const order = rank(a) ? a.localeCompare(b) : parseFloat(a) - parseFloat(b);
      return ranks || (up ? order : -order);
    }));
  };
  head.addEventListener('click', sort);
  head.addEventListener('keydown', event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); sort(); }
  });
}
"""


def html(text: str, folder: str | pathlib.Path, title: str) -> str:
    """The HTML page of a report: light and dark, readable on a phone, with sortable tables.

    Figures are embedded and nothing is loaded from elsewhere; without scripts only sorting is lost.

    Args:
        text: Markdown; HTML in the text is shown as text.
        folder: folder to which the paths of the images are relative.
        title: title of the page.

    Raises:
        ValueError: if an image does not exist.

    Example:
        >>> '<h1 id="a-b">A b</h1>' in html('# A b', '.', 'x')
        True
    """
    import markdown_it  # imported here: only a report needs it

    parser = markdown_it.MarkdownIt('commonmark', {'html': False}).enable('table')
    tokens = parser.parse(text)
    contents: list[tuple[str, str, str]] = []
    for place, token in enumerate(tokens):
        if token.type == 'heading_open':
            words = tokens[place + 1].content
            anchor = _anchor(words, [entry[1] for entry in contents])
            token.attrSet('id', anchor)
            contents.append((token.tag, anchor, words))

    def image(tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        source, caption = _inlined(pathlib.Path(folder) / token.attrs['src']), token.content
        shown = html_lib.escape(caption)
        return f'<img src="{source}" alt="{shown}"><figcaption>{shown}</figcaption>'

    parser.renderer.rules['image'] = image  # type: ignore[attr-defined]
    body = parser.renderer.render(tokens, parser.options, {})
    # Each image is in a paragraph of its own.
    body = re.sub(r'<p>(<img .*?</figcaption>)</p>', r'<figure>\1</figure>', body)
    body = body.replace('<table>', '<div class="scroll"><table>')
    body = body.replace('</table>', '</table></div>')
    links = ' '.join(
        f'<a href="#{anchor}">{html_lib.escape(words)}</a>'
        for tag, anchor, words in contents
        if tag == 'h2'
    )
    return _PAGE.format(
        title=html_lib.escape(title), style=_STYLE, contents=links, body=body, script=_SCRIPT
    )


def _anchor(words: str, taken: Sequence[str]) -> str:
    """The id of a heading, different from those in `taken`."""
    base = re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-') or 'section'
    number = 1
    while (name := base if number == 1 else f'{base}-{number}') in taken:
        number += 1
    return name


def _inlined(path: pathlib.Path) -> str:
    """A PNG as a data URI."""
    if not path.is_file():
        raise ValueError(f'The report shows {path}, which does not exist.')
    return f'data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'
