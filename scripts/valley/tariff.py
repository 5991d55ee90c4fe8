"""What jobs cost by the shape of their work, for those presets of workflow/reference/costs.yaml that hold a
`step`; and what cells cost, by any preset.

The shape is computed; its constants are assumed (`computed`), or measured on a card (`measured`, as far as
tests/gpu/accept.py filled it). In seconds of all cards of a job:
- SFT: as by the rates (costs.modelled_seconds), `sft_mfu` being that of a card which never waits, times what
  cards wait for each other (`waiting`);
- generation: decoding reads the weights at every step and each sequence's keys and values once a token, at
  the memory's bandwidth (the memory term of Pope et al. 2022, section 2), with `step` seconds beside that a
  step (`sampling_seconds`);
- RL: the sampling of its responses, and six forward-equivalents over them of 2 × parameters FLOPs a token,
  by `rl_mfu`, times `rl_padding`: the old and the reference probabilities, and the forward pass, its
  repetition and the backward pass as two, in which ranks wait for each other (`waiting`, each with its
  longest first). Where responses share passes by tokens (`rl.device_tokens`) the columns that this adds are
  counted, and what ranks wait for the slowest of each pass (`sharing`).
Not counted: attention, prompts, weights on their way to vLLM, the optimiser, and what a pass costs however
short it is (kernels to launch, gradients to reduce), which is what `rl.device_tokens` is there to save: a
plan by this shape tells its price alone, never what it is good for.
"""

import functools
import math

from valley import costs, grid, vram

ALONE, TOGETHER = 2, 4  # forward-equivalents of RL: without gradients, and those in which ranks wait
DRAWN = 2**14  # lengths


def made_up(once: int, mean: float, most: int, spread: float):
    """Lengths in tokens as many times `once` as come near DRAWN: lognormal of a `mean` and a standard
    deviation of logarithms `spread`, cut at `most`; the same in every call.
    """
    import numpy

    drawn = numpy.random.default_rng(0).lognormal(
        math.log(mean) - spread**2 / 2, spread, max(1, DRAWN // once) * once
    )
    return numpy.minimum(drawn, most).astype(int)


@functools.cache
def waiting(
    devices: int, device_batch: int, mean: float, most: int, spread: float, batch: int | None = None,
    own: int | None = None,
) -> float:  # fmt: skip
    """Time of passes on so many cards over that of cards which never wait for each other, counted on lengths
    that are `made_up`: as they come, those of each `batch` side by side as SFT trains them
    (valley/batches.py), or those `own` of each card in an update longest first as RL does
    (valley/rollouts.py).
    """
    import numpy

    from valley import batches

    lengths = made_up(batch or (own or 1) * devices, mean, most, spread)
    order = numpy.arange(len(lengths))
    if batch:
        order = batches.side_by_side(order, lengths, batch)
    if own:  # micro-batches of each card, dealt card by card
        each = order.reshape(-1, devices, own // device_batch, device_batch)
        ranked = numpy.argsort(-lengths[each].max(-1, keepdims=True), axis=2, kind="stable")
        order = numpy.take_along_axis(each, ranked, 2).swapaxes(1, 2).flatten()
    return batches.waited(order, lengths, devices, device_batch)


@functools.cache
def sharing(
    devices: int, device_batch: int, mean: float, most: int, spread: float, own: int, device_tokens: int
) -> tuple[float, float]:
    """(columns that cards compute, columns that they could have until the slowest of each pass is done), over
    those of micro-batches each by itself, where the `own` responses of each card in an update share passes
    of `device_tokens` (rollouts.shared_passes), counted on lengths that are `made_up`.
    """
    import numpy

    from valley import rollouts

    drawn = made_up(own * devices, mean, most, spread)
    widths = drawn.reshape(-1, devices, own // device_batch, device_batch).max(-1)
    widths = -numpy.sort(-widths, axis=2)  # (updates, cards, micro-batches), longest first
    computed = until = 0
    for update in widths:
        agreed = [(0, int(width)) for width in update.max(0)]
        ends = numpy.cumsum(rollouts.shared_passes(agreed, device_batch, device_tokens))[:-1]
        passes = [part.shape[1] * part.max(1) for part in numpy.split(update, ends, axis=1)]
        computed += sum(int(cards.sum()) for cards in passes)
        until += sum(int(cards.max()) * devices for cards in passes)
    return computed / int(widths.sum()), until / int(widths.sum())


def longest_response(count: float, mean: float, most: int, spread: float) -> float:
    """Tokens of the longest of so many lognormal responses, to the leading order of extreme values; no less
    than the `mean` and no more than `most`.
    """
    over = math.exp(spread * math.sqrt(2 * math.log(max(1, count))) - spread**2 / 2)
    return min(most, mean * max(1, over))


def sampling_seconds(
    config: dict, constants: dict, preset: dict, model: str, cards: int, count: float, mean: float, most: int,
    share: float, at_once: float,
) -> float:  # fmt: skip
    """Seconds, of all `cards` together, to sample `count` responses of `mean` tokens, `most` at most, with
    `share` of each card's memory for weights and cache, `at_once` in hand if they have room. Each card takes
    its part; the cache of a model whose shape is not known counts as nothing.
    """
    shape = vram.shape_of(config, model)
    weights = costs.billions(config, model) * costs.GIGA * constants["bytes_a_parameter"]
    cache, own = shape.kv_token if shape else 0, count / cards
    if cache:
        room = share * preset["memory"] * vram.GIB - weights
        at_once = max(1, min(at_once, room / (cache * mean)))
    longest = longest_response(own, mean, most, constants["spread"])
    steps = max(longest, own * mean / at_once)  # a step gives each sequence in hand a token
    # Half of its response lies behind a token, and long ones hold the most (the lognormal's second moment).
    behind = min(most, mean * math.exp(constants["spread"] ** 2)) / 2
    read = steps * weights + own * mean * behind * cache
    return cards * (steps * preset["step"] + read / (preset["bandwidth"] * 1e12))


def computed_seconds(job: dict, config: dict, constants: dict, preset: dict) -> float:
    """Seconds of a job on all its GPUs together: by the shape of its work where the preset has a `step`, else
    costs.modelled_seconds.
    """
    rule, cards, wildcards = job["rule"], job["gpus"], job["wildcards"]
    if "step" not in preset or not cards or rule not in (*costs.TRAINING, "generate", "rl"):
        return costs.modelled_seconds(job, config, constants, preset)
    model, run, start = wildcards["model"], wildcards["run"], preset["start"] * cards
    spread, device = constants["spread"], constants["device"]
    if rule in costs.TRAINING:
        settings = grid.sft_settings(config, model, run)
        mean, most = costs.tokens_of_example(constants, settings), settings["max_length"]
        at_once = min(
            settings["device_batch"], max(1, settings["batch"] // cards)
        )  # as sft.split_batch has it
        waits = waiting(cards, at_once, mean, most, spread, settings["batch"])
        return start + (costs.modelled_seconds(job, config, constants, preset) - start) * waits
    if rule == "rl":
        settings = grid.rl_settings(config, model, run)
        mean, count = costs.rl_length(constants, settings, run), settings["prompts"] * settings["rollouts"]
        sampled = sampling_seconds(config, constants, preset, model, cards, count, mean,
                                   settings["max_new_tokens"], device["rl_share"], device["rl_sequences"])  # fmt: skip
        own = max(1, settings["minibatch"] * settings["rollouts"] // cards)
        at_once, most = min(settings["device_batch"], own), settings["max_new_tokens"]
        own = own // at_once * at_once
        columns, waits = 1.0, waiting(cards, at_once, mean, most, spread, own=own)
        if settings["device_tokens"]:
            columns, waits = sharing(cards, at_once, mean, most, spread, own, settings["device_tokens"])
        forwards = ALONE * columns + TOGETHER * waits
        flops = forwards * 2 * costs.billions(config, model) * costs.GIGA * count * mean
        passes = flops * preset["rl_padding"] / (preset["peak_flops"] * preset["rl_mfu"])
        return start + settings["steps"] * (sampled + passes)
    tasks = job.get("tasks", [wildcards["task"]])
    if not tasks:  # it puts together what is there
        return costs.modelled_seconds(job, config, constants, preset)
    count, mean = sum(costs.responses(config, task) for task in tasks), costs.response_length(constants, run)
    most = grid.generate_settings(config, model)["max_new_tokens"]
    in_hand = vram.in_hand(preset["memory"] * vram.GIB, device)
    return start + sampling_seconds(
        config, constants, preset, model, cards, count, mean, most, device["vllm_share"], in_hand["sequences"]
    )


def assumed(preset: dict) -> str:
    """What a preset assumes, in words for the plan."""
    training = f"{100 * preset['sft_mfu']:.0f} % of {preset['peak_flops']:.3g} FLOP/s in SFT"
    if "step" in preset:
        return (
            f"{training} and {100 * preset['rl_mfu']:.0f} % in RL of cards that never wait, {1000 * preset['step']:g}"
            f" ms a step of sampling beside what it reads at {preset['bandwidth']:g} TB/s"
        )
    return (
        f"{training}, {preset['rl_tokens']:,} tokens a GPU-second in RL and {preset['generate_tokens']:,} in"
        " generation at 1B parameters"
    )


class Prices:
    """What cells cost in GPU-seconds: training a run once, generating each cell's responses; measured where
    it was.
    """

    def __init__(self, config: dict, preset: str = "paper", measured: dict | None = None):
        self.config, self.constants, self.measured = config, costs.load(), measured or {}
        card = next(iter(self.constants["cards"].values()))
        self.preset, self.known = costs.on_card(self.constants["presets"][preset], card, card), {}

    def _job(self, rule: str, model: str, run: str, task: str | None = None) -> float:
        if (rule, model, run, task) not in self.known:
            self.known[rule, model, run, task] = self._priced(rule, model, run, task)
        return self.known[rule, model, run, task]

    def _priced(self, rule: str, model: str, run: str, task: str | None) -> float:
        gpus = max(1, grid.training_gpus(self.config, model, run if rule == "rl" else "base"))
        job = {"rule": rule, "gpus": gpus, "wildcards": {"model": model, "run": run, "task": task}}
        return costs.seconds(job, self.config, self.constants, self.preset, self.measured, computed_seconds)[
            0
        ]

    def training(self, model: str, run: str) -> float:
        """Seconds of training a run, without what it starts from; 0 for a base. Of a branch, with its share
        of the trunk.
        """
        parsed = grid.parse_run(run)
        if parsed.stage == "sft" and grid.is_trunk(self.config, run):
            runs = grid.trunk(self.config, model, run)
            share = grid.seen(self.config, model, runs)
            part = share[runs.index(run)] / sum(share)
            return self._job("branch", model, run) + part * self._job("trunk", model, runs[-1])
        return 0.0 if parsed.stage == "base" else self._job(parsed.stage, model, parsed.whole)

    def generating(self, model: str, run: str, task: str) -> float:
        """Seconds of generating a cell's responses to a task."""
        return self._job("generate", model, run, task)

    def hours(self, cells, times: dict[str, float] | None = None) -> float:
        """GPU-hours of cells: each training once, whatever checkpoints of it are evaluated; `times` the
        samples of a task.
        """
        trained = {(cell.model, cell.parsed.whole, cell.seed) for cell in cells}
        spent = sum(self.training(model, run) for model, run, _ in trained)
        for cell in cells:
            for task in self.config["grid"]["tasks"]:
                spent += self.generating(cell.model, cell.run, task) * (times or {}).get(task, 1)
        return spent / 3600
