"""Verdicts for the eye: a badge with a shape and a word, and intervals drawn against the threshold of what is
claimed.

Right of the line is what the paper claims, left of it the contrary, whatever the measure and its unit: an
interval that lies wholly right of the line holds, wholly left of it fails, across it decides nothing. Where a
value is claimed to be about something, the line is that value and the shaded band what still counts as about.
"""

import math

from markupsafe import Markup

SHAPES = {"holds": "✓", "fails": "✗", "undecided": "?", "grader-dependent": "≠", "not applicable": "–"}
WIDTH, ROW = 120, 9  # units of the SVG, about pixels


def badge(verdict: str) -> Markup:
    """A verdict as a shape and its words; what begins as one of SHAPES has its shape and colour."""
    kind = next((name for name in SHAPES if verdict.startswith(name)), "undecided")
    mark = '<span class="verdict {}"><span aria-hidden="true">{}</span> {}</span>'
    return Markup(mark).format(kind.split()[0], SHAPES[kind], verdict)


def oriented(row: dict, expect: dict) -> list[float] | None:
    """Ends and value of a row's interval, measured from the threshold towards what is claimed; None without
    them.
    """
    ends = [row.get(key) for key in ("low", "value", "high")]
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        return None
    middle = next(expect[key] for key in ("about", "below", "above") if key in expect)
    return [(middle - end) if "below" in expect else (end - middle) for end in ends]


def farthest(rows: list[dict], expect: dict) -> float:
    """How far from the threshold the drawing of these rows goes."""
    known = [end for row in rows for end in oriented(row, expect) or []]
    return max([2 * expect.get("within", 0), *map(abs, known)]) or 1.0


def against_threshold(lines: list[tuple[list[dict], dict | None]], far: float | None = None) -> Markup:
    """Intervals against their thresholds, a line each part: `lines` holds the rows of a part and what it
    expects.

    `far` is the reach of all lines; without it each has its own. A line without an interval stays empty, so
    that lines and parts can be matched; where none has one, nothing is drawn.
    """
    height = max(1, len(lines)) * ROW + 4
    across = lambda x: WIDTH / 2 + x * (WIDTH / 2 - 5)  # noqa: E731
    marks = []
    for i, (rows, expect) in enumerate(lines):
        if not expect or not any(oriented(row, expect) for row in rows):
            continue
        y, unit = 2 + (i + 0.5) * ROW, far or farthest(rows, expect)
        edge = expect.get("within", 0) / unit
        left, right = (across(-edge), across(edge)) if edge else (across(0), WIDTH)
        claimed = '<rect class="claimed" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}"/>'
        marks.append(Markup(claimed).format(left, y - ROW / 2, right - left, ROW))
        for ends in filter(None, (oriented(row, expect) for row in rows)):
            low, value, high = (across(end / unit) for end in ends)
            line = '<path class="interval" d="M{:.1f} {y:.1f}H{:.1f}"/><circle class="value" cx="{:.1f}" cy="{y:.1f}" r="2.4"/>'
            marks.append(Markup(line).format(low, high, value, y=y))
    if marks:
        marks.append(Markup('<path class="threshold" d="M{:.1f} 0V{}"/>').format(across(0), height))
    return Markup('<svg class="forest" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
        WIDTH, height, Markup("").join(marks)
    )


def each_against_threshold(rows: list[dict], expect: dict | None) -> list[Markup]:
    """Each row drawn for itself, all on one scale; nothing where nothing is expected."""
    if not expect:
        return [Markup("")] * len(rows)
    far = farthest(rows, expect)
    return [against_threshold([([row], expect)], far) for row in rows]
