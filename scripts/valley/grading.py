"""Is a response right, and if not, how did it fail? One grading for evaluation (grade.py) and for the RL
reward (rl.py).

Three graders, from the strictest idea of an answer to the loosest:

- **boxed**: the response finished by itself and the last `\\boxed{}` after its thought equals the gold answer
  (`equality.same`).
- **headline**: the same; a response without a box may state its answer in words ("the final answer is …").
  Never a bare last number. Untrained instruct models box less often than trained ones: boxes alone would bend
  the valley. An answer that only repeats a formula of the problem counts for neither (`is_copied`).
- **paper**: the protocol of the Qwen2.5-Math evaluator (paper, section 4), text that was cut off included:
  `evaluator.py`.

A study may ask for another form than the box (`prompt.answer`, see `asked`). A task may list its answers
(`tasks.*.answers`): headline and boxed then compare these words and nothing else, without mathematics
(`chosen`).
"""

import collections
import functools
import re
from typing import NamedTuple

from valley import evaluator, notation, thoughts
from valley.equality import LONGEST, Comparer, Pair, Rules, rational
from valley.notation import normal

# What each grader is called, and the column of its grade.
GRADERS = {"headline": "correct", "boxed": "correct_boxed", "paper": "correct_paper"}
OUTCOMES = ("correct", "wrong", "no answer", "truncated", "looping")
# Two backslashes are the end of a row, or one that was escaped once too often in front of a box.
BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
BOX_OR_BRACE = re.compile(r"\\f?box(?:ed)?\s*\{|\\\\(?!f?box(?:ed)?\s*\{)|\\[{}]|[{}]")
NO_SPACE = re.compile(r"\S")
HOLDS_NOTHING = re.compile(
    r"(?:[\s~.…_{}]|\\[ ,;:!_]|\\q?quad|\\[lc]?dots|\\(?:text|mathrm)(?=\s*\{\s*\})|\\phantom\s*\{[^{}]*\}|\\f?box(?:ed)?)*"
    r"|(?:\\text\s*\{)?\s*(?:(?:the|your|final)\s+)*answer\s*\}?",
    re.IGNORECASE,
)
SIGN_BEFORE = re.compile(r"(?:^|[=$({\[:>\n]|\\[(\[])[ \t]*[-−–]$")
JOINED = re.compile(r"[\s$,.\\()]*(?:\\text\s*\{\s*)?(?:and|or|,)?[\s}]*[\s$\\(]*", re.IGNORECASE)
# `$x=\boxed{1}$ or $x=\boxed{2}$`: boxes with a name before each.
NAMED = re.compile(r"(?<![A-Za-z])\\?[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*$")
NAMED_JOINED = re.compile(
    r"[ \t$\\()]*(?:,\s*)?(?:\\text\s*\{\s*)?(?:and|or|,)[ \t}]*[ \t$\\(]*\\?[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*",
    re.IGNORECASE,
)
STATEMENT = re.compile(
    r"\b(?:final\s+answer|answer)\**(?:\s+(?:to|of|for|in)\b[^.\n:=]{1,60}?)?\s*(?:\bis\b|:|=)[\s:*]*",
    re.IGNORECASE,
)
LABEL = re.compile(r"\\text(?:bf)?\s*\{\s*((?:final\s+)?answer)\s*:?\s*\}\s*:?", re.IGNORECASE)
MATHS = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$((?:\\.|[^$\\])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
NEGATED = re.compile(r"\b(?:not|never|neither|cannot)\b|n['’]t\b|\\neq?(?![a-z])|≠", re.IGNORECASE)
# Around a listed answer stand words; signs of mathematics make another answer of it: `b+1`, `\\lnot b`.
NO_WORDS = re.compile(r"[-+*/=<>^|&~¬∧∨⊕→−\d]|\\(?!text|math|boxed|[,;:! {}$])")
FUNCTION = r"(?:a?(?:sin|cos|tan)h?|arc\w+|sec|csc|cot|log|ln|exp|sqrt|max|min|gcd|lcm)"
# A sentence ends with its line, a full stop, a tick, or a dash that begins words of prose (`5 - as we saw`);
# any other dash is a minus sign: `x = -3`, `5 - 2i`, `p - qr`, `1 - cos x`.
ENDS = re.compile(
    rf"\n|\.(?=\s|$)|\s(?=✅|(?:[-–]{{1,3}}\s+|—\s*)(?!{FUNCTION}\b)(?:[A-Za-z]{{4}}|[A-Za-z]{{2,3}}[,;]?\s+[A-Za-z]{{2}}))"
)
SHORT_WORDS = {"an", "as", "at", "by", "if", "in", "is", "it", "of", "or", "to", "us", "we"}
CALCULATES = re.compile(r"\s*[-+*/=^–−×]\s*[\d(]")  # `$5$ - 3`: the formula is not all that is stated
VERB = re.compile(r"\b(?:is|are|equals|equal to|be)\b", re.IGNORECASE)
SINGLE = re.compile(r"(?<![\w.^_{\\/-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\d^_}/])")

# `12 pieces are left`: what is counted is the subject, and the words behind the verb state nothing.
COUNTED = re.compile(
    r"[\s*\\$]*([+-]?\d+(?:,\d{3})*(?:\.\d+)?)[*\s]+(?:(?:[A-Za-z*'-]+\s+){1,4}(?:is|are)\b"
    r"|(?:is|are)\s+(?:left|remaining|needed|required|now)\b)"
)

FORMS = {"<answer>": r"(?is)<answer>((?:(?!<answer>).)*?)</answer>", "####": r"(?m)^.*####[ \t]*(.+?)[ \t]*$"}
PATTERN_SECONDS = 1.0  # for one response; what takes longer answers nothing


class Case(NamedTuple):
    """What is graded: a response, its finish reason (`stop`: the model ended by itself), the gold answer, the
    problem (for answers that only repeat it), the gold's rules, and where the task lists its answers these
    words.
    """

    text: str
    finish: str
    gold: str
    problem: str = ""
    rules: Rules = Rules()
    answers: tuple[str, ...] = ()


# ---- what a response answers


def last_match(pattern: re.Pattern, text: str) -> re.Match | None:
    """The last match of a pattern in a text."""
    return next(iter(collections.deque(pattern.finditer(text), maxlen=1)), None)


def boxes(text: str) -> list[tuple[int, int, str | None]]:
    """Start, end and content of every box that holds something (dots and the word `answer` hold a place), the
    inner one where boxes nest; at the end, with content None, one that is never closed. One pass over the
    text.
    """
    found, opened = [], []  # of each open brace: where its box begins and its content, None for a plain one
    first = BOX.search(text)
    for token in BOX_OR_BRACE.finditer(text, first.start()) if first else ():
        sign = token.group()
        if sign.endswith("{") and not sign.startswith("\\{"):
            opened.append((token.start(), token.end()) if len(sign) > 1 else None)
        elif sign == "}" and opened and (box := opened.pop()) and not (found and found[-1][0] > box[0]):
            inside = box[1], token.start()
            short = inside[1] - inside[0] < 100
            if NO_SPACE.search(text, *inside) and not (short and HOLDS_NOTHING.fullmatch(text, *inside)):
                found.append((box[0], token.end(), text[slice(*inside)].strip()))
    left = [box[0] for box in opened if box]
    if left and left[-1] > (found[-1][0] if found else -1):
        found.append((left[-1], len(text), None))
    return found


def last_boxed(text: str) -> str | None:
    """The content of the last box of a text that holds something; boxes that `and` or a comma joins are one
    answer; a sign in front of the box belongs to it. None where the last box is never closed.
    """
    found = boxes(text)
    if not found or found[-1][2] is None:
        return None
    start, _, answer = found[-1]
    for before, end, content in reversed(found[:-1]):
        between = text[end:start]
        if content is None or not between.strip() or len(between) > 40:
            break
        named = NAMED_JOINED.fullmatch(between) and NAMED.search(text[max(0, before - 20) : before])
        if not named and not JOINED.fullmatch(between):
            break
        start, answer = before, f"{content}, {answer}"
    return f"-({answer})" if SIGN_BEFORE.search(text[max(0, start - 8) : start]) else answer


def stated(text: str) -> str | None:
    """What the last "the final answer is …" of a text states: its value, None where it is negated or several
    stand.

    The value follows the last `is` or `equals` of the sentence: its only formula, else its only number, else
    its words. `John spends **35 hours** a week` states 35.
    """
    text = LABEL.sub(r"\1: ", text)
    statement = last_match(STATEMENT, text)
    if statement is None:
        return None
    rest = text[statement.end() : statement.end() + 2000]
    formulas = list(MATHS.finditer(rest))
    # A full stop inside a formula ends nothing.
    masked = MATHS.sub(lambda match: "$" * len(match.group()), rest)
    sentence = ENDS.split(masked, maxsplit=1)[0]
    if NEGATED.search(sentence):
        return None
    start = max((verb.end() for verb in VERB.finditer(sentence)), default=0)
    formulas = [match for match in formulas if start <= match.start() < len(sentence)]
    if len(formulas) > 1 or (formulas and CALCULATES.match(sentence, formulas[0].end())):
        return None
    if formulas:
        value = next(group for group in formulas[0].groups() if group is not None).strip()
        return None if NEGATED.search(value) else value or None
    words = rest[start : len(sentence)].strip(" *`\t:")
    if has_prose(words.replace("\\$", "")):
        numbers = SINGLE.findall(words)
        if not numbers and (counted := COUNTED.match(rest[: len(sentence)])):
            numbers = [counted.group(1)]
        if numbers:
            return numbers[0] if len(numbers) == 1 else None
    return words or None


def has_prose(text: str) -> bool:
    """Whether words stand in a text, around its number: not in `x - 1`, `p - 2qr`, `1 - cos x`."""
    if "\\" in text or re.search(rf"(?<![A-Za-z]){FUNCTION}(?![A-Za-z])", text):
        return False
    found = re.findall(r"[A-Za-z]{2,}", text)
    return any(word.lower() in SHORT_WORDS or notation.is_word(word) for word in found)


def asked(text: str, form: str) -> str | None:
    """The last answer that a response gives in the form that the study asks for: `box`, `<answer>`, `####`,
    or a regular expression whose group holds it.
    """
    if form == "box":
        return last_boxed(text)
    import regex

    found = None
    try:
        for match in regex.finditer(FORMS.get(form, form), text, timeout=PATTERN_SECONDS):
            found = next((group for group in match.groups() if group is not None), found)
    except TimeoutError:
        return None
    return (found and (last_boxed(found) or found).strip()) or None


def check_form(form: str):
    """Raise ValueError, saying why, for an answer pattern that cannot work."""
    import regex

    try:
        groups = regex.compile(FORMS.get(form, form)).groups
    except regex.error as error:
        raise ValueError(f"is no regular expression ({error})") from None
    if form != "box" and not groups:
        raise ValueError("has no group that would hold the answer")


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


def extract(
    response: str, finish_reason: str, form: str = "box", tags: tuple[str, str] = thoughts.THINK
) -> dict:
    """What a response answers: `answer` (headline), `boxed` (it stands in the form asked for), `answer_paper`
    and `source_paper`.
    """
    final = thoughts.answered(response, tags)
    box = asked(final, form)
    answer = box if box is not None else stated(final)
    paper, source = evaluator.answer(response)
    # Beyond LONGEST an answer equals nothing, and none is kept whole: it may be the entire text.
    answer, paper = (text and text[: LONGEST + 1] for text in (answer, paper))
    return {
        "answer": answer,
        "boxed": box is not None,
        "answer_paper": paper,
        "source_paper": source,
        "finished": finish_reason == "stop",
    }


# ---- answers that a task lists


def chosen(answer: str, answers: tuple[str, ...]) -> str | None:
    """Which of a task's listed answers an answer names, whatever its case and the words around it: `Knave`,
    `\\text{B is a knave.}`; None where it names none or several, denies one, or calculates with it.
    """
    listed = {word.casefold(): word for word in answers}
    longest = sorted(map(re.escape, listed), key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w\\])(?:{'|'.join(longest)})(?!\w)")
    text = answer.casefold()
    found, around = set(pattern.findall(text)), pattern.sub("", text).replace("**", "")
    if len(found) != 1 or NEGATED.search(around) or NO_WORDS.search(around):
        return None
    return listed[found.pop()]


# ---- answers that repeat the problem


def formulas(problem: str) -> list[str]:
    """The formulas of a problem, and the sides of those that relate two."""
    found = [next(filter(None, groups), "").strip() for groups in MATHS.findall(problem)]
    sides = [
        side.strip()
        for formula in found
        for side in re.split(r"=|<|>|\\(?:le|ge|leq|geq|ne|neq|equiv)(?![a-z])", formula)
    ]
    return list(dict.fromkeys(formula for formula in [*found, *sides] if formula))


def longest_formula(problem: str) -> str | None:
    """The longest formula of a problem: what the policy that boxes it would answer."""
    whole = [next(filter(None, groups), "").strip() for groups in MATHS.findall(problem)]
    return max(whole, key=len, default=None)


@functools.lru_cache(maxsize=8192)
def copy_shape(answer: str):
    """An answer as far as copying goes: its value as it is written, whatever the notation, the order of a
    list or the name in front. `3/2` and `\\frac{3}{2}` have one shape, `1.5` another.
    """
    text = re.sub(
        r"(?<![\w}])(\d+)/(\d+)(?![\w{])", r"\\frac{\1}{\2}", normal(notation.as_written(answer).text)
    )
    text = notation.NAME.sub("", text)
    plain = rational(text)
    if plain is not None and "frac" not in text and "." not in text:
        return plain
    return tuple(sorted(re.sub(r"[()\[\]]|\\[{}]", "", text).split(",")))


def is_copied(answer: str, gold: str, problem: str) -> bool:
    """Whether an answer only repeats a formula of the problem where the gold answer is written in another
    form.

    A problem without formulas is searched as text: `93/3+77` is copied from "Compute … 93/3+77".
    """
    if (
        not problem
        or copy_shape(answer) == copy_shape(gold)
        or notation.words(answer)
        or notation.chosen_letter(answer)
    ):
        return False
    wanted = copy_shape(answer)
    if any(copy_shape(formula) == wanted for formula in formulas(problem)):
        return True
    bare = normal(answer)
    if not re.search(r"[-+*/^]|\\(?:times|cdot|div|frac|sqrt)", bare):
        return False
    return bool(
        re.search(rf"(?<![\w.+*/^-]){re.escape(bare)}(?![\w*/^]|\.\d)", normal(re.sub(r"[$]", "", problem)))
    )


# ---- grades


def grade(
    responses: list[tuple],
    comparer: Comparer,
    paper: bool = True,
    form: str = "box",
    tags: tuple[str, str] = thoughts.THINK,
) -> list[dict]:
    """Grades of Cases (or tuples that start with their first three fields).

    Each has `answer` (of a task that lists its answers the one that is named), `boxed`, `answer_paper`,
    `source_paper`; `correct`, `correct_boxed`, `correct_paper`;
    `copied`: the answer equals the gold one and only repeats the problem, the headline does not count it;
    `outcome` (one of OUTCOMES, by the headline); `timeout`: a comparison was given up, and counts as wrong;
    `seconds` of comparing. Without `paper` the paper's grade is not sought (and False): a reward has no use
    for it.
    """
    responses = [Case(*response) for response in responses]
    rows = [extract(response.text, response.finish, form, tags) for response in responses]
    pairs = []
    for row, response in zip(rows, responses, strict=True):
        asked_for = row["finished"] and row["answer"] is not None and not response.answers
        headline = Pair("headline", response.gold, row["answer"], response.rules) if asked_for else None
        loose = (
            Pair("paper", response.gold, row["answer_paper"])
            if paper and row["answer_paper"] is not None
            else None
        )
        pairs.append((headline, loose))
    grades = comparer([pair for both in pairs for pair in both if pair])
    grades[None] = (False, 0.0)
    for row, (headline, loose), response in zip(rows, pairs, responses, strict=True):
        equal, row["correct_paper"] = bool(grades[headline][0]), bool(grades[loose][0])
        if response.answers and row["answer"] is not None:
            row["answer"] = chosen(row["answer"], response.answers) or row["answer"]
            equal = row["finished"] and row["answer"] == chosen(response.gold, response.answers)
        row["copied"] = (
            equal and not response.answers and is_copied(row["answer"], response.gold, response.problem)
        )
        row["correct"] = equal and not row["copied"]
        row["correct_boxed"] = row["correct"] and row["boxed"]
        row["timeout"] = None in (grades[headline][0], grades[loose][0])
        row["seconds"] = grades[headline][1] + grades[loose][1]
        row["outcome"] = outcome(row, response.text)
        del row["finished"]
    return rows


def floor(problems: list[tuple[str, str, Rules]], comparer: Comparer) -> dict[str, float]:
    """What the policy "box the longest formula of the problem" would score on (problem, gold, rules): the
    share that is equal to the gold answer by the headline's comparison (`headline`: without what is copied)
    and by the paper's.
    """
    policy = [
        (f"\\boxed{{{longest_formula(problem)}}}", "stop", gold, problem, rules)
        for problem, gold, rules in problems
    ]
    rows = grade(policy, comparer)
    shares = {"headline": "correct", "copied": "copied", "paper": "correct_paper"}
    return {name: sum(row[column] for row in rows) / max(len(rows), 1) for name, column in shares.items()}


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
