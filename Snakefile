"""Valley: model × data size × stage of "Through the Valley" (EMNLP 2025) as a graph of small rules.

`config.yaml` is the paper's study; `--configfile config/miniature.yaml` makes it the miniature. Any cell is a target:
`snakemake --profile profiles/local studies/miniature/results/S/sft-128/seed0/scores.json`.
"""

import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

configfile: "config.yaml"

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))
from valley import grid  # noqa: E402

try:
    grid.check(config, Path(workflow.basedir) / "workflow/schemas/config.schema.yaml")
except grid.ConfigError as error:
    raise WorkflowError(error)

# Jobs find the interpreter that runs Snakemake, whether or not its environment is activated, and never reach for a hub.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if config["warm_start"]:
    os.environ["DS_ACCELERATOR"] = "cpu"
# Freed memory stays with the process: on CPU it saves a third of a GRPO step (docs/measurements.md).
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 30))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 << 30))

include: "workflow/rules/grid.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    localrule: True
    default_target: True
    input:
        at("report/page.html"),


onsuccess:
    finding = Path(at("report/finding.txt"))
    if finding.exists():
        print(f"\n{finding.read_text().strip()}\n")
        for name, path in (("page", "page.html"), ("figures", "figures/"), ("tables", "tables/")):
            print(f"  {name:8} {at('report/' + path)}")
