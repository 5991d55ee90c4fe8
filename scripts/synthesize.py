"""Write the miniature's data: traces to learn from, problems for RL, held-out problems to be tested on.

The traces have the columns of OpenR1-Math-220k that Valley reads, so every later rule treats them as it would
the real ones: `generations` holds the long chain of thought, `solution` the short one, `answer` the result.

    python scripts/synthesize.py --traces-out /tmp/traces.parquet --traces 4096 \\
        --task-out /tmp/chain.parquet --task 384 \\
        --rl-out /tmp/rl.parquet --rl 2048 --lengths 2 --seed 0
"""

import random
from pathlib import Path

from valley import chain, flags, records


def trace_row(problem: chain.Problem, long: str) -> dict:
    """One problem in the columns of OpenR1-Math-220k."""
    return {
        "uuid": f"chain/{problem.text}",
        "problem": problem.text,
        "answer": str(problem.answer),
        "source": "chain",
        "solution": chain.short_response(problem),
        "generations": [long],
        "correctness_math_verify": [True],
        "finish_reasons": ["stop"],
    }


def task_row(problem: chain.Problem) -> dict:
    """One problem in the columns of a task (as `fetch_task` writes them)."""
    return {
        "id": f"chain/{problem.text}",
        "problem": problem.text,
        "answer": str(problem.answer),
        "level": len(problem.steps),
    }


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--traces-out", required=True, type=Path)
    parser.add_argument("--traces", required=True, type=int, help="problems with a long and a short response")
    parser.add_argument("--task-out", required=True, type=Path)
    parser.add_argument("--task", required=True, type=int, help="held-out problems")
    parser.add_argument("--rl-out", required=True, type=Path)
    parser.add_argument("--rl", required=True, type=int, help="RL problems, from the training side")
    parser.add_argument("--lengths", required=True, type=int, nargs="+", help="operands a problem")
    parser.add_argument(
        "--recheck",
        type=float,
        default=chain.RECHECK,
        help="share of the operands, the largest, whose steps are worked once more",
    )
    parser.add_argument(
        "--slip", type=float, default=chain.SLIP, help="share of carries forgotten at first, and then mended"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    provenance = records.provenance(args)
    traces = chain.draw_even(rng, args.traces, args.lengths)
    longs = [chain.long_response(problem, args.recheck, args.slip) for problem in traces]
    records.write_parquet(args.traces_out, list(map(trace_row, traces, longs)), provenance=provenance)
    # RL problems differ from the traces': what RL adds is then not a second look at the same problems.
    others = chain.draw_many(rng, args.rl, args.lengths, test=False, but={p.text for p in traces})
    records.write_parquet(args.rl_out, [task_row(p) for p in others], provenance=provenance)
    held_out = chain.draw_even(rng, args.task, args.lengths, test=True)
    records.write_parquet(args.task_out, [task_row(p) for p in held_out], provenance=provenance)
    records.done(
        f"{args.traces} traces, {args.rl} RL problems, {args.task} held-out problems", args.traces_out.parent
    )


if __name__ == "__main__":
    main()
