"""Checkpoints that count only when they are whole, and what became of the time of a run that was killed.

The trainer writes a checkpoint file by file, and a kill can fall between any two. `Keeper` seals each with a
manifest when every process has written its part (valley/manifests.py), and only then removes the one before:
there is a whole checkpoint on disk from the first one on. `resume_point` takes the newest whole one of the
same work and says what it passed over. Beside them lie `fingerprint.json` (of which work they are),
`segments.json` (the processes that worked on it before) and `progress.json` (how far the present one is,
valley/pulse.py).
"""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

from transformers import TrainerCallback

from valley import grid, manifests, pulse, records
from valley.environment import process_rank, say

WEIGHTS_ONLY = "it holds weights without optimiser states"


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    return int(folder.name.rsplit("-", 1)[1])


def of(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or not, the oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=step_of)


def unfit(checkpoint: Path) -> str | None:
    """Why training cannot continue from a checkpoint, in a few words; None where it can."""
    if found := manifests.flaw(checkpoint):
        return found
    if manifests.manifest_of(checkpoint).get("weights_only"):
        return WEIGHTS_ONLY
    return next(filter(None, map(manifests.tensor_flaw, sorted(checkpoint.glob("*.safetensors")))), None)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, said aloud with what was passed over for it and why.

    What was passed over gets out of the way: a half-written one is removed, for its space may be what the
    next needs; a damaged one, which may be a disk's fault, is kept under another name until the next is
    whole.
    """
    found = None
    for checkpoint in reversed(of(folder)):
        if (why := unfit(checkpoint)) is None:
            found = checkpoint
            break
        say(f"passed over {checkpoint}: {why}")
        if why == WEIGHTS_ONLY:
            continue  # a later one was damaged; what is published of this one stays until it is made again
        if manifests.manifest_of(checkpoint) is None:
            shutil.rmtree(checkpoint)
        else:
            aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(checkpoint, aside)
    say(f"continues from {found}" if found else f"no whole checkpoint in {folder}: starts from the beginning")
    return found


def shape(deepspeed: str | None) -> dict:
    """What a checkpoint is laid out for: how many processes, and the ZeRO stage that spread it over them."""
    stage = records.read_json(deepspeed)["zero_optimization"]["stage"] if deepspeed else 0
    return {"processes": int(os.environ.get("WORLD_SIZE", 1)), "zero_stage": stage}


def described(layout: dict) -> str:
    """A layout in words."""
    processes = f"{layout['processes']} process{'es' if layout['processes'] > 1 else ''}"
    return f"{processes}, ZeRO stage {layout['zero_stage']}"


def set_aside(folder: Path, found: dict, layout: dict):
    """Give a folder of other work another name, and say why in one sentence; no checkpoint is deleted."""
    if not of(folder):
        shutil.rmtree(folder)
        return
    aside = folder.with_name(f"{folder.name}.of-{found.get('fingerprint', 'unknown')}")
    if aside.exists():
        aside = aside.with_name(f"{aside.name}-{time.time_ns()}")
    os.replace(folder, aside)
    if (before := found.get("layout")) and before != layout:
        say(
            f"the checkpoints were written by {described(before)}, this run is {described(layout)}, which cannot "
            f"continue them: they lie in {aside} and are taken up again when it runs as before"
        )
    else:
        say(f"the checkpoints are of other work (data, start model or settings differ): they lie in {aside}")


def resume_point(folder: Path, identity, layout: dict | None = None) -> str | None:
    """The newest whole checkpoint in `folder` if it was made by the same work, else None.

    `identity` is JSON content that names data, start model and arguments; `layout` (`shape`) belongs to it,
    for the parts of a sharded checkpoint fit no other number of processes. Checkpoints of other work are set
    aside under another name, never deleted and never continued, and taken up when their work comes back. Of
    several processes the first decides and tells the others.
    """
    from accelerate.utils import broadcast_object_list

    layout = layout or {"processes": 1, "zero_stage": 0}
    decided = [None]
    if process_rank() == 0:
        mark, fingerprint = folder / "fingerprint.json", grid.fingerprint([identity, layout])
        if folder.is_dir() and any(folder.iterdir()):
            found = records.read_json(mark) if mark.exists() else {}
            if found.get("fingerprint") != fingerprint:
                set_aside(folder, found, layout)
        if not mark.exists() and (back := folder.with_name(f"{folder.name}.of-{fingerprint}")).is_dir():
            if folder.is_dir():
                folder.rmdir()
            os.replace(back, folder)
        records.write_json(mark, {"fingerprint": fingerprint, "layout": layout})
        if of(folder):
            decided = [newest(folder)]
    if layout["processes"] > 1:
        broadcast_object_list(decided)
    return str(decided[0]) if decided[0] else None


def adopted(source: Path, step: int, folder: Path, layout: dict) -> str:
    """The checkpoint of a step that another run kept in `source`, taken as the first of one's own in
    `folder`: what leads to it is the other run's work.

    Hard links where the file system allows; the other run's stays as it is. Every process calls it, the first
    does it.
    """
    from accelerate import PartialState

    kept, own = source / f"checkpoint-{step}", folder / f"checkpoint-{step}"
    if process_rank() == 0:
        again = "Remove its train.json, and run again: it continues from what there is"
        if (why := unfit(kept) if kept.is_dir() else "is not there") is not None:
            records.fail(kept, f"nothing can branch off here: {why}", again)
        if (written := records.read_json(source / "fingerprint.json")["layout"]) != layout:
            todo = "Give both the same GPUs and the same DeepSpeed configuration"
            records.fail(kept, f"was written by {described(written)}, this run is {described(layout)}", todo)
        with records.whole(own) as made:
            shutil.copytree(kept, made, copy_function=linked)
            manifests.seal(made, step=step, seconds_useful=0.0)
    PartialState().wait_for_everyone()
    return str(own)


def linked(source, target):
    """Give a file a second name, or copy it where the file system knows no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Keeper(TrainerCallback):
    """Seals each checkpoint when it is written by all processes, then removes those before it: `kept` of them
    stay; where all do (None), as weights. One is made at each step of `stops`, and those stay whole.

    Also tells the pulse of every step, and has each checkpoint's step logged, so that what is logged in
    between is whole in it.
    """

    def __init__(self, beat: "pulse.Pulse", useful: float, kept: int | None, stops: tuple[int, ...] = ()):
        self.pulse, self.useful, self.kept, self.stops = beat, useful, kept, stops

    def on_train_begin(self, args, state, control, **_):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        trained = round(time.perf_counter() - self.start, 3)
        self.pulse.beat(state.global_step, of=state.max_steps, seconds_training=trained)
        if state.global_step in self.stops:
            control.should_save = True
        if control.should_save:
            control.should_log = True

    def on_save(self, args, state, control, **_):
        from accelerate import PartialState

        PartialState().wait_for_everyone()  # the others write parts of their own
        if process_rank() > 0:
            return
        folder = Path(args.output_dir)
        made = folder / f"checkpoint-{state.global_step}"
        manifests.seal(made, step=state.global_step, seconds_useful=self.useful + self.pulse.seconds())
        for old in folder.glob("damaged-checkpoint-*"):
            shutil.rmtree(old)
        before = [
            checkpoint
            for checkpoint in of(folder)
            if step_of(checkpoint) < state.global_step and step_of(checkpoint) not in self.stops
        ]
        if self.kept is None:
            for old in before:
                if step_of(old) % args.save_steps:  # where a portion ended; nothing is published of it
                    discard(old)
            drop_states([old for old in before if old.exists()])
            return
        for old in before[: len(before) - self.kept + 1]:
            discard(old)


class Timely(TrainerCallback):
    """Asks for a checkpoint when `minutes` have gone by since the last one, or since training began; all
    processes follow the clock of the first.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes

    def on_train_begin(self, args, state, control, **_):
        self.last = time.monotonic()

    def on_step_end(self, args, state, control, **_):
        from accelerate.utils import broadcast_object_list

        due = [time.monotonic() - self.last >= 60 * self.minutes]
        if args.world_size > 1:
            broadcast_object_list(due)
        if due[0]:
            control.should_save = True

    def on_save(self, args, state, control, **_):
        self.last = time.monotonic()


def discard(checkpoint: Path):
    """Remove a checkpoint, its manifest first: what a kill leaves of it counts for nothing."""
    (checkpoint / manifests.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def remove_all(folder: Path):
    """Remove the checkpoints of a finished run, the newest last and what says whose they are after it.

    A kill meanwhile leaves checkpoints that are continued or count for nothing, never ones of unknown work.
    """
    for checkpoint in of(folder):
        discard(checkpoint)
    shutil.rmtree(folder)


def drop_states(found: list[Path]):
    """Remove what only resuming needs (optimiser, random states: 12 bytes a parameter) from checkpoints that
    nothing will continue from.

    Each is first sealed anew as weights alone, so it stays whole whenever this is cut off.
    """
    keep = (".safetensors", ".json", ".jinja", ".txt", ".model")
    for checkpoint in found:
        manifest = manifests.manifest_of(checkpoint)
        if manifest is None or manifest.get("weights_only"):
            continue
        states = [path for path in manifests.contents(checkpoint) if path.suffix not in keep]
        left = {name: told for name, told in manifest["files"].items() if checkpoint / name not in states}
        records.write_json(checkpoint / manifests.MANIFEST, manifest | {"files": left, "weights_only": True})
        for path in states:
            path.unlink()
        for path in sorted((p for p in checkpoint.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # it holds files that stay
                path.rmdir()


def useful_seconds(checkpoint: str | None) -> float:
    """The seconds that led to a checkpoint, over all processes; 0 without one."""
    return manifests.manifest_of(Path(checkpoint)).get("seconds_useful", 0.0) if checkpoint else 0.0
