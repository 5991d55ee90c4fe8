"""Is a response right, and if not, how did it fail? One grader for evaluation (grade.py) and for the RL reward (rl.py).

A response counts as correct when it finished by itself and the content of its last `\\boxed{}` equals the gold answer:
as strings after light normalisation, or as numbers. Nothing is evaluated or executed.
"""

import re
from decimal import Decimal, InvalidOperation

OUTCOMES = ("correct", "wrong", "no answer", "truncated", "looping")


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` with balanced braces, None when there is none."""
    at = text.rfind("\\boxed{")
    if at < 0:
        return None
    start, depth = at + len("\\boxed{"), 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return None


def normal(answer: str) -> str:
    """An answer without white space, dollar signs and a final full stop."""
    return re.sub(r"\s+", "", answer.replace("\\$", "").replace("$", "").replace("\\!", "")).rstrip(".")


def number(answer: str) -> Decimal | None:
    """The decimal number an answer writes (`27.0`, `1,234`, `025`), None when it is not one."""
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", normal(answer))
    if len(plain) > 100 or not re.fullmatch(r"[+-]?\d*\.?\d*", plain):
        return None
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None


def equal(gold: str, answer: str) -> bool:
    """True when the two answers are the same string after `normal`, or the same number."""
    if normal(gold) == normal(answer):
        return True
    left, right = number(gold), number(answer)
    return left is not None and left == right


def is_looping(text: str) -> bool:
    """True when the last quarter of the text repeats one block at least three times exactly (a lower bound of looping)."""
    tail = text[-max(1, len(text) // 4) :]
    return any(tail.endswith(tail[-size:] * 3) for size in range(1, len(tail) // 3 + 1))


def grade(response: str, finish_reason: str, gold: str) -> dict:
    """The verdict on one response: `answer` (extracted), `boxed`, `correct` and `outcome` (one of OUTCOMES).

    `finish_reason` is `stop` (the model ended) or `length` (cut at the limit): a cut response is never correct.
    """
    answer = last_boxed(response)
    correct = finish_reason == "stop" and answer is not None and equal(gold, answer)
    if finish_reason != "stop":
        outcome = "looping" if is_looping(response) else "truncated"
    else:
        outcome = "correct" if correct else "no answer" if answer is None else "wrong"
    return {"answer": answer, "boxed": answer is not None, "correct": correct, "outcome": outcome}
