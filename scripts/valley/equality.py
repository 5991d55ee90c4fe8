"""Is this answer the gold answer? By structure and exact numbers first, by algebra where that leaves it open.

The headline's comparison is `same`: words as words, lists, intervals, sets and matrices entry by entry,
numbers as fractions and relative to their size, and what is left by sympy as Math-Verify reads it. The
paper's is `evaluator.graded_equal`. Algebra runs in worker processes that are killed when one answer takes
too long or too much memory (`Comparer`), for sympy can hang for ever on what a model writes. Nothing is
evaluated as code.
"""

import functools
import logging
import os
import re
import resource
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from valley import evaluator, notation, temporary
from valley.notation import as_written, normal, number

LONGEST = 500  # characters; a longer answer is compared as a string only
# Seconds for one comparison, after which it counts as `timeout`: of CPU and of wall time. The worker's own
# alarms come first; what runs in C code, which they cannot interrupt, is killed with its process. A
# comparison that had to wait for a busy machine gets a second try bound by CPU, or the load would change
# grades.
SECONDS, KILL_AFTER, KILL_WHEN_BUSY = 1.7, 2.0, 20.0
MEMORY = 1 << 30  # bytes of address space that a worker may have beyond what it starts with
ENTRIES = 30  # of a list; more are compared in their order only
DIGITS = 6  # significant digits that an approximation must have to stand for an exact value

REALS = r"(-\infty,\infty)"
PROSE = re.compile(r"(?:[A-Za-z']{2,}[ ,]+){4}")
MODULUS = re.compile(r"\\[bp]?mod\b")
MATRIX_ROWS = re.compile(r"\\begin\{pmatrix\}((?:(?!\\(?:begin|end)\{).)*)\\end\{pmatrix\}", re.DOTALL)
LETTER = re.compile(r"\\\\|\\(?:begin|end)\{\w*\}|\\mathbb\s*\{?\s*[A-Z]\s*\}?|\\[A-Za-z]+|[A-Za-z]")
SPARE = [*"bcjkmnpqtuvwxyzalrsh", r"\xi", r"\eta", r"\zeta", r"\kappa", r"\nu", r"\chi", r"\psi"]
RELATION = re.compile(r"<|>|\\l[et](?![a-z])|\\g[et](?![a-z])")
CHAIN = re.compile(
    r"(?:(?P<low>[^<>]+?)\s*(?P<first><|>|\\[lg]e(?![a-z]))\s*)?(?P<name>(?!\\(?:infty|pi)(?![a-z])|e(?!\w))\\?[A-Za-z]\w*)\s*"
    r"(?:(?P<second><|>|\\[lgn]e(?![a-z]))\s*(?P<high>[^<>]+))?"
)
ANGLE = re.compile(r"\\angle\s*([A-Z])\s*([A-Z])\s*([A-Z])")
INTERVAL = re.compile(r"[(\[].*,.*[)\]]", re.DOTALL)
SOLUTIONS = re.compile(
    r"\\\{\s*(\\?[A-Za-z]\w*)\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?)?\s*(?:\\mid(?![a-z])|[:|])(.*)\\\}",
    re.DOTALL,
)
REALS_BUT = re.compile(r"\\mathbb\s*\{?\s*R\s*\}?\s*(?:\\setminus|\\backslash|-)\s*\\\{([^{},]+)\\\}")
TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


class Rules(NamedTuple):
    """What a gold answer asks beside its value; None where nothing is said.

    `order`: do entries of a list stand in order? (None: by how the gold is written.) `tolerance`: how far a
    number may be off, absolute. `unit`: the unit that is asked for; another one is wrong, none is not.
    `base`: the base that is asked for; the gold's digits without it are then right.
    """

    order: bool | None = None
    tolerance: float | None = None
    unit: str | None = None
    base: int | None = None


NO_RULES = Rules()


class Pair(NamedTuple):
    """A comparison to be made: by which grader (`headline`, `paper`; `gold`: can it be read at all? `plain`:
    Math-Verify as it comes, to measure beside), of what with what, under which rules.
    """

    grader: str
    gold: str
    answer: str
    rules: Rules = NO_RULES


class TooLarge(Exception):
    """A number that an answer names is too large to be worked out; the comparison is given up."""


class Open(Exception):
    """Only algebra can tell."""


# ---- the headline's comparison


def same(gold: str, answer: str, rules: Rules = NO_RULES, algebra=None) -> bool:
    """Whether an answer says what the gold answer says.

    `algebra(gold, answer)` decides what strings, numbers and structure leave open; by default sympy, in this
    process and without a time limit. Raises TooLarge.
    """
    algebra = algebra or algebraically_same
    if not normal(answer):
        return False
    if normal(gold) == normal(answer):
        return True
    if (word := by_words(gold, answer, rules.order)) is not None:
        return word
    left, right = as_written(gold), as_written(answer)
    if (based := same_base(left, right, rules.base)) is not None:
        return based
    if rules.unit == "percent":
        left = left._replace(percent=True)
    elif not same_unit(rules.unit or left.unit, right.unit):
        return False
    if max(len(gold), len(answer)) > LONGEST:
        return False
    texts = capitals_apart(*(side.text + "%" * side.percent for side in (left, right)))
    return texts is not None and alike(*texts, rules, algebra)


def capitals_apart(*texts: str) -> list[str] | None:
    """The texts with other letters for capitals that stand beside their small letter in one of them: the
    parser makes every letter small, and R - r would be 0. None where no letters are left for that.
    """
    letters = [set(LETTER.findall(text)) for text in texts]
    twice = sorted(
        {char for found in letters for char in found if char != char.lower() and char.lower() in found}
    )
    if not twice:
        return list(texts)
    known = {char.lower() for found in letters for char in found}
    spare = [letter for letter in SPARE if letter not in known]
    if len(spare) < len(twice):
        return None
    other = {char: letter + " " * (len(letter) > 1) for char, letter in zip(twice, spare, strict=False)}
    return [LETTER.sub(lambda match: other.get(match.group(), match.group()), text) for text in texts]


def by_words(gold: str, answer: str, order: bool | None = None) -> bool | None:
    """The grade where words or the letter of a choice decide; None where they do not."""
    lists = notation.words_listed(gold), notation.words_listed(answer)
    if lists[0] and (lists[1] or not lists[0][1]):
        return lists[1] is not None and same_words(lists[0][0], lists[1][0], order)
    letter, word, other = notation.chosen_letter(gold), notation.words(gold), notation.words(answer)
    if letter and (notation.chosen_letter(answer) or notation.without_fonts(notation.spaced(gold)) != letter):
        return notation.chosen_letter(answer) == letter
    if word is not None:
        empty = word in notation.NO_SOLUTION and (
            other in notation.NO_SOLUTION or normal(answer) in ("\\emptyset", "\\{\\}")
        )
        reals = word in notation.ALL_REALS and (other in notation.ALL_REALS or normal(answer) == REALS)
        return word == other or empty or reals
    if normal(gold) in ("\\emptyset", "\\{\\}"):
        return other in notation.NO_SOLUTION or normal(answer) in ("\\emptyset", "\\{\\}")
    if normal(gold) == REALS and other in notation.ALL_REALS:
        return True
    if other is not None and " " in other:
        counted = evaluator.number_of_words(other)
        return counted == normal(gold) if counted != other and number(normal(gold)) is not None else False
    return evaluator.number_of_words(other) == normal(gold) or None if other else None


def same_words(gold: list[str], answer: list[str], order: bool | None) -> bool:
    """Whether lists name the same words, in this order where it is asked for, or where nothing is said and
    order is all that a list says (`T, F, T`). Case says nothing but of letters that one list has in both.
    """
    both = any({word.swapcase() for word in found if len(word) == 1} & {*found} for found in (gold, answer))
    lists = [
        [word if both and len(word) == 1 else word.casefold() for word in found] for found in (gold, answer)
    ]
    if order is None:
        order = len({*lists[0]}) < len(lists[0]) or {*lists[0]} <= {"true", "false", "yes", "no", "t", "f"}
    return lists[0] == lists[1] if order else sorted(lists[0]) == sorted(lists[1])


def same_base(gold: notation.Written, answer: notation.Written, base: int | None) -> bool | None:
    """The grade of numbers with a base, None where neither has one. Digits are compared, not values: the base
    is asked for.
    """
    if gold.base is None and answer.base is None:
        return None
    asked = gold.base or base or 10
    if (answer.base or (asked if base or gold.base is None else None)) != asked:
        return False
    return gold.text.lstrip("0").casefold() == answer.text.lstrip("0").casefold()


def same_unit(gold: str | None, answer: str | None) -> bool:
    """Whether the unit of an answer is none, or one of the gold's kind; things that are counted are all
    alike, a.m. is not p.m.
    """
    if None in (gold, answer) or gold == answer:
        return True
    if {gold, answer} == {"time am", "time pm"}:
        return False
    return any(re.match(r"thing|unit|time", unit) for unit in (gold, answer))


def alike(gold: str, answer: str, rules: Rules, algebra) -> bool:
    """Whether two normal forms are the same list, interval, set or matrix, or the same single value."""
    if re.sub(r"\s", "", gold) == re.sub(r"\s", "", answer):
        return True
    names = name_and_value(gold), name_and_value(answer)
    if (
        names[0][0]
        and names[1][0]
        and names[0][0] != names[1][0]
        and len(names[0][0]) == len(names[1][0]) == 1
    ):
        return "=" in gold and "=" in answer and equations(gold, answer, algebra)
    if any(name for name, _ in names):
        plain = [value if name else text for text, (name, value) in zip((gold, answer), names, strict=True)]
        if alike(*plain, rules, algebra):
            return True
        return equations(gold, answer, algebra)
    gold, answer = as_intervals(gold, answer)
    kinds = [entries(text) for text in (gold, answer)]
    kind = (kinds[0][0], kinds[1][0])
    if kind == ("one", "one"):
        return single(gold, answer, rules, algebra)
    if kind[0] == kind[1] == "matrix":
        rows = [[row.split("&") for row in found[1]] for found in kinds]
        if list(map(len, rows[0])) != list(map(len, rows[1])):
            return False
        rules = rules._replace(order=None)
        return all(
            alike(*(entry.strip() for entry in pair), rules, algebra)
            for lines in zip(*rows, strict=True)
            for pair in zip(*lines, strict=True)
        )
    if not comparable(*kind, *kinds[0][1:], *kinds[1][1:]):
        return False
    ordered = {"tuple", "union"} & {*kind} if rules.order is None else rules.order
    return entries_alike(kinds[0][1], kinds[1][1], bool(ordered) and "union" not in kind, rules, algebra)


def comparable(kind: str, other: str, entries: list[str], *rest) -> bool:
    """Whether lists of these kinds may be the same: a set is no point, an open end no closed one."""
    brackets, others, other_brackets = rest
    if {kind, other} == {"set", "tuple"} or (kind != other and {"matrix", "union"} & {kind, other}):
        return False
    if kind == other == "tuple" and brackets != other_brackets:
        return len(entries) > 2 and brackets in ("()", "[]") and other_brackets in ("()", "[]")
    return len(set(entries)) == len(set(others))


def entries_alike(gold: list[str], answer: list[str], ordered: bool, rules: Rules, algebra) -> bool:
    """Whether lists of one length have the same entries, each used once."""
    rules = rules._replace(order=None)  # of this list, not of the intervals or points in it
    if ordered or len(gold) > ENTRIES:
        return len(gold) == len(answer) and all(
            alike(*pair, rules, algebra) for pair in zip(gold, answer, strict=True)
        )
    gold, left, undecided = list(dict.fromkeys(gold)), list(dict.fromkeys(answer)), False
    for entry in gold:
        for at, other in enumerate(left):
            try:
                if alike(entry, other, rules, algebra):
                    del left[at]
                    break
            except Open:
                undecided = True
        else:
            if undecided:
                raise Open
            return False
    return not left


DEPTH = {"(": 1, "[": 1, "{": 1, "\\{": 1, "\\begin": 1, ")": -1, "]": -1, "}": -1, "\\}": -1, "\\end": -1}


def top_level(text: str, sign: str) -> list[str]:
    """The pieces of a text between the signs that stand in no bracket."""
    pieces, depth, start = [], 0, 0
    for match in re.finditer(rf"\\[{{}}]|\\?[a-zA-Z]+|{re.escape(sign)}|.", text, re.DOTALL):
        token = match.group()
        depth += DEPTH.get(token, 0)
        if token == sign and depth == 0:
            pieces.append(text[start : match.start()])
            start = match.end()
    return [piece.strip() for piece in [*pieces, text[start:]]]


def matrix(text: str) -> list[str] | None:
    """The rows of a matrix, or of a sum of matrices with numbers or letters in front of them, worked out
    entry by entry; None for anything else.
    """
    total = None
    for piece in top_level(text, "+"):
        for at, term in enumerate(top_level(piece, "-")):
            if not term and at == 0:
                continue  # the sign in front of a term
            start = max(term.find("\\begin{pmatrix}"), 0)
            match = MATRIX_ROWS.fullmatch(term[start:])
            if match is None:
                return None
            factor = re.sub(r"\s*(?:\*|\\cdot|\\times)\s*$", "", term[:start]).strip()
            rows = [row for row in re.split(r"\\\\(?:\[.*?\])?", match.group(1)) if row.strip()]
            cells = [[times("-" * (at > 0), factor, cell.strip()) for cell in row.split("&")] for row in rows]
            if total is None:
                total = cells
            elif [len(row) for row in total] != [len(row) for row in cells]:
                return None
            else:
                total = [list(map(plus, *lines)) for lines in zip(total, cells, strict=True)]
    return total and ["&".join(row) for row in total]


def times(sign: str, factor: str, entry: str) -> str:
    """An entry of a matrix with what stands in front of the matrix: a number where both are numbers."""
    if not sign and not factor:
        return entry
    values = rational(factor or "1"), rational(entry)
    if None in values:
        return rf"{sign}({factor or 1}) \cdot ({entry})"
    return exactly(values[0] * values[1] * (-1 if sign else 1))


def plus(left: str, right: str) -> str:
    """The sum of two entries: a number where both are numbers."""
    values = rational(left), rational(right)
    return f"({left}) + ({right})" if None in values else exactly(sum(values))


def exactly(value: Fraction) -> str:
    """A number as it is written exactly."""
    top, bottom = value.as_integer_ratio()
    return str(top) if bottom == 1 else rf"\frac{{{top}}}{{{bottom}}}"


@functools.lru_cache(maxsize=8192)
def entries(text: str) -> tuple[str, list[str], str]:
    """(kind, entries, brackets) of a normal form: `matrix` (its rows), `union`, `set`, `tuple` (in brackets,
    intervals too), `list` (commas alone, `and`, `or`, ± written out), `one`.
    """
    text = text.strip()
    if "\\begin{pmatrix}" in text and (rows := matrix(text)):
        return "matrix", rows, ""
    if len(pieces := top_level(text, "\\cup")) > 1:
        return "union", pieces, ""
    inner = re.fullmatch(r"\\\{(.*)\\\}", text, re.DOTALL)
    if inner and len(top_level(text, ",")) == 1 and not re.search(r"\\mid|[:|]", inner.group(1)):
        return "set", spread(top_level(inner.group(1), ",")), "{}"
    text = re.sub(r"\\langle(.*)\\rangle", r"(\1)", text)
    if text[:1] in "([" and text[-1:] in ")]" and encloses(text) and number(text[1:-1]) is None:
        inside = top_level(text[1:-1], ",")
        if len(inside) > 1:
            return "tuple", inside, text[0] + text[-1]
        return entries(text[1:-1]) if text[0] + text[-1] == "()" else ("one", [text], "")
    if number(text) is None:
        listed = re.sub(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|;", ",", text)
        found = spread([entry for entry in top_level(listed, ",") if entry])
        if len(found) > 1:
            return "list", found, ""
    return "one", [text], ""


def encloses(text: str) -> bool:
    """Whether the first bracket of a text closes with the last."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if depth == 0:
            return at == len(text) - 1
    return False


def spread(found: list[str]) -> list[str]:
    """Entries with their one ± written out as two."""
    spread_out = []
    for entry in found:
        signs = ("+", "-") if len(re.findall(r"\\(?:pm|mp)(?![a-z])", entry)) == 1 else ("",)
        for sign in signs:
            spread_out.append(
                re.sub(r"^\+", "", re.sub(r"\s*\\(?:pm|mp)(?![a-z])\s*", sign, entry)) if sign else entry
            )
    return spread_out


def name_and_value(text: str) -> tuple[str, str]:
    """(name, value) of `x = 5`, `f(x)=…`, `x \\in …`; the name is empty where there is none."""
    match = notation.NAME.match(text)
    if match is None or text.count("=") > 1 or (match.group().strip().endswith("in") and "=" in text):
        return "", text
    name = re.sub(r"\s|=|\\in$", "", match.group().strip().removesuffix("\\in"))
    return name, text[match.end() :].strip()


def as_intervals(*texts: str) -> tuple[str, ...]:
    """Two texts, inequalities in one letter as the intervals that they are where the other is one too."""
    solved = [solution(text) for text in texts]
    if all(solved):
        return texts if solved[0][0] != solved[1][0] else tuple(interval for _, interval in solved)
    if not any(solved) or not any(map(INTERVAL.fullmatch, map(str.strip, texts))):
        return texts
    return tuple(found[1] if found else text for found, text in zip(solved, texts, strict=True))


def solution(text: str) -> tuple[str, str] | None:
    """(letter, interval or union) of an inequality in one letter, of two that `and` or `or` joins, of a set
    that holds what fulfils one; None for anything else.
    """
    if not RELATION.search(text) and "\\setminus" not in text and "\\ne" not in text:
        return None
    if match := REALS_BUT.fullmatch(text.strip()):
        return "", without(match.group(1))
    name = None
    if match := SOLUTIONS.fullmatch(text.strip()):
        name, text = match.group(1), match.group(2)
    parts = re.split(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee)(?![a-z])", text)
    solved = [bounded(part) for part in parts]
    if None in solved or len({found[0] for found in solved} | {name or solved[0][0]}) > 1:
        return None
    return solved[0][0], r" \cup ".join(interval for _, interval in solved)


def without(point: str) -> str:
    """All numbers but one."""
    return rf"(-\infty, {point.strip()}) \cup ({point.strip()}, \infty)"


def bounded(text: str) -> tuple[str, str] | None:
    """(letter, interval) of one inequality, or of a lower and an upper bound that `and` joins."""
    parts = re.split(r"(?<![A-Za-z\\])and(?![A-Za-z])|\\(?:land|wedge)(?![a-z])", text)
    ends, names = {}, set()
    for part in parts:
        match = CHAIN.fullmatch(part.strip().strip(",").strip())
        if match is None or not (match["low"] or match["high"]):
            return None
        sides = [(match["low"], TURNED.get(match["first"])), (match["high"], match["second"])]
        if any(RELATION.search(side) for side, _ in sides if side):
            return None
        names.add(match["name"])
        if match["second"] == r"\ne":
            return (match["name"], without(match["high"])) if not match["low"] and len(parts) == 1 else None
        for value, sign in sides:
            if value and ends.setdefault(sign in (">", r"\ge"), (value.strip(), sign)) != (
                value.strip(),
                sign,
            ):
                return None  # two bounds on one side
    if len(names) > 1:
        return None
    low, high = ends.get(True, (r"-\infty", "")), ends.get(False, (r"\infty", ""))
    closed = "[" if low[1] == r"\ge" else "(", "]" if high[1] == r"\le" else ")"
    return names.pop(), f"{closed[0]}{low[0]}, {high[0]}{closed[1]}"


# ---- single values


def single(gold: str, answer: str, rules: Rules, algebra) -> bool:
    """Whether two values that are no lists are the same."""
    if ":" in gold + answer:
        sides = gold.split(":"), answer.split(":")
        if sorted(map(len, sides)) == [1, 2]:
            return same_ratio(*sorted(sides, key=len))
        return len(sides[0]) == len(sides[1]) and all(
            single(*(s.strip() for s in pair), rules, algebra) for pair in zip(*sides, strict=True)
        )
    if (angles := [ANGLE.fullmatch(text) for text in (gold, answer)]) and all(angles):
        return angles[0][2] == angles[1][2] and {*angles[0].group(1, 3)} == {*angles[1].group(1, 3)}
    plain = [text.rstrip("%").strip() for text in (gold, answer)]
    values = [rational(text) for text in plain]
    percent = [text.endswith("%") for text in (gold, answer)]
    if None not in values:
        return any(near(wanted, found, plain, rules.tolerance) for wanted, found in scaled(values, percent))
    # Math-Verify reads 7^{30000000} \bmod 13 as 13, and a sentence as a product of its letters.
    if any(pattern.search(answer) and not pattern.search(gold) for pattern in (MODULUS, PROSE)):
        return False
    if not answer or "\\ldots" in gold + answer:
        return False
    if too_large(plain[0]) or too_large(plain[1]):
        raise TooLarge
    return algebra(*plain) if rules.tolerance is None else algebra(*plain, rules.tolerance)


def same_ratio(fraction: list[str], ratio: list[str]) -> bool:
    """Whether a fraction is a ratio of two numbers: `\\frac34` is 3:4; 0.75 is none."""
    value, parts = rational(fraction[0]), [rational(part) for part in ratio]
    written = re.search(r"\\frac|/", fraction[0])
    return bool(written) and None not in (value, *parts) and parts[1] != 0 and value == parts[0] / parts[1]


def rational(text: str) -> Fraction | None:
    """The exact value of a whole number, decimal, fraction or mixed number; None for anything else."""
    text = text.strip()
    if (decimal := number(text)) is not None:
        return Fraction(decimal) if abs(decimal.adjusted()) < 1000 else None
    plain = re.sub(r"\s+", "", text)
    if match := notation.PLAIN_FRACTION.fullmatch(plain):
        sign, top, bottom = match.group(1), match.group(2) or match.group(4), match.group(3) or match.group(5)
        return (-1 if sign == "-" else 1) * Fraction(int(top), int(bottom)) if int(bottom) else None
    if match := notation.MIXED.fullmatch(text):
        sign, whole, top, bottom = match.groups()
        return (
            (-1 if sign == "-" else 1) * (int(whole) + Fraction(int(top), int(bottom)))
            if int(bottom)
            else None
        )
    return None


def scaled(values: list[Fraction], percent: list[bool]) -> list[tuple[Fraction, Fraction]]:
    """The pairs (gold, answer) of which one must be equal: 12.5 % is 12.5 and 0.125, but 900 % is not 9
    and 0.35 % not 0.35.
    """
    gold, answer = values
    if percent == [True, False]:
        return [(gold, answer), (gold / 100, answer)]
    if percent == [False, True] and gold.denominator > 1:
        return [(gold, answer / 100)] + [(gold, answer)] * (abs(gold) >= 1)
    return [(gold, answer)]


def significant(text: str) -> int:
    """Significant digits of the decimals in a text; 0 where there is no decimal point."""
    return max(
        (len(re.sub(r"^0*|\.", "", found.lstrip("0."))) for found in re.findall(r"\d*\.\d+", text)), default=0
    )


def near(gold, answer, texts: list[str], tolerance: float | None = None) -> bool:
    """Equal, or off by no more than the tolerance; or one of both a decimal with at least DIGITS digits, all
    of them right (rounded or cut off), of a value that the other writes exactly.
    """
    if gold == answer:
        return True
    difference = abs(gold - answer)
    if tolerance is not None:
        return difference <= tolerance * (1 + 1e-9)
    if not gold or not answer:
        return False
    digits = [significant(text) for text in texts]
    if all(digits) or not any(digits):
        # 3.2 and 3.2000000001: an artefact of floating point, no other value.
        return max(digits) > 12 and difference < abs(gold) / 10**12
    if max(digits) < DIGITS:
        return False
    if (written := number(texts[0] if digits[0] else texts[1])) is not None and max(digits) <= 12:
        place = Fraction(10) ** written.as_tuple().exponent
        exact, rounded = (abs(value) for value in ((answer, gold) if digits[0] else (gold, answer)))
        return difference <= place * Fraction(11, 20) or 0 < exact - rounded < place
    return difference <= abs(gold) * Fraction(11, 2 * 10 ** min(max(digits), 12))


BIG_POWER = re.compile(r"\^\s*(?:\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}|(\w))")
BIG = 3000  # a factorial's operand, an exponent's digits times the base's; a sum's or product's limit


def too_large(text: str) -> bool:
    """Whether working out what a text names could take more than moments: towers, factorials, binomials, long
    sums.

    An upper bound by what stands there, on text alone: sympy would compute the number while it reads it.
    """
    numbers = [int(found) for found in re.findall(r"\d+", text) if len(found) < 400]
    largest = max(numbers, default=0)
    if re.search(r"[)\]}!]\s*!", text) or any(
        int(found) > BIG for found in re.findall(r"(?<![.\d])(\d{1,400})\s*!", text)
    ):
        return True
    for braced, bare in BIG_POWER.findall(text):
        exponent = braced or bare
        digits = [int(found) for found in re.findall(r"\d+", exponent) if len(found) < 400]
        if (
            "^" in exponent
            and any(value > 3 for value in digits)
            and not re.search(r"[a-zA-Z]", re.sub(r"\\[a-z]+", "", exponent))
        ):
            return True
        if max(digits, default=0) > 20_000 or (
            max(digits, default=0) > 60
            and re.search(r"\)\s*\^", text)
            and re.search(r"[a-z]\w*\s*[+-]", text)
        ):
            return True
    bounded = re.search(r"\\(?:binom|sum|prod|lfloor|lceil|int|iint|gcd|lcm)(?![a-z])|\\[dt]binom", text)
    if bounded and (
        largest > BIG
        or (
            "^" in re.sub(r"\\(?:sum|prod|i*int)(?:_\{[^{}]*\}|_\w)?\^", "", text)
            and largest > 9
            and re.search(r"\\[dt]?binom|\\lfloor|\\lceil", text)
        )
    ):
        return True
    matrices = (
        re.findall(r"\\begin\{\w*matrix\}(.*?)\\end", text, re.DOTALL)
        if re.search(r"\\det|vmatrix", text)
        else []
    )
    nested = text.count("\\int") > 1 or (text.count("\\int") and re.search(r"\^\s*\{?[^{}]*\^", text))
    crowded = text.count("\\frac") > 40 or text.count("(") > 60 or text.count("{") > 120
    return any(matrix.count("\\\\") > 2 for matrix in matrices) or bool(nested) or crowded


def equations(gold: str, answer: str, algebra) -> bool:
    """Whether two equations say the same, by their sides; an equation is no expression."""
    if gold.count("=") != 1 or answer.count("=") != 1:
        return False
    if too_large(gold) or too_large(answer):
        raise TooLarge
    return algebra(gold, answer)


# ---- by algebra


@functools.lru_cache(maxsize=256)
def parsed(text: str):
    """The sympy object that Math-Verify's parser reads in a normal form, None where it reads none.

    Its own list of units is off: it takes a letter behind a number for one.
    """
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    config = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    text = normalize_latex(notation.SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text), config)
    import sympy

    imaginary = re.search(r"(?<![a-zA-Z\\])i(?![a-zA-Z])", text)
    try:
        found = latex2sympy(text, is_real=not imaginary, normalization_config=None)
        if imaginary and isinstance(found, sympy.Expr):  # a lone `i` is read as a letter
            found = found.subs({letter: sympy.I for letter in found.free_symbols if letter.name == "i"})
        return found
    except MemoryError:
        raise
    except Exception:  # whatever the parser makes of a bad text: it reads nothing
        return None


def algebraically_same(gold: str, answer: str, tolerance: float | None = None) -> bool:
    """By sympy: numbers by their value, equations by their sides, everything else as Math-Verify compares it.

    No time limit: run it where it can be killed.
    """
    import math_verify
    import sympy

    left, right = parsed(gold), parsed(answer)
    if left is None or right is None:
        return False
    if all(isinstance(item, sympy.Expr) and item.is_number for item in (left, right)):
        values = [item.evalf(40) for item in (left, right)]
        if all(value.is_number and value.is_finite for value in values):
            return near_values(values, [gold, answer], tolerance)
    if isinstance(left, sympy.Eq) and isinstance(right, sympy.Eq):
        sides = [item.lhs - item.rhs for item in (left, right)]
        if any(sympy.expand(sides[0] + sign * sides[1]) == 0 for sign in (1, -1)):
            return True
        if any(item.has(sympy.Sum, sympy.Product, sympy.Integral) for item in sides):
            return False
        factor = sympy.simplify(sides[0] / sides[1])
        return bool(factor.is_number and factor != 0 and factor.is_finite)
    if (
        isinstance(left, sympy.Expr)
        and isinstance(right, sympy.Expr)
        and left.free_symbols != right.free_symbols
    ):
        left, right = sympy.simplify(left), sympy.simplify(right)
        if left.free_symbols != right.free_symbols:
            return False
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):
        under_roots = {
            factor
            for power in left.atoms(sympy.Pow) | right.atoms(sympy.Pow)
            if power.exp.is_Rational and power.exp.q == 2
            for factor, exponent in power.base.as_powers_dict().items()
            if factor.is_Symbol and exponent.is_odd  # of √(x²) it is not known
        }
        positive = {
            symbol: sympy.Dummy(symbol.name, positive=True) for symbol in under_roots
        }  # √n: n is no negative number
        left, right = left.subs(positive), right.subs(positive)
    return math_verify.verify([left], [right], timeout_seconds=None)


def near_values(values: list, texts: list[str], tolerance: float | None) -> bool:
    """`near` for sympy numbers, complex ones too; without a decimal they must agree to 25 digits."""
    gold, answer = values
    if not (gold.is_real and answer.is_real):
        size = abs(gold)
        return bool(abs(gold - answer) <= size * (5e-7 if any(map(significant, texts)) else 1e-25))
    gold, answer = (Fraction(str(value)) for value in (gold, answer))
    if not any(map(significant, texts)) and tolerance is None:
        return abs(gold - answer) <= abs(gold) / 10**25
    return near(gold, answer, texts, tolerance)


def is_expression(gold: str) -> bool:
    """Whether a mathematical object can be read in a gold answer, or in every entry of its list."""
    found = entries(name_and_value(as_written(gold).text)[1])
    pieces = [cell for row in found[1] for cell in row.split("&")] if found[0] == "matrix" else found[1]
    return all(
        parsed(piece.rstrip("%").strip()) is not None or rational(piece.rstrip("%")) is not None
        for piece in pieces
    )


def equivalent(
    gold: str, answer: str, precision: int = 6, strict: bool = True, allow_set_relation_comp: bool = False
) -> bool:
    """Plain Math-Verify's grade of two answers, each in a box unless it brings delimiters: what ours is
    measured beside.
    """
    import math_verify

    delimited = re.compile(r"(?<!\\)\$|\\boxed|\\\(|\\\[")
    left, right = (
        math_verify.parse(text if delimited.search(text) else rf"\boxed{{{text}}}", parsing_timeout=None)
        for text in (gold, answer)
    )
    return math_verify.verify(
        left,
        right,
        float_rounding=precision,
        strict=strict,
        allow_set_relation_comp=allow_set_relation_comp,
        timeout_seconds=None,
    )


# ---- comparisons that may be killed


def quick(pair: Pair) -> bool | None:
    """The grade where strings, numbers, words or structure decide; None where algebra has to."""
    gold, answer = pair.gold, pair.answer
    if pair.grader == "plain":
        return None
    if pair.grader == "gold":
        return (
            True
            if rational(as_written(gold).text) is not None
            or notation.words(gold)
            or notation.words_listed(gold)
            or notation.chosen_letter(gold)
            else None
        )
    if pair.grader == "headline" and max(len(gold), len(answer)) > LONGEST:
        return gold == answer
    if pair.grader == "paper":
        if max(len(gold), len(answer)) > LONGEST:
            return (
                evaluator.stripped(gold[: LONGEST + 1]).lower()
                == evaluator.stripped(answer[: LONGEST + 1]).lower()
            )
        if evaluator.anagrams(gold, answer):
            return False
        return evaluator.without_algebra(evaluator.stripped(gold), evaluator.stripped(answer))

    def undecided(*_):
        raise Open

    try:
        return same(gold, answer, pair.rules, undecided)
    except (Open, TooLarge):
        return None


def by_paper(gold: str, answer: str) -> bool:
    """The evaluator's grade; TooLarge where working it out could take more than moments (there: a
    time-out).
    """
    if too_large(gold) or too_large(answer):
        raise TooLarge
    return evaluator.graded_equal(gold, answer)


DECIDE = {
    "headline": lambda pair: same(pair.gold, pair.answer, pair.rules),
    "paper": lambda pair: by_paper(pair.gold, pair.answer),
    "gold": lambda pair: is_expression(pair.gold),
    "plain": lambda pair: equivalent(pair.gold, pair.answer),
}


class TookTooLong(BaseException):
    """A comparison ran into its time limit. No Exception, so that no library can swallow it."""


@functools.cache
def read_tables():
    """Read something once, so that no answer pays for the parsers' tables; what forks afterwards has them."""
    logging.disable(logging.CRITICAL)
    for text in (r"\frac{1}{2}+\sqrt{3}", "x^2-1", r"\frac{\pi}{4}"):
        parsed(text), evaluator.by_sympy(text)
    algebraically_same("x^2-1", "(x-1)(x+1)")


def prepare_worker():
    """In a new worker: tables read, memory bound, parsers quiet."""
    logging.disable(logging.CRITICAL)
    read_tables()
    with open("/proc/self/statm", encoding="ascii") as pages:
        held = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


def decide(pair: Pair, wall: float = SECONDS) -> tuple[bool | None, float]:
    """In a worker: the grade of one pair (None: given up, it took too long or too much memory) and the
    seconds it of CPU it took.
    """

    armed = True  # a signal may arrive while the timers are set or cleared

    def stop(_signal, _frame):
        if armed:
            raise TookTooLong

    begun = time.process_time()
    timers = {signal.SIGALRM: (signal.ITIMER_REAL, wall), signal.SIGPROF: (signal.ITIMER_PROF, SECONDS)}
    try:
        try:
            for alarm, (timer, seconds) in timers.items():
                signal.signal(alarm, stop)
                signal.setitimer(timer, seconds)
            grade = DECIDE[pair.grader](pair)
        finally:
            armed = False
            for timer, _ in timers.values():
                signal.setitimer(timer, 0)
    except TooLarge:
        return None, SECONDS
    except (TookTooLong, MemoryError):
        grade = None
    except Exception:  # what a parser cannot digest is no answer; any bad text may raise anything there
        grade = False
    return grade, time.process_time() - begun


class Comparer:
    """Grades of pairs: the quick ones at once, the others from `workers` processes, each pair decided once.

    A comparison that overruns its time inside C code is killed with its process, which is replaced. Workers
    start on the first pair that needs one: a study whose answers are whole numbers never waits for sympy.
    """

    def __init__(self, workers: int = 1):
        self.workers, self.pool, self.known = workers, None, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pool is not None:
            self.pool.stop()
            self.pool.join()

    def start(self):
        """The pool, started on the first call. Workers fork from a server that has imported the parsers and
        read their tables once.
        """
        import multiprocessing
        from multiprocessing import forkserver

        from pebble import ProcessPool

        temporary.short_tmp()  # the server listens in a folder below it
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["valley.read_once"])
        path = os.environ.get(
            "PYTHONPATH"
        )  # all that the server finds modules by: it takes no sys.path from us
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), path]))
        try:
            forkserver.ensure_running()
        finally:
            if path is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = path
        self.pool = ProcessPool(self.workers, context=context, initializer=prepare_worker)
        return self.pool

    def __call__(self, pairs) -> dict[Pair, tuple[bool | None, float]]:
        """Grade (None: given up) and seconds of CPU of every pair."""
        open_pairs = []
        for pair in dict.fromkeys(pairs):
            if pair not in self.known:
                grade = quick(pair)
                if grade is None:
                    self.pool = self.pool or self.start()  # it starts while the others are looked at
                    open_pairs.append(pair)
                else:
                    self.known[pair] = grade, 0.0
        pool = self.pool
        waiting = {pair: pool.schedule(decide, args=[pair], timeout=KILL_AFTER) for pair in open_pairs}
        for count, (pair, future) in enumerate(waiting.items()):
            grade = outcome(future)
            if grade[0] is None and (grade[1] < SECONDS / 2 or (grade[1] == KILL_AFTER and busy())):
                grade = outcome(pool.schedule(decide, args=[pair, KILL_WHEN_BUSY], timeout=KILL_WHEN_BUSY))
            self.known[pair] = grade
            if count and count % 1000 == 0:
                print(f"{count} of {len(waiting)} answers compared by algebra", file=sys.stderr, flush=True)
        return {pair: self.known[pair] for pair in pairs}


def busy() -> bool:
    """Whether far more processes want this machine than it has processors."""
    return os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


def outcome(future) -> tuple[bool | None, float]:
    """The result of a worker; a killed or broken one gives no grade."""
    from concurrent.futures import TimeoutError as Overrun

    from pebble import ProcessExpired

    try:
        return future.result()
    except (Overrun, ProcessExpired):
        return None, KILL_AFTER


def unreadable(golds: list[str]) -> list[str]:
    """Gold answers that are no number, no words and nothing Math-Verify can read: only the same string would
    equal them.
    """
    pairs = [Pair("gold", gold, gold) for gold in golds]
    with Comparer() as comparer:
        grades = comparer(pairs)
    return [pair.gold for pair in dict.fromkeys(pairs) if not grades[pair][0]]
