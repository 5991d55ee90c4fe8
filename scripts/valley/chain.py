"""The miniature's task: chains of additions, answered with short or long chain of thought; and its textbook.

A problem is a start and k labelled one-digit operands, listed in any order and worked in the order of their
labels, which count down to b; every running total stays within 10..29:

    18b-9c+7    short  c+7:18+7=25b-9:25-9=16\\boxed{16}
                long   <think>c+7:18+7:8+7=15,1+1=2,so25.wait,recheckc:18+7:8+7=15,1+1=2,so25;
                       b-9:...;</think>\\boxed{16}

The next label follows from the last one, and its operand has to be looked up by the label: listed in the
order of the work, an operand lies at a distance that depends on little else, and a base learns distances
that fail in long answers.

Both answer by the same steps. The long one works each in columns, and rechecks the steps with the largest
operands: it works the step once more, and what it finds then counts. Some of the first workings forget the
carry; those are always rechecked, so that some reflections mend an error. Were the steps to recheck drawn by
lot, there would be nothing to learn but a rate, and eight traces are learned by heart: models then rechecked
as often as their eight happened to suggest. Problems are held out by a hash of their text, never by chance.

**What a base learns from is limited on purpose, so that data and not the moment training stops limit the
model.** The textbook's short answers are sloppy: they forget a carry (or borrow) with probability FORGET,
and a base learns to do so too. Its worked solutions and tables teach every skill of the long form, but of
the column facts (units digit and operand, 180 in all) only KNOWN are printed right; the others are
misprinted, any value from 0 to 18 but the right one, so that nothing but data teaches them. Which ones is
drawn by seed, a class of facts at a time. Classes are alike, and traces and held-out problems meet them
evenly: seeds then differ in what they lack, hardly in how much.
"""

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

LABELS = "gfedcb"
LOW, HIGH = 10, 29
OPERANDS = [operand for operand in range(-9, 10) if operand]
FORGET = 0.2  # of the carries of the textbook's short answers
KNOWN = 0.6  # of the column facts, in fifths
CLASSES = 5  # of each kind of column facts
RECHECK, SLIP = 0.5, 0.1  # of the operands, the largest; of the first workings that have a carry
GROUP, BLOCK = 16, 64  # problems that meet each fact as rarely as they can, and as often as any other

Fact = tuple[int, int]  # units digit of the total, operand
Kind = tuple[bool, bool]  # is an addition, has neither carry nor borrow


class Problem(NamedTuple):
    """A start in 10..29 and its (label, signed one-digit operand) pairs, in the order of the work."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The problem as the model reads it, without role tokens: `18b-9c+7`, in a fixed shuffle."""
        items = [f"{label}{operand:+d}" for label, operand in self.steps]
        random.Random(f"{self.start}{items}").shuffle(items)
        return f"{self.start}" + "".join(items)

    @property
    def answer(self) -> int:
        """The last running total."""
        return self.start + sum(operand for _, operand in self.steps)

    @property
    def worked(self) -> list[tuple[str, int, int]]:
        """Each step as (label, the total that it is worked from, operand)."""
        totals = itertools.accumulate((operand for _, operand in self.steps), initial=self.start)
        return [(label, total, operand) for total, (label, operand) in zip(totals, self.steps, strict=False)]

    @property
    def facts(self) -> list[Fact]:
        """The column fact (units digit of the total, operand) of each step."""
        return [(total % 10, operand) for _, total, operand in self.worked]


def draw_operand(rng: random.Random, total: int) -> int:
    """An operand that keeps the running total in range."""
    return rng.choice([operand for operand in OPERANDS if LOW <= total + operand <= HIGH])


def draw(rng: random.Random, length: int) -> Problem:
    """A random problem with `length` operands."""
    total = start = rng.randint(LOW, HIGH)
    steps = []
    for label in LABELS[-length:]:
        operand = draw_operand(rng, total)
        steps.append((label, operand))
        total += operand
    return Problem(start, tuple(steps))


def is_test(problem: Problem) -> bool:
    """True for the 1/16 of all problems that no training text may contain."""
    return hashlib.md5(problem.text.encode()).digest()[0] < 16


def draws(rng: random.Random, length: int, test: bool) -> Iterator[Problem]:
    """Random problems of one side, without end."""
    while True:
        problem = draw(rng, length)
        if is_test(problem) == test:
            yield problem


def too_few_drawn(found: int, count: int, lengths: list[int]) -> str:
    """What is wrong where so many different problems are not there."""
    return f"only {found} of {count} different problems with {lengths} operands were found"


def draw_many(
    rng: random.Random, count: int, lengths: list[int], test: bool, but: Container[str] = ()
) -> list[Problem]:
    """Different problems of the held-out side (`test`) or of the training side, `lengths` in equal turns;
    none whose text is in `but`.
    """
    found: dict[str, Problem] = {}
    for _ in range(1000 * count):
        if len(found) == count:
            return list(found.values())
        problem = draw(rng, lengths[len(found) % len(lengths)])
        if is_test(problem) == test and problem.text not in but:
            found.setdefault(problem.text, problem)
    raise ValueError(too_few_drawn(len(found), count, lengths))


def draw_even(
    rng: random.Random, count: int, lengths: list[int], test: bool = False, candidates: int = 24
) -> list[Problem]:
    """Different problems of the training side or the held-out one, so that their facts are met evenly.

    Each is the one of so many random problems whose facts were met least often in its GROUP, their kinds and
    classes too, and in its BLOCK: sixteen problems then meet 56 facts and not 47. Eight meet 28, of which a
    base lacks 11 with a standard deviation of 1.5; of facts in no classes it would be 2.7.
    """
    found: dict[str, Problem] = {}
    group, block = Counter(), Counter()

    def met(problem: Problem) -> float:
        own, total = Counter(), 0.0
        for fact in problem.facts:
            total += 4 * (group[fact] + own[fact]) + 0.5 * block[fact]
            total += 0.15 * (group[kind(fact)] + own[kind(fact)])
            total += 0.2 * (group[CLASS_OF[fact]] + own[CLASS_OF[fact]])
            own.update([fact, kind(fact), CLASS_OF[fact]])
        return total

    for _ in range(100 * count):
        if len(found) == count:
            return list(found.values())
        if len(found) % GROUP == 0:
            group.clear()
        if len(found) % BLOCK == 0:
            block.clear()
        length = lengths[len(found) % len(lengths)]
        drawn = sorted(itertools.islice(draws(rng, length, test), candidates), key=met)
        chosen = next((problem for problem in drawn if problem.text not in found), None)
        if chosen is None:
            continue
        found[chosen.text] = chosen
        group.update([*chosen.facts, *map(kind, chosen.facts), *(CLASS_OF[fact] for fact in chosen.facts)])
        block.update(chosen.facts)
    raise ValueError(too_few_drawn(len(found), count, lengths))


def without_carry(total: int, operand: int) -> int | None:
    """The result without carry or borrow; None where there is neither, or the result leaves the range."""
    result = total + operand
    carry = result // 10 - total // 10
    wrong = result - 10 * carry
    return wrong if carry and LOW <= wrong <= HIGH else None


def upper_units(units: int, operand: int) -> int:
    """What the operand is added to in the units column: with a borrow, ten more than the digit."""
    return units + 10 if units + operand < 0 else units


def working(total: int, operand: int, units: int | None = None, forget: bool = False) -> tuple[str, int]:
    """Column arithmetic of one step, units then tens, and its result: (`25-9:15-9=6,2-1=1,so16`, 16).

    A borrow shows as units above 9. `units`: what stands for the value of the units column, if not the
    right one.
    """
    carry = (total + operand) // 10 - total // 10
    upper = upper_units(total % 10, operand)
    units = upper + operand if units is None else units
    # Carry and borrow both have the operand's sign; without either the tens column reads +0 or -0.
    moved = 0 if forget else abs(carry)
    tens = total // 10 + (moved if operand > 0 else -moved)
    result = 10 * tens + units % 10
    sign = "+" if operand > 0 else "-"
    return (
        f"{total}{operand:+d}:{upper}{operand:+d}={units},{total // 10}{sign}{moved}={tens},so{result}",
        result,
    )


def short_response(problem: Problem) -> str:
    """The short chain of thought, without end token."""
    text, total = "", problem.start
    for label, operand in problem.steps:
        text += f"{label}{operand:+d}:{total}{operand:+d}={total + operand}"
        total += operand
    return text + f"\\boxed{{{total}}}"


def slips(rng: random.Random, total: int, operand: int, slip: float) -> bool:
    """Whether a first working forgets its carry: where it can, with probability `slip`."""
    return without_carry(total, operand) is not None and rng.random() < slip


def long_step(
    label: str,
    total: int,
    operand: int,
    slipped: bool = False,
    again: bool = False,
    units: Callable[[int, int], int] | None = None,
) -> tuple[str, int]:
    """One working of a step in a long chain of thought, the first or (`again`) a recheck, and its result.

    `units` gives the value printed for a column of (total, operand), without it the right one.
    """
    work, result = working(total, operand, units and units(total, operand), slipped)
    return (f".wait,recheck{label}:" if again else f"{label}{operand:+d}:") + work, result


def is_rechecked(operand: int, share: float = RECHECK) -> bool:
    """Is an operand among this share of the magnitudes 1..9, the largest?"""
    return abs(operand) > max(OPERANDS) * (1 - share)


def long_response(problem: Problem, recheck: float = RECHECK, slip: float = SLIP) -> str:
    """The long chain of thought, without end token; the same problem always has the same."""
    rng = random.Random(problem.text)
    text = "<think>"
    for step in problem.worked:
        slipped = slips(rng, *step[1:], slip)
        text += long_step(*step, slipped=slipped)[0]
        text += long_step(*step, again=True)[0] if slipped or is_rechecked(step[2], recheck) else ""
        text += ";"
    return f"{text}</think>\\boxed{{{problem.answer}}}"


def kind(fact: Fact) -> Kind:
    """The kind of a column fact."""
    units, operand = fact
    return operand > 0, 0 <= units + operand <= 9


def dealt() -> dict[Fact, tuple[Kind, int]]:
    """The class of each column fact: its kind and one of CLASSES, between which operands are dealt evenly."""
    rng = random.Random("classes")
    kinds: dict[Kind, list[Fact]] = {}
    for operand in sorted(OPERANDS, key=abs):
        for units in range(10):
            kinds.setdefault(kind((units, operand)), []).append((units, operand))
    return {
        fact: (name, number)
        for name, facts in kinds.items()
        for start in range(0, len(facts), CLASSES)
        for fact, number in zip(
            facts[start : start + CLASSES], rng.sample(range(CLASSES), CLASSES), strict=True
        )
    }


CLASS_OF = dealt()


def known_facts(seed: int, share: float = KNOWN) -> frozenset[Fact]:
    """The column facts that the textbook of this seed prints right.

    They are whole classes, as many among additions and subtractions, with carry and without.
    """
    rng = random.Random(f"facts{seed}")
    kinds = sorted({name for name, _ in CLASS_OF.values()})
    right = {
        (name, number) for name in kinds for number in rng.sample(range(CLASSES), round(share * CLASSES))
    }
    return frozenset(fact for fact, found in CLASS_OF.items() if found in right)


def printed(rng: random.Random, units: int, operand: int, known: Container[Fact]) -> int:
    """The value of a column fact as the textbook has it: an unknown one has any but the right one."""
    right = upper_units(units, operand) + operand
    if (units, operand) in known:
        return right
    wrong = rng.randrange(18)
    return wrong + (wrong >= right)


def table(rng: random.Random, known: frozenset[Fact], rows: int = 12) -> str:
    """Column facts in any order, `8+7=15,15-9=6,`; without such tables some seeds learn facts late."""
    drawn = [(rng.randrange(10), rng.choice(OPERANDS)) for _ in range(rows)]
    return "".join(f"{upper_units(u, o)}{o:+d}={printed(rng, u, o, known)}," for u, o in drawn)


def textbook(
    rng: random.Random, length: int, style: str, known: frozenset[Fact] = frozenset()
) -> tuple[Problem, str]:
    """A problem of the training side and its answer as the textbook prints it, `style` short or long.

    Operands are drawn on from the total that is printed, right or wrong, so that no sum leaves the range.
    """

    def units(total: int, operand: int) -> int:
        return printed(rng, total % 10, operand, known)

    while True:
        total = start = rng.randint(LOW, HIGH)
        steps, text = [], "<think>" if style == "long" else ""
        for label in LABELS[-length:]:
            operand = draw_operand(rng, total)
            steps.append((label, operand))
            if style == "long":
                slipped = slips(rng, total, operand, SLIP)
                step, result = long_step(label, total, operand, slipped, units=units)
                text += step
                if slipped or is_rechecked(operand):
                    step, result = long_step(label, total, operand, again=True, units=units)
                    text += step
                text, total = text + ";", result
            else:
                wrong, result = without_carry(total, operand), total + operand
                result = wrong if wrong is not None and rng.random() < FORGET else result
                text += f"{label}{operand:+d}:{total}{operand:+d}={result}"
                total = result
        problem = Problem(start, tuple(steps))
        if not is_test(problem):
            return problem, text + ("</think>" if style == "long" else "") + f"\\boxed{{{total}}}"
