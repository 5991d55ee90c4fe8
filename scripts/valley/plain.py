"""Texts that others wrote, made harmless to show: what a model answers can hold anything that Unicode has.

An ANSI escape recolours or clears a terminal, a NUL ends a line of a log, a bidi control turns the text
around it. `visible` shows each as a sign that can be read. HTML is escaped where HTML is made (jinja2's
autoescape).
"""

import re

# C0 and C1 controls but tab and line feed; marks and controls of direction; lone surrogates; noncharacters.
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def visible(text: str) -> str:
    """A text whose control characters are signs: ␛ for an escape, ⟨U+202E⟩ for what has no sign of its
    own.
    """
    return HARMFUL.sub(
        lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else f"⟨U+{ord(match[0]):04X}⟩", text
    )
