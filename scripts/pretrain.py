"""Make the miniature's base model: a tiny Qwen2 trained from scratch on the textbook of valley/chain.py.

Stands in for the paper's instruct models: it answers in short, as sloppily as its textbook, and has read
worked solutions, in which 40 % of the column facts are misprinted, but never begins one. It is trained to the
end of its schedule, so what limits it is its text. The record holds a probe of each skill that a long
answer needs. The result is an ordinary Hugging Face folder: nothing after this rule knows that it is not a
hub model.

    python scripts/pretrain.py --out /tmp/S --template templates/chain.jinja \\
        --hidden 64 --layers 2 --heads 4 --ff 192 --steps 900 --lengths 2 3 4 5 --seed 0
"""

import math
import random
import sys
import time
from pathlib import Path

import numpy

from valley import chain, flags, manifests, records

SPECIAL = ["<pad>", "<eos>", "<user>", "<assistant>"]
WORDS = ["<think>", "</think>", "\\boxed{", "}", "wait", "recheck", "so"]
SIGNED = [f"{sign}{digit}" for sign in "+-" for digit in range(10)]
NUMBERS = [str(number) for number in range(chain.HIGH + 1)]
VOCABULARY = [*SPECIAL, *WORDS, *NUMBERS, *"=:;,.", *chain.LABELS, *SIGNED]
TABLES, LONG = 0.25, 0.21  # of the texts are tables of column facts, worked solutions; the rest is dialogue
BEGUN = 0.5  # of the worked solutions stand behind a question, their beginning given


def tokenizer(template: str):
    """A fast tokenizer in which numbers, signed digits and the words of long answers are one token each."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<pad>")
    )
    words = "|".join(
        word.replace("{", r"\{").replace("\\boxed", r"\\boxed") for word in SPECIAL + WORDS if len(word) > 1
    )
    pattern = tokenizers.Regex(words + r"|[+-]\d|[12]\d|.")
    backend.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    backend.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    fast.chat_template = template
    return fast


def sample(rng: random.Random, lengths: list[int], known: frozenset) -> tuple[str, str]:
    """One pre-training text as (context, target); loss falls on the target only.

    Half the worked solutions stand in a dialogue, from the thought's beginning on, which is given: a base
    then answers in short, yet knows its facts as well behind a question as elsewhere. Taught outside
    dialogues alone, bases had .26 to .94 of them there, each seed another share (docs/measurements.md).
    Worked solutions have the largest number of operands twice as often: its last look-ups are the rarest.
    """
    kind = rng.random()
    if kind < TABLES:
        return ":", chain.table(rng, known) + "<eos>"
    if kind < TABLES + LONG:
        problem, text = chain.textbook(rng, rng.choice([*lengths, max(lengths)]), "long", known)
        if rng.random() < BEGUN:
            return f"<user>{problem.text}<assistant><think>", text.removeprefix("<think>") + "<eos>"
        return problem.text, text + "<eos>"
    problem, text = chain.textbook(rng, rng.choice(lengths), "short")
    return f"<user>{problem.text}<assistant>", text + "<eos>"


def batches(rng: random.Random, fast, size: int, lengths: list[int], known: frozenset):
    """Endless batches of texts of similar length: eight at a time are drawn, sorted by length, and given in
    random order.

    Without the sorting 40 % of a batch would be padding.
    """
    while True:
        texts = [sample(rng, lengths, known) for _ in range(8 * size)]
        contexts, targets = (
            [found.ids for found in fast.backend_tokenizer.encode_batch_fast(side)]
            for side in zip(*texts, strict=True)
        )
        pairs = sorted(zip(contexts, targets, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        starts = list(range(0, len(pairs), size))
        rng.shuffle(starts)
        for at in starts:
            yield collate(pairs[at : at + size], fast.pad_token_id)


def collate(pairs: list[tuple[list[int], list[int]]], pad: int):
    """(context, target) ids as right-padded tensors (ids, labels), (rows, longest); -100 is ignored."""
    import torch

    shape = len(pairs), max(len(context) + len(target) for context, target in pairs)
    ids, labels = numpy.full(shape, pad), numpy.full(shape, -100)
    for row, (context, target) in enumerate(pairs):
        end = len(context) + len(target)
        ids[row, :end] = context + target
        labels[row, len(context) : end] = target
    return torch.from_numpy(ids), torch.from_numpy(labels)


def initialise(model):
    """Draw the weights: embeddings with a deviation of .2, matrices with one over the root of their inputs.

    Matrices that end a block are drawn smaller. transformers' 0.02 for all suits widths of thousands: at 64
    look-ups and additions then appear later, and less surely.
    """
    import torch

    layers = model.config.num_hidden_layers
    for name, weights in model.named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(weights, 0, 0.2)
        elif weights.dim() == 2:
            ends_block = name.endswith(("o_proj.weight", "down_proj.weight"))
            deviation = weights.shape[1] ** -0.5 / (math.sqrt(2 * layers) if ends_block else 1)
            torch.nn.init.normal_(weights, 0, deviation)


def loss_of(model, ids, labels):
    """Mean cross-entropy of the predicted tokens; the head runs on those positions alone."""
    import torch

    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
    told = labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[told]), labels[:, 1:][told])


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder of the base model to make")
    parser.add_argument(
        "--template", required=True, type=Path, help="chat template (jinja) saved with the tokenizer"
    )
    flags.add(parser, flags.PRETRAIN)
    parser.add_argument("--lengths", type=int, nargs="+", required=True, help="operands a problem")
    parser.add_argument(
        "--seed", type=int, default=0, help="drives initial weights, the text and which facts are known"
    )
    args = parser.parse_args()

    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, get_cosine_schedule_with_warmup

    from valley import skills
    from valley.muon import Muon

    start = time.perf_counter()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    known = chain.known_facts(args.seed)
    fast = tokenizer(args.template.read_text())
    config = Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=args.hidden,
        intermediate_size=args.ff,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=1024,
        rope_theta=1e4,
        tie_word_embeddings=True,
        use_cache=True,
        dtype="float32",
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    initialise(model)
    matrices = [w for name, w in model.named_parameters() if w.dim() == 2 and "embed" not in name]
    others = [w for name, w in model.named_parameters() if w.dim() != 2 or "embed" in name]
    # AdamW alone had .24 of the look-ups when Muon had .83 (docs/measurements.md).
    optimizers = [
        torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
        Muon(matrices, lr=args.matrix_lr, weight_decay=0.01),
    ]
    schedules = [get_cosine_schedule_with_warmup(o, max(1, args.steps // 20), args.steps) for o in optimizers]

    texts = batches(rng, fast, args.batch, args.lengths, known)
    history = []
    for step in range(1, args.steps + 1):
        loss = loss_of(model, *next(texts))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad()
        if step % 50 == 0 or step == args.steps:
            history.append({"step": step, "loss": round(loss.item(), 4)})
            print(f"step {step}/{args.steps} loss {loss.item():.3f}", file=sys.stderr, flush=True)

    probes = skills.probe(model, fast, args.lengths, known)
    missing = [
        f"{name} {probes[name]}" for name, needed in skills.THRESHOLDS.items() if probes[name] < needed
    ]
    # Greedy by default is nobody's business here: generate.py states every sampling parameter itself.
    model.generation_config = GenerationConfig(eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id)
    seconds = time.perf_counter() - start
    record = records.provenance(args) | {
        "history": history,
        "skills": probes,
        "skill_thresholds": skills.THRESHOLDS,
        "seconds": seconds,
        "parameters": model.num_parameters(),
    }
    with records.whole(args.out) as folder:
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
        records.write_json(folder / "pretrain.json", record)
        manifests.seal(folder, everything=True)
    found = f"skills missing: {', '.join(missing)}" if missing else "every skill probed is there"
    records.done(f"base of {model.num_parameters():,} parameters, {found}", args.out, seconds)


if __name__ == "__main__":
    main()
