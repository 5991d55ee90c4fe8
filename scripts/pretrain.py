"""Make the miniature's base model: a tiny Qwen2 trained from scratch to answer with short reasoning.

Stands in for the paper's instruct models. The text is 60 % problems with short chain of thought, 25 %
fragments of long answers never chained together, 15 % look-ups; training stops at a target accuracy, so bases
are undertrained by design. The result is an ordinary Hugging Face folder: nothing after this rule knows that
it is not a hub model.

    python scripts/pretrain.py --out /tmp/S --template templates/chain.jinja \\
        --hidden 48 --layers 2 --heads 2 --ff 128 --steps 2000 --target 0.6 --lengths 2 --seed 0
"""

import random
import sys
import time
from pathlib import Path

from valley import chain, flags, manifests, records

SPECIAL = ["<pad>", "<eos>", "<user>", "<assistant>"]
WORDS = ["<think>", "</think>", "\\boxed{", "}", "wait", "check", "ok", "so"]
SIGNED = [f"{sign}{digit}" for sign in "+-" for digit in range(10)]
VOCABULARY = [*SPECIAL, *WORDS, *"0123456789", *"=:;,.", *chain.LABELS, *SIGNED]  # 53 tokens


def tokenizer(template: str):
    """A fast tokenizer of 53 tokens: characters, signed digits and the words of long answers."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<pad>")
    )
    pattern = tokenizers.Regex(
        r"<pad>|<eos>|<user>|<assistant>|<think>|</think>|\\boxed\{|wait|check|ok|so|[+-]\d|."
    )
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


def sample(rng: random.Random, lengths: list[int]) -> tuple[str, str]:
    """One pre-training text as (context, target); loss falls on the target only."""
    kind = rng.random()
    if kind < 0.60:
        while chain.is_test(problem := chain.draw(rng, rng.choice(lengths))):
            pass
        return f"<user>{problem.text}<assistant>", chain.short_response(problem) + "<eos>"
    if kind < 0.85:
        return "", chain.fragment(rng) + "<eos>"
    prompt, response = chain.look_up(rng, lengths)
    return f"<user>{prompt}<assistant>", response + "<eos>"


def batches(rng: random.Random, fast, size: int, lengths: list[int]):
    """Endless batches of texts of similar length: eight at a time are drawn, sorted by length, and given in
    random order.

    Without the sorting 40 % of a batch would be padding.
    """
    while True:
        texts = [sample(rng, lengths) for _ in range(8 * size)]
        contexts = fast([context for context, _ in texts])["input_ids"]
        targets = fast([target for _, target in texts])["input_ids"]
        pairs = sorted(zip(contexts, targets, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        starts = list(range(0, len(pairs), size))
        rng.shuffle(starts)
        for at in starts:
            yield collate(pairs[at : at + size], fast.pad_token_id)


def collate(pairs: list[tuple[list[int], list[int]]], pad: int):
    """(context, target) ids as right-padded tensors (ids, labels), (rows, longest); -100 is ignored."""
    import torch

    size, longest = len(pairs), max(len(context) + len(target) for context, target in pairs)
    ids = torch.full((size, longest), pad)
    labels = torch.full((size, longest), -100)
    for row, (context, target) in enumerate(pairs):
        end = len(context) + len(target)
        ids[row, :end] = torch.tensor(context + target)
        labels[row, len(context) : end] = torch.tensor(target)
        if not context:  # the first token of a text without context has nothing to be predicted from
            labels[row, 0] = -100
    return ids, labels


def accuracy(model, fast, problems: list[chain.Problem]) -> float:
    """Share of problems whose greedy response equals the short chain of thought's answer."""
    import torch

    right = 0
    for length in sorted({len(p.steps) for p in problems}):  # prompts of one length need no padding
        group = [p for p in problems if len(p.steps) == length]
        ids = torch.tensor(fast([f"<user>{p.text}<assistant>" for p in group])["input_ids"])
        out = model.generate(ids, max_new_tokens=12 * length, do_sample=False, pad_token_id=fast.pad_token_id)
        texts = fast.batch_decode(out[:, ids.shape[1] :])
        right += sum(f"\\boxed{{{p.answer}}}<eos>" in text for p, text in zip(group, texts, strict=True))
    return right / len(problems)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder of the base model to make")
    parser.add_argument(
        "--template", required=True, type=Path, help="chat template (jinja) saved with the tokenizer"
    )
    parser.add_argument("--lengths", type=int, nargs="+", required=True, help="operands a problem")
    flags.add(parser, flags.PRETRAIN)
    parser.add_argument("--seed", type=int, default=0, help="drives initial weights and the text")
    args = parser.parse_args()

    import torch
    from transformers import (
        GenerationConfig,
        Qwen2Config,
        Qwen2ForCausalLM,
        get_cosine_with_min_lr_schedule_with_warmup,
    )

    start = time.perf_counter()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    # Validation problems come from the training side and are the same for every model and seed.
    validation = chain.draw_many(random.Random("validation"), 300, args.lengths, test=False)
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
        # transformers' 0.02 suits widths of thousands: at 48 the additions then take two to three times the
        # steps to appear.
        initializer_range=0.1,
    )
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, args.steps // 20, args.steps, min_lr_rate=0.1
    )

    texts = batches(rng, fast, args.batch, args.lengths)
    history, reached = [], 0.0
    for step in range(1, args.steps + 1):
        ids, labels = next(texts)
        logits = model(ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        # Accuracy has a sharp transition in steps (.3 to .9 within 100), so look often once it has begun.
        if step % (100 if reached < 0.15 else 20) == 0 or step == args.steps:
            reached = accuracy(model, fast, validation)
            history.append({"step": step, "loss": round(loss.item(), 4), "accuracy": round(reached, 4)})
            print(
                f"step {step}/{args.steps} loss {loss.item():.3f} accuracy {reached:.3f}",
                file=sys.stderr,
                flush=True,
            )
            if reached >= args.target:
                break

    # Greedy by default is nobody's business here: generate.py states every sampling parameter itself.
    model.generation_config = GenerationConfig(eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id)
    seconds = time.perf_counter() - start
    record = records.provenance(args) | {
        "history": history,
        "seconds": seconds,
        "parameters": model.num_parameters(),
    }
    with records.whole(args.out) as folder:
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
        records.write_json(folder / "pretrain.json", record)
        manifests.seal(folder, everything=True)
    records.done(
        f"base of {model.num_parameters():,} parameters, validation accuracy {reached:.2f}", args.out, seconds
    )


if __name__ == "__main__":
    main()
