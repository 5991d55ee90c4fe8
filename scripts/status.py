"""The state of every cell: done, running, failed or waiting, and what other code or data made.

    python scripts/status.py --configfile config/miniature.yaml

Reads files and SLURM's queue and changes nothing. `done`: scored. `running`: its SLURM job, elapsed time and
last line of progress. `failed`: the last line of the log, and the log. `stale code`: a script or shared
module differs from the one that made the weights or responses (Snakemake does not remake GPU work for an
edited script). `stale data`: the subset differs from the one that was trained on. `weights deleted`: scored,
but the model folder is gone: a task added later would train it again. `stalled`: a training or generation
that holds its work but has made no step for the bound of its own pace (valley/pulse.py).
"""

import collections
import shutil
import subprocess
import sys
from pathlib import Path

from valley import contract, flags, grid, locks, plain, profiles, pulse, records
from valley.grid import Cell
from valley.places import Places

SCRIPTS = Path(__file__).resolve().parent
PATIENCE = 20  # seconds that SLURM's queue is waited for
# The rules whose jobs are of one cell, in their order.
OF_CELL = (
    "preflight",
    "sft",
    "trunk",
    "branch",
    "rl",
    "export_step",
    "probe",
    "generate",
    "judge",
    "grade",
    "score",
)


def other_code(record: dict, now: dict[str, str]) -> list[str]:
    """The files that made a record and have changed since."""
    return [
        file
        for file, digest in record.get("code", {}).items()
        if now.setdefault(file, digest_of(file)) != digest
    ]


def digest_of(file: str) -> str:
    """Hash of a file below scripts/ as it is now; empty when it is gone."""
    path = SCRIPTS / file
    return records.sha256(path) if path.exists() else ""


def queue(folder: Path) -> dict[str, str]:
    """This folder's SLURM jobs by the comment that names rule and wildcards: `job 12 running 1:02`."""
    if not shutil.which("squeue"):
        return {}
    command = ["squeue", "--noheader", "--format", "%A|%T|%M|%Z|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except subprocess.SubprocessError as error:  # a busy controller may not answer
        why = (error.stderr or "").strip() or f"nothing within {PATIENCE} s"
        print(f"warning: SLURM's queue does not answer ({why}): its jobs are not shown", file=sys.stderr)
        return {}
    rows = [line.split("|", 4) for line in done.stdout.splitlines()]
    return {
        comment: f"job {job} {state.lower()} {elapsed}"
        for job, state, elapsed, where, comment in rows
        if Path(where) == folder.resolve()
    }


def last_line(log: Path) -> str:
    """The last line of a log that says something, cut to what fits on a line."""
    lines = [
        line.strip()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return plain.visible(lines[-1])[:120] if lines else ""


def stalls(folder: Path) -> list[str]:
    """The jobs of a cell that are alive and make no step any more: rule, since when, which process."""
    found = []
    places = {"training": (folder / "train.lock", [folder / "checkpoints"])}
    places["training of the trunk"] = (folder / "trunk/train.lock", [folder / "trunk/checkpoints"])
    for chunks in sorted(folder.glob("**/*.parquet.chunks")):
        name = chunks.name.removesuffix(".chunks")
        lock = chunks.with_name(f".{name}.lock")
        places[f"generation of {name}"] = (lock, sorted(p for p in chunks.iterdir() if p.is_dir()))
    for what, (lock, working) in places.items():
        if locks.held(lock):
            silent = filter(None, map(pulse.silence, working))
            found += [f"stalled: {what}: {plain.visible(text)}" for text in silent]
    return found


def activity(
    places: Places, jobs: dict[str, str], locked: bool, cell: Cell, done: set[str], rules=OF_CELL
) -> list[str]:
    """What the steps of a cell that are not finished are doing: running (job, progress) or failed (why,
    log).
    """
    found = []
    for rule in rules:
        name = f"rule_{rule}_wildcards_{cell.model}_{cell.run}_{cell.seed}"
        running = [
            f"{rule} {text}"
            for comment, text in jobs.items()
            if comment == name or comment.startswith(f"{name}_")
        ]
        logs = sorted((places.logs / rule).glob(f"{cell.model}.{cell.run}.seed{cell.seed}.*log"))
        logs = [
            log
            for log in logs
            if f"{rule} {log.suffixes[-2][1:] if rule == 'generate' else ''}".strip() not in done
        ]
        if running:
            progress = last_line(logs[-1]) if logs else ""
            found.append("running: " + ", ".join(running) + (f", {progress}" if progress else ""))
        elif logs and not locked and (said := last_line(logs[-1])):
            found.append(said if said.startswith("paused: ") else f"failed: {rule}: {said} ({logs[-1]})")
    return found


def pools_of(places: Places, cell: Cell) -> list[Path]:
    """The ordered traces that a cell's subset is from, and its named pool."""
    order = grid.order_seed(places.config, cell.seed)
    named = grid.pool_of(places.config, cell.model, cell.parsed.start)
    return [places.pool(order), *([places.pool(order, name=named)] if named else [])]


def state(places: Places, cell: Cell, now: dict[str, str], jobs: dict[str, str], locked: bool) -> str:
    """The state of one cell in a few words; `now` caches the hashes of the code as it is, `jobs` are
    SLURM's.
    """
    folder = places.of(cell)
    record = records.read_json(folder / "train.json") if (folder / "train.json").exists() else {}
    notes = []
    responses = sorted((folder / "responses").glob("*.parquet"))
    changed = set(other_code(record, now))
    judged = folder / "judged.parquet"
    for file in [*responses, *([judged] if judged.exists() else [])]:
        changed |= set(other_code(records.parquet_provenance(file), now))
    if "subset_sha256" in record and cell.parsed.size:
        subset, card = places.subset_of(cell), places.subset_of(cell, "json")
        if card.exists() and records.read_json(card).get("sha256") != record["subset_sha256"]:
            notes.append("stale data")
        for made in (subset, *pools_of(places, cell)):
            if made.exists():
                changed |= set(other_code(records.parquet_provenance(made), now))
    if changed:
        notes.append(f"stale code ({', '.join(sorted(changed))})")
    if cell.run != "base" and responses and not (folder / "model").is_dir():
        notes.append("weights deleted")
    if without := unprobed(places, cell, locked):
        notes.append(without)
    probed = (folder / "probe.json").exists() or not to_probe(places, cell)
    if (folder / "scores.json").exists():
        probing = [] if probed else activity(places, jobs, locked, cell, set(), ("probe",))
        return ", ".join(["done", *probing, *notes])
    finished = {f"generate {file.stem}" for file in responses} | (
        {"sft", "branch", "rl", "preflight"} if record else set()
    )
    finished |= {"trunk"} if (folder / "trunk/train.json").exists() else set()
    finished |= {"preflight"} if (folder / "preflight.json").exists() else set()
    finished |= {"probe"} if probed else set()
    finished |= {"export_step"} if (folder / "model").is_dir() or responses else set()
    finished |= {"judge"} if judged.exists() else set()
    finished |= {"grade"} if (folder / "grades.parquet").exists() else set()
    if doing := [*stalls(folder), *activity(places, jobs, locked, cell, finished)]:
        return "; ".join([*doing, *notes])
    stage = (
        "graded"
        if (folder / "grades.parquet").exists()
        else "generated"
        if responses
        else "trained"
        if record
        else "waiting"
    )
    if stage == "waiting" and not locked and (reason := blocked(places, cell)):
        stage = reason
    return ", ".join([stage, *notes])


def to_probe(places: Places, cell: Cell) -> bool:
    """Whether a cell is probed on held-out traces, which checkpoints along RL are not."""
    return bool(places.config["report"]["probe"]) and cell.parsed.step is None


def unprobed(places: Places, cell: Cell, locked: bool) -> str | None:
    """Why a cell has no probe: the job failed that holds traces out. Nothing else waits for it."""
    if locked or not to_probe(places, cell) or places.of(cell, "probe.json").exists():
        return None
    order = grid.order_seed(places.config, cell.seed)
    reason = first_failed([("held_out", places.held_out(order), places.logs / f"held_out/seed{order}.log")])
    return reason and f"its probe {reason}"


def first_failed(before: list[tuple[str, Path, Path]]) -> str | None:
    """The first of these jobs (rule, what it makes, its log) that failed: its output is not there, its log
    says something.
    """
    for rule, made, log in before:
        if not made.exists() and log.exists() and (said := last_line(log)):
            return f"waits for {rule}, which failed: {said} ({log})"
    return None


def bringing(places: Places, name: str, made: Path) -> tuple[str, Path, Path]:
    """The job that makes the problems of a task or of an RL set: rule, file, log."""
    config, is_task = places.config, made == places.task(name)
    source = (config["tasks"] if is_task else config["rl"]["sets"])[name]["source"]
    if source == "synthetic":
        return "synthesize", made, places.logs / "synthesize.log"
    rule = "arithmetic" if source == "arithmetic" else "fetch_task" if is_task else "fetch_rl"
    return rule, made, places.logs / rule / f"{name}.log"


def blocked(places: Places, cell: Cell) -> str | None:
    """What a cell that has nothing yet waits for: the nearest of the jobs before it that failed, with its
    last line.
    """
    config, seed, logs = places.config, cell.seed, places.logs
    order, run = grid.order_seed(config, seed), cell.parsed
    before = [
        ("pretrain", places.base(cell.model, seed), logs / f"pretrain/{cell.model}.seed{seed}.log"),
        ("fetch_model", places.base(cell.model, seed), logs / f"fetch_model/{cell.model}.log"),
    ]
    if run.size:
        before += [
            ("synthesize", places.traces, logs / "synthesize.log"),
            ("fetch_traces", places.traces, logs / "fetch_traces.log"),
            *(bringing(places, name, places.problems(name)) for name in config["traces"]["decontaminate"]),
            ("order_traces", places.pool(order), logs / f"order_traces/seed{order}.log"),
        ]
        named = grid.pool_of(config, cell.model, run.start)
        for pool in [*config["pools"].get(named, {}).get("mix", []), *([named] if named else [])]:
            place = places.root / f"data/pools/{pool}"
            if "traces" in config["pools"][pool]:
                ordered = place / f"ordered/seed{order}.parquet"
                before += [
                    ("fetch_pool", place / "traces.parquet", logs / f"fetch_pool/{pool}.log"),
                    ("order_pool", ordered, logs / f"order_pool/{pool}.seed{order}.log"),
                ]
            before.append(("pool", places.pool(order, name=pool), logs / f"pool/{pool}.seed{order}.log"))
        subset = places.subset_of(cell)
        before.append(("subset", subset, logs / f"subset/{subset.parent.name}.seed{order}.log"))
    if grid.is_trunk(config, run.start):
        longest = cell.sibling(grid.trunk(config, cell.model, run.start, seed)[-1])
        log = logs / f"trunk/{longest.model}.{longest.run}.seed{seed}.log"
        before.append(("trunk", places.of(longest, "trunk/train.json"), log))
    before += [bringing(places, task, places.task(task)) for task in config["grid"]["tasks"]]
    if run.rl:
        problems = grid.rl_settings(config, cell.model, run.whole)["problems"]
        before.append(bringing(places, problems, places.rl_set(problems)))
        start = cell.sibling(run.start)
        name = f"{start.model}.{start.run}.seed{seed}.log"
        before += [
            (rule, places.of(start, "train.json"), logs / rule / name)
            for rule in ("preflight", "sft", "branch")
        ]
        if run.step is not None:
            whole = cell.sibling(run.whole)
            before.append(
                ("rl", places.of(whole, "train.json"), logs / f"rl/{whole.model}.{whole.run}.seed{seed}.log")
            )
    return first_failed(before)


def main():
    parser = flags.parser(__doc__)
    flags.add_configs(parser)
    parser.add_argument(
        "--failures", action="store_true", help="only what failed, of a run that has just ended"
    )
    args = parser.parse_args()

    over, now = profiles.config(profiles.merged(args.profile)), {}
    config = contract.study(args.configfile, over, sources=False)  # what there is, wherever it came from
    jobs, locked = queue(Path(".")), not args.failures and any(Path(".snakemake/locks").glob("*"))
    states = {cell: state(Places(config), cell, now, jobs, locked) for cell in grid.cells(config)}
    width = max(len(f"{model} {run}") for model, run, _ in states)
    if args.failures:
        states = {cell: text for cell, text in states.items() if "failed" in text}
    for (model, run, seed), text in states.items():
        print(f"{f'{model} {run}':{width}}  seed {seed}  {text}")
    if args.failures and not states:
        print("no cell: what failed stands above, with its log")
        return
    count = collections.Counter(text.split(",")[0].split(":")[0] for text in states.values())
    print(f"{len(states)} cells: " + ", ".join(f"{n} {name}" for name, n in count.most_common()))


if __name__ == "__main__":
    main()
