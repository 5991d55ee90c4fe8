"""How many tokens do millions of texts have? Exact where it matters, and never by tokenising what bytes decide.

For order_traces.py: 225,000 traces of 4,000 tokens under three tokenizers would take most of an hour on two cores.
"""

import collections
import itertools
import json
import re
import threading
from pathlib import Path

from valley import prompts

# No token of the usual tokenizers spans certain
# places, so the counts of the parts between them add up: those of frequent parts are remembered, the rest of a trace is
# tokenised as one text (any two parts meet at such a place, too). `cuts` says where a tokenizer has them, if it does.
KNOWN_PARTS = 200_000
# The pre-tokenisers of Qwen and Llama 3. No match goes on from a letter or digit to one of the characters in SPLIT_CUTS,
# and none looks behind: text may be cut there before it is split.
SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
}
SPLIT_CUTS = r"(?<=[0-9A-Za-z])(?=[ \n\\^{}()\[\]=+*/,.;:$&-])"
SPACE_CUTS = r"(?<=[0-9A-Za-z.,;:=)}+\-])(?= )"


def cuts(tokenizer) -> re.Pattern | None:
    """Places where text may be cut so that the counts of the parts add up to its own, and none exceeds its `size`.

    Known for a byte-level BPE behind one of SPLITS, and (SPACE_CUTS) for a BPE on whole texts with byte fallback whose only
    normaliser writes ▁ for a space, provided that no token goes on across such a place. None for all others.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model, splitter, normalizer = spec["model"], spec["pre_tokenizer"] or {}, spec["normalizer"] or {"type": None}
    if model["type"] != "BPE" or model.get("dropout") or any(token["rstrip"] for token in spec["added_tokens"]):
        return None
    added = [token["content"] for token in spec["added_tokens"]]
    parts = splitter.get("pretokenizers", [])
    at_space = {"String": " "}
    if normalizer == {"type": "Replace", "pattern": at_space, "content": "▁"} and model["byte_fallback"]:
        tokens = [*added, *(token.replace("▁", " ") for token in model["vocab"])]
        whole = splitter.get("pattern", at_space) == at_space and not parts  # a split at spaces finds none any more
        found = SPACE_CUTS if whole else None
    else:
        known = [part["type"] for part in parts] == ["Split", "ByteLevel"] and normalizer["type"] in (None, "NFC")
        known = known and parts[0]["pattern"].get("Regex") in SPLITS and parts[0]["behavior"] == "Isolated"
        tokens = added  # the others lie within one match
        found = SPLIT_CUTS if known and not parts[1]["add_prefix_space"] and not parts[1]["use_regex"] else None
    return re.compile(found) if found and not any(re.search(found, token) for token in tokens) else None


def size(text: str) -> int:
    """No fewer than the tokens of a text under a tokenizer whose `cuts` are known.

    Each token covers at least one byte (a byte-level BPE merges bytes; byte fallback gives a character no token knows one
    token a byte). NFC leaves ASCII alone and makes other text at most three times as long in UTF-8 (Unicode TR 15).
    """
    ascii_bytes = len(text.encode("ascii", "ignore"))
    return ascii_bytes + 3 * (len(text.encode()) - ascii_bytes)


def completion_lengths(tokenizer, traces: list[str], cut, known: dict, room: list[int] | None = None) -> list[int]:
    """Tokens of each trace with its end token; `known` remembers the counts of frequent parts between the `cuts`.

    Where `room` is given, a trace that fits its room even if each byte of its rest were a token gets that larger count.
    """
    if cut is None:
        return [len(ids) for ids in prompts.completion_ids(tokenizer, traces)]
    counted, rest, unknown = [], [], collections.Counter()
    for trace in traces:
        parts = cut.split(trace)
        missing = list(itertools.filterfalse(known.__contains__, parts))
        counted.append(sum(map(known.get, parts, itertools.repeat(0))))
        rest.append("".join(missing))
        unknown.update(missing)
    if len(known) < KNOWN_PARTS:
        frequent = [part for part, count in unknown.items() if count > 2]
        known.update((p, len(ids) - 1) for p, ids in zip(frequent, prompts.completion_ids(tokenizer, frequent), strict=True))
    lengths = [n + size(text) + 1 for n, text in zip(counted, rest, strict=True)]
    asked = [i for i, length in enumerate(lengths) if room is None or length > room[i]]
    for i, ids in zip(asked, prompts.completion_ids(tokenizer, [rest[i] for i in asked]), strict=True):
        lengths[i] = counted[i] + len(ids)
    return lengths


def token_counter(folders: list[Path], system: str | None, suffix: str, limit: int):
    """A function from rows to each one's tokens under the first tokenizer, None where any of them exceeds the limit."""
    loaded = []
    for folder in folders:
        tokenizer = prompts.load_tokenizer(folder)
        loaded.append((tokenizer, cuts(tokenizer), {}, threading.Lock()))

    def count(rows: list[dict]) -> list[int | None]:
        tokens = [0] * len(rows)
        for place, (tokenizer, cut, known, lock) in enumerate(loaded):
            with lock:  # a call sets the tokenizer's own options: one thread at a time
                rendered = list(map(len, prompts.prompt_ids(tokenizer, [row["problem"] for row in rows], system, suffix)))
            # After the first tokenizer a row is counted only where it is still in and its bytes and end token could exceed.
            asked = [
                i for i, row in enumerate(rows)
                if not place or (tokens[i] is not None and (cut is None or rendered[i] + size(row["trace"]) + 1 > limit))
            ]  # fmt: skip
            room = [limit - rendered[i] for i in asked] if place else None  # the first one's counts are kept, so exact
            with lock:
                ended = completion_lengths(tokenizer, [rows[i]["trace"] for i in asked], cut, known, room)
            for i, length in zip(asked, ended, strict=True):
                if rendered[i] + length > limit:
                    tokens[i] = None
                elif not place:
                    tokens[i] = rendered[i] + length
        return tokens

    return count
