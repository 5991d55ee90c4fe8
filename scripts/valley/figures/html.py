"""What pages show of figures and tables; needs no matplotlib."""

import re
from pathlib import Path

import jinja2
import markupsafe
import pandas

from valley import places, plain
from valley.figures import verdicts
from valley.grid import Cell


def inline(svg: Path, said: str) -> markupsafe.Markup:
    """The SVG as an element of a page: without XML header, its ids prefixed by its name, since figures share
    them.

    `said` is what it shows, for who cannot see it. It shrinks with the page but is never shown
    larger than it was drawn.
    """
    text = svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', text).group(1)) * 4 / 3  # points as pixels
    size = f"min-width: min(40rem, {width:.0f}px); max-width: {width:.0f}px"
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', rf'<svg\1 style="{size}"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{svg.stem}-", text)
    label = markupsafe.escape(said)
    return markupsafe.Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def number(value) -> str:
    """A table cell: three decimals below ten and none above, thousands grouped, a dash for what is
    missing.
    """
    if value is None or (isinstance(value, float) and pandas.isna(value)):
        return "–"
    if value in (float("inf"), "inf"):
        return "∞"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def small_curve(points: list[tuple[float, float]], said: str) -> markupsafe.Markup:
    """A small curve through points (x, y) as SVG, `said` being its name for a screen reader."""
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    across = lambda x: 4 + 292 * (x - min(xs)) / ((max(xs) - min(xs)) or 1)  # noqa: E731
    up = lambda y: 76 - 72 * (y - low) / ((high - low) or 1)  # noqa: E731
    drawn = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
    said = f"{said}: {ys[0]:.3g} at {xs[0]:g}, {ys[-1]:.3g} at {xs[-1]:g}, between {low:.3g} and {high:.3g}"
    return markupsafe.Markup(
        '<svg class="curve" viewBox="0 0 300 80" role="img" aria-label="{0}"><title>{0}</title>'
        '<polyline class="line s-protocol" points="{1}"/></svg>'
    ).format(said, drawn)


def as_rows(table: pandas.DataFrame) -> list[dict]:
    """Rows of a table for a page, None for what is missing."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def alt(rows: pandas.DataFrame, models: int = 4) -> str:
    """What a figure shows, from its tidy rows, in words: by measure and model the first, the next and the
    last run.
    """
    said = []
    for measure, of_measure in rows[rows.series != "paper"].groupby("measure", sort=False):
        told = []
        for model, group in of_measure.groupby("model", sort=False):
            means = group.groupby(["run", "series"], sort=False).value.mean()
            chosen = dict.fromkeys([0, min(1, len(means) - 1), len(means) - 1])
            names = [" ".join(dict.fromkeys(map(str, means.index[i]))) for i in chosen]
            told.append(
                f"{model} "
                + ", ".join(f"{n} {means.iloc[i]:.3g}" for n, i in zip(names, chosen, strict=True))
            )
        more = f"; and {len(told) - models} more models" if len(told) > models else ""
        said.append(f"{measure}: {'; '.join(told[:models])}{more}")
    return ". ".join(said) or "no data yet"


def render(template: Path, **values) -> str:
    """A page from its template, in which a value that is missing is an error; `| number` formats table cells.

    Texts are escaped and shown without control characters, whoever wrote them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        finalize=lambda value: plain.visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "badge": verdicts.badge,
        "page_of": lambda c: places.page_of(Cell(*c)),
    }
    return environment.get_template(template.name).render(values)
