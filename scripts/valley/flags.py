"""Command-line flags that several scripts share, so that the same word means the same thing everywhere."""

import argparse
from pathlib import Path


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser that shows the script's docstring as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def truth(text: str) -> bool:
    """`True` or `False`, as the config writes them on a command line."""
    return {"True": True, "False": False}[text]


def add_prompt(parser: argparse.ArgumentParser):
    """The flags of every script that renders prompts."""
    parser.add_argument("--system", default=None, help="system turn (none by default)")
    parser.add_argument("--suffix", default="", help="instruction appended to the problem in the user turn")


def add_training(parser: argparse.ArgumentParser, schedule: str):
    """The flags of both trainers: optimiser, schedule, precision, checkpoints. `schedule` is the default
    learning-rate curve.
    """
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--schedule", default=schedule)
    parser.add_argument("--warmup", type=float, default=0.0, help="share of the steps")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--gradient-checkpointing", type=truth, default=False)
    parser.add_argument(
        "--deepspeed", default=None, help="DeepSpeed configuration (see config/deepspeed); needs launch.py"
    )
    parser.add_argument("--save-every", type=int, default=0, help="steps between checkpoints; 0 keeps none")


def add_tasks(parser: argparse.ArgumentParser):
    """The flags of every script that makes tables: which tasks count for what."""
    parser.add_argument(
        "--headline", required=True, nargs="+", help="tasks whose mean is the headline accuracy"
    )
    parser.add_argument("--length", required=True, nargs="+", help="tasks whose mean is the headline length")
    parser.add_argument(
        "--calculations", nargs="*", default=[], help="tasks in whose responses calculations are counted"
    )


def add_study(parser: argparse.ArgumentParser):
    """The flags of every script that compares cells of a whole study (study.load)."""
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables, read and written")
    parser.add_argument(
        "--grid", required=True, nargs="+", help="model/run/seed of every cell that the grid asks for"
    )
    parser.add_argument("--examples", nargs="*", default=[], help="size=count, the data axis")
    parser.add_argument("--confidence", type=float, default=0.95)
    add_tasks(parser)
