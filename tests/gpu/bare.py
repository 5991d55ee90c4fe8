"""The rate of vLLM by itself, tokens a second, as JSON: of the second of two equal batches, with nothing of
ours around it.

python tests/gpu/bare.py <model> <precision> <sequences> <tokens> <context> <out.json>
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from valley import engines


def main():
    model, precision, sequences, tokens, context, out = sys.argv[1:]
    options = engines.vllm_options()  # sets what vLLM reads when it is imported
    from vllm import LLM, SamplingParams

    llm = LLM(model=model, dtype="bfloat16" if precision == "bf16" else "float32", max_model_len=int(context),
              skip_tokenizer_init=True, **options)  # fmt: skip
    sampling = SamplingParams(
        temperature=0.8, top_p=0.95, max_tokens=int(tokens), ignore_eos=True, detokenize=False
    )
    for batch in range(2):
        asked = [{"prompt_token_ids": [batch, *range(100, 140), n]} for n in range(int(sequences))]
        start = time.perf_counter()
        made = llm.generate(asked, sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
    count = sum(len(one.outputs[0].token_ids) for one in made)
    Path(out).write_text(json.dumps(count / seconds))


if __name__ == "__main__":
    main()
