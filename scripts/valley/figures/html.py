"""What pages show of figures and tables; needs no matplotlib."""

import re
from pathlib import Path

import jinja2
import markupsafe
import pandas

from valley import plain


def inline(svg: Path) -> markupsafe.Markup:
    """The SVG as an element of a page: without XML header, its ids prefixed by its name, since figures share them.

    It shrinks with the page but is never shown larger than it was drawn.
    """
    text = svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', text).group(1)) * 4 / 3  # points as pixels
    size = f"min-width: min(40rem, {width:.0f}px); max-width: {width:.0f}px"
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', rf'<svg\1 style="{size}"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return markupsafe.Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{svg.stem}-", text))


def number(value) -> str:
    """A table cell: three decimals below ten and none above, thousands grouped, a dash for what is missing."""
    if value is None or (isinstance(value, float) and pandas.isna(value)):
        return "–"
    if value in (float("inf"), "inf"):
        return "∞"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def render(template: Path, **values) -> str:
    """A page from its template, in which a value that is missing is an error; `| number` formats table cells.

    Texts are escaped and shown without control characters, whoever wrote them.
    """
    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: plain.visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)
