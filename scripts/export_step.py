"""Publish the weights that rl.py kept at a step as the model of a cell of its own (`base+rl@20`).

    python scripts/export_step.py --checkpoints results/S/base+rl/seed0/checkpoints --step 20 \\
        --record results/S/base+rl/seed0/train.json --out /tmp/model

Hard links where the file system allows, so the step costs no second copy; optimiser states stay behind. Only
a whole checkpoint is published, and what is published is sealed like every model (valley/manifests.py).
"""

import os
import shutil
from pathlib import Path

from valley import flags, manifests, records

LEFT_BEHIND = (
    "optimizer",
    "scheduler",
    "rng_state",
    "trainer_state",
    "training_args",
    "global_step",
    "latest",
    "zero_to_fp32",
    manifests.MANIFEST,
)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--checkpoints", required=True, type=Path, help="the RL run's checkpoints folder")
    parser.add_argument("--record", required=True, type=Path, help="the RL run's train.json")
    parser.add_argument("--step", required=True, type=int)
    parser.add_argument("--out", required=True, type=Path, help="model folder to make")
    args = parser.parse_args()

    source = args.checkpoints / f"checkpoint-{args.step * records.read_json(args.record)['updates_per_step']}"
    if not (source / "config.json").exists():
        records.fail(
            source,
            f"holds no weights of step {args.step}",
            "Run the RL cell again with a save_every that divides it",
        )
    if found := manifests.flaw(source):
        records.fail(source, f"cannot be published: {found}", "Run the RL cell again")
    with records.whole(args.out) as folder:
        folder.mkdir()
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.startswith(LEFT_BEHIND):
                try:
                    os.link(file, folder / file.name)
                except OSError:
                    shutil.copy2(file, folder / file.name)
        for path in sorted(folder.glob("*.safetensors")):
            if found := manifests.tensor_flaw(path):
                records.fail(source, found, "Run the RL cell again")
        manifests.seal(folder, everything=True)
    records.done(f"weights of step {args.step}", args.out)


if __name__ == "__main__":
    main()
