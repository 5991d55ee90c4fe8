"""What a job needs of a card's memory, from the shape of its model: before anything is run, and with nothing
loaded.

A job has *moments* (the backward pass, the optimiser's step, sampling), each a list of parts in bytes and the
room they have. Where the formulae are from:
- weights, gradients, optimiser: 2 + 2 + 12 bytes a parameter in bf16 with AdamW, spread over the cards by
  ZeRO's stage
  (Rajbhandari et al. 2020, section 3.1 and figure 1); tests/test_vram.py holds them to DeepSpeed's own
  estimates, `estimate_zero2_model_states_mem_needs` and `estimate_zero3_…`, and names what differs. In fp32
  weights and gradients take 4 bytes each, and ZeRO's master copy is a second one (`clone().float()` in its
  stage_1_and_2.py). Without DeepSpeed weights are fp32, and several cards copy gradients into buckets of DDP
  (accelerate's `gradient_as_bucket_view` is False);
- activations: bytes a token and layer counted on CPU (tests/gpu/test_card.py and tests/test_vram.py hold them
  to what torch allocates); with
  checkpointing one bf16 vector a token and layer, and one layer at a time (Chen et al. 2016). Under autocast,
  without DeepSpeed, that vector is fp32;
- the mask of attention, where it is more than causal: transformers' masking_utils.py (`sdpa_mask`, a truth
  value a pair of tokens), which torch's sdpa copies in the precision of the pass, and beside which key-value
  heads are repeated (`use_gqa_in_sdpa`). `attention: varlen` has none, and of padded rows a second copy of
  what it is given and gives, without the padding (transformers' `_upad_input`);
- the head: TRL's loss goes through the vocabulary in tiles and adds gradients up in fp32
  (trl/kernels/chunked_logprob.py);
- key-value cache: 2 × layers × key-value heads × width of a head × 2 bytes a token (Kwon et al. 2023,
  section 3);
- RL's reference: loaded as the model is, spread by ZeRO-3 alone (trl/models/utils.py, `prepare_deepspeed`);
- an engine's work: vLLM 0.31 makes room for one pass of the most tokens and sampling for the most sequences
  (`profile_run` in v1/worker/gpu_model_runner.py): logits, their fp32 copy, probabilities and noise
  (`random_sample` in v1/sample/ops/topk_topp_sampler.py).
None of it has been held to a card yet. Constants that are assumed stand in workflow/reference/costs.yaml
(`device`).
"""

import functools
import math
import shutil
import subprocess
from typing import NamedTuple

from valley import check, costs, environment, grid, records
from valley.shapes import Shape, shape_of

GIB = 2**30
PROBED = 512  # positions whose logits probe.py holds at once
ZERO3, OFFLOAD = "config/deepspeed/zero3.json", "config/deepspeed/zero2-offload.json"


class Moment(NamedTuple):
    """A moment of a job: its name, what lies on a card then (bytes by part), and the bytes that it may
    take.
    """

    name: str
    parts: dict[str, float]
    room: float

    @property
    def needed(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def margin(self) -> float:
        """Bytes left; negative where it cannot fit."""
        return self.room - self.needed


def of_machine() -> float | None:
    """GiB of the smallest GPU that a process started here sees, as its driver tells; None without one, and
    for slices of a card (MIG), whose size this does not read.
    """
    seen = set(environment.cards().values())
    if not shutil.which("nvidia-smi") or not seen:
        return None
    command = ["nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]  # MiB
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    sizes = dict(line.split(", ") for line in told if line.count(", ") == 1)
    if not all(sizes.get(card, "").isdecimal() for card in seen):
        return None
    return min(int(sizes[card]) for card in seen) / 1024


def width(settings: dict) -> int:
    """Bytes of a number in the precision of a pass."""
    return 2 if settings.get("precision") == "bf16" else 4


def autocast(settings: dict) -> bool:
    """Whether fp32 weights are trained in bf16 (training.weights_dtype): `deepspeed` is null."""
    return width(settings) == 2 and settings.get("deepspeed", ZERO3) is None


@functools.cache
def zero_of(deepspeed: str) -> dict:
    """What a DeepSpeed configuration says of ZeRO; a path is one from the repository's root."""
    return records.read_json(check.ROOT / deepspeed)["zero_optimization"]


def states(of: Shape, settings: dict, cards: int, device: dict) -> tuple[dict[str, float], dict[str, float]]:
    """What weights, gradients and optimiser take on a card while it computes, and during the optimiser's
    step.
    """
    size, wide = of.parameters, width(settings)
    buckets = device["buckets"] * GIB * wide / 2
    if not settings.get("deepspeed"):
        trained = settings.get("lora_rank", 0) * of.linear or size
        # autocast keeps a copy of what it trains, and of what it does not as long as the layer's pass lasts
        layers = of.layers if settings.get("lora_rank") and settings.get("gradient_checkpointing") else 1
        found = {"weights": 4 * size, "gradients": 4 * trained, "optimiser": 8 * trained}
        found |= {"adapters": 4 * trained} if settings.get("lora_rank") else {}
        found |= {"copies": 2 * size / layers} if autocast(settings) else {}
        found |= {"buckets": 4 * trained} if cards > 1 else {}
        return found, found
    zero = zero_of(settings["deepspeed"])
    if zero["stage"] == 3:
        live = wide * min(size, device["live"] * 1e9) + (0 if of.tied else wide * of.vocab * of.hidden)
        found = {
            "weights": wide * size / cards + live,
            "gradients": wide * size / cards,
            "optimiser": 12 * size / cards,
        }
        return found, found | {"step": 8 * min(size / cards, 1e9)}
    if "offload_optimizer" in zero:
        found = {"weights": wide * size, "buckets": buckets}
        return found, found
    found = {
        "weights": wide * size,
        "gradients": wide * size / cards,
        "optimiser": 12 * size / cards,
        "buckets": buckets,
    }
    # the step: gradients in fp32, and as much again while AdamW goes over all of them at once
    held = (12 + wide) * size / cards
    return found, {"weights": wide * size, "optimiser": held, "step": 8 * size / cards}


def masks(of: Shape, settings: dict, tokens: int, rows: float = 1, layers: int = 1) -> dict[str, float]:
    """Bytes of attention's mask for `rows` of `tokens`, with the copies of `layers` at once; nothing where
    the causal rule says it all: a row by itself within the window. By `varlen`, which has no mask, of rows
    that are padded laid end to end.
    """
    apart = rows > 1  # by padding, or by position in one row
    if settings.get("attention") == "varlen":
        each = 2 * width(settings) * (of.heads + of.kv_heads) * of.head
        return (
            {"laid end to end": layers * rows * tokens * each}
            if apart and not settings.get("packing")
            else {}
        )
    if apart and settings.get("packing"):
        tokens, rows = rows * tokens, 1
    kinds = (1 + bool(of.window)) if apart else int(0 < of.window < tokens)
    if not kinds:
        return {}
    repeated = 2 * tokens * (of.heads - of.kv_heads) * of.head
    return {"mask": rows * (kinds * tokens**2 + layers * width(settings) * (tokens**2 + repeated))}


def activations(of: Shape, settings: dict, tokens: int, rows: float = 1) -> dict[str, float]:
    """Bytes of activations of `rows` of `tokens` in one pass, at their peak: kept, the layer or the head at
    work, and the mask.
    """
    attention = 13 * (of.hidden + of.heads * of.head) + 4 * (of.kv_heads + 1) * of.head
    norms = 16 * (of.hidden * (of.norms - 2) + of.normed * of.head * (of.heads + of.kv_heads))
    each = 8 * of.ff + 24 * of.hidden + norms + 4 * of.kv_heads * of.head  # of a layer that is kept whole
    work, stream = 12 * of.ff + attention + norms, 2
    if autocast(settings):  # fp32 between the layers, and where norms and adapters read it
        work, each, stream = work + 4 * (of.ff + of.hidden), each + 8 * of.hidden, 4
    whole = not settings.get("gradient_checkpointing")
    kept = (of.layers - 1) * each if whole else stream * of.layers * of.hidden
    all_tokens, wide = rows * tokens, width(settings) // 2
    tile = 2 * min(all_tokens, 4096) * min(of.vocab, 32768)
    head = 6 * of.vocab * of.hidden + 8 * all_tokens * of.hidden + tile
    parts = {
        "kept": wide * all_tokens * kept,
        "layer or head": wide * max(all_tokens * work, head),
    }
    return parts | masks(of, settings, tokens, rows, of.layers if whole else 1)


def engine(
    of: Shape, settings: dict, sequences: int, tokens: int, context: int, over: int = 1
) -> dict[str, float]:
    """What vLLM must hold on each of the `over` cards of an engine: weights, its work (a pass of `tokens`,
    and sampling of `sequences`), and the cache of one sequence of `context` tokens.
    """
    wide = width(settings)
    layer = 3 * of.ff / over + 4 * of.hidden
    return {
        "weights": wide * of.parameters / over,
        "work": wide * tokens * layer + (12 + wide) * sequences * of.vocab,
        "cache of one response": wide / 2 * of.kv_token * context / min(over, of.kv_heads),
    }


def of_training(of: Shape, settings: dict, cards: int, card: float, device: dict) -> list[Moment]:
    """Moments of SFT on cards of `card` bytes, on the longest examples that it may see."""
    room = card - device["reserve"] * GIB
    rows = min(settings.get("device_batch", 1), max(1, settings["batch"] // cards))
    computing, stepping = states(of, settings, cards, device)
    acts = activations(of, settings, settings["max_length"], rows)
    return [Moment("backward", computing | acts, room), Moment("step", stepping, room)]


def of_passes(of: Shape, settings: dict, context: int) -> dict[str, float]:
    """Activations of RL's largest pass with responses of up to `context` tokens: of a micro-batch, or by
    tokens (`device_tokens`) of rows that fill them, whichever needs more of one row alone, without a mask
    for padding, and the longest of which there may be two.
    """
    most = settings.get("device_tokens")
    if not most:
        return activations(of, settings, context, settings["device_batch"])
    longest = min(context, most // 2)
    found = activations(of, settings, context), activations(of, settings, longest, most / longest)
    return max(found, key=lambda parts: sum(parts.values()))


def of_rl(of: Shape, settings: dict, cards: int, card: float, device: dict) -> list[Moment]:
    """Moments of RL on cards of `card` bytes: training, with vLLM asleep unless it samples ahead, and
    sampling, with the trainer's states there.
    """
    room = card - device["reserve"] * GIB
    computing, stepping = states(of, settings, cards, device)
    loaded = 4 if autocast(settings) else width(settings)
    whole = not settings.get("deepspeed") or zero_of(settings["deepspeed"])["stage"] < 3
    reference = loaded * of.parameters / (1 if whole else cards)
    reference = {"reference": reference} if settings.get("kl") else {}
    context = settings.get("max_prompt", 1024) + settings["max_new_tokens"]
    acts = of_passes(of, settings, context)
    share = device["rl_share"] * card
    awake = {"vLLM's share": share} if settings.get("vllm") and settings.get("rollouts_ahead") else {}
    found = [
        Moment("backward", computing | reference | acts | awake, room),
        Moment("step", stepping | reference | awake, room),
    ]
    if not settings.get("vllm"):
        tokens = context * settings["prompts"] * settings["rollouts"] / cards
        cache = {"cache": loaded / 2 * of.kv_token * tokens}
        return [*found, Moment("sampling", computing | reference | cache, room)]
    held = engine(of, settings, device["rl_sequences"], device["rl_tokens"], context)
    return [
        *found,
        Moment("sampling", computing | reference | {"vLLM's share": share}, room),
        Moment("vLLM's share", held, share),
    ]


def in_hand(card: float, device: dict) -> dict[str, int]:
    """`sequences` and `tokens` that vLLM has in hand at once in generation, on a card of so many bytes."""
    return device["vllm"]["large" if card >= device["vllm"]["large"]["from"] * GIB else "small"]


def of_generation(of: Shape, settings: dict, cards: int, card: float, device: dict) -> list[Moment]:
    """Moments of generation, or of the judge, on cards of `card` bytes: that of sampling."""
    if settings["engine"] == "transformers":
        cache = width(settings) / 2 * of.kv_token * settings["max_context"] * settings.get("chunk", 1)
        parts = {"weights": width(settings) * of.parameters, "cache": cache}
        return [Moment("sampling", parts, card - device["reserve"] * GIB)]
    over, most = settings.get("tensor_parallel", 1), in_hand(card, device)
    parts = engine(of, settings, most["sequences"], most["tokens"], settings["max_context"], over)
    return [Moment("sampling", parts, device["vllm_share"] * card)]


def of_probe(of: Shape, settings: dict, cards: int, card: float, device: dict) -> list[Moment]:
    """The one moment of a probe on a card of `card` bytes: a pass over the longest trace by probe.py, with
    the library's cache, and the logits of some positions in four fp32 copies.
    """
    wide, tokens = width(settings), settings["max_length"]
    logits = 16 * PROBED * of.vocab + wide * tokens * of.hidden
    parts = {
        "weights": wide * of.parameters,
        "cache": wide / 2 * of.kv_token * tokens,
        "layer or head": max(wide * tokens * (4 * of.ff + 2 * of.hidden), logits),
    }
    return [Moment("pass", parts | masks(of, settings, tokens), card - device["reserve"] * GIB)]


STAGES = dict.fromkeys(costs.TRAINING, of_training) | {
    "rl": of_rl,
    "generate": of_generation,
    "judge": of_generation,
    "probe": of_probe,
}


def settings_of(config: dict, rule: str, model: str, run: str) -> dict:
    """The settings that the memory of a job follows from."""
    if rule in costs.TRAINING:
        return grid.sft_settings(config, model, run)
    if rule == "rl":
        return grid.rl_settings(config, model, run)
    if rule == "probe":  # its rule's params
        return {"max_length": config["sft"]["max_length"], "precision": config["generate"]["precision"]}
    return grid.generate_settings(config, config["report"]["judge"]["model"] if rule == "judge" else model)


def moments(config: dict, job: dict, card: float, device: dict, **other) -> list[Moment] | None:
    """The moments of a planned job ({rule, gpus, wildcards}) on cards of `card` GiB; None where nothing
    tells: another rule, no card asked for, a model of unknown shape. `other`: settings, or `gpus`, in place
    of its own.
    """
    if job["rule"] not in STAGES or not job["gpus"]:
        return None
    model, run = job["wildcards"]["model"], job["wildcards"]["run"]
    of = shape_of(config, config["report"]["judge"]["model"] if job["rule"] == "judge" else model)
    if of is None:
        return None
    cards = other.pop("gpus", job["gpus"])
    settings = settings_of(config, job["rule"], model, run) | other
    return STAGES[job["rule"]](of, settings, cards, card * GIB, device)


def tightest(found: list[Moment]) -> Moment:
    """The moment with the least room left."""
    return min(found, key=lambda moment: moment.margin)


def cures(config: dict, job: dict, card: float, constants: dict) -> list[str]:
    """What would let a job fit, the smallest change first, each tried by the same formulae; at most three."""
    rule, model = job["rule"], job["wildcards"]["model"]
    model = config["report"]["judge"]["model"] if rule == "judge" else model
    more = [count for count in (2, 4, 8) if count > job["gpus"]]
    tried: list[tuple[str, dict, float]] = []
    if rule in (*costs.TRAINING, "rl"):
        where, stage = ("rl", "rl") if rule == "rl" else (f"models.{model}", "sft")
        own, now = (
            f"models.{model}.{stage}.deepspeed",
            settings_of(config, rule, model, job["wildcards"]["run"]),
        )
        smaller = {"device_tokens": "null", "rollouts_ahead": "false"} if rule == "rl" else {}
        tried += [(f"rl.{key}: {off}", {key: None}, card) for key, off in smaller.items()]
        tried += [(f"{stage}.device_batch: 1", {"device_batch": 1}, card)]
        if width(now) == 2:  # as its kernel needs it
            tried += [(f"{stage}.attention: varlen", {"attention": "varlen"}, card)]
        tried += [(f"{where}.gpus: {count}", {"gpus": count}, card) for count in more]
        tried += [(f"{own}: {zero}", {"deepspeed": zero}, card) for zero in (ZERO3, OFFLOAD)]
        spread = [] if now.get("deepspeed") == ZERO3 else more  # with its own, more cards have been tried
        tried += [(f"{where}.gpus: {n} with {ZERO3}", {"gpus": n, "deepspeed": ZERO3}, card) for n in spread]
    elif rule == "probe":
        tried += [("report.probe: 0", {"max_length": 0}, math.inf)]  # no job of it
    elif grid.generate_settings(config, model)["engine"] == "vllm":
        of = shape_of(config, model)
        more = [over for over in more if of.shared_by(over)]
        shared = [over for over in (2, 4, 8) if job["gpus"] % over == 0 and of.shared_by(over)]
        tried += [
            (f"models.{model}.generate.tensor_parallel: {over}", {"tensor_parallel": over}, card)
            for over in shared
        ]
        tried += [
            (
                f"models.{model}.gpus: {over} with tensor_parallel: {over}",
                {"gpus": over, "tensor_parallel": over},
                card,
            )
            for over in more
        ]
    sizes = sorted({round(kind["memory"]): kind["memory"] for kind in constants["cards"].values()}.items())
    tried += [(f"cards of {name} GiB", {}, memory) for name, memory in sizes if name > round(card)]
    device = constants["device"]
    fits = lambda other, size: tightest(moments(config, job, size, device, **other)).margin >= 0  # noqa: E731
    return [what for what, other, size in tried if fits(other, size)][:3]


class Tight(NamedTuple):
    """A rule and model of a plan: the job of it with the least room left, and its tightest moment."""

    rule: str
    model: str
    job: dict
    moment: Moment


def by_model(config: dict, jobs: list[dict], card: float, constants: dict) -> list[Tight]:
    """The tightest job of each rule and model among planned jobs, on cards of `card` GiB, the tightest
    first.
    """
    found: dict[tuple, Tight] = {}
    known: dict[tuple, list | None] = {}
    for job in jobs:
        key = job["rule"], job["wildcards"].get("model"), job["wildcards"].get("run"), job["gpus"]
        if key not in known:
            known[key] = moments(config, job, card, constants["device"])
        if not known[key]:
            continue
        moment, name = tightest(known[key]), key[:2]
        if name not in found or moment.margin < found[name].moment.margin:
            found[name] = Tight(*name, job, moment)
    return sorted(found.values(), key=lambda row: row.moment.margin)


def unknown(config: dict, jobs: list[dict]) -> list[str]:
    """Models of planned GPU jobs whose shape neither a folder nor the makers' table tells."""
    used = {job["wildcards"]["model"] for job in jobs if job["rule"] in STAGES and job["gpus"]}
    plain = sorted(model for model in used if not grid.is_pretrained_here(config, model))
    return [model for model in plain if shape_of(config, model) is None]


def refusals(config: dict, jobs: list[dict], card: float, constants: dict) -> list[str]:
    """A sentence for each rule and model of planned jobs that cannot fit on cards of `card` GiB, and what
    would.
    """
    found = []
    for row in by_model(config, jobs, card, constants):
        if row.moment.margin >= 0:
            continue
        largest = max(row.moment.parts, key=row.moment.parts.get)
        would = cures(config, row.job, card, constants)
        found.append(
            f"{row.rule} of {row.model} ({row.job['wildcards']['run']}) on {row.job['gpus']} card(s) of {card:.0f} GiB: {row.moment.name} "
            f"needs {row.moment.needed / GIB:,.1f} of {row.moment.room / GIB:,.1f} GiB a card, "
            f"{row.moment.parts[largest] / GIB:,.1f} of them {largest}. "
            + (
                f"What would fit: {'; or '.join(would)}"
                if would
                else "No number of cards that was tried would fit"
            )
        )
    return found
