"""The paper's reflection measure (section 6): keywords, and a judge model that has to agree.

Without a judge (`report.judge: null`, scripts/judge.py) the keywords stand alone.
"""

import re

KEYWORDS = (
    "recheck", "rethink", "reassess", "reevaluate", "re-evaluate", "reevaluation", "re-examine", "reexamine", "reconsider",
    "reanalyze", "double-check", "check again", "think again", "verify again", "go over the steps",
)  # fmt: skip


def is_reflective(response: str) -> bool:
    """True when the response contains one of the paper's keywords, case aside."""
    text = response.lower()
    return any(keyword in text for keyword in KEYWORDS)


CATEGORIES = ("off topic", "no reflection", "reflection", "only code")  # the paper's 0 to 3
UNREADABLE = "unreadable"  # the judge's answer was none of them
MEASURES = {False: "keywords", True: "keywords and judge"}
ANSWER = re.compile(r"[\s\"'`*]*(?:(?:category|label)\s*:\s*)?[\s\"'`*]*([0-3])[\s\"'`*.]*", re.IGNORECASE)
PLACE = re.compile(r"\{(problem|response)\}")


def read_label(answer: str) -> int | None:
    """The category in a judge's answer: one digit, bare or after `Category:`; None for anything else."""
    match = ANSWER.fullmatch(answer)
    return int(match[1]) if match else None


def category(label: int | None) -> str:
    """The name of a label."""
    return UNREADABLE if label is None else CATEGORIES[label]


def shortened(text: str, longest: int) -> str:
    """A text in at most `longest` characters: all of it, or head, tail and how much is left out."""
    if len(text) <= longest:
        return text
    mark = f"\n[… {len(text):,} characters in all, the middle is left out …]\n"
    room = max(0, longest - len(mark))
    return (text[: room - room // 2] + mark + text[len(text) - room // 2 :])[:longest]


def question(prompt: str, problem: str, response: str, longest: int) -> str:
    """What the judge is asked: the prompt with its two places filled in one pass, whatever the texts hold."""
    values = {"problem": problem, "response": shortened(response, longest)}
    return PLACE.sub(lambda place: values[place[1]], prompt)


def crossed(keywords: list[bool], categories: list[str]) -> dict[str, dict[str, float]]:
    """Keywords × category: shares of all responses."""
    pairs = list(zip(keywords, categories, strict=True))
    return {
        name: {
            kind: sum(pair == (found, kind) for pair in pairs) / len(pairs)
            for kind in (*CATEGORIES, UNREADABLE)
        }
        for name, found in (("keywords", True), ("no keywords", False))
    }
