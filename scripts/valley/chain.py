"""The miniature's task: chains of two-digit additions, answered with short or long chain of thought.

A problem is a two-digit start and k labelled one-digit operands; every running total stays within 10..99:

    63b+5c-7    short  b+5:63+5=68c-7:68-7=61\\boxed{61}
                long
                <think>b+5:63+5:3+5=8,6+0=6,so68.wait,check68-5:8-5=3,6-0=6,so63ok,so68;c-7:...;</think>\\boxed{61}

Both answer by the same steps; the long one spells out column arithmetic and checks every step by its inverse,
so it is about five times as long, as R1's traces are to an instruct model's answers. Its checks always
succeed: they add length and teach no repair. Problems are held out by a hash of their text, never by chance.
"""

import hashlib
import random
from typing import NamedTuple

LABELS = "bcdefg"


class Problem(NamedTuple):
    """A start in 10..99 and its (label, signed one-digit operand) pairs."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The problem as the model reads it, without role tokens: `63b+5c-7`."""
        return f"{self.start}" + "".join(f"{label}{operand:+d}" for label, operand in self.steps)

    @property
    def answer(self) -> int:
        """The last running total."""
        return self.start + sum(operand for _, operand in self.steps)


def draw(rng: random.Random, length: int) -> Problem:
    """A random problem with `length` operands."""
    total = start = rng.randint(10, 99)
    steps = []
    for label in rng.sample(LABELS, length):
        operand = rng.choice([o for o in range(-9, 10) if o and 10 <= total + o <= 99])
        steps.append((label, operand))
        total += operand
    return Problem(start, tuple(steps))


def is_test(problem: Problem) -> bool:
    """True for the 1/16 of all problems that no training text may contain."""
    return hashlib.md5(problem.text.encode()).digest()[0] < 16


def draw_many(rng: random.Random, count: int, lengths: list[int], test: bool) -> list[Problem]:
    """`count` different problems of the held-out side (`test`) or the other, `lengths` in equal turns."""
    found: dict[str, Problem] = {}
    for _ in range(1000 * count):
        if len(found) == count:
            return list(found.values())
        problem = draw(rng, lengths[len(found) % len(lengths)])
        if is_test(problem) == test:
            found.setdefault(problem.text, problem)
    raise ValueError(f"only {len(found)} of {count} different problems with {lengths} operands were found")


def working(total: int, operand: int) -> str:
    """Column arithmetic of one step, units then tens: `:8-5=3,6-0=6,so63`; a borrow shows as units above 9."""
    result = total + operand
    units, tens = total % 10, total // 10
    carry = result // 10 - tens
    if operand < 0 and carry:
        units += 10
    # Carry and borrow both have the operand's sign; without either the tens column reads +0 or -0.
    sign = "+" if operand > 0 else "-"
    column = units + operand
    return f":{units}{operand:+d}={column},{tens}{sign}{abs(carry)}={result // 10},so{result}"


def short_response(problem: Problem) -> str:
    """The short chain of thought, without end token."""
    text, total = "", problem.start
    for label, operand in problem.steps:
        text += f"{label}{operand:+d}:{total}{operand:+d}={total + operand}"
        total += operand
    return text + f"\\boxed{{{total}}}"


def long_response(problem: Problem) -> str:
    """The long chain of thought: each step worked in columns, then checked by its inverse; no end token."""
    text, total = "<think>", problem.start
    for label, operand in problem.steps:
        result = total + operand
        text += f"{label}{operand:+d}:{total}{operand:+d}{working(total, operand)}"
        text += f".wait,check{result}{-operand:+d}{working(result, -operand)}ok,so{result};"
        total = result
    return text + f"</think>\\boxed{{{total}}}"


def fragment(rng: random.Random) -> str:
    """Two unrelated column workings, the second as if it checked the first: never chained.

    With fragments in pre-training the base knows the vocabulary of long answers, and to come back to a result
    after a check, but not the form of a whole answer; without them SFT stays near zero at any size.
    """
    (first, a), (second, b) = ((p.start, p.steps[0][1]) for p in (draw(rng, 2), draw(rng, 2)))
    text = rng.choice(["", "<think>"]) + f"{first}{a:+d}{working(first, a)}"
    text += rng.choice([".wait,check", ";"]) + f"{second}{b:+d}{working(second, b)}"
    return text + rng.choice([f"ok,so{first + a}", ";", "</think>"])


def look_up(rng: random.Random, lengths: list[int]) -> tuple[str, str]:
    """(prompt, response): a problem's operands repeated in order, unrelated workings between two items.

    Labels are drawn at random, so that finding the next item takes a look at the prompt; consecutive labels
    let the base get stuck on counting.
    """
    problem = draw(rng, rng.choice(lengths))
    response = rng.choice(["", "<think>"])
    for label, operand in problem.steps:
        response += f"{label}{operand:+d}"
        for _ in range(rng.choice((1, 2))):
            other = draw(rng, 2)
            step = other.steps[0][1]
            response += f":{other.start}{step:+d}{working(other.start, step)}"
        response += ";"
    return problem.text, response
