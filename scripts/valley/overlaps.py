"""Where problems overlap: what decontamination takes out of the traces, and what is left of it where it is
off.
"""

import re
from pathlib import Path

from valley import records

NGRAM = 13  # words; the overlap length of GPT-3's decontamination (Brown et al. 2020, appendix C)


def evened(text: str) -> str:
    """A problem with case and white space evened out: what makes two problems the same."""
    return " ".join(text.lower().split())


def ngrams(text: str) -> set:
    """All runs of NGRAM words of a problem, punctuation aside; of a shorter one its normalised text."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    if len(words) < NGRAM:
        return {evened(text)}
    return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}


def forbidden_ngrams(tasks: list[Path]) -> dict[str, set]:
    """The n-grams of each task's problems, by task."""
    problems = {task.stem: records.read_parquet(task, ["problem"])["problem"].to_pylist() for task in tasks}
    return {task: set().union(*map(ngrams, texts)) for task, texts in problems.items()}
