"""Sample responses of one cell to one task: k samples a problem, every sampling parameter explicit and recorded.

    python scripts/generate.py --model models/S/seed0 --task data/tasks/chain.parquet --out /tmp/chain.parquet \\
        --samples 1 --temperature 0.6 --top-p 0.95 --max-new-tokens 320 --max-context 512 --seed 0 --engine transformers

Two engines behind one flag: `vllm` (GPUs, the paper's) and `transformers` (CPU: prompts of similar length in batches).
The model's own generation_config is never used. Prompts are rendered as in training and passed as token ids (one BOS).
Work is cut into chunks of `--chunk` samples; each becomes a part under `<out>.parts/` as it finishes, with a seed of its
own, so a killed job continues with the missing parts and ends with the same responses.
"""

import shutil
import sys
import time
from pathlib import Path

from valley import flags, grid, prompts, records


def parse():
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="model folder")
    parser.add_argument("--task", required=True, type=Path, help="task (parquet: id, problem, answer)")
    parser.add_argument("--out", required=True, type=Path, help="responses to write (parquet)")
    parser.add_argument("--engine", choices=["vllm", "transformers"], required=True)
    parser.add_argument("--samples", type=int, required=True, help="k: samples a problem")
    parser.add_argument("--temperature", type=float, required=True, help="0 means greedy")
    parser.add_argument("--top-p", type=float, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--max-context", type=int, required=True, help="prompt + response; longer prompts are an error")
    parser.add_argument("--chunk", type=int, default=128, help="samples a batch and part")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--seed", type=int, default=0, help="drives the sampling")
    flags.add_prompt(parser)
    return parser.parse_args()


def transformers_engine(args, tokenizer):
    """A function (list of prompt ids, seed) → list of (response ids, seed), by transformers on this process's device.

    A batch is sampled from one random stream, so its responses share the batch's seed.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, set_seed

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, local_files_only=True, use_safetensors=True)
    model.to(device).eval()
    sampling = {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0} if args.temperature else {}
    model.generation_config = GenerationConfig(
        max_new_tokens=args.max_new_tokens, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        repetition_penalty=1.0, num_beams=1, **(sampling or {"do_sample": False}),
    )  # fmt: skip

    def run(batch, seed):
        set_seed(seed)
        longest = max(map(len, batch))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(p)) + p for p in batch], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=device)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask)[:, longest:].tolist()
        return [(cut(row, tokenizer.eos_token_id), seed) for row in out]

    return run


def vllm_engine(args, tokenizer):
    """A function (list of prompt ids, seed) → list of (response ids, seed), by vLLM; every response has its own seed.

    Not yet run on a GPU (see docs/measurements.md). `generation_config="vllm"` switches the model's own off: vLLM would
    otherwise take repetition_penalty and top_k from it silently.
    """
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(args.model), dtype="bfloat16" if args.precision == "bf16" else "float32", max_model_len=args.max_context,
        generation_config="vllm", enable_prefix_caching=True, trust_remote_code=False, skip_tokenizer_init=True, seed=args.seed,
    )  # fmt: skip

    def run(batch, seed):
        sampling = [
            SamplingParams(
                n=1, temperature=args.temperature, top_p=args.top_p, top_k=0, min_p=0.0, repetition_penalty=1.0,
                presence_penalty=0.0, frequency_penalty=0.0, max_tokens=args.max_new_tokens, seed=seed + i,
                stop_token_ids=[tokenizer.eos_token_id],
            )
            for i in range(len(batch))
        ]  # fmt: skip
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in batch], sampling, use_tqdm=False)
        return [(cut(list(o.outputs[0].token_ids), tokenizer.eos_token_id), seed + i) for i, o in enumerate(outputs)]

    return run


def cut(ids: list[int], end: int) -> list[int]:
    """Response ids up to and including the first end token; all of them when there is none."""
    return ids[: ids.index(end) + 1] if end in ids else ids


def chunks(problems: list[dict], prompt_ids: list[list[int]], samples: int, size: int) -> list[list[tuple]]:
    """(problem, sample, prompt ids) in lists of `size`: similar prompt lengths together, longest first.

    Longest first finds out-of-memory errors at once; similar lengths need little padding.
    """
    todo = [(p, k, ids) for p, ids in zip(problems, prompt_ids, strict=True) for k in range(samples)]
    todo.sort(key=lambda item: -len(item[2]))
    return [todo[i : i + size] for i in range(0, len(todo), size)]


def main():
    args = parse()
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

    # Parts of other work (another model, task or parameter) must not be continued: they lie under another name.
    identity = [records.settings(args, "out"), records.identity(args.model), records.sha256(args.task)]
    parts = args.out.with_name(f"{args.out.name}.parts") / grid.fingerprint(identity)
    work = chunks(problems, prompt_ids, args.samples, args.chunk)
    run, start, produced = None, time.perf_counter(), 0
    for number, chunk in enumerate(work):
        part = parts / f"{number:05}.parquet"
        if part.exists():
            continue
        run = run or {"vllm": vllm_engine, "transformers": transformers_engine}[args.engine](args, tokenizer)
        seed = args.seed * 1_000_003 + number * args.chunk
        responses = run([ids for _, _, ids in chunk], seed)
        texts = tokenizer.batch_decode([out for out, _ in responses], skip_special_tokens=True)
        records.write_parquet(part, [
            {
                "id": problem["id"], "sample": sample, "prompt": tokenizer.decode(ids), "response": text,
                "prompt_tokens": len(ids), "tokens": len(out), "seed": drawn,
                "finish_reason": "stop" if out and out[-1] == tokenizer.eos_token_id else "length",
            }
            for (problem, sample, ids), (out, drawn), text in zip(chunk, responses, texts, strict=True)
        ])  # fmt: skip
        produced += sum(len(out) for out, _ in responses)
        speed = produced / (time.perf_counter() - start)
        print(f"{number + 1}/{len(work)} chunks, {speed:.0f} tokens/s", file=sys.stderr, flush=True)

    import pyarrow

    seconds = time.perf_counter() - start
    table = pyarrow.concat_tables([records.read_parquet(parts / f"{n:05}.parquet") for n in range(len(work))])
    table = table.sort_by([("id", "ascending"), ("sample", "ascending")])
    record = records.provenance(args) | {
        "seconds": seconds,
        "tokens_generated": produced,
        "identity": grid.fingerprint(identity),
    }
    records.write_parquet(args.out, table, provenance=record)
    shutil.rmtree(parts)  # all of it is in the file now
    if not any(parts.parent.iterdir()):
        parts.parent.rmdir()
    records.done(f"{table.num_rows} responses", args.out, seconds)


if __name__ == "__main__":
    main()
