"""What a job needs of a card's memory, from the shape of its model: before anything is run, and with nothing
loaded.

A job has *moments* (the backward pass, the optimiser's step, sampling), each a list of parts in bytes and the
room they have. Where the formulae are from:
- weights, gradients, optimiser: 2 + 2 + 12 bytes a parameter in bf16 with AdamW, spread over the cards by
  ZeRO's stage
  (Rajbhandari et al. 2020, section 3.1 and figure 1); tests/test_vram.py holds them to DeepSpeed's own
  estimates, `estimate_zero2_model_states_mem_needs` and `estimate_zero3_…`, and names what differs;
- activations: bytes a token and layer counted on CPU (tests/gpu/test_card.py holds them to what torch
  allocates); with
  checkpointing one bf16 vector a token and layer, and one layer at a time (Chen et al. 2016);
- the head: TRL's loss goes through the vocabulary in tiles and adds gradients up in fp32
  (trl/kernels/chunked_logprob.py);
- key-value cache: 2 × layers × key-value heads × width of a head × 2 bytes a token (Kwon et al. 2023, section
  3).
None of it has been held to a card yet. Constants that are assumed stand in workflow/reference/costs.yaml
(`device`).
"""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from valley import check, costs, grid, records
from valley.places import Places

GIB = 2**30
ZERO3, OFFLOAD = "config/deepspeed/zero3.json", "config/deepspeed/zero2-offload.json"


class Shape(NamedTuple):
    """A decoder: what of its config.json memory follows from. `window`: tokens of sliding attention, 0
    without.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    ff: int
    vocab: int
    tied: bool
    norms: int  # a layer
    window: int

    @property
    def parameters(self) -> int:
        """Weights; the biases of Qwen's attention are too few to count."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.ff + self.norms * self.hidden
        return self.layers * layer + self.hidden + self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def linear(self) -> int:
        """Sum of inputs and outputs of a model's linear layers but the head: adapters have as many weights a
        rank.
        """
        attention = (
            2 * self.hidden + 2 * self.head * self.heads + 2 * (self.hidden + self.head * self.kv_heads)
        )
        return self.layers * (attention + 3 * (self.hidden + self.ff))

    @property
    def kv_token(self) -> int:
        """Bytes of the key-value cache of a token, in bf16."""
        return 4 * self.layers * self.kv_heads * self.head


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


def described_shape(content: dict) -> Shape:
    """The shape that a config.json describes; KeyError where it describes no decoder of this kind."""
    content = content.get("text_config", content)
    heads = content["num_attention_heads"]
    gemma = content["model_type"].startswith("gemma3")
    windowed = content.get("sliding_window") if content.get("use_sliding_window", gemma) else None
    return Shape(
        layers=content["num_hidden_layers"],
        hidden=content["hidden_size"],
        heads=heads,
        kv_heads=content.get("num_key_value_heads") or heads,
        head=content.get("head_dim") or content["hidden_size"] // heads,
        ff=content["intermediate_size"],
        vocab=content["vocab_size"],
        tied=content.get("tie_word_embeddings", gemma),
        norms=4 if gemma else 2,
        window=windowed or 0,
    )


def of_machine() -> float | None:
    """GiB of the smallest GPU of this machine, as its driver tells; None without one."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]  # MiB
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    sizes = [int(size) for size in told if size.isdecimal()]
    return min(sizes) / 1024 if sizes else None


@functools.cache
def published() -> dict[str, dict]:
    """What the makers' config.json say, by hub id."""
    import yaml

    return yaml.safe_load((check.ROOT / "workflow/reference/shapes.yaml").read_text(encoding="utf-8"))


@functools.cache
def zero_of(deepspeed: str) -> dict:
    """What a DeepSpeed configuration says of ZeRO; a path is one from the repository's root."""
    return records.read_json(check.ROOT / deepspeed)["zero_optimization"]


def shape_of(config: dict, model: str) -> Shape | None:
    """The shape of a model of the catalogue: of its folder where it is there, else as its maker published it;
    None where neither tells, and for models that are pre-trained here, which fit anywhere.
    """
    if grid.is_pretrained_here(config, model):
        return None
    source = config["models"][model]["source"]
    for folder in (Places(config).base(model, 0), Path(source)):
        if (folder / "config.json").is_file():
            return described_shape(records.read_json(folder / "config.json"))
    return described_shape(published()[source]) if source in published() else None


def states(of: Shape, settings: dict, cards: int, device: dict) -> tuple[dict[str, float], dict[str, float]]:
    """What weights, gradients and optimiser take on a card while it computes, and during the optimiser's
    step.
    """
    size, buckets = of.parameters, device["buckets"] * GIB
    if rank := settings.get("lora_rank"):
        found = {"weights": 4 * size, "adapters": 16 * rank * of.linear}
        return found, found
    if not settings.get("deepspeed"):  # fp32 weights; under bf16 autocast keeps a copy of them
        copies = 2 * size if settings.get("precision") == "bf16" else 0
        found = {"weights": 4 * size + copies, "gradients": 4 * size, "optimiser": 8 * size}
        return found, found
    zero = zero_of(settings["deepspeed"])
    if zero["stage"] == 3:
        live = min(2 * size, 2 * device["live"] * 1e9) + (0 if of.tied else 2 * of.vocab * of.hidden)
        found = {
            "weights": 2 * size / cards + live,
            "gradients": 2 * size / cards,
            "optimiser": 12 * size / cards,
        }
        return found, found | {"step": 8 * min(size / cards, 1e9)}
    if "offload_optimizer" in zero:
        found = {"weights": 2 * size, "buckets": buckets}
        return found, found
    found = {
        "weights": 2 * size,
        "gradients": 2 * size / cards,
        "optimiser": 12 * size / cards,
        "buckets": buckets,
    }
    # the step: gradients in fp32, and as much again while AdamW goes over all of them at once
    return found, {"weights": 2 * size, "optimiser": 14 * size / cards, "step": 8 * size / cards}


def activations(of: Shape, settings: dict, tokens: int) -> dict[str, float]:
    """Bytes of activations of `tokens` in one pass, at their peak: kept, and the layer or the head at
    work.
    """
    attention = 13 * (of.hidden + of.heads * of.head) + 4 * (of.kv_heads + 1) * of.head
    norms = 16 * of.hidden * (of.norms - 2)
    work = tokens * (12 * of.ff + attention + norms)
    if of.window and tokens > of.window:
        work += 3 * tokens**2  # a mask, and its copy in bf16
    head = 6 * of.vocab * of.hidden + 8 * tokens * of.hidden + 2 * min(tokens, 4096) * min(of.vocab, 32768)
    wide = 2 if settings.get("precision") == "fp32" else 1
    if settings.get("gradient_checkpointing"):
        kept = 2 * of.layers * tokens * of.hidden
    else:
        kept = (of.layers - 1) * tokens * (8 * of.ff + 24 * of.hidden + norms + 4 * of.kv_heads * of.head)
    return {"kept": wide * kept, "layer or head": wide * max(work, head)}


def engine(of: Shape, sequences: int, tokens: int, context: int, over: int = 1) -> dict[str, float]:
    """What vLLM must hold on each of the `over` cards of an engine: weights, its work, and the cache of one
    sequence.

    Its work is a pass of `tokens`, and the logits of `sequences` in fp32, twice where it samples.
    """
    work = tokens * (4 * of.ff + 8 * of.hidden) + 8 * sequences * of.vocab
    return {
        "weights": 2 * of.parameters / over,
        "work": work,
        "cache of one response": of.kv_token * context / min(over, of.kv_heads),
    }


def of_training(of: Shape, settings: dict, cards: int, card: float, device: dict) -> list[Moment]:
    """Moments of SFT on cards of `card` bytes, on the longest example that it may see."""
    room = card - device["reserve"] * GIB
    rows = min(settings.get("device_batch", 1), max(1, settings["batch"] // cards))
    computing, stepping = states(of, settings, cards, device)
    acts = activations(of, settings, rows * settings["max_length"])
    return [Moment("backward", computing | acts, room), Moment("step", stepping, room)]


def of_rl(of: Shape, settings: dict, cards: int, card: float, device: dict) -> list[Moment]:
    """Moments of RL on cards of `card` bytes: training, with vLLM asleep, and sampling, with the trainer's
    states there.
    """
    room = card - device["reserve"] * GIB
    computing, stepping = states(of, settings, cards, device)
    reference = {"reference": 2 * of.parameters} if settings.get("kl") else {}
    context = settings.get("max_prompt", 1024) + settings["max_new_tokens"]
    acts = activations(of, settings, settings["device_batch"] * context)
    found = [
        Moment("backward", computing | reference | acts, room),
        Moment("step", stepping | reference, room),
    ]
    if not settings.get("vllm"):
        cache = {"cache": of.kv_token * context * settings["prompts"] * settings["rollouts"] / cards}
        return [*found, Moment("sampling", computing | reference | cache, room)]
    share = device["rl_share"] * card
    return [
        *found,
        Moment("sampling", computing | reference | {"vLLM's share": share}, room),
        Moment("vLLM's share", engine(of, device["sequences"], 4096, context), share),
    ]


def of_generation(of: Shape, settings: dict, cards: int, card: float, device: dict) -> list[Moment]:
    """Moments of generation, or of the judge, on cards of `card` bytes: that of sampling."""
    if settings["engine"] == "transformers":
        cache = of.kv_token * settings["max_context"] * settings.get("chunk", 1)
        parts = {"weights": 2 * of.parameters, "cache": cache}
        return [Moment("sampling", parts, card - device["reserve"] * GIB)]
    over = settings.get("tensor_parallel", 1)
    parts = engine(of, device["sequences"], device["vllm_tokens"], settings["max_context"], over)
    return [Moment("sampling", parts, device["vllm_share"] * card)]


STAGES = dict.fromkeys(costs.TRAINING, of_training) | {
    "rl": of_rl,
    "generate": of_generation,
    "judge": of_generation,
}


def settings_of(config: dict, rule: str, model: str, run: str) -> dict:
    """The settings that the memory of a job follows from."""
    if rule in costs.TRAINING:
        return grid.sft_settings(config, model, run)
    if rule == "rl":
        return grid.rl_settings(config, model, run)
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
        own = f"models.{model}.{stage}.deepspeed"
        tried += [(f"{stage}.device_batch: 1", {"device_batch": 1}, card)]
        tried += [(f"{where}.gpus: {count}", {"gpus": count}, card) for count in more]
        tried += [(f"{own}: {zero}", {"deepspeed": zero}, card) for zero in (ZERO3, OFFLOAD)]
        tried += [(f"{where}.gpus: {n} with {ZERO3}", {"gpus": n, "deepspeed": ZERO3}, card) for n in more]
    elif grid.generate_settings(config, model)["engine"] == "vllm":
        shared = [over for over in (2, 4, 8) if job["gpus"] % over == 0]
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
    larger = sorted({kind["memory"] for kind in constants["cards"].values() if kind["memory"] > card})
    tried += [(f"cards of {memory} GB", {}, memory) for memory in larger]
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
            f"{row.rule} of {row.model} ({row.job['wildcards']['run']}) on {row.job['gpus']} card(s) of {card:g} GB: {row.moment.name} "
            f"needs {row.moment.needed / GIB:,.0f} of {row.moment.room / GIB:,.0f} GiB a card, "
            f"{row.moment.parts[largest] / GIB:,.0f} of them {largest}. "
            + (
                f"What would fit: {'; or '.join(would)}"
                if would
                else "No number of cards that was tried would fit"
            )
        )
    return found
