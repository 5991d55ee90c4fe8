"""Has a base of the miniature every skill that a long answer needs, so that only facts are missing?

A missing skill makes a seed fail at every size of data, and the curve then shows skills instead of facts.
"""

import random
import re

import torch

from valley import chain
from valley.decoding import decode

THRESHOLDS = {
    "sums": 0.97,  # of its own short answers, right or without the carry as the textbook has them
    "finished": 0.98,  # of its own short answers, with a box and the end
    "late_lookups": 0.98,  # the operand from the third step on, across long workings
    "totals": 0.98,  # going on from the last result, after a recheck too
    "results": 0.97,  # tens and units put together
    "facts": 0.97,  # columns of the known facts
    "facts_asked": 0.97,  # the same in a solution behind a question
    "box": 0.98,  # the last result into the box
}


def known_problem(rng: random.Random, length: int, known: frozenset) -> chain.Problem:
    """A held-out problem that meets known facts only."""
    return next(p for p in chain.draws(rng, length, test=True) if known.issuperset(p.facts))


def kinds(tokens: list[str]) -> dict[int, str]:
    """Which skill predicts which token of a long answer, by position."""
    found, step = {}, 0
    for i in range(1, len(tokens) - 1):
        before, token, after = tokens[i - 1 : i + 2]
        if before in (";", "<think>") and token in chain.LABELS:
            step += 1
        elif before in chain.LABELS and token[0] in "+-" and tokens[i - 2] in (";", "<think>") and step >= 3:
            found[i] = "late_lookups"
        elif before == ":" and tokens[i + 2] == ":":
            found[i] = "totals"
        elif before == "=" and after == "," and tokens[i + 2] != "so":
            found[i] = "facts"
        elif before == "so":
            found[i] = "results"
        elif before == "\\boxed{":
            found[i] = "box"
    return found


ANSWERS = 150  # sampled for each number of operands


@torch.inference_mode()
def probe(model, fast, lengths: list[int], known: frozenset, problems: int = 40) -> dict[str, float]:
    """Share right of each of THRESHOLDS, in worked solutions (text given) and sampled short answers."""
    rng, hits = random.Random("probe"), {name: [] for name in THRESHOLDS}
    for length in lengths:
        for _ in range(problems):
            problem = known_problem(rng, length, known)
            for behind, prompt in (("", problem.text), ("_asked", f"<user>{problem.text}<assistant>")):
                context = fast(prompt)["input_ids"]
                ids = context + fast(chain.long_response(problem))["input_ids"]
                guesses = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
                for i, kind in kinds(fast.convert_ids_to_tokens(ids)).items():
                    if i >= len(context) and kind + behind in hits:
                        hits[kind + behind].append(guesses[i - 1] == ids[i])
        asked = [f"<user>{chain.draw(rng, length).text}<assistant>" for _ in range(ANSWERS)]
        for text in short_answers(model, fast, asked, 12 * length):
            hits["finished"].append(bool(re.search(r"\\boxed\{\d+\}<eos>", text)))
            for total, operand, result in re.findall(r"(\d+)([+-]\d)=(\d+)", text):
                total, operand, result = int(total), int(operand), int(result)
                if chain.LOW <= total + operand <= chain.HIGH:  # the textbook has no others
                    right = (total + operand, chain.without_carry(total, operand))
                    hits["sums"].append(result in right)
    return {name: round(sum(shares) / len(shares), 3) if shares else 0.0 for name, shares in hits.items()}


def short_answers(model, fast, prompts: list[str], tokens: int) -> list[str]:
    """Sampled continuations of prompts of one length, at the temperature of the study's evaluation."""
    ids = torch.tensor(fast(prompts)["input_ids"])
    out = model.generate(
        ids,
        max_new_tokens=tokens,
        do_sample=True,
        temperature=0.6,
        pad_token_id=fast.pad_token_id,
        custom_generate=decode,
    )
    return fast.batch_decode(out[:, ids.shape[1] :])
