"""What vLLM does by itself, as JSON: its rate, tokens a second, of the second of two equal batches; and the
seconds of eight samples a prompt, as a request each and as one request (`generate.parallel_sampling`), by
turns.

python tests/gpu/bare.py <model> <precision> <sequences> <tokens> <context> <rounds> <out.json>
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from valley import engines

SAMPLES, TURNS = 8, (False, True, True, False)


def timed(llm, asked: list[list[int]], settings, clock=time.perf_counter) -> tuple[float, list[list[int]]]:
    """Seconds that the requests for prompts took, and the responses."""
    start = clock()
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in asked], settings, use_tqdm=False)
    return clock() - start, [list(one.token_ids) for output in outputs for one in output.outputs]


def both_ways(llm, params, problems: int, tokens: int, rounds: int) -> dict:
    """Seconds of each turn of all rounds, by problems that no other turn has, for vLLM keeps what it computed
    of a prompt; and the share of equal responses where one batch goes both ways. On CPU seconds are the
    processor's, which other work does not lengthen: all of it is in this process.
    """
    import torch

    clock = time.perf_counter if torch.cuda.is_available() else time.process_time

    def run(turn: int, together: bool):
        # Short: vLLM's CPU build fails where seeded requests have more prompt tokens than a step takes.
        batch = [[turn, n, *range(100, 140)] for n in range(problems) for _ in range(SAMPLES)]
        asked = [*engines.requests(batch, 0, together)]
        settings = [params(tokens, n=n, seed=seed) for _, n, seed in asked]
        return timed(llm, [ids for ids, *_ in asked], settings, clock)

    turns = TURNS * rounds
    run(len(turns), False)
    run(len(turns) + 1, True)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn, together in enumerate(turns):
        took, last = run(turn, together)
        seconds[together].append(took)
    _, again = run(turn, not together)
    equal = sum(a == b for a, b in zip(last, again, strict=True)) / len(last)
    return {"singly": seconds[False], "together": seconds[True], "responses_equal": equal}


def main():
    model, precision, sequences, tokens, context, rounds, out = sys.argv[1:]
    options = engines.vllm_options()  # sets what vLLM reads when it is imported
    from vllm import LLM, SamplingParams

    llm = LLM(model=model, dtype="bfloat16" if precision == "bf16" else "float32", max_model_len=int(context),
              skip_tokenizer_init=True, **options)  # fmt: skip

    def params(limit: int, **more):
        return SamplingParams(
            temperature=0.8, top_p=0.95, max_tokens=limit, ignore_eos=True, detokenize=False, **more
        )

    for batch in range(2):
        asked = [[batch, *range(100, 140), n] for n in range(int(sequences))]
        seconds, made = timed(llm, asked, params(int(tokens)))
    found = {"tokens_per_second": sum(map(len, made)) / seconds}
    problems, short = max(int(sequences) // SAMPLES, 4), max(int(tokens) // 16, 8)
    found |= both_ways(llm, params, problems, short, int(rounds))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
