"""What sft.py and rl.py share: one process a cell, training that continues from whole checkpoints, progress,
numbers gone bad, the record of a run.
"""

import contextlib
import itertools
import json
import math
import os
import sys
import time
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback

from valley import checkpoints, environment, locks, manifests, pulse, records, varlen
from valley.environment import process_rank
from valley.weights import stored_parameters

STUCK = 10  # steps in a row without a difference of reward in any group that are worth a warning
HOPELESS = 20  # steps from the first one without a single right response, and half the run: it ends
SAVING = (
    300.0  # seconds kept free for the last checkpoint of a job; a twentieth of its time where that is less
)
SPARE = 1.25  # of its longest step: the time that a training wants to have for one more
EMPTY = 1  # tokens: the end token alone, which TRL counts
EXPLODED = 10.0  # times the first loss that a loss may come to before it is worth a warning
APART = 0.1  # of a token's log-probability, vLLM's from the trainer's, in the mean: more than bf16 rounds


@contextlib.contextmanager
def session(args, work: list):
    """The frame of a training script (a context manager that yields whether anything is left to do): one
    process a cell, none left over when its launcher ends, no failure repeated that a retry cannot cure.

    Of several processes on CPU each ends here, without the teardown of its libraries: there torch now and
    then aborts on a thread of gloo's (SIGABRT, `terminate called without an active exception`), its group
    closed or not, and a training that is done would count as failed.

    `work` is JSON content that names the arguments, the start model and the data.
    """
    environment.end_with_launcher()
    environment.check_one_card()
    found = lambda: records.read_json(args.record) if args.record.exists() else {}  # noqa: E731
    failed, lock = args.record.with_name("failed.json"), args.out.parent / "train.lock"
    with locks.guarded(failed, lock, work, found) as todo:
        yield todo
    import torch

    if todo and int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.cuda.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def check_room(args, folder: Path, kept: int | None, steps: int, stops: int = 0):
    """Stop unless the disk holds what this training will write: its checkpoints at the peak, and the model.

    A checkpoint is the weights as they are trained and AdamW's two moments in fp32, under DeepSpeed also the
    fp32 master copy, and the weights a second time, as its own file. The one before goes only when the next
    is whole, so one more than `kept` is there at the peak; None: one each `args.save_every` of `steps`, all
    but the two newest as weights. `stops` more stay whole.
    """
    if process_rank() > 0:
        return
    weights = 2 if args.precision == "bf16" and args.deepspeed else 4
    each = 2 * weights + 12 if args.deepspeed else weights + 8
    none = not args.save_every and not getattr(args, "save_minutes", 0)
    count = stops + (0 if none else kept + 1 if kept else -(-steps // args.save_every))
    there = len(checkpoints.of(folder))
    left = max(0, count - there)
    whole = left if kept else min(2, left)
    needed = stored_parameters(args.model) * (each * whole + weights * (left - whole + 1))
    records.room(args.out.parent, needed, f"training with {count} checkpoints at a time")


def announce(config):
    """Say on what this process trains, which starts the process group; to be called before the model is
    loaded.

    DeepSpeed has to know of the group by then, or ZeRO-3 takes itself for alone while the weights load.
    """
    print(f"process {process_rank()} trains on {config.device}", file=sys.stderr, flush=True)
    if config.deepspeed:
        import deepspeed

        deepspeed.init_distributed(auto_mpi_discovery=False)


def weights_dtype(args):
    """In what precision weights are loaded: fp32 unless DeepSpeed keeps the fp32 master copy of bf16 weights
    itself.

    AdamW on bf16 weights alone loses most updates at the paper's rate: a step of 5e-5 is below half the
    distance between two bf16 numbers near .02.
    """
    import torch

    return torch.bfloat16 if args.precision == "bf16" and args.deepspeed else torch.float32


def start_model(args):
    """The model of the folder `args.model` as it is trained: in its precision, with its attention."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        args.model,
        dtype=weights_dtype(args),
        local_files_only=True,
        use_safetensors=True,
        attn_implementation=varlen.attention_for(args),
    )


class Progress(TrainerCallback):
    """A line on standard error every few seconds; the last step is logged whatever the interval; training
    that nothing can come of ends. `unit` as in `train_and_save`.
    """

    def __init__(self, unit: int = 1, every: float = 5.0):
        self.unit, self.every, self.last = unit, every, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if hopeless(state.log_history, state.max_steps // self.unit):
            control.should_training_stop = True  # the script then says so and fails
        if state.is_world_process_zero and logs and time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            shown = {
                k: round(v, 4) for k, v in logs.items() if k in ("loss", "reward", "completions/mean_length")
            }
            print(
                f"step {state.global_step}/{state.max_steps} {json.dumps(shown)}", file=sys.stderr, flush=True
            )


def spare_steps(ahead: bool) -> float:
    """For how many of its longest steps a training wants to have time: RL that samples `ahead` has up to a
    step's responses in hand when it stops, and its process ends after them.
    """
    return SPARE + 1 if ahead else SPARE


class Portion(TrainerCallback):
    """Ends a training before the time of its job is up, with a checkpoint from which the next job continues.

    `end` is that time (environment.job_end). A step is `unit` updates of the trainer: RL's responses last for
    several, and are drawn anew where one continues between them. It ends when less time is left than
    `spare` steps as long as the longest so far, with what saving takes; so every portion makes a step at
    least.
    """

    def __init__(self, trainer, end: float | None, unit: int, spare: float = SPARE):
        self.trainer, self.end, self.unit, self.spare = trainer, end, unit, spare
        self.longest, self.over = 0.0, False

    def on_train_begin(self, args, state, control, **_):
        self.last = time.time()
        self.saving = min(SAVING, 0.05 * (self.end - self.last)) if self.end else 0.0

    def on_step_end(self, args, state, control, **_):
        if self.end is None or state.global_step % self.unit or state.global_step >= state.max_steps:
            return
        now = time.time()
        self.longest, self.last = max(self.longest, now - self.last), now
        if self.of_all(now + self.spare * self.longest + self.saving > self.end):
            self.over = control.should_save = control.should_training_stop = True

    def of_all(self, late: bool) -> bool:
        """Whether any process of this training is late: all stop at the same step."""
        import torch

        accelerator = self.trainer.accelerator
        return bool(accelerator.reduce(torch.tensor(float(late), device=accelerator.device), "sum") > 0)


def hopeless(history: list[dict], steps: int) -> str | None:
    """Why nothing can come of a training of so many `steps` any more, in a few words, from the trainer's
    log; else None.

    The loss is no number; every response has been empty for STUCK steps; or no response was right from the
    first step to half of the `steps` (at least HOPELESS). Of the updates of an RL step the log tells rewards
    at the one before which responses were sampled.
    """
    if any(not math.isfinite(entry.get("loss", 0.0)) for entry in history):
        return "the loss is no number"
    rewarded = [entry for entry in history if "reward" in entry]
    last = rewarded[-STUCK:]
    if len(last) == STUCK and all(entry.get("completions/mean_length", 2) <= EMPTY for entry in last):
        return f"every response of {STUCK} steps was empty"
    if len(rewarded) >= max(HOPELESS, steps / 2) and not any(entry["reward"] for entry in rewarded):
        return f"no response of the first {len(rewarded)} steps was right, so there is nothing to learn from"
    return None


def warnings(history: list[dict], unit: int = 1) -> list[str]:
    """What went bad in a training without ending it, as sentences for its record and the page.

    `history` is the trainer's log, in which `unit` updates are a step. A loss that explodes, rewards that are
    the same within every group (no response teaches anything then), empty responses, responses sampled by
    other weights than are trained.
    """
    found, step_of = [], lambda entry: -(-entry["step"] // unit)
    losses = [(step_of(entry), entry["loss"]) for entry in history if "loss" in entry]
    rewarded = [entry for entry in history if "reward" in entry]
    if losses and not rewarded:  # the loss of RL is around zero by its making
        step, worst = max(losses, key=lambda pair: pair[1])
        if worst > EXPLODED * max(losses[0][1], 1e-3):
            found.append(f"the loss rose from {losses[0][1]:.3g} to {worst:.3g} at step {step}")
    flat = longest_run([entry.get("frac_reward_zero_std", 0.0) >= 1.0 for entry in rewarded])
    if flat >= STUCK:
        found.append(f"{flat} steps in a row had the same reward within every group: they taught nothing")
    empty = [step_of(entry) for entry in rewarded if entry.get("completions/min_length", 2) <= EMPTY]
    if len(empty) >= STUCK:
        found.append(f"{len(empty)} steps had empty responses, the first at step {empty[0]}")
    gaps = [(step_of(entry), entry["sampler_gap"]) for entry in history if "sampler_gap" in entry]
    if far := [(step, gap) for step, gap in gaps if gap > APART]:
        step, gap = far[0]
        found.append(
            f"vLLM's log-probabilities were {gap:.2g} a token off the trainer's at step {step}, "
            f"and too far in {len(far)} of {len(gaps)} generations: its weights were others"
        )
    return found


def longest_run(values: list[bool]) -> int:
    """The length of the longest run of true values."""
    longest = current = 0
    for value in values:
        current = current + 1 if value else 0
        longest = max(longest, current)
    return longest


def train_and_save(
    trainer,
    tokenizer,
    args,
    resume: str | None,
    begun: float,
    kept: int | None,
    stops: tuple[int, ...] = (),
    unit: int = 1,
) -> dict:
    """Train, from the checkpoint `resume` where there is one, and save the model; what it took over all
    processes that worked on it.

    `begun` is when this process began (time.perf_counter), `kept` how many checkpoints stay (None: all)
    beside those of the steps `stops`, `unit` how many updates a step has. A standstill ends the process
    (valley/pulse.py), and so does, with a checkpoint, the end of its job's time (`Portion`); progress goes to
    standard error by `Progress`; standard output
    is left to the script's closing line.
    """
    folder = Path(trainer.args.output_dir)
    before = pulse.earlier(folder) if process_rank() == 0 else []
    useful = checkpoints.useful_seconds(resume)
    step = int(resume.rsplit("-", 1)[1]) if resume else 0
    mark = {"segment": len(before), "from": step}
    trainer.pop_callback(PrinterCallback)
    with pulse.Pulse(folder, f"training of {args.out}", step, begun, **mark) as beat:
        if minutes := getattr(args, "save_minutes", 0):
            trainer.add_callback(checkpoints.Timely(minutes))  # before Keeper, which has what is saved logged
        spare = spare_steps(getattr(args, "rollouts_ahead", False))
        portion = Portion(trainer, environment.job_end(), unit, spare)
        keeper = checkpoints.Keeper(beat, useful, kept, stops)
        for callback in (Progress(unit), portion, keeper, Continued(trainer)):
            trainer.add_callback(callback)
        start = time.perf_counter()
        with contextlib.suppress(Complete):
            trainer.train(resume_from_checkpoint=resume)
        trained = time.perf_counter() - start
        if why := hopeless(trainer.state.log_history, trainer.state.max_steps // unit):
            ended = "diverged" if "number" in why else "was ended"
            todo = "Change the recipe or the start model; a retry cannot help"
            records.fail(args.out, f"training {ended} ({why})", todo)
        if portion.over:
            at = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
            environment.hand_over(f"{args.out}: {at} is saved, the time of this job is nearly up")
        save_model(trainer, tokenizer, args)
        seconds = beat.seconds()
    last = {"from": step, "to": trainer.state.global_step, "seconds": seconds, "seconds_training": trained}
    segments = [*before, last]
    whole = sum(segment.get("seconds_training", 0.0) for segment in segments)
    peak = peak_gib(trainer.accelerator)
    return pulse.account(segments, useful + seconds) | {"seconds_training": whole, "peak_gib": peak}


def peak_gib(accelerator) -> float | None:
    """The most that torch had allocated on a card in the process of each rank so far, in GiB, the largest of
    all ranks; None on CPU. Of a vLLM in the same process torch counts what it has put to sleep as well.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    most = torch.tensor(float(torch.cuda.max_memory_allocated()), device=accelerator.device)
    return accelerator.gather(most).max().item() / 2**30


class Complete(Exception):
    """The checkpoint that training continues from is that of the last step."""


class Continued(TrainerCallback):
    """What the library leaves to be done in a run that continues: it trains a step more from the checkpoint
    of the last one, and TRL counts the tokens of its own process alone.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        if state.global_step >= state.max_steps:
            raise Complete  # weights and state are loaded by now
        counted = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        if counted and hasattr(self.trainer, "_total_train_tokens"):
            self.trainer._total_train_tokens = int(counted[-1])


def mean_loss(curve: list[dict]) -> float:
    """The mean loss of all steps, from the logged ones, (step, mean loss since the one before)."""
    steps = [0, *(entry["step"] for entry in curve)]
    weights = [after - before for before, after in itertools.pairwise(steps)]
    return sum(w * entry["loss"] for w, entry in zip(weights, curve, strict=True)) / max(1, steps[-1])


def save_model(trainer, tokenizer, args):
    """Write the trained model and its tokenizer as one ordinary Hugging Face folder, `args.out`, that appears
    whole.

    All processes call it: under ZeRO-3 each holds a part of the weights. Saved in the precision that was
    trained in.
    """
    import torch

    if hasattr(trainer.model, "merge_and_unload"):  # adapters become part of the weights
        trainer.model = trainer.model.merge_and_unload()
    if args.precision == "bf16" and not args.deepspeed:
        trainer.model.to(torch.bfloat16)
    if process_rank() > 0:
        trainer.save_model(args.out)  # gives its part; the first process writes
        return
    with records.whole(args.out) as folder:
        trainer.save_model(folder)
        tokenizer.save_pretrained(folder)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; train.json records the arguments
        manifests.seal(folder, everything=True)


def parameters(model) -> int:
    """Number of parameters, also of a model whose weights ZeRO-3 has spread over processes."""
    return sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters())
