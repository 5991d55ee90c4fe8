"""How many tokens do millions of texts have? Exact where it matters, and never by tokenising what bytes
decide.

For order_traces.py: 225,000 traces of 4,000 tokens under three tokenizers would take most of an hour on two
cores.
"""

import collections
import itertools
import json
import re
from pathlib import Path

from valley import prompts, workers

# No token of the usual tokenizers spans certain places, so the counts of the pieces between them add up:
# those of frequent pieces are remembered, the rest of a trace is tokenised as one text (any two pieces meet
# at such a place, too). `pieces_of` says where a tokenizer has them, if it does.
KNOWN_PIECES = 200_000


def between(before: str, after: str) -> re.Pattern:
    """Finds the pieces of a text that is cut wherever one of the characters `before` meets one of `after`,
    and an empty piece.

    Both are the inside of a regex class and share no character. The same as splitting at a look-behind, in
    two thirds of the time.
    """
    return re.compile(rf"[^{before}]*+(?:[{before}]++(?:[^{before}{after}][^{before}]*+)?+)*+")


# The pre-tokenisers of Qwen and Llama 3. No match goes on from a letter or digit to one of the characters
# that SPLIT_PIECES cuts before, and none looks behind: text may be cut there before it is split.
SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
}
SPLIT_PIECES = between(r"0-9A-Za-z", r" \n\\^{}()\[\]=+*/,.;:$&\-")
SPACE_PIECES = between(r"0-9A-Za-z.,;:=)}+\-", " ")


def pieces_of(tokenizer) -> re.Pattern | None:
    """Finds the pieces of a text whose counts add up to its own, none of which exceeds its `size`.

    Known for a byte-level BPE behind one of SPLITS, and (SPACE_PIECES) for a BPE on whole texts with byte
    fallback whose only normaliser writes ▁ for a space, provided that no token goes on across such a place.
    None for all others.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model, splitter, normalizer = (
        spec["model"],
        spec["pre_tokenizer"] or {},
        spec["normalizer"] or {"type": None},
    )
    if (
        model["type"] != "BPE"
        or model.get("dropout")
        or any(token["rstrip"] for token in spec["added_tokens"])
    ):
        return None
    added = [token["content"] for token in spec["added_tokens"]]
    pieces = splitter.get("pretokenizers", [])
    at_space = {"String": " "}
    if normalizer == {"type": "Replace", "pattern": at_space, "content": "▁"} and model["byte_fallback"]:
        tokens = [*added, *(token.replace("▁", " ") for token in model["vocab"])]
        whole = (
            splitter.get("pattern", at_space) == at_space and not pieces
        )  # a split at spaces finds none any more
        found = SPACE_PIECES if whole else None
    else:
        known = [piece["type"] for piece in pieces] == ["Split", "ByteLevel"] and normalizer["type"] in (
            None,
            "NFC",
        )
        known = known and pieces[0]["pattern"].get("Regex") in SPLITS and pieces[0]["behavior"] == "Isolated"
        tokens = added  # the others lie within one match
        found = (
            SPLIT_PIECES
            if known and not pieces[1]["add_prefix_space"] and not pieces[1]["use_regex"]
            else None
        )
    return found if found and all(len(found.findall(token)) <= 2 for token in tokens) else None


def size(text: str) -> int:
    """No fewer than the tokens of a text under a tokenizer whose pieces are known (`pieces_of`).

    Each token covers at least one byte (a byte-level BPE merges bytes; byte fallback gives a character no
    token knows one token a byte). NFC leaves ASCII alone and makes other text at most three times as long in
    UTF-8 (Unicode TR 15).
    """
    ascii_bytes = len(text.encode("ascii", "ignore"))
    return ascii_bytes + 3 * (len(text.encode()) - ascii_bytes)


def completion_lengths(
    tokenizer, traces: list[str], pieces_in, known: dict, room: list[int] | None = None
) -> list[int]:
    """Tokens of each trace with its end token; `known` remembers the counts of frequent pieces.

    Where `room` is given, a trace that fits its room even if each byte of its rest were a token gets that
    larger count; so only as much of it is looked up as usually shows that.
    """
    if pieces_in is None:
        return [len(ids) for ids in prompts.completion_ids(tokenizer, traces)]
    counted, rest, unknown = [], [], collections.Counter()
    for i, trace in enumerate(traces):
        end = max(0, 2 * (size(trace) - room[i])) if room else len(trace)
        pieces = pieces_in.findall(trace[:end])
        tail = "".join(pieces[-2:]) + trace[end:]  # the last piece may go on there
        del pieces[-2:]
        missing = list(itertools.filterfalse(known.__contains__, pieces))
        counted.append(sum(map(known.get, pieces, itertools.repeat(0))))
        rest.append("".join(missing) + tail)
        unknown.update(missing)
    if len(known) < KNOWN_PIECES:
        frequent = [piece for piece, count in unknown.items() if count > 2]
        known.update(
            (p, len(ids) - 1)
            for p, ids in zip(frequent, prompts.completion_ids(tokenizer, frequent), strict=True)
        )
    lengths = [n + size(text) + 1 for n, text in zip(counted, rest, strict=True)]
    asked = [i for i, length in enumerate(lengths) if room is None or length > room[i]]
    for i, ids in zip(asked, prompts.completion_ids(tokenizer, [rest[i] for i in asked]), strict=True):
        lengths[i] = counted[i] + len(ids)
    return lengths


def remembered_ids(tokenizer, texts: list[str], pieces_in, known: dict) -> list[list[int]]:
    """The same as `prompts.completion_ids`, several times as fast; `known` remembers the ids of pieces."""
    if pieces_in is None:
        return prompts.completion_ids(tokenizer, texts)
    split = [pieces_in.findall(text) for text in texts]
    if len(known) > KNOWN_PIECES:
        known.clear()  # those that are frequent are back at once
    new = list(set().union(*split) - known.keys())
    known.update(zip(new, (ids[:-1] for ids in prompts.completion_ids(tokenizer, new)), strict=True))
    end = [tokenizer.eos_token_id]
    return [[*itertools.chain.from_iterable(map(known.__getitem__, pieces)), *end] for pieces in split]


def token_counter(folders: list[Path], system: str | None, suffix: str, limit: int):
    """A function from (problem, trace) pairs to each one's tokens under the first tokenizer, None where any
    exceeds the limit.
    """
    loaded = []
    for folder in folders:
        tokenizer = prompts.load_tokenizer(folder)
        loaded.append((tokenizer, pieces_of(tokenizer), {}))

    def count(pairs: list[tuple[str, str]]) -> list[int | None]:
        tokens: list[int | None] = [0] * len(pairs)
        for place, (tokenizer, pieces_in, known) in enumerate(loaded):
            asked = [i for i, length in enumerate(tokens) if length is not None]
            if (
                place and pieces_in
            ):  # after the first tokenizer: only rows whose bytes and end token could exceed
                rendered = prompts.rendered(tokenizer, [pairs[i][0] for i in asked], system, suffix)
                asked = [
                    i
                    for i, text in zip(asked, rendered, strict=True)
                    if size(text) + size(pairs[i][1]) + 1 > limit
                ]
            prompt = list(
                map(len, prompts.prompt_ids(tokenizer, [pairs[i][0] for i in asked], system, suffix))
            )
            room = (
                [limit - length for length in prompt] if place else None
            )  # the first one's counts are kept, so exact
            ended = completion_lengths(tokenizer, [pairs[i][1] for i in asked], pieces_in, known, room)
            for i, begun, length in zip(asked, prompt, ended, strict=True):
                if begun + length > limit:
                    tokens[i] = None
                elif not place:
                    tokens[i] = begun + length
        return tokens

    return count


def counted(batches, processes: int, *arguments):
    """Yield (rows read, rows, their tokens) of batches (rows read, rows), in order, by
    `token_counter(*arguments)` in so many processes.
    """
    pairs = lambda rows: [(row["problem"], row["trace"]) for row in rows]  # noqa: E731
    items = ((batch, pairs(batch[1])) for batch in batches)
    for (read, rows), tokens in workers.results(items, processes, token_counter, *arguments):
        yield read, rows, tokens
