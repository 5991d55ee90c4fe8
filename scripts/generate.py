"""Sample responses of one cell to one task: k samples a problem, every sampling parameter explicit and recorded.

    python scripts/generate.py --model models/S/seed0 --task data/tasks/chain.parquet --out /tmp/chain.parquet \\
        --samples 1 --temperature 0.6 --top-p 0.95 --max-new-tokens 320 --max-context 512 --seed 0 --engine transformers

Two engines behind one flag: `vllm` (GPUs, the paper's; one engine a visible GPU, all fed from one queue) and `transformers`
(CPU: prompts of similar length in batches). The model's own generation_config is never used. Prompts are rendered as in
training and passed as token ids (one BOS); responses come back as ids and are decoded by the same tokenizer.
Work is cut into chunks of `--chunk` samples; each becomes a part under `<out>.parts/` as it finishes, with seeds of its own,
so a killed job continues with the missing parts and ends with the same responses (vLLM: wherever its kernels give the same
logits whatever else is in the batch; true on CPU, not promised on GPUs).
"""

import math
import shutil
import sys
import time
from pathlib import Path

from valley import engines, flags, grid, prompts, records


def parse():
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="model folder")
    parser.add_argument("--task", required=True, type=Path, help="task (parquet: id, problem, answer)")
    parser.add_argument("--out", required=True, type=Path, help="responses to write (parquet)")
    parser.add_argument("--engine", choices=["vllm", "transformers"], required=True)
    parser.add_argument("--samples", type=int, required=True, help="k: samples a problem")
    parser.add_argument("--temperature", type=float, required=True, help="0 means greedy")
    parser.add_argument("--top-p", type=float, required=True)
    parser.add_argument("--stop-tokens", nargs="*", default=[], help="tokens that end a response, beside the end token")
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--max-context", type=int, required=True, help="prompt + response; longer prompts are an error")
    parser.add_argument("--chunk", type=int, default=128, help="samples a batch and part")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--seed", type=int, default=0, help="drives the sampling")
    flags.add_prompt(parser)
    return parser.parse_args()


def chunks(problems: list[dict], prompt_ids: list[list[int]], samples: int, size: int) -> list[list[tuple]]:
    """(problem, sample, prompt ids) in lists of `size`: similar prompt lengths together, longest first.

    Longest first finds out-of-memory errors at once; similar lengths need little padding.
    """
    todo = [(p, k, ids) for p, ids in zip(problems, prompt_ids, strict=True) for k in range(samples)]
    todo.sort(key=lambda item: -len(item[2]))
    return [todo[i : i + size] for i in range(0, len(todo), size)]


def write_responses(args):
    """Sample as `args` say and write the responses."""
    problems = records.read_parquet(args.task, ["id", "problem", "answer"]).to_pylist()
    for row in problems:
        if not row["id"] or not row["problem"] or not (row["answer"] or "").strip():
            records.fail(
                args.task, f"row {row['id']!r} has no id, problem or answer", "Mend the task's source; nothing was generated"
            )
    if len({row["id"] for row in problems}) != len(problems):
        records.fail(args.task, "has two rows with one id", "Ids must be unique")
    tokenizer = prompts.load_tokenizer(args.model)
    prompt_ids = prompts.prompt_ids(tokenizer, [row["problem"] for row in problems], args.system, args.suffix)
    longest = max(map(len, prompt_ids))
    if longest >= args.max_context:
        records.fail(
            args.task, f"a prompt of {longest} tokens leaves no room in {args.max_context}", "Raise generate.max_context"
        )
    args.max_new_tokens = min(args.max_new_tokens, args.max_context - longest)

    gpus = engines.visible_gpus() if args.engine == "vllm" else []
    if len(gpus) > 1:  # a task smaller than a chunk a GPU is spread over all; vLLM's seeds do not depend on it
        args.chunk = min(args.chunk, math.ceil(len(problems) * args.samples / len(gpus)))

    # Parts of other work (another model, task or parameter) must not be continued: they lie under another name.
    identity = [records.settings(args, "out"), records.identity(args.model), records.sha256(args.task)]
    parts = args.out.with_name(f"{args.out.name}.parts") / grid.fingerprint(identity)
    work = chunks(problems, prompt_ids, args.samples, args.chunk)
    files = [parts / f"{number:05}.parquet" for number in range(len(work))]
    todo = [
        (number, [ids for _, _, ids in chunk], args.seed * 1_000_003 + number * args.chunk)
        for number, chunk in enumerate(work)
        if not files[number].exists()
    ]
    ends = engines.end_ids(args, tokenizer)
    start, produced = time.perf_counter(), 0
    for number, responses, sampling in engines.generate(args, tokenizer, todo, gpus) if todo else []:
        texts = tokenizer.batch_decode([out for out, _ in responses], skip_special_tokens=True)
        rows = [
            {
                "id": problem["id"], "sample": sample, "prompt": tokenizer.decode(ids), "response": text,
                "prompt_tokens": len(ids), "tokens": len(out), "seed": drawn,
                "finish_reason": "stop" if out and out[-1] in ends else "length",
            }
            for (problem, sample, ids), (out, drawn), text in zip(work[number], responses, texts, strict=True)
        ]  # fmt: skip
        records.write_parquet(files[number], rows, provenance={"sampling": sampling})
        produced += sum(len(out) for out, _ in responses)
        speed = produced / (time.perf_counter() - start)
        print(f"{number + 1}/{len(work)} chunks, {speed:.0f} tokens/s", file=sys.stderr, flush=True)

    import pyarrow

    seconds = time.perf_counter() - start
    table = pyarrow.concat_tables([records.read_parquet(file) for file in files])
    table = table.sort_by([("id", "ascending"), ("sample", "ascending")])
    record = records.provenance(args) | {
        "seconds": seconds,
        "tokens_generated": produced,
        "identity": grid.fingerprint(identity),
        "sampling": records.parquet_provenance(files[0]).get("sampling"),
        "workers": max(1, min(len(gpus), len(todo))),
    }
    records.write_parquet(args.out, table, provenance=record)
    shutil.rmtree(parts)  # all of it is in the file now
    if not any(parts.parent.iterdir()):
        parts.parent.rmdir()
    records.done(f"{table.num_rows} responses", args.out, seconds)


def main():
    args = parse()
    work = [records.settings(args), records.identity(args.model), records.identity(args.task)]
    with records.failing_once(args.out.with_suffix(".failed.json"), work):
        write_responses(args)


if __name__ == "__main__":
    main()
