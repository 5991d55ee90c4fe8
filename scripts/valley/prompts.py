"""How a problem becomes token ids: one code path for data, training, RL and generation, so that they cannot
differ.

A problem is one user turn (instruction suffix appended, as `qwen-boxed` of the Qwen2.5-Math evaluation does),
rendered by the chat template saved with the model. What is trained is the completion followed by the
tokenizer's end token.
"""

import re
from pathlib import Path

from valley import records

THOUGHT_END = "</think>"  # as R1 closes its reasoning
MARK = "\ufdd0"  # a Unicode noncharacter: no text holds it


def no_tokenizer(folder: Path) -> str | None:
    """What to do about a folder without tokenizer.json; None where it is there."""
    if (folder / "tokenizer.json").is_file():
        return None
    others = [
        n for n in ("tokenizer.model", "vocab.json", "spiece.model", "vocab.txt") if (folder / n).exists()
    ]
    there = f", only {others[0]}" if others else ""
    return (
        f'{folder} holds no tokenizer.json{there}. Write it: python -c "from transformers import AutoTokenizer as T; '
        f"T.from_pretrained('{folder}').save_pretrained('{folder}')\" (tokenizer.model also needs sentencepiece)"
    )


def load_tokenizer(folder):
    """The tokenizer of a local model folder, exactly as its tokenizer.json says; never runs code that came
    with it.

    Not AutoTokenizer: transformers 5.23 rebuilds the tokenizer of some model types (qwen2 among them) from
    their usual pre-tokenisation and ignores the one in tokenizer.json.
    """
    if lacking := no_tokenizer(Path(folder)):
        what, todo = lacking.split(". ", 1)
        records.fail(folder, what.removeprefix(f"{folder} "), todo)
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library's parsers raise all kinds, bare Exception among them
        said = " ".join(str(error).split())[:300] or type(error).__name__
        records.fail(
            folder,
            f"holds no tokenizer that can be read ({said})",
            "Remove the folder and make or fetch it again",
        )


def messages(problem: str, system: str | None, suffix: str) -> list[dict]:
    """The chat turns of a problem."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": problem + suffix}]


def special_tokens(tokenizer) -> re.Pattern:
    """Finds the tokenizer's special tokens spelled out in a text; matches nothing where it has none."""
    names = sorted(
        (token.content for token in tokenizer.added_tokens_decoder.values() if token.special),
        key=len,
        reverse=True,
    )
    return re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")


def rendered(tokenizer, problems: list[str], system: str | None, suffix: str) -> list[str]:
    """The text of each prompt, by the chat template."""
    turns = [messages(problem, system, suffix) for problem in problems]
    return [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]


def prompt_ids(tokenizer, problems: list[str], system: str | None, suffix: str) -> list[list[int]]:
    """Token ids of rendered prompts, generation prompt included; special tokens come from the template alone
    (one BOS).

    A problem that spells a special token (`<|im_end|>`) keeps it as text: data cannot end a turn.
    """
    special = special_tokens(tokenizer)

    def spelled(problem):
        """The ids of one prompt whose problem spells special tokens: those are marked, so that only the
        template's are found.
        """
        marked = special.sub(lambda match: match[0][0] + MARK + match[0][1:], problem)
        pieces = special.split(
            rendered(tokenizer, [marked], system, suffix)[0]
        )  # text, special token, text, …
        texts = tokenizer(
            [p.replace(MARK, "") for p in pieces[::2]], add_special_tokens=False, split_special_tokens=True
        )
        ends = [[tokenizer.convert_tokens_to_ids(token)] for token in pieces[1::2]]
        return [i for text, end in zip(texts["input_ids"], [*ends, []], strict=True) for i in [*text, *end]]

    texts = rendered(tokenizer, problems, system, suffix)
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [spelled(p) if special.search(p) else row for p, row in zip(problems, rows, strict=True)]


def completion_ids(tokenizer, completions: list[str]) -> list[list[int]]:
    """Token ids of completions, each followed by the end token; special tokens that a completion spells stay
    text.
    """
    ids = (
        tokenizer(completions, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if completions
        else []
    )
    return [[*row, tokenizer.eos_token_id] for row in ids]


def training_rows(
    tokenizer, rows: list[dict], completion: str, system, suffix, max_length: int | None
) -> list[dict]:
    """`input_ids` and `labels` for TRL's SFTTrainer: loss on the completion only (-100 elsewhere), cut at
    `max_length` (None: whole).

    `completion` names the column that is trained: `trace` (long chain of thought) or `solution` (short).
    """
    prompts = prompt_ids(tokenizer, [row["problem"] for row in rows], system, suffix)
    targets = completion_ids(tokenizer, [row[completion] for row in rows])
    return [
        {"input_ids": (p + t)[:max_length], "labels": ([-100] * len(p) + t)[:max_length]}
        for p, t in zip(prompts, targets, strict=True)
    ]


def unknown_ids(tokenizer) -> list[int]:
    """The ids that stand for text a tokenizer has no token for: its unknown token's, and its padding's, which
    no text is.
    """
    names = {tokenizer.unk_token, getattr(tokenizer.backend_tokenizer.model, "unk_token", None)}
    ids = {tokenizer.convert_tokens_to_ids(name) for name in names - {None}}
    return sorted((ids | {tokenizer.pad_token_id}) - {None, tokenizer.eos_token_id})


def tokenizer_problems(tokenizer, model_positions: int | None, max_length: int) -> list[str]:
    """Why a model trained with this tokenizer would never stop, or not see its data; empty when it is
    sound.
    """
    found = []
    if tokenizer.chat_template is None:
        found.append("the tokenizer has no chat template. Give the family one in the config")
    if tokenizer.eos_token_id is None:
        found.append("the tokenizer has no end token, so the model cannot learn to stop")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        found.append(
            f"pad token {tokenizer.pad_token!r} is the end token {tokenizer.eos_token!r} or missing: masking the padding "
            "masks the end out of the loss and the model never stops. Give the family a pad_token of its own in the config"
        )
    if model_positions and max_length > model_positions:
        found.append(
            f"max_length {max_length} exceeds the {model_positions} positions of the model. Lower sft.max_length"
        )
    return found


def template_problems(tokenizer, problem: str, completion: str) -> list[str]:
    """What the chat template loses of a completion shown as an assistant turn (R1's template drops the
    reasoning).
    """
    if tokenizer.chat_template is None:
        return []
    turns = [{"role": "user", "content": problem}, {"role": "assistant", "content": completion}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    kept = completion.strip() in rendered
    return (
        []
        if kept
        else [
            "the chat template changes or drops part of the completion (the reasoning). Use a template of ours"
        ]
    )
