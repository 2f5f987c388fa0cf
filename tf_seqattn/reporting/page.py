"""A page of HTML that needs no other file."""

from collections.abc import Sequence
from html import escape

import markdown

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --pale: #66707d; --line: #d9dee5;
  --paper: #ffffff; --tint: #f5f7fa; --accent: #1f6fb2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --pale: #9aa4b1; --line: #333c47; --paper: #161b22;
    --tint: #1e252e; --accent: #6db3ea; } }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; font-family: ui-monospace, monospace; }
p { max-width: 46rem; }
.pale { color: var(--pale); }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; padding: 0; }
.facts div { background: var(--tint); border-radius: .5rem; padding: .75rem 1rem; }
.facts b { display: block; font-size: 1.4rem; color: var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--pale); font-weight: 600; }
td:last-child { white-space: normal; }
img { max-width: 100%; background: #fff; border-radius: .5rem; }
"""


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>'


def heading(text: str, level: int = 2) -> str:
    """Returns a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def image(source: str, description: str) -> str:
    """Returns a picture; `source` is from `pictures.embedded`."""
    return f'<p><img src="{source}" alt="{escape(description, quote=True)}"></p>'


def figures(pairs: Sequence[tuple[str, str]]) -> str:
    """Returns large figures, each with its explanation.

    Args:
      pairs: pairs of a figure and a text.
    """
    boxes = "".join(
        f"<div><b>{escape(figure)}</b>{escape(text)}</div>" for figure, text in pairs
    )
    return f'<div class="facts">{boxes}</div>'


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of text."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def markdown_text(text: str) -> str:
    """Returns Markdown as HTML: paragraphs, lists and tables.

    Example:

    >>> markdown_text("**not** <b>").splitlines()[0]
    '<div class="wide"><p><strong>not</strong> &lt;b&gt;</p></div>'
    """
    reader = markdown.Markdown(extensions=["tables"])
    # Tags of the text are shown, not followed.
    reader.preprocessors.deregister("html_block")
    reader.inlinePatterns.deregister("html")
    return f'<div class="wide">{reader.convert(text)}</div>'


def page(title: str, parts: Sequence[str], style: str = "") -> str:
    """Returns the whole page.

    Args:
      title: title of the page.
      parts: HTML, from the functions above.
      style: more rules of CSS.

    Example:

    >>> page("A & B", [paragraph("x < y")]).splitlines()[-2]
    '<p class="">x &lt; y</p>'
    """
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        f"{body}\n</body></html>"
    )
