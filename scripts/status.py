"""The state of every cell of a study: what is done, what waits, what was made by other code or from other data.

    python scripts/status.py --configfile config/miniature.yaml

Reads files only and changes nothing. `done`: scored. `stale code`: a script or shared module differs from the one that
made the weights or responses (Snakemake does not remake GPU work for an edited script). `stale data`: the subset differs
from the one that was trained on. `weights deleted`: scored, but the model folder is gone: a task added later would train
it again.
"""

import collections
from pathlib import Path

from valley import flags, grid, records

SCRIPTS = Path(__file__).resolve().parent


def load_config(files: list[Path]) -> dict:
    """config.yaml with further files merged in, as Snakemake does it: mappings merge, lists are replaced."""
    import yaml
    from snakemake.utils import update_config

    config: dict = {}
    for file in [SCRIPTS.parent / "config.yaml", *files]:
        update_config(config, yaml.safe_load(file.read_text()))
    return config


def other_code(record: dict, now: dict[str, str]) -> list[str]:
    """The files that made a record and have changed since."""
    return [file for file, digest in record.get("code", {}).items() if now.setdefault(file, digest_of(file)) != digest]


def digest_of(file: str) -> str:
    """Hash of a file below scripts/ as it is now; empty when it is gone."""
    path = SCRIPTS / file
    return records.sha256(path) if path.exists() else ""


def state(config: dict, root: Path, model: str, run: str, seed: int, now: dict[str, str]) -> str:
    """The state of one cell in a few words; `now` caches the hashes of the code as it is."""
    folder = root / "results" / model / run / f"seed{seed}"
    record = records.read_json(folder / "train.json") if (folder / "train.json").exists() else {}
    notes = []
    responses = sorted((folder / "responses").glob("*.parquet"))
    changed = set(other_code(record, now))
    for file in responses:
        changed |= set(other_code(records.parquet_provenance(file), now))
    size = grid.parse_run(run).size
    if "subset_sha256" in record and size:
        order = grid.order_seed(config, seed)
        subset = root / "data" / "subsets" / size / f"seed{order}.parquet"
        card = subset.with_suffix(".json")
        if card.exists() and records.read_json(card).get("sha256") != record["subset_sha256"]:
            notes.append("stale data")
        for made in (subset, root / "data" / "ordered" / f"seed{order}.parquet"):
            if made.exists():
                changed |= set(other_code(records.parquet_provenance(made), now))
    if changed:
        notes.append(f"stale code ({', '.join(sorted(changed))})")
    if run != "base" and responses and not (folder / "model").is_dir():
        notes.append("weights deleted")
    if (folder / "scores.json").exists():
        return ", ".join(["done", *notes])
    stage = (
        "graded" if (folder / "grades.parquet").exists() else "generated" if responses else "trained" if record else "waiting"
    )
    return ", ".join([stage, *notes])


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--configfile", type=Path, nargs="*", default=[], help="as for snakemake")
    args = parser.parse_args()

    config = load_config(args.configfile)
    root, now = Path(config["root"]), {}
    states = {cell: state(config, root, *cell, now) for cell in grid.cells(config)}
    width = max(len(f"{model} {run}") for model, run, _ in states)
    for (model, run, seed), text in states.items():
        print(f"{f'{model} {run}':{width}}  seed {seed}  {text}")
    count = collections.Counter(text.split(",")[0] for text in states.values())
    print(f"{len(states)} cells: " + ", ".join(f"{n} {name}" for name, n in count.most_common()))


if __name__ == "__main__":
    main()
