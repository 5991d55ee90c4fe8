"""A figure as SVG with hover texts and as PNG; equal figures give equal bytes.

A hover text travels as the gid of its artist, which matplotlib writes as an id into the SVG; `save` turns it
into a `<title>`, which browsers show.
"""

import io
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.transforms import Bbox

from valley import records

TITLED = "title "  # begins the id of what has a hover text
PLACES = {"d", "transform", "x", "y", "width", "height"}
SVG = "http://www.w3.org/2000/svg"


def with_titles(text: str) -> str:
    """The SVG with a `<title>` in each element that has a hover text; ids that nothing refers to are dropped.

    What is left can stand in one page with other figures: no rule of style and no id that another figure has
    too.
    """
    for prefix, uri in (("", SVG), ("xlink", "http://www.w3.org/1999/xlink")):
        xml.register_namespace(prefix, uri)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    root = xml.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        # A page holds many figures: no layout of the file, and a hundredth of a point is enough.
        element.text, element.tail = (
            part if (part or "").strip() else None for part in (element.text, element.tail)
        )
        for place in PLACES.intersection(element.keys()):
            element.set(place, re.sub(r"(\d\.\d\d)\d+| (?= |$)", r"\1", element.get(place)))
        name = element.get("id", "")
        if name.startswith(TITLED):
            title = xml.Element(f"{{{SVG}}}title")
            title.text = name.removeprefix(TITLED)
            element.insert(0, title)
            element.set("class", "hover")
        if name and name not in used:
            del element.attrib["id"]
        if "style" in element.attrib:
            element.set("style", re.sub(r"([:;]) |; stroke-linejoin: miter", r"\1", element.get("style")))
    unwrap(root)
    # From the removed rule of style, which would have held for a whole page.
    root.set("stroke-linejoin", "round")
    root.set("stroke-linecap", "butt")
    return xml.tostring(root, encoding="unicode") + "\n"


def unwrap(parent: xml.Element):
    """Put the children of groups that say nothing in the place of these groups."""
    for child in parent:
        unwrap(child)
    bare = lambda child: child.tag == f"{{{SVG}}}g" and not child.attrib  # noqa: E731
    parent[:] = [one for child in parent for one in (child if bare(child) else [child])]


def extent(figure) -> Bbox:
    """What is to be saved, in inches: the panels with their margins, the legend above and the note below."""
    renderer = figure.canvas.get_renderer()
    boxes = [part.get_window_extent(renderer) for part in (*figure.legends, *figure.texts)]
    return Bbox.union([figure.bbox, *boxes]).transformed(figure.dpi_scale_trans.inverted()).padded(0.08)


def save(figure, path: Path, png: Path | None = None):
    """Write the figure as SVG and, where a path for it is given, as PNG."""
    buffer, box = io.StringIO(), extent(figure)
    # Ids differ between the figures of a page, not between runs.
    with plt.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches=box)
    with records.whole(path) as temporary:
        temporary.write_text(with_titles(buffer.getvalue()), encoding="utf-8")
    if png:
        with records.whole(png) as temporary:
            figure.savefig(temporary, format="png", dpi=150, bbox_inches=box)
    plt.close(figure)


def save_pdf(figure, path: Path):
    """Write the figure as PDF, its text as text."""
    with records.whole(path) as temporary, plt.rc_context({"pdf.fonttype": 42}):
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None}, bbox_inches="tight")
    plt.close(figure)
