"""What a LaTeX document shows of tables and texts, for pdfLaTeX and its base packages (booktabs, longtable,
graphicx).

Texts come from anywhere (models, configurations): `escape` makes each of them harmless, so that a `\\input`
in a response is shown and not carried out, and `render` calls it on every value of a template but those of
type Tex.
"""

from pathlib import Path

import jinja2
import pandas

from valley import plain

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "−": "$-$", "–": "--", "—": "---", "…": r"\ldots{}", "×": r"$\times$", "÷": r"$\div$", "≤": r"$\le$", "≥": r"$\ge$",
    "→": r"$\to$", "∞": r"$\infty$", "±": r"$\pm$", "√": r"$\surd$", "π": r"$\pi$", "·": r"$\cdot$", "\t": " ",
}  # fmt: skip
UNBROKEN = 8  # characters without a space after which a line may end all the same
FIRST, LAST = 700, 300  # characters of a response that are shown


class Tex(str):
    """LaTeX that is meant as such."""

    __slots__ = ()


def sign(character: str) -> str:
    """One character as LaTeX; what pdfLaTeX's T1 fonts lack is named by its code point."""
    if character in SIGNS:
        return SIGNS[character]
    known = character.isascii() or ("À" <= character <= "ſ")
    return character if known else rf"\textless{{}}U+{ord(character):04X}\textgreater{{}}"


def escape(value) -> Tex:
    """A value as LaTeX that shows it; LaTeX stays as it is."""
    if isinstance(value, Tex):
        return value
    text = plain.visible(str(value))
    return Tex("".join(map(sign, " ".join(text.split()))))


def verbatim(text: str) -> Tex:
    """A text with its line ends, shortened in its middle, that may break anywhere."""
    if len(text) > FIRST + LAST:
        left_out = len(text) - FIRST - LAST
        text = f"{text[:FIRST]} […{left_out:,} characters…] {text[-LAST:]}"
    found, unbroken = [], 0
    for character in plain.visible(text.strip()):
        unbroken = 0 if character.isspace() else unbroken + 1
        found.append(r"\newline " if character == "\n" else sign(character))
        if unbroken == UNBROKEN:
            found.append(r"\allowbreak{}")
            unbroken = 0
    return Tex("".join(found))


def booktabs(table: pandas.DataFrame, letters: str, caption: str = "", label: str = "") -> Tex:
    """A table as LaTeX (booktabs), its texts escaped; `letters` are LaTeX's for its columns.

    With a caption it goes on over pages (longtable) and carries caption and label itself.
    """
    shown = table.astype(object).where(table.notna(), "--").map(escape)
    shown.columns = [escape(name) for name in table.columns]
    long = {"longtable": True, "caption": escape(caption), "label": label} if caption else {}
    return Tex(shown.to_latex(index=False, escape=False, column_format=letters, **long))


def columns(responses: list[dict]) -> Tex:
    """Responses side by side, with their run, tokens and answer; `before`, `error` (bold) and `after` are
    their pieces.
    """
    width = 0.97 / len(responses)
    shown = []
    for one in responses:
        head = escape(
            f"{one['model']} {one['run']}: answer {one['answer']}, right {one['gold']}, {one['tokens']} tokens"
        )
        pieces = verbatim(one["before"]) + (rf"\textbf{{{verbatim(one['error'])}}}" if one["error"] else "")
        text = pieces + verbatim(one["after"])
        body = rf"\textbf{{\small {head}}}\par\smallskip{{\ttfamily\scriptsize\raggedright {text}\par}}"
        shown.append(rf"\begin{{minipage}}[t]{{{width:.2f}\linewidth}}{body}\end{{minipage}}")
    problem = rf"{{\small Problem: {verbatim(responses[0]['prompt'])}\par\smallskip}}"
    return Tex(problem + "\n" + "\\hfill\n".join(shown) + "\n")


def document(template: Path, **values) -> str:
    """A document from its template, whose marks are << >>, <% %> and <# #>; a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        autoescape=False,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(values)
