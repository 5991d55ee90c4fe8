"""How many calculations does a response carry out, and how many of them are wrong? (paper, section 7)

A calculation is an operation that an equality works off: `61*78=4758` is one, `77+31-20=108-20` is one, and
so is each step of `a = b = c`. Only numbers count, `x + 2 = 5` states nothing that can be checked.
Expressions are read by Python's own parser into a tree and worked out with exact fractions; nothing is
evaluated as code.
"""

import ast
import itertools
import operator
import re
from fractions import Fraction
from typing import NamedTuple

LONGEST = 200  # characters of one side of an equality
SIGNS = {
    "×": "*",
    "·": "*",
    "∗": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    "\\,": "",
}
SIGN = re.compile("|".join(map(re.escape, SIGNS)))
FRACTION = re.compile(r"\\[dt]?frac\{([\d.]+)\}\{([\d.]+)\}")
RUN = re.compile(r"[-+*/().\d \t=]+")
# The miniature's short answers put the next step's label right behind a result: 10+4=14e+1:14+1=15.
NO_START, NO_END = re.compile(r"[^\s$([{:,;>\"'*|&]"), re.compile(r"(?![b-g][+-]\d:|\\boxed)[\w^\\%√!|]")
BULLET = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
OPERATION = re.compile(r"[\d)] *[-+*/] *[-(.\d]")
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value(node, text: str) -> tuple[Fraction, int]:
    """Value of an expression tree, and the number of operations in it; ValueError for what is no plain
    arithmetic.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        (left, before), (right, after) = value(node.left, text), value(node.right, text)
        return OPERATORS[type(node.op)](left, right), before + after + 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner, count = value(node.operand, text)
        return (-inner if isinstance(node.op, ast.USub) else inner), count
    if isinstance(node, ast.Constant):
        return Fraction(ast.get_source_segment(text, node)), 0
    raise ValueError("no arithmetic")


def side(text: str) -> tuple[Fraction, int, int] | None:
    """Value, operations and decimal places of one side of an equality; None for what cannot be read."""
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text.strip().rstrip("."))
    if not text or len(text) > LONGEST:
        return None
    try:
        worked_out, operations = value(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return worked_out, operations, len(text.rpartition(".")[2]) if "." in text else 0


class Calculation(NamedTuple):
    """An equality that works off `operations` operations, and where its line lies in the text."""

    equality: str
    operations: int
    wrong: bool
    line: tuple[int, int]


def equalities(text: str):
    """Yield the sides of every chain of equalities between numbers in a line, signs and fractions written
    plainly.
    """
    line = BULLET.sub("", text)
    line = FRACTION.sub(r"(\1/\2)", SIGN.sub(lambda match: SIGNS[match.group()], line))
    line = re.sub(r"(?<=\d),(?=\d{3}\b)", "", line)
    for match in RUN.finditer(line):
        run = re.sub(r"\s+\($", " ", match.group())
        if "=" not in run or not OPERATION.search(run):
            continue
        sides = run.split("=")
        # A bracket may enclose the whole equality: `(3*4 = 12)`.
        sides[0] = sides[0].lstrip(" (") if sides[0].count("(") > sides[0].count(")") else sides[0]
        sides[-1] = sides[-1].rstrip(" .)") if sides[-1].count(")") > sides[-1].count("(") else sides[-1]
        # What stands beside the numbers may belong to the expression: `x+3=5`, `√2*3=3√2`, `3*4=12%`,
        # `6=3*(a+b)`.
        before, after = line[: match.start()][-1:], line[match.end() :][:20]
        if NO_START.match(before) and (run[0] not in " \t" or sides[0].lstrip().startswith(tuple("+-*/"))):
            sides = sides[1:]
        unfinished = sides[-1:] and sides[-1].rstrip().endswith(tuple("+-*/("))
        if unfinished or (NO_END.match(after) and run[-1] not in " \t") or "remainder" in after:
            sides = sides[:-1]
        yield sides


def carried_out(response: str):
    """Yield the calculations of a response in their order; a result may be rounded or cut to the places it
    shows.
    """
    start = 0
    for line in response.split("\n"):
        place = (start, start + len(line))
        start += len(line) + 1
        for sides in equalities(line) if "=" in line else []:
            for before, after in itertools.pairwise(sides):
                if not OPERATION.search(before):
                    continue
                left, right = side(before), side(after)
                if left is None or right is None or left[1] <= right[1]:
                    continue
                error = abs(left[0] - right[0])
                wrong = error >= Fraction(1, 10 ** right[2]) if right[2] else error != 0
                yield Calculation(f"{before}={after}", left[1] - right[1], wrong, place)


def count(response: str) -> tuple[int, int, int | None]:
    """(calculations carried out, wrong equalities, calculations up to and with the first wrong one or
    None).
    """
    made = wrong = 0
    first = None
    for calculation in carried_out(response):
        made += calculation.operations
        wrong += calculation.wrong
        first = made if calculation.wrong and first is None else first
    return made, wrong, first


def first_error(response: str) -> tuple[int, int] | None:
    """Start and end, in characters, of the first wrong equality; of its whole line where signs were rewritten
    to read it.
    """
    for calculation in carried_out(response):
        if calculation.wrong:
            start, end = calculation.line
            equality = calculation.equality.strip()
            at = response.find(equality, start, end)
            return (start, end) if at < 0 else (at, at + len(equality))
    return None
