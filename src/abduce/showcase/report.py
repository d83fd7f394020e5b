"""A report: one HTML file with its pictures inside, readable on a phone, in a light or a dark room."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from abduce.showcase import plots


@dataclass(frozen=True)
class Picture:
    """A picture on the page; ``draw`` makes the figure, once for each theme."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Table:
    """A table on the page; a cell is plain text, ``emphasis`` the (row, column) places to set in bold."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasis: frozenset[tuple[int, int]] = frozenset()

    def html(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        body = []
        for i, row in enumerate(self.rows):
            bold = ("<b>{}</b>" if (i, j) in self.emphasis else "{}" for j in range(len(row)))
            cells = (f"<td>{how.format(escape(cell))}</td>" for how, cell in zip(bold, row, strict=True))
            body.append(f"<tr>{''.join(cells)}</tr>")
        return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>'


def write(path: Path, title: str, lead: str, sections: Sequence[Picture | Table | str]) -> None:
    """Write the page; a section is a picture, a table or a paragraph.

    The pictures also go, as PNG for a light page, into the folder ``pictures`` beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "pictures").mkdir(exist_ok=True)
    parts = [_section(section, path.parent / "pictures") for section in sections]
    page = _PAGE.format(title=escape(title), lead=escape(lead), body="\n".join(parts), style=_STYLE)
    path.write_text(page, encoding="utf-8")


def _section(section: Picture | Table | str, folder: Path) -> str:
    if isinstance(section, str):
        return f"<p>{escape(section)}</p>"
    if isinstance(section, Table):
        return section.html()
    drawn = []
    for name in ("light", "dark"):
        with plots.theme(name):
            drawn.append(plots.png(section.draw()))
    (folder / f"{section.name}.png").write_bytes(drawn[0])
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in drawn)
    return (
        f"<h2>{escape(section.title)}</h2><figure><picture>"
        f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{escape(section.title)}"></picture>'
        f"<figcaption>{escape(section.caption)}</figcaption></figure>"
    )


_STYLE = """
:root { color-scheme: light dark;
        --paper: #fdfdfc; --ink: #1d2329; --quiet: #5b656e; --line: #d9dee3; --card: #f3f5f6 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181b; --ink: #e4e8ec; --quiet: #9aa5af; --line: #333b42; --card: #1c2226 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 46rem; padding: 1.5rem 1rem 4rem; font: 1rem/1.55 system-ui, sans-serif;
       background: var(--paper); color: var(--ink) }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem }
p { margin: .6rem 0 }
.lead { font-size: 1.08rem; color: var(--quiet) }
.wide { overflow-x: auto; margin: 1.4rem 0 }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--quiet) }
th, td { padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
figure { margin: 0; padding: 1rem; background: var(--card); border-radius: .6rem; overflow-x: auto }
img { display: block; max-width: 100%; height: auto; margin: 0 auto }
figcaption { margin-top: .8rem; color: var(--quiet); font-size: .92rem }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{body}
</body>
</html>
"""
