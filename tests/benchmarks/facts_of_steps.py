"""Which facts do the long responses of a finished miniature get right: known ones or misprinted ones, in the
traces that were learned or not? By seed, then mean and standard deviation.

    python tests/benchmarks/facts_of_steps.py studies/miniature/results/S/sft-8
"""

import re
import sys
from pathlib import Path

import pandas

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from valley import chain, grid, records

STEP = re.compile(r"(\d\d)([+-]\d):\d+[+-]\d=(\d+),")
FIRST = re.compile(r"(?:^<think>|;)[b-g]([+-]\d):(\d+)")


def shares(cell: Path, root: Path) -> dict[str, float]:
    """By kind of fact the share of a cell's steps and of those right."""
    seed = int(cell.name.removeprefix("seed"))
    known, size = chain.known_facts(seed), grid.parse_run(cell.parent.name).size
    traces = records.read_parquet(root / f"data/subsets/{size}/seed{seed}.parquet").to_pylist()
    taught = {(int(total) % 10, int(o)) for row in traces for o, total in FIRST.findall(row["trace"])}
    right: dict[str, list[bool]] = {}
    for row in records.read_parquet(cell / "responses/chain.parquet").to_pylist():
        for total, operand, value in STEP.findall(row["response"]):
            fact = int(total) % 10, int(operand)
            name = f"{'known' if fact in known else 'misprinted'}, {'' if fact in taught else 'not '}in the traces"
            right.setdefault(name, []).append(int(value) == chain.upper_units(*fact) + fact[1])
    steps = sum(map(len, right.values()))
    return {f"{name}: right": sum(hits) / len(hits) for name, hits in sorted(right.items())} | {
        f"{name}: share": len(hits) / steps for name, hits in sorted(right.items())
    }


if __name__ == "__main__":
    run = Path(sys.argv[1])
    found = {cell.name: shares(cell, run.parents[2]) for cell in sorted(run.glob("seed*"))}
    print(
        pandas.DataFrame(found)
        .assign(mean=lambda t: t.mean(axis=1), sd=lambda t: t.iloc[:, :-1].std(axis=1))
        .round(3)
        .to_string()
    )
