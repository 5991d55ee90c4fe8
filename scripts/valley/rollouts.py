"""RL's trainer as this study needs it: forward passes without columns that are all padding, and a vLLM that
can start.

TRL pads every response of a generation to the longest of all and runs old, reference and trained
probabilities over the padding. `trainer_class` leaves out, of each micro-batch, the columns that none of its
rows has a token in, and trains the micro-batches of an update in the order of their lengths: under ZeRO all
devices wait for the longest of each, and by chance the longest of eight has twice the mean. By tokens
(`device_tokens`) as many of them go through one pass as fit. It also asks, once a step, whether vLLM sampled
with the weights that are trained, and tells the seconds of a step by part.
"""

import time

from valley import rounds

SIDES = "prompt", "completion"
PARTS = "sampling", "scoring", "grading"  # of a step's seconds, beside its updates
SEQUENCES = 1024  # that vLLM has in hand at once; it refuses more than TRL's 4,096 tokens a pass


def trainer_class(device_tokens: int | None = None):
    """TRL's GRPOTrainer on trimmed micro-batches, longest first; `columns` counts [computed, of tokens] of
    this process, over all passes, and `loads` the columns of each pass with gradients. With vLLM each step's
    log holds `sampler_gap`.

    The same probabilities and gradients: a masked column is attended by none, a position counts relative to
    others (rotary embeddings), and the values of masked columns, here 0, enter no loss; the gradient of an
    update is a sum over its micro-batches, whatever their order.

    With `device_tokens` micro-batches share passes of at most so many columns (`shared_passes`). The loss is
    TRL's of each micro-batch by itself, with its own means over rows and tokens, on its part of the pass: so
    it is the same sum in every loss, with the KL and entropy terms, and nothing is weighed anew.
    """
    import torch
    from trl import GRPOTrainer

    class Trimmed(GRPOTrainer):
        columns = (0, 0)
        gap = "sampler_gap"  # the name of what `gap_of` finds

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.loads: list[int] = []
            self.passed: list[tuple] = []  # what a shared pass found of micro-batches whose loss is due
            self.spent = dict.fromkeys(PARTS, 0.0)

        @property
        def updates(self) -> int:
            """Updates by the responses of a generation."""
            return self.args.steps_per_generation // self.args.gradient_accumulation_steps

        def _get_train_sampler(self, dataset=None):
            plain = super()._get_train_sampler(dataset)
            of_epoch = self.updates * (plain.num_samples // plain.batch_size)
            return rounds.OfGenerations(plain, lambda: self.state.global_step // of_epoch)

        def training_step(self, model, inputs, num_items_in_batch):
            at = self._step % self.args.steps_per_generation
            first = at % self.args.gradient_accumulation_steps == 0
            if first or self._buffered_inputs[at] is not None:
                return super().training_step(model, inputs, num_items_in_batch)
            self._step += 1  # its micro-batches share another pass of this update
            return torch.zeros((), device=self.args.device)

        def _prepare_inputs(self, generation_batch):
            before = self._buffered_inputs
            inputs = super()._prepare_inputs(generation_batch)
            if self._buffered_inputs is before:
                return inputs
            self._buffered_inputs = longest_first(
                self._buffered_inputs, self.args.gradient_accumulation_steps
            )
            if device_tokens:
                self._buffered_inputs = self.shared(self._buffered_inputs)
            return self._buffered_inputs[self._step % self.args.steps_per_generation]

        def shared(self, batches: list[dict]) -> list:
            """For each of a generation's micro-batches, in whose place TRL asks for one: those that share a
            pass, or None where nothing is left to do.
            """
            widths = [[int(batch[f"{of}_mask"].sum(1).max()) for of in SIDES] for batch in batches]
            update, found = self.args.gradient_accumulation_steps, []
            for at in range(0, len(batches), update):
                sizes = self.agreed(widths[at : at + update], len(batches[at]["prompt_ids"]))
                found += in_slots(batches[at : at + update], sizes)
            return found

        def agreed(self, widths: list, rows: int = 1) -> list[int]:
            """`shared_passes`, the same on every process: by the widest of all in each place."""
            own = torch.tensor([widths], device=self.accelerator.device)
            return shared_passes(self.accelerator.gather(own).amax(0).tolist(), rows, device_tokens)

        def compute_loss(self, model, inputs, **options):
            of_one = super().compute_loss
            if isinstance(inputs, dict):
                return of_one(model, inputs, **options)
            ids, mask = (
                torch.cat([torch.cat([batch[f"{of}_{what}"] for of in SIDES], 1) for batch in inputs])
                for what in ("ids", "mask")
            )
            logps, entropies, aux = self._get_per_token_logps_and_entropies(
                model, ids, mask, inputs[0]["completion_ids"].shape[1], compute_entropy=True,
                compute_aux_loss=self.aux_loss_enabled,
            )  # fmt: skip
            rows = [len(batch["prompt_ids"]) for batch in inputs]
            self.passed = [
                (*pair, aux) for pair in zip(logps.split(rows), entropies.split(rows), strict=True)
            ]
            return sum(of_one(model, batch) for batch in inputs)

        def rows_of_passes(self, mask, completion: int, batch_size: int | None) -> list:
            """The rows of each pass: all without a `batch_size`; else so many, or by tokens."""
            if not (device_tokens and batch_size):
                return torch.arange(len(mask)).split(batch_size or len(mask))
            order = mask.sum(1).cpu().argsort(descending=True, stable=True)
            sides = mask[:, :-completion].sum(1).cpu()[order], mask[:, -completion:].sum(1).cpu()[order]
            return order.split(self.agreed(torch.stack(sides, 1).tolist()))

        def _get_per_token_logps_and_entropies(
            self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **options
        ):
            if self.passed:
                return self.passed.pop(0)
            parts, before = [], self.columns[0]
            groups = self.rows_of_passes(attention_mask, logits_to_keep, batch_size)
            for rows in groups:
                ids, mask = input_ids[rows], attention_mask[rows]
                first, last = span(mask, logits_to_keep)
                computed, real = self.columns
                self.columns = (computed + len(ids) * (last - first), real + int(mask.sum()))
                cut = mask.shape[1] - last
                found = super()._get_per_token_logps_and_entropies(
                    model, ids[:, first:last], mask[:, first:last], logits_to_keep - cut, None, **options
                )
                parts.append(
                    [
                        None if value is None else torch.nn.functional.pad(value, (0, cut))
                        for value in found[:2]
                    ]
                    + [found[2]]
                )
            if torch.is_grad_enabled():
                self.loads.append(self.columns[0] - before)
            logps, entropies, losses = zip(*parts, strict=True)
            back = torch.cat(groups).argsort()
            whole = lambda values: torch.cat(values)[back] if len(values) > 1 else values[0]  # noqa: E731
            return (
                whole(logps),
                None if entropies[0] is None else whole(entropies),
                None if losses[0] is None else torch.stack(losses).mean(),
            )

        def _generate_and_score_completions(self, inputs):
            metrics = self._metrics["train" if self.model.training else "eval"]
            found = self.timed("scoring", super()._generate_and_score_completions, inputs)
            self.spent["scoring"] -= self.spent["sampling"] + self.spent["grading"]  # which it calls
            for part in PARTS:
                metrics[f"seconds/{part}"].append(self.spent[part])
            if "sampling_per_token_logps" in found:
                metrics[self.gap].append(self.gap_of(found))
            return found

        def _generate(self, *args):
            return self.timed("sampling", super()._generate, *args)

        def _calculate_rewards(self, *args):
            return self.timed("grading", super()._calculate_rewards, *args)

        def timed(self, part: str, method, *args):
            """What a method gives; its seconds are those of a part of this step."""
            begun = time.perf_counter()
            found = method(*args)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.spent[part] = time.perf_counter() - begun
            return found

        @torch.no_grad()
        def gap_of(self, found) -> float:
            """The mean over tokens of |log-probability of vLLM − of the trainer's weights|, of as many
            responses of a generation as a micro-batch has; TRL itself compares them only where it corrects
            for the difference.
            """
            some = slice(self.args.per_device_train_batch_size)
            prompt, completion = found["prompt_ids"][some], found["completion_ids"][some]
            own = found["completion_mask"][some]
            told = found["sampling_per_token_logps"][some]
            ids, mask = torch.cat([prompt, completion], 1), torch.cat([found["prompt_mask"][some], own], 1)
            logps, *_ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, own.shape[1], self.args.per_device_train_batch_size
            )
            apart = (logps - told).abs()[own.bool() & ~told.isnan()]
            return self.accelerator.gather(apart.mean()).nanmean().item()

    return Trimmed


def span(mask, completion: int) -> tuple[int, int]:
    """(first, end) of the columns that any row of an attention mask, (rows, prompt + completion), has a token
    in; at least one of the prompt and one of the `completion` columns.
    """
    used = mask.any(0).nonzero().flatten()
    start = mask.shape[1] - completion
    if not len(used):
        return start - 1, start + 1
    return min(int(used[0]), start - 1), max(int(used[-1]) + 1, start + 1)


def longest_first(batches: list[dict], update: int) -> list[dict]:
    """The micro-batches of a generation as TRL buffers them, those of each `update` by the tokens of their
    longest row, most first: what does not fit does not fit at once.
    """
    longest = [
        int((batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).max()) for batch in batches
    ]
    order = sorted(range(len(batches)), key=lambda at: (at // update, -longest[at]))
    return [batches[at] for at in order]


def shared_passes(widths: list, rows: int, most: int) -> list[int]:
    """How many micro-batches share each pass of an update, so that rows × columns stay within `most`.

    `widths` are the columns of prompt and completion that each micro-batch of so many `rows` needs, in the
    order in which they are trained: a pass has the most of either. One that needs more by itself goes alone.
    Where there are several micro-batches there are at least two passes, for TRL samples in the place of the
    first and devices add up their gradients in that of the last.
    """
    sizes: list[int] = []
    widest = (0, 0)
    for width in widths:
        wider = tuple(map(max, widest, width))
        if sizes and (sizes[-1] + 1) * rows * sum(wider) <= most:
            sizes[-1] += 1
            widest = wider
        else:
            sizes.append(1)
            widest = tuple(width)
    count = len(widths)
    return [count // 2, count - count // 2] if len(sizes) == 1 < count else sizes


def in_slots(batches: list[dict], sizes: list[int]) -> list:
    """An update's micro-batches by the passes that they share, in as many places as there were micro-batches:
    the first pass in the first, the others in the last, None between.
    """
    left = iter(batches)
    first, *others = [[next(left) for _ in range(size)] for size in sizes]
    return [first, *[None] * (len(batches) - len(sizes)), *others]


def facts_of(trainer) -> dict:
    """For the record of a run: passes with gradients of each process; columns computed and tokens in them, of
    all processes since they started, and what they could have computed, for a pass with gradients lasts as
    long as the longest of its peers; the seconds of each update (TRL's `step_time`), sampling, scoring (the
    probabilities of the reference and of the policy before) and grading in the first of a step, and theirs by
    themselves, by step, of the first process; by step too, how far the sampler's log-probabilities were from
    the trainer's (vLLM's), or the policy had moved (sampled ahead).
    """
    import torch

    gather, device = trainer.accelerator.gather, trainer.accelerator.device
    computed, real = gather(torch.tensor([trainer.columns], device=device)).sum(0).tolist()
    loads = gather(torch.tensor([trainer.loads], device=device))  # (processes, passes)
    waited = int((loads.max(0).values - loads).sum())
    logged = lambda key: [entry[key] for entry in trainer.state.log_history if key in entry]  # noqa: E731
    facts = {
        "passes": len(trainer.loads),
        "columns_computed": computed,
        "columns_of_tokens": real,
        "columns_waited": computed + waited,
        "seconds_of_updates": logged("step_time"),
        **{f"seconds_of_{part}": logged(f"seconds/{part}") for part in PARTS},
    }
    return facts | ({trainer.gap: gaps} if (gaps := logged(trainer.gap)) else {})


def engine_options(asked: dict, precision: str, seed: int, rank: int, devices: int) -> dict:
    """TRL's options of its vLLM with this study's: as many sequences as it can start with (TRL asks for all
    responses of a card's step, 8,192 on one card), the precision that is trained in (vLLM would take fp32
    weights in half of it), and the cell's seed where TRL gives the rank alone. No two ranks of a run and no
    two runs on as many devices share a seed.
    """
    return asked | {
        "max_num_seqs": min(asked["max_num_seqs"], SEQUENCES),
        "dtype": "bfloat16" if precision == "bf16" else "float32",
        "seed": seed * devices + rank,
    }


def prepare_vllm(precision: str, seed: int, rank: int, devices: int):
    """Have TRL start its vLLM by `engine_options`, without reports to its makers; run on CPU by
    tests/gpu/test_sampling_path.py, not yet on a GPU.
    """
    import torch

    from valley import engines

    local = engines.vllm_options()  # before vLLM is imported
    from trl.generation import vllm_generation

    if not torch.cuda.is_available():
        keep_weights_plain()

    make = vllm_generation.LLM
    vllm_generation.LLM = lambda **asked: make(
        **engine_options(asked, precision, seed, rank, devices) | local
    )


def keep_weights_plain():
    """Have vLLM's CPU build multiply by its weights as they are. It packs them for its kernels when it starts
    and drops the originals, so that weights that come later reach nothing (`dispatch_cpu_unquantized_gemm`).
    """
    import torch
    from vllm.model_executor.layers import utils

    def plain(layer, remove_weight):
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain
