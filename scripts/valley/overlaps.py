"""Where problems overlap: what decontamination takes out of the traces, and what is left of it where it is
off.
"""

import collections
import re
from pathlib import Path

from valley import records

NGRAM = 13  # words; the overlap length of GPT-3's decontamination (Brown et al. 2020, appendix C)
# What writings of one problem differ in: its number, delimiters and spaces of LaTeX, braces, ends of
# sentences. A decimal point and the space between two numbers stay, as operators do.
NUMBERED = re.compile(r"^\s*\(?\d{1,3}[.)]\s+")
MARKS = re.compile(r"\\(?:left|right)(?![a-z])|\\[()\[\],]|[${}?]|\.(?!\d)", re.IGNORECASE)
SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")


def evened(text: str) -> str:
    """A problem with case and white space evened out: what makes two problems the same."""
    return " ".join(text.lower().split())


def bare(text: str) -> str:
    """A problem without what its writings differ in: what makes two the same where words are too few to
    tell.
    """
    return SPACES.sub("", evened(MARKS.sub("", NUMBERED.sub("", text))))


def ngrams(text: str) -> set:
    """All runs of NGRAM words of a problem, punctuation aside, and the problem itself (`bare`), by which
    alone a shorter one is known.
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {bare(text), *(tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1))}


def shared(problems: list[str]) -> set:
    """The n-grams that several problems of a task have: a manner of speaking ("where m and n are relatively
    prime positive integers"), which clean problems have too. Of one that is there twice none is.
    """
    once = {" ".join(re.findall(r"[a-z0-9]+", text.lower())): ngrams(text) for text in problems}
    count = collections.Counter(gram for own in once.values() for gram in own)
    return {gram for gram, problems in count.items() if problems > 1 and isinstance(gram, tuple)}


def forbidden_ngrams(tasks: list[Path]) -> dict[str, set]:
    """The n-grams of each task's problems, by task, but for those that several of one task share. What two
    tasks have in common may be one problem in both, and stays.
    """
    problems = {task.stem: records.read_parquet(task, ["problem"])["problem"].to_pylist() for task in tasks}
    manner = set().union(*map(shared, problems.values()))
    return {task: set().union(*map(ngrams, texts)) - manner for task, texts in problems.items()}
