"""Choose, filter, deduplicate, decontaminate and order the traces: the pool whose prefixes are the subsets.

One correct trace a problem; a row goes when prompt + trace + end token exceed the limit under any of the tokenizers (so
that all models train on identical rows), when the same problem came before, or when it overlaps a task of the frozen
`decontaminate` list. Writes the ordered pool and, beside it, a card that counts what was dropped and why.

    python scripts/order_traces.py --traces data/traces.parquet --tokenizers models/S/seed0 --out /tmp/pool.parquet \\
        --card /tmp/pool.json --max-tokens 16384 --correct math-verify --seed 0
"""

import random
import re
import time
from pathlib import Path

from valley import flags, prompts, records

NGRAM = 13  # words; the overlap length of GPT-3's decontamination (Brown et al. 2020, appendix C)
COLUMNS = ["problem", "answer", "solution", "generations", "source"]


def correct_traces(row: dict, rule: str) -> list[str]:
    """The generations of a row that count as correct under `rule`.

    `math-verify`: the dataset's Math-Verify flag; `math-verify-else-llama`: the Llama judge's where no Math-Verify flag is
    true; `any`: all of them.
    """
    traces = row["generations"]
    if rule == "any":
        return traces
    verified = [t for t, ok in zip(traces, row.get("correctness_math_verify") or [], strict=False) if ok]
    if verified or rule == "math-verify":
        return verified
    return [t for t, ok in zip(traces, row.get("correctness_llama") or [], strict=False) if ok]


def normal(text: str) -> str:
    """A problem with case and white space evened out: what makes two problems the same."""
    return " ".join(text.lower().split())


def ngrams(text: str) -> set:
    """All runs of NGRAM words of a problem (punctuation aside); the normalised text itself when it is shorter."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    if len(words) < NGRAM:
        return {normal(text)}
    return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--traces", required=True, type=Path)
    parser.add_argument("--tokenizers", required=True, type=Path, nargs="+", help="model folders whose limit counts")
    parser.add_argument("--decontaminate", type=Path, nargs="*", default=[], help="task files whose problems must not occur")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--card", required=True, type=Path)
    parser.add_argument("--max-tokens", required=True, type=int, help="prompt + trace + end token")
    parser.add_argument("--correct", choices=["math-verify", "math-verify-else-llama", "any"], required=True)
    parser.add_argument("--seed", type=int, required=True, help="drives which correct trace is taken, and the order")
    flags.add_prompt(parser)
    args = parser.parse_args()

    start = time.perf_counter()
    table = records.read_parquet(args.traces)
    if missing := [c for c in COLUMNS if c not in table.column_names]:
        records.fail(args.traces, f"has no column {', '.join(missing)}", "Traces need the columns of OpenR1-Math-220k")
    forbidden = set()
    for task in args.decontaminate:
        for problem in records.read_parquet(task, ["problem"])["problem"].to_pylist():
            forbidden |= ngrams(problem)

    rng = random.Random(args.seed)
    dropped = dict.fromkeys(["no correct trace", "duplicate problem", "contaminated", "too long"], 0)
    kept, seen = [], set()
    for row in table.to_pylist():
        traces = correct_traces(row, args.correct)
        key = normal(row["problem"])
        choice = rng.random()  # drawn for every row, so that a filter does not change the choice of the others
        if not traces:
            dropped["no correct trace"] += 1
        elif key in seen:
            dropped["duplicate problem"] += 1
        elif forbidden and not forbidden.isdisjoint(ngrams(row["problem"])):
            dropped["contaminated"] += 1
        else:
            seen.add(key)
            trace = traces[int(choice * len(traces))]
            kept.append({k: row[k] for k in ("problem", "answer", "solution", "source")} | {"trace": trace})

    lengths = [0] * len(kept)
    for folder in args.tokenizers:
        tokenizer = prompts.load_tokenizer(folder)
        rendered = prompts.prompt_ids(tokenizer, [row["problem"] for row in kept], args.system, args.suffix)
        ended = prompts.completion_ids(tokenizer, [row["trace"] for row in kept])
        lengths = [max(n, len(p) + len(c)) for n, p, c in zip(lengths, rendered, ended, strict=True)]
    pool = [row | {"tokens": n, "characters": len(row["trace"])} for row, n in zip(kept, lengths, strict=True)]
    pool = [row for row in pool if row["tokens"] <= args.max_tokens]
    dropped["too long"] = len(kept) - len(pool)
    if not pool:
        records.fail(args.traces, f"no trace is left ({dropped})", "Loosen traces.max_tokens, correct or decontaminate")
    rng.shuffle(pool)

    records.write_parquet(args.out, pool, provenance=records.provenance(args))
    records.write_json(args.card, {"rows": table.num_rows, "kept": len(pool), "dropped": dropped, "seed": args.seed})
    records.done(f"pool of {len(pool)} traces from {table.num_rows}, dropped {dropped}", args.out, time.perf_counter() - start)


if __name__ == "__main__":
    main()
