"""What a model makes of held-out traces, seconds after its training and before its generation is paid.

    python scripts/probe.py --model models/S/seed0 --data data/held_out/seed0.parquet --out /tmp/probe.json \\
        --max-length 512 --precision fp32

Traces of the same order that no subset holds, under the model teacher-forced: the mean negative
log-likelihood of the completion's tokens (nats a token), the share of them that the model would have chosen,
and the entropy of its choice. Training that left these where the base had them has not trained. Not in the
paper; one forward pass of some dozen traces. The head is applied to SLICE positions at a time: logits of a
whole trace over 150,000 words would be 10 GB.
"""

import math
import os
import time
from pathlib import Path

from valley import environment, flags, manifests, records, tokenised

SLICE = 512  # positions whose logits are held at once


def measured(model, rows) -> dict[str, float]:
    """`loss`, `token_accuracy` and `entropy` over all completion tokens of labelled rows
    (tokenised.examples).
    """
    import torch

    head, body = model.get_output_embeddings(), model.base_model
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    sums, tokens = torch.zeros(3, dtype=torch.float64), 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=model.device)
        labels = torch.tensor(row["labels"], device=model.device)[1:]
        hidden = body(input_ids=ids).last_hidden_state[0, :-1][labels != -100]
        labels = labels[labels != -100]
        for states, wanted in zip(hidden.split(SLICE), labels.split(SLICE), strict=True):
            logits = head(states).float()
            if cap:
                logits = cap * torch.tanh(logits / cap)
            logs = logits.log_softmax(-1)
            found = torch.stack(
                [
                    -logs.gather(1, wanted[:, None]).sum(),
                    (logits.argmax(-1) == wanted).sum(),
                    -(logs.exp() * logs).sum(),
                ]
            )
            sums += found.double().cpu()
        tokens += len(labels)
    if not tokens:
        raise ValueError("no completion token is left within max_length")
    names = ("loss", "token_accuracy", "entropy")
    return dict(zip(names, (sums / tokens).tolist(), strict=True)) | {"tokens": tokens}


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, help="held-out traces (parquet, as a subset)")
    parser.add_argument("--out", required=True, type=Path, help="probe.json to write")
    flags.add(parser, {name: flags.SFT[name] for name in ("max_length", "precision")})
    flags.add_prompt(parser)
    args = parser.parse_args()
    environment.check_torch()

    import torch
    from transformers import AutoModelForCausalLM

    start = time.perf_counter()
    manifests.check_model(args.model)
    processes = len(os.sched_getaffinity(0))
    file, made = tokenised.obtained(args.data, args.model, "trace", args.system, args.suffix, processes)
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    rows = tokenised.examples(file, args.max_length)
    with torch.inference_mode():
        found = measured(model, rows)
    if not math.isfinite(found["loss"]):
        records.fail(
            args.model,
            "gives held-out traces no finite likelihood",
            "Its training diverged: look at train.json",
        )
    record = found | {
        "examples": len(rows),
        "data_sha256": made["sha256"],
        "seconds": time.perf_counter() - start,
    }
    records.write_json(args.out, records.provenance(args) | record)
    records.done(f"probe: loss {found['loss']:.3f}, {found['token_accuracy']:.1%} of tokens right", args.out)


if __name__ == "__main__":
    main()
