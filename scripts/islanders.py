"""Write a small logic task in the miniature's letters: each islander says something about another, one of
them lies; who?

    b:c-1;c:d+1;d:c+1    b says that c lies, c that d does not, d that c does not: the liar is b
    short  bc;\\boxed{b}
    long   <think>b-1:b:c-1,c+1,b-1.c:d+1,d+1,c+1.d:c+1,c+1,d+1.sob</think>\\boxed{b}

The long answer supposes one islander after the other to lie (`b-1`) and holds every statement to it: what is
said, how the one it is about is, how the speaker is; `wait` where these exclude one another. The short one
names the pairs of which one must lie: an accuser and the accused. The answer is a name, so the task lists its
answers (config/logic.yaml), and they are compared as words. Problems are held out by a hash of their text, as
in valley/chain.py; each has exactly one solution.

    python scripts/islanders.py --traces-out /tmp/traces.parquet --traces 2048 \\
        --task-out /tmp/task.parquet --task 200 \\
        --rl-out /tmp/rl.parquet --rl 512 --names 3 4 --seed 0
"""

import hashlib
import random
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from valley import chain, flags, records


class Statement(NamedTuple):
    """Who speaks, about whom, and whether it is said of them that they lie (-1) or do not (+1)."""

    speaker: str
    about: str
    kind: int

    def __str__(self):
        return f"{self.speaker}:{self.about}{self.kind:+d}"


class Island(NamedTuple):
    """One statement of each islander, and the one who lies."""

    statements: tuple[Statement, ...]
    liar: str

    @property
    def text(self) -> str:
        """The problem as the model reads it."""
        return ";".join(map(str, self.statements))


def fits(statement: Statement, liar: str) -> bool:
    """Whether a statement can be made where `liar` alone lies: a true one by anybody else, a false one by the
    liar.
    """
    true = (statement.about == liar) == (statement.kind < 0)
    return true == (statement.speaker != liar)


def draw(rng: random.Random, count: int) -> Island:
    """A random island of `count` people with exactly one solution."""
    names = rng.sample(chain.LABELS, count)
    while True:
        statements = tuple(
            Statement(name, rng.choice([other for other in names if other != name]), rng.choice((-1, 1)))
            for name in names
        )
        possible = [name for name in names if all(fits(statement, name) for statement in statements)]
        if len(possible) == 1:
            return Island(statements, possible[0])


def draw_many(
    rng: random.Random, count: int, people: list[int], test: bool, but: Container[str] = ()
) -> list[Island]:
    """Different islands of the held-out side (`test`, a sixteenth of all) or of the other, numbers of
    `people` in equal turns; none whose text is in `but`.
    """
    found: dict[str, Island] = {}
    for _ in range(1000 * count):
        if len(found) == count:
            return list(found.values())
        island = draw(rng, people[len(found) % len(people)])
        held_out = hashlib.md5(island.text.encode()).digest()[0] < 16
        if held_out == test and island.text not in but:
            found.setdefault(island.text, island)
    raise ValueError(f"only {len(found)} of {count} different islands of {people} people were found")


def short_response(island: Island) -> str:
    """The pairs of which one must lie, and the answer."""
    pairs = [f"{said.speaker}{said.about};" for said in island.statements if said.kind < 0]
    return "".join(pairs) + f"\\boxed{{{island.liar}}}"


def long_response(island: Island) -> str:
    """One supposition after the other, in the order of the alphabet, until one fits every statement."""
    text = "<think>"
    for liar in sorted(said.speaker for said in island.statements):
        text += f"{liar}-1:"
        kind = lambda name, liar=liar: f"{name}{-1 if name == liar else 1:+d}"  # noqa: E731
        for said in island.statements:
            text += f"{said},{kind(said.about)},{kind(said.speaker)}"
            if not fits(said, liar):
                text += ",wait;"
                break
            text += "."
        else:
            return text + f"so{liar}</think>\\boxed{{{liar}}}"
    raise ValueError(f"{island.text} has no solution")


def trace_row(island: Island) -> dict:
    """One island in the columns of traces."""
    return {
        "problem": island.text,
        "answer": island.liar,
        "solution": short_response(island),
        "generations": [long_response(island)],
        "correctness_math_verify": [True],
    }


def task_row(island: Island) -> dict:
    """One island in the columns of a task."""
    return {"id": f"islanders/{island.text}", "problem": island.text, "answer": island.liar}


def main():
    parser = flags.parser(__doc__)
    for kind, what in {
        "traces": "with both answers",
        "task": "held out",
        "rl": "for RL, not in the traces",
    }.items():
        parser.add_argument(f"--{kind}-out", required=True, type=Path)
        parser.add_argument(f"--{kind}", required=True, type=int, help=f"islands {what}")
    parser.add_argument("--names", required=True, type=int, nargs="+", help="people on an island, 3 to 6")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng, provenance = random.Random(args.seed), records.provenance(args)
    traces = draw_many(rng, args.traces, args.names, test=False)
    others = draw_many(rng, args.rl, args.names, test=False, but={island.text for island in traces})
    held_out = draw_many(rng, args.task, args.names, test=True)
    records.write_parquet(args.traces_out, list(map(trace_row, traces)), provenance=provenance)
    records.write_parquet(args.rl_out, list(map(task_row, others)), provenance=provenance)
    records.write_parquet(args.task_out, list(map(task_row, held_out)), provenance=provenance)
    records.done(
        f"{args.traces} traces, {args.rl} RL problems, {args.task} held-out problems", args.traces_out.parent
    )


if __name__ == "__main__":
    main()
