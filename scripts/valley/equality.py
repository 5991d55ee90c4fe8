"""Is this answer the gold answer? Two graders: Math-Verify for our headline, the Qwen2.5-Math evaluator's
for the paper's.

Strings and numbers are compared at once. What needs algebra goes to worker processes that are killed when one
answer takes too long or too much memory (`Comparer`), for sympy can hang for ever on what a model writes.
Nothing is evaluated as code.
"""

import functools
import logging
import math
import re
import resource
import signal
import sys
import time
from decimal import Decimal
from typing import NamedTuple

from valley import environment

# characters; a longer answer is compared as a string only (10⁶ digits cost Math-Verify 4 s and 600 MB)
LONGEST = 500
# of CPU for one comparison, after which it counts as `timeout`: CPU, or a busy machine would change grades
SECONDS = 2.0
# seconds of wall time, for what runs in C code that the worker's own alarm cannot interrupt
KILL_AFTER = 15.0
MEMORY = 2 << 30  # bytes of address space a worker may have

DELIMITED = re.compile(r"(?<!\\)\$|\\boxed|\\\(|\\\[")
TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox)\s*\{([^{}]*)\}")
NUMBER = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.\d*)?(?<=[\d.])")
SCIENTIFIC = re.compile(r"(?<=\d)[eE]([+-]?\d+)")
PROSE = re.compile(r"(?:[A-Za-z']{2,}[ ,]+){4}")
MODULUS = re.compile(r"\\[bp]?mod\b")


class Pair(NamedTuple):
    """A comparison to be made: by which grader (`headline`, `paper`; `gold`: can it be read at all?), of
    what with what.
    """

    grader: str
    gold: str
    answer: str


def normal(answer: str) -> str:
    """An answer without white space, dollar signs, thin spaces, size commands and a final full stop."""
    plain = re.sub(r"\\(?:[!,;: ]|left\b|right\b|\$)|\$", "", answer)
    plain = re.sub(r"\\[dt]frac\b", r"\\frac", plain)
    return re.sub(r"\s+", "", plain).rstrip(".")


def number(answer: str) -> Decimal | None:
    """The decimal number an answer writes (`27.0`, `1,234`, `025`), None when it is not one."""
    plain = normal(answer)
    if len(plain) > 100 or not re.search(r"\d", plain) or not NUMBER.fullmatch(plain):
        return None
    return Decimal(plain.replace(",", ""))


def words(answer: str) -> str | None:
    """The words of an answer that is `\\text{…}` as a whole, or of one with letters only; None for anything
    else.
    """
    inner = TEXT.fullmatch(answer.strip())
    plain = (inner.group(1) if inner else answer).strip().rstrip(".").strip()
    plain = re.fullmatch(r"\(?([^\W\d_]+(?:[ -][^\W\d_]+)*)\)?", plain)
    return re.sub(r"\s+", " ", plain.group(1)).casefold() if plain else None


def quick(pair: Pair) -> bool | None:
    """The verdict where strings, numbers or words decide; None where algebra has to."""
    gold, answer = pair.gold, pair.answer
    if pair.grader == "gold":
        return True if number(gold) is not None or words(gold) is not None else None
    if normal(gold) == normal(answer) != "":
        return True
    left, right = number(gold), number(answer)
    if left is not None and right is not None:
        if pair.grader == "paper":
            return close(float(left), float(right))
        whole = left == left.to_integral() and right == right.to_integral()
        if left == right or whole or abs(left - right) > Decimal("0.01") * max(1, abs(left)):
            return left == right
    # A word is no product of letters: for Math-Verify \text{even} equals \text{neve} unless this comes first.
    if TEXT.fullmatch(gold.strip()) and words(gold) is not None and words(answer) is not None:
        return words(gold) == words(answer)
    if len(gold) > LONGEST or len(answer) > LONGEST or not normal(answer):
        return False
    # Math-Verify reads 7^{30000000} \bmod 13 as 13, and a sentence as a product of its letters.
    if any(pattern.search(answer) and not pattern.search(gold) for pattern in (MODULUS, PROSE)):
        return False
    return None


def as_math(text: str) -> str:
    """An answer as Math-Verify takes it: in a box unless it brings delimiters of its own, `3.8e5` as a power
    of ten.
    """
    text = SCIENTIFIC.sub(r" \\times 10^{\1}", text)
    return text if DELIMITED.search(text) else f"\\boxed{{{text}}}"


@functools.lru_cache(maxsize=256)
def parsed(text: str) -> list:
    """What Math-Verify reads in an answer: sympy objects, and the string itself. No time limit of its own."""
    import math_verify

    return math_verify.parse(as_math(text), parsing_timeout=None)


def equivalent(
    gold: str, answer: str, precision: int = 6, strict: bool = True, allow_set_relation_comp: bool = False
) -> bool:
    """Math-Verify's verdict on two answers, the gold one first (its comparison is not symmetric).

    No time limit of its own: run it where it can be killed. Options as in `math_verify.verify`.
    """
    import math_verify

    if "%" not in gold + answer and far_apart(expression(gold), expression(answer)):
        return False
    return math_verify.verify(
        parsed(gold),
        parsed(answer),
        float_rounding=precision,
        strict=strict,
        allow_set_relation_comp=allow_set_relation_comp,
        timeout_seconds=None,
    )


def far_apart(left, right) -> bool:
    """True for two real numbers that differ by more than a hundredth: sympy needs no algebra to tell them
    apart.
    """
    import sympy

    if not all(isinstance(item, sympy.Expr) and item.is_number for item in (left, right)):
        return False
    values = [item.evalf(10) for item in (left, right)]
    if not all(value.is_Float or value.is_Integer for value in values):
        return False
    return bool(abs(values[0] - values[1]) > 0.01 * max(1, abs(values[0])))


def expression(text: str):
    """The sympy object that Math-Verify reads in an answer, None where it reads none."""
    return next((item for item in parsed(text) if not isinstance(item, str)), None)


def is_expression(gold: str, _answer: str) -> bool:
    """True when Math-Verify reads a mathematical object in a gold answer."""
    return expression(gold) is not None


# ---- the paper's grader


UNITS = [
    "degrees?",
    "degree",
    "inches",
    "inch",
    "feet",
    "foot",
    "cm",
    "meters?",
    "metres?",
    "miles?",
    "mph",
    "km",
    "kg",
    "grams?",
    "units?",
    "square",
    "cubic",
    "cents?",
    "dollars?",
    "hours?",
    "minutes?",
    "seconds?",
    "days?",
    "weeks?",
    "months?",
    "years?",
    "points?",
    "students?",
    "ways",
    "people",
]
SIMPLER = [
    (r"\n|\\[!,;: ]|\\left\b|\\right\b|\\\$|\$|\^\{?\\circ\}?|\\degree", ""),
    (r"\\[dt]frac\b", r"\\frac"),
    (
        r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox|mathbf)\s*\{(?:\s*(?:"
        + "|".join(UNITS)
        + r")\s*)+\}(?:\^\{?\d\}?)?",
        "",
    ),
    (TEXT.pattern, r"\1"),
    (r"(?<=[\d}])\s*(?:" + "|".join(UNITS) + r")\b\.?", ""),
    (r"\\?%|\\%", ""),
    (r"\s+", ""),
    (r"^[a-zA-Z]{1,2}(?:=|\\in)(?=.)", ""),
    (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac(\d)\{", r"\\frac{\1}{"),
    (r"\\frac\{([^{}]*)\}(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt(\w)", r"\\sqrt{\1}"),
    (r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}"),
    (r"(?<![\d.])\.(?=\d)", "0."),
    (r"(\d)\.0+(?!\d)", r"\1"),
    (r"[.,:/]+$", ""),
]
SIMPLER = [(re.compile(pattern), replacement) for pattern, replacement in SIMPLER]


def paper_normal(answer: str) -> str:
    """An answer without units, degree and percent signs, size commands, `x=` in front, and with full
    fractions and roots.
    """
    for pattern, replacement in SIMPLER:
        answer = pattern.sub(replacement, answer)
    return answer


def close(gold: float, answer: float) -> bool:
    """Equal within 10⁻⁴, the answer read as it stands, as a percentage and as a share."""
    return any(math.isclose(answer, value, rel_tol=1e-4) for value in (gold, gold / 100, gold * 100))


def parts(text: str) -> list[str]:
    """The entries of a tuple, interval, set or matrix row in brackets; one entry where there are none."""
    if not re.fullmatch(r"[(\[].+[)\]]", text):
        return [text]
    found, depth, start = [], 0, 1
    for at, char in enumerate(text[1:-1], 1):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            found.append(text[start:at])
            start = at + 1
    return [*found, text[start:-1]]


def paper_equal(gold: str, answer: str) -> bool:
    """The paper's verdict on two answers: equal as normalised strings, as numbers, entry by entry, or by
    sympy.

    Written from the published behaviour of the Qwen2.5-Math evaluator (paper, section 4). It is generous, as
    that is: brackets are not told apart, percentages equal shares, four digits suffice. Known to differ:
    expressions are read by Math-Verify's parser in place of latex2sympy 1, and the list of units is shorter.
    """
    gold, answer = paper_normal(gold), paper_normal(answer)
    if gold.casefold() == answer.casefold() != "":
        return True
    if re.fullmatch(r"\(?[A-E]\)?", gold) and (letters := re.findall(r"\b[A-E]\b", answer)):
        return letters[-1] == gold.strip("()")
    left, right = number(gold), number(answer)
    if left is not None and right is not None:
        return close(float(left), float(right))
    if re.sub(r"[{}()]", "", gold) == re.sub(r"[{}()]", "", answer) != "":
        return True
    if len(parts(gold)) == len(parts(answer)) > 1:
        return all(map(paper_equal, parts(gold), parts(answer)))
    if "{,}" in gold + answer:
        return False  # no thousands separator there: 10{,}000 equals no number
    return symbolically_equal(gold, answer)


def symbolically_equal(gold: str, answer: str) -> bool:
    """True when sympy finds the difference of both zero, or their values within 10⁻⁴; equations by their two
    sides.
    """
    import sympy

    left, right = expression(gold), expression(answer)
    if left is None or right is None:
        return False
    if left == right:
        return True
    if isinstance(left, sympy.Equality) and isinstance(right, sympy.Equality):
        left, right = left.lhs - left.rhs, right.lhs - right.rhs
        return bool(sympy.simplify(left - right) == 0 or sympy.simplify(left + right) == 0)
    if isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase):
        return left.shape == right.shape and all(
            sympy.simplify(a - b) == 0 for a, b in zip(left, right, strict=True)
        )
    if not isinstance(left, sympy.Expr) or not isinstance(right, sympy.Expr):
        return False
    if left.is_number and right.is_number:
        left, right = complex(left), complex(right)
        return abs(left - right) <= 1e-4 * abs(left)
    return bool(sympy.simplify(left - right) == 0)


# ---- comparisons that may be killed

DECIDE = {"headline": equivalent, "paper": paper_equal, "gold": is_expression}


class TookTooLong(BaseException):
    """A comparison ran into its time limit. No Exception, so that no library can swallow it."""


def prepare_worker():
    """In a new worker: bound its memory, quieten the parsers."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)


def decide(pair: Pair) -> tuple[bool | None, float]:
    """In a worker: the verdict on one pair (None: it took too long or too much memory) and the seconds it
    took.
    """

    def stop(_signal, _frame):
        raise TookTooLong

    begun = time.perf_counter()
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        verdict = DECIDE[pair.grader](pair.gold, pair.answer)
    except (TookTooLong, MemoryError):
        verdict = None
    except Exception:  # what a parser cannot digest is no answer; any bad text may raise anything there
        verdict = False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return verdict, time.perf_counter() - begun


class Comparer:
    """Verdicts on pairs: the quick ones at once, the others from `workers` processes, each pair decided once.

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
        """The pool, started on the first call. Workers fork from a server that has imported Math-Verify once."""
        import multiprocessing

        from pebble import ProcessPool

        environment.short_tmp()  # the server listens in a folder below it
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["math_verify"])
        self.pool = ProcessPool(self.workers, context=context, initializer=prepare_worker)
        return self.pool

    def __call__(self, pairs) -> dict[Pair, tuple[bool | None, float]]:
        """Verdict (None: timeout) and seconds of every pair."""
        open_pairs = []
        for pair in dict.fromkeys(pairs):
            if pair not in self.known:
                verdict = quick(pair)
                if verdict is None:
                    open_pairs.append(pair)
                else:
                    self.known[pair] = verdict, 0.0
        pool = (self.pool or self.start()) if open_pairs else None
        waiting = {pair: pool.schedule(decide, args=[pair], timeout=KILL_AFTER) for pair in open_pairs}
        for count, (pair, future) in enumerate(waiting.items()):
            self.known[pair] = outcome(future)
            if count and count % 1000 == 0:
                print(f"{count} of {len(waiting)} answers compared by algebra", file=sys.stderr, flush=True)
        return {pair: self.known[pair] for pair in pairs}


def outcome(future) -> tuple[bool | None, float]:
    """The result of a worker; a killed or broken one gives no verdict."""
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
        verdicts = comparer(pairs)
    return [pair.gold for pair in dict.fromkeys(pairs) if not verdicts[pair][0]]
