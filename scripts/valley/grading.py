"""Is a response right, and if not, how did it fail? One grader for evaluation (grade.py) and for the RL
reward (rl.py).

Three verdicts, from the strictest idea of an answer to the loosest:

- **boxed**: the response finished by itself and the last `\\boxed{}` after its reasoning equals the gold
  answer (Math-Verify, gold first).
- **headline**: the same; a response without a box may state its answer in words ("the final answer is …").
  Never a bare last number. Untrained instruct models box less often than trained ones: boxes alone would bend
  the valley.
- **paper**: the protocol of the Qwen2.5-Math evaluator (paper, section 4): the last box, else what follows
  "answer is", else the last number of the text, text that was cut off included. See `equality.paper_equal`.
"""

import collections
import re

from valley.equality import LONGEST, Comparer, Pair, normal

# Each grader's name and the column of its grades.
GRADERS = {"headline": "correct", "boxed": "correct_boxed", "paper": "correct_paper"}
OUTCOMES = ("correct", "wrong", "no answer", "truncated", "looping")
BOX = re.compile(r"\\boxed\s*\{")
STATEMENT = re.compile(r"\b(?:final\s+answer|answer)\**\s*(?:is|:|=)[\s:*]*", re.IGNORECASE)
MATHS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
SINGLE = re.compile(r"(?<![\w.^_{\\/-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\d^_}/])")
LAST_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def last_match(pattern: re.Pattern, text: str) -> re.Match | None:
    """The last match of a pattern in a text."""
    return next(iter(collections.deque(pattern.finditer(text), maxlen=1)), None)


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}` of a text, of the inner one where boxes nest; None if empty or not
    closed.
    """
    box = last_match(BOX, text)
    if box is None:
        return None
    depth = 1
    for token in re.finditer(r"\\.|[{}]", text[box.end() :], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return text[box.end() : box.end() + token.start()].strip() or None
    return None


def stated(text: str) -> str | None:
    """What the last "the final answer is …" of a text states: its first formula, else its only number, else
    the sentence.

    `John spends **35 hours** a week` states 35; of several numbers none is chosen.
    """
    statement = last_match(STATEMENT, text)
    if statement is None:
        return None
    rest = text[statement.end() : statement.end() + 2000]
    formula = MATHS.search(rest)
    sentence = re.split(r"\n|\.(?=\s|$)", rest, maxsplit=1)[0]
    if formula and formula.start() <= len(sentence):
        return next(group for group in formula.groups() if group is not None).strip()
    sentence = sentence.strip(" *`\t")
    numbers = (
        SINGLE.findall(sentence)
        if re.search(r"[A-Za-z]{2}", sentence) and "\\" not in sentence.replace("\\$", "")
        else []
    )
    return numbers[0] if len(numbers) == 1 else sentence or None


def paper_answer(text: str) -> tuple[str | None, str | None]:
    """The answer as the Qwen2.5-Math evaluator extracts it, and from where: `box`, `statement` or `last
    number`.

    Known to differ: a statement ends with its sentence here, there with the text.
    """
    if "boxed" in text:
        if (boxed := last_boxed(text)) is not None:
            return boxed, "box"
        return text[text.rindex("boxed") + len("boxed") :].lstrip("{ ").split("$")[0].strip() or None, "box"
    at = text.lower().rfind("answer is")
    if at >= 0 and (answer := stated(text[at:])):
        return answer, "statement"
    number = last_match(LAST_NUMBER, text)
    return (number.group().rstrip(",").replace(",", ""), "last number") if number else (None, None)


def is_looping(text: str) -> bool:
    """True when the last quarter of the text is one block repeated at least three times exactly (a lower
    bound of looping).

    The last repetition may be cut off, as the token limit does it; a quarter below 16 characters shows
    nothing.
    """
    tail = text[-(len(text) // 4) :]
    if len(text) < 64:
        return False
    period = 0
    while (period := tail.find(tail[:8], period + 1)) > 0 and 3 * period <= len(tail):
        if tail.startswith(tail[period:]):
            return True
    return False


def extract(response: str, finish_reason: str) -> dict:
    """What a response answers: `answer` (headline), `boxed` (it comes from a box), `answer_paper` and
    `source_paper`.
    """
    final = response.rsplit("</think>", 1)[-1]
    box = last_boxed(final)
    answer = box if box is not None else stated(final)
    paper, source = paper_answer(response)
    # Beyond LONGEST an answer equals nothing, and none is kept whole: it may be the entire text.
    answer, paper = (text and text[: LONGEST + 1] for text in (answer, paper))
    return {
        "answer": answer,
        "boxed": box is not None,
        "answer_paper": paper,
        "source_paper": source,
        "finished": finish_reason == "stop",
    }


def grade(responses: list[tuple[str, str, str]], comparer: Comparer, paper: bool = True) -> list[dict]:
    """Verdicts on (response, finish reason, gold answer) triples; finish reason `stop` means the model ended
    by itself.

    Each has `answer`, `boxed`, `answer_paper`, `source_paper`; `correct`, `correct_boxed`, `correct_paper`;
    `outcome` (one of OUTCOMES, by the headline); `timeout`: a comparison was given up, and counts as wrong;
    `seconds` of comparing. Without `paper` the paper's verdict is not sought (and False): a reward has no use
    for it.
    """
    rows = [extract(response, finish) for response, finish, _ in responses]
    pairs = []
    for row, (_, _, gold) in zip(rows, responses, strict=True):
        headline = (
            Pair("headline", gold, row["answer"]) if row["finished"] and row["answer"] is not None else None
        )
        loose = (
            Pair("paper", gold, row["answer_paper"]) if paper and row["answer_paper"] is not None else None
        )
        pairs.append((headline, loose))
    verdicts = comparer([pair for both in pairs for pair in both if pair])
    verdicts[None] = (False, 0.0)
    for row, (headline, loose), (response, _, _) in zip(rows, pairs, responses, strict=True):
        row["correct"], row["correct_paper"] = bool(verdicts[headline][0]), bool(verdicts[loose][0])
        row["correct_boxed"] = row["correct"] and row["boxed"]
        row["timeout"] = None in (verdicts[headline][0], verdicts[loose][0])
        row["seconds"] = verdicts[headline][1] + verdicts[loose][1]
        row["outcome"] = outcome(row, response)
        del row["finished"]
    return rows


def outcome(row: dict, response: str) -> str:
    """The outcome class of a graded response."""
    if not row["finished"]:
        return "looping" if is_looping(response) else "truncated"
    return "correct" if row["correct"] else "no answer" if row["answer"] is None else "wrong"


def majority(answers: list[str | None], correct: list[bool]) -> float:
    """maj@k of one problem: is the most frequent answer right? Ties count by the share of tied answers that
    are right.

    Answers are the same when their normalised strings are, or when both are right; no answer has no vote.
    """
    votes: dict[str, int] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            key = "right" if right else "wrong " + normal(answer)
            votes[key] = votes.get(key, 0) + 1
    most = max(votes.values(), default=0)
    winners = [key for key, count in votes.items() if count == most]
    return ("right" in winners) / len(winners) if winners else 0.0
