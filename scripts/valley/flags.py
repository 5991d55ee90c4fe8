"""Command-line flags, declared once: what the config sets, what a rule passes on, what a script reads.

A setting of the config that becomes a flag stands in one table here, with its type, its default and what it
means; the rules write a command line from the table (`line`), the scripts make their parser from it (`add`),
and a test holds the table against the schema and config.yaml.
"""

import argparse
import shlex
from pathlib import Path
from typing import NamedTuple

REQUIRED = object()


class Flag(NamedTuple):
    """One setting: what argparse needs of it, and its kind.

    `default` is what a script takes when the config sets nothing. A setting of `operation` says how a cell is
    run (in what portions, on what, saved how often), not what it is: changing it makes nothing again.
    """

    type: type
    default: object = REQUIRED
    help: str | None = None
    choices: tuple | None = None
    nargs: str | None = None
    operation: bool = False


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def truth(text: str) -> bool:
    """`True` or `False`, as the config writes them on a command line."""
    return {"True": True, "False": False}[text]


PRECISION = Flag(str, "fp32", choices=("fp32", "bf16"))
ATTENTION = Flag(
    str,
    "sdpa",
    "torch's over padded rows, with a mask where they are several; or over their tokens end to end",
    ("sdpa", "varlen"),
    operation=True,
)
PRETRAIN = {
    "hidden": Flag(int),
    "layers": Flag(int),
    "heads": Flag(int),
    "ff": Flag(int, help="width of the SwiGLU feed-forward"),
    "steps": Flag(int),
    "batch": Flag(int, 32),
    "lr": Flag(float, 5e-3, "of embeddings, norms and biases (AdamW)"),
    "matrix_lr": Flag(float, 0.02, "of the hidden matrices (Muon)"),
}
OPTIMISER = {
    "lr": Flag(float),
    "schedule": Flag(str, "cosine", "learning-rate curve"),
    "warmup": Flag(float, 0.0, "share of the steps"),
    "weight_decay": Flag(float, 0.0),
    "max_grad_norm": Flag(float, 1.0),
}
SFT = {
    **OPTIMISER,
    "epochs": Flag(float, 1.0),
    "steps": Flag(int, -1, "optimiser steps in place of epochs"),
    "batch": Flag(int, help="global batch: examples an optimiser step"),
    "device_batch": Flag(int, 1, "examples a device holds at once", operation=True),
    "max_length": Flag(int, help="tokens; longer examples are cut"),
    "completion": Flag(str, "trace", "column of the subset that is trained on", ("trace", "solution")),
    "order": Flag(
        str,
        "random",
        "of the examples in every epoch: anew at random, or by length",
        ("random", "short-first", "long-first"),
    ),
    "lora_rank": Flag(
        int, 0, "train adapters of this rank on all linear layers (needs peft); 0: all weights"
    ),
    "lora_alpha": Flag(float, 32.0, "their scale is alpha / rank (Hu et al. 2021)"),
    "packing": Flag(
        truth, False, "a device's examples in one row, apart by position: no padding", operation=True
    ),
    "precision": PRECISION,
    "attention": ATTENTION,
    "gradient_checkpointing": Flag(truth, False, operation=True),
    "deepspeed": Flag(
        str, None, "DeepSpeed configuration (see config/deepspeed); needs launch.py", operation=True
    ),
    "save_every": Flag(int, 0, "steps between checkpoints; 0: none by steps", operation=True),
    "save_minutes": Flag(float, 0.0, "minutes between checkpoints; 0: none by the clock", operation=True),
}
RL = {
    **OPTIMISER,
    "schedule": OPTIMISER["schedule"]._replace(default="constant"),
    "steps": Flag(int),
    "prompts": Flag(int, help="problems a step"),
    "rollouts": Flag(int, help="responses a problem"),
    "minibatch": Flag(int, help="problems an update (verl's mini-batch)"),
    "device_batch": Flag(int, help="responses a device trains on at once", operation=True),
    "device_tokens": Flag(
        int, None, "columns of a pass that several --device-batch share, if any do", operation=True
    ),
    "max_new_tokens": Flag(int),
    "temperature": Flag(float, 1.0),
    "kl": Flag(float, 0.0, "coefficient of the KL loss (k3 estimator)"),
    "clip": Flag(float, 0.2),
    "entropy": Flag(float, 0.0, "coefficient of the entropy bonus"),
    "loss": Flag(str, "dapo", "TRL's loss_type", ("grpo", "dapo", "dr_grpo", "bnpo")),
    "precision": SFT["precision"],
    "attention": ATTENTION,
    "gradient_checkpointing": SFT["gradient_checkpointing"],
    "deepspeed": SFT["deepspeed"],
    "save_every": Flag(int, help="steps between kept weights", operation=True),
    "max_prompt": Flag(int, 1024, "longest prompt that vLLM keeps room for"),
    "vllm": Flag(truth, False, "sample with vLLM on the GPU that trains"),
    "rollouts_ahead": Flag(truth, False, "sample the next step's responses while this one trains"),
}
# In the order that the finished cells of the miniature were made with: another one would make them again.
SAMPLING = {
    "engine": Flag(str, choices=("vllm", "transformers")),
    "max_new_tokens": Flag(int),
    "max_context": Flag(int, help="prompt + response; longer prompts are an error"),
    "chunk": Flag(int, 128, "samples a batch and file", operation=True),
    "precision": PRECISION,
    "temperature": Flag(float, help="0 means greedy"),
    "top_p": Flag(float),
    "tensor_parallel": Flag(int, 1, "cards that hold one model of vLLM together", operation=True),
    "parallel_sampling": Flag(
        truth, False, "a problem's samples go to vLLM as one request: the same responses", operation=True
    ),
}
JUDGING = {
    name: SAMPLING[name] for name in ("engine", "max_context", "chunk", "precision", "tensor_parallel")
}
PREFLIGHT = {name: SFT[name] for name in ("completion", "max_length", "batch", "epochs", "steps")}
# What a pool keeps of the traces (scripts/pool.py).
POOL = {
    "length": Flag(
        float,
        None,
        "from which share of the traces to which, by tokens: 0 0.3333 is the shortest third",
        nargs=2,
    ),
    "tokens": Flag(int, None, "from how many tokens to how many", nargs=2),
    "sources": Flag(str, None, "values of the traces' column source", nargs="+"),
    "completion": Flag(str, "trace", "what of a row is learned", ("trace", "solution")),
}
SYNTHETIC = ("traces", "task", "rl", "lengths", "recheck", "slip", "seed")


def line(settings: dict, names) -> str:
    """Settings as one command-line string in the order of `names`, quoted for the shell, holding only what is
    set.

    A new setting then changes no existing job.
    """

    def text(value) -> str:
        return shlex.join(map(str, value if isinstance(value, list) else [value]))

    return " ".join(
        f"--{name.replace('_', '-')} {text(settings[name])}"
        for name in names
        if settings.get(name) is not None
    )


def what(settings: dict, table: dict[str, Flag]) -> str:
    """The command line of what a job makes: the settings of a table that are not of operation."""
    return line(settings, [name for name, flag in table.items() if not flag.operation])


def how(settings: dict, table: dict[str, Flag]) -> str:
    """The command line of how a job is run: the settings of a table that are of operation."""
    return line(settings, [name for name, flag in table.items() if flag.operation])


def meaning(text: str, table: dict[str, Flag]) -> dict[str, list[str]]:
    """What a command line says a job makes, by flag: without order, operation and what is the default
    anyway.
    """
    found: dict[str, list[str]] = {}
    for word in shlex.split(text):
        if word.startswith("--"):
            values = found[word[2:].replace("-", "_")] = []
        elif found:
            values.append(word)
        else:
            return {"": [text]}  # no flags at all
    unsaid = {name: [str(flag.default)] for name, flag in table.items()}
    return {
        name: values
        for name, values in found.items()
        if not (name in table and (table[name].operation or values == unsaid[name]))
    }


def add(parser: argparse.ArgumentParser, table: dict[str, Flag]):
    """Give a script's parser the flags of a table."""
    for name, flag in table.items():
        extra = {
            key: value
            for key, value in flag._asdict().items()
            if key not in ("default", "operation") and value is not None
        }
        extra |= {"required": True} if flag.default is REQUIRED else {"default": flag.default}
        parser.add_argument(f"--{name.replace('_', '-')}", **extra)


def add_configs(parser: argparse.ArgumentParser):
    """The flags of every script that looks at a whole study: which one, and where its jobs would run."""
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    parser.add_argument(
        "--profile", nargs="*", action="extend", default=[], help="as for snakemake; several may be given"
    )


def condition(text: str) -> tuple[str, str]:
    """`column=text` of a command line, as the two."""
    column, sign, wanted = text.partition("=")
    if not column or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is no condition. Write column=text")
    return column, wanted


def add_source(parser: argparse.ArgumentParser):
    """The flags of every script that brings in rows of others: which source, and which of its rows."""
    parser.add_argument("--source", required=True, help="hub id, or local .jsonl, .json or .parquet")
    parser.add_argument("--revision", default=None, help="40-digit commit of the hub data set")
    parser.add_argument("--name", default=None, help="configuration of the hub data set")
    parser.add_argument("--split", default=None, help="of the hub data set; train by default")
    kept = "column=text: keep only rows whose column contains the text"
    parser.add_argument("--where", type=condition, default=None, help=kept)
    parser.add_argument("--limit", type=int, default=None, help="keep the first so many rows")
    mended = "of a local file that was mended, so that Snakemake sees another job; nothing is made of it"
    parser.add_argument("--sha256", default=None, help=mended)


def add_prompt(parser: argparse.ArgumentParser):
    """The flags of every script that renders prompts."""
    parser.add_argument("--system", default=None, help="system turn (none by default)")
    parser.add_argument("--suffix", default="", help="instruction appended to the problem in the user turn")


def answer_form(text: str) -> str:
    """A form of answers (`grading.asked`), refused where it cannot work."""
    from valley import grading

    try:
        grading.check_form(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the answer pattern {text!r} {error}") from None
    return text


def add_think(parser: argparse.ArgumentParser):
    """The flag of every script that tells a thought from an answer."""
    parser.add_argument(
        "--think",
        nargs=2,
        default=["<think>", "</think>"],
        help="the family's tags of a thought, opening and closing",
    )


def listed_answers(text: str) -> tuple[str, tuple[str, ...]]:
    """`task=word,word` as a task and the answers that the config lists for it."""
    task, _, words = text.partition("=")
    return task, tuple(words.split(","))


def add_answer(parser: argparse.ArgumentParser):
    """The flags of every script that reads answers in responses."""
    forms = "box, <answer>, ####, or a regular expression with a group"
    parser.add_argument("--answer", type=answer_form, default="box", help=f"form of an answer: {forms}")
    parser.add_argument(
        "--answers",
        type=listed_answers,
        nargs="*",
        default=[],
        help="task=word,word: all answers of a task (the name of its file) where they are single words",
    )
    add_think(parser)


def add_tasks(parser: argparse.ArgumentParser):
    """The flags of every script that makes tables: which tasks count for what."""
    parser.add_argument(
        "--headline", required=True, nargs="+", help="tasks whose mean is the headline accuracy"
    )
    parser.add_argument("--length", required=True, nargs="+", help="tasks whose mean is the headline length")
    parser.add_argument("--calculations", nargs="*", default=[], help="tasks whose calculations are counted")


def add_bases(parser: argparse.ArgumentParser):
    """The flag of every script that sets cells beside their base: which bases are other models each seed."""
    parser.add_argument(
        "--trained-bases", nargs="*", default=[], help="models whose base is trained here, one a seed"
    )


def add_study(parser: argparse.ArgumentParser):
    """The flags of every script that compares cells of a whole study."""
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables, read and written")
    parser.add_argument("--grid", required=True, nargs="+", help="model/run/seed of every cell of the grid")
    parser.add_argument("--examples", nargs="*", default=[], help="size=count, the data axis")
    add_bases(parser)
    parser.add_argument("--confidence", type=float, default=0.95)
    add_tasks(parser)


def pairs(words: list[str], of: type = str) -> dict:
    """`name=value` words of a command line as a mapping."""
    return {name: of(value) for name, value in (word.split("=", 1) for word in words)}
