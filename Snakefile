"""Valley: model × data size × stage of "Through the Valley" (EMNLP 2025) as a graph of small rules.

`config.yaml` is the paper's study; `--configfile config/miniature.yaml` makes it the miniature. Any cell is a target:
`snakemake --profile profiles/local studies/miniature/results/S/sft-128/seed0/scores.json`.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))
from valley import (
    check,
    contract,
    costs,
    environment,
    flags,
    grid,
    jobs,
    kernels,
    records,
    sources,
    vram,
)  # noqa: E402
from valley.places import Places  # noqa: E402

try:
    # Read again from the same files, for Snakemake takes 010 for 8 and the last of two equal keys.
    config.update(check.load(workflow.config_settings.configfiles, workflow.config_settings.config))
    check.check(config)
    if workflow.is_main_process:
        # A report on what there is needs none of a study's sources any more, but its claims.
        check.refuse(contract.claims_faults(config) if config["unfinished"] else contract.faults(config))
except grid.ConfigError as error:
    raise WorkflowError(error)

environment.prepare(config["warm_start"], config["exact"])
environment.operate(config)


include: "workflow/rules/grid.smk"


# A report on what there is (`unfinished`) makes nothing that comes before scores: those rules are not even there.
if not config["unfinished"]:

    include: "workflow/rules/data.smk"
    include: "workflow/rules/train.smk"
    include: "workflow/rules/judge.smk"
    include: "workflow/rules/evaluate.smk"


include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        at("report/page.html"),
    localrule: True


onstart:
    jobs.look_again_once(workflow.scheduler)
    needed = max((job.resources.get("gpu", 0) for job in workflow.dag.needrun_jobs()), default=0)
    if workflow.is_main_process and workflow.local_exec and needed > environment.gpus():
        raise WorkflowError(
            f"a job of this plan asks for {needed} GPU(s), this machine has {environment.gpus()}. Run it on a cluster "
            "(--profile slurm), choose a smaller study (config/), or lower models.*.gpus and rl.gpus in the config"
        )
    if workflow.is_main_process and (unfit := jobs_without_room()):
        raise WorkflowError("the cards cannot hold what this plan puts on them:\n" + "\n".join(unfit))
    if workflow.is_main_process and not workflow.local_exec and (endless := jobs_without_end()):
        raise WorkflowError(
            f"{len(endless)} job(s) cannot end in the time that the profile gives them, retries included: "
            + "; ".join(endless[:4])
            + ". More cards (rl.gpus, models.*.gpus), more `retries` or a longer `runtime` in the profile; `make plan` lists all"
        )
    if workflow.is_main_process and not workflow.local_exec and (missing := environment.slurm_problem()):
        raise WorkflowError(
            f"{missing}. Run this on the login node of a SLURM cluster (`make doctor` checks it), or without "
            "SLURM: --profile profiles/local, profiles/gpu"
        )
    if workflow.is_main_process and (without := jobs_without_vllm()):
        raise WorkflowError(
            f"{', '.join(without)} of this plan sample(s) by vLLM, which the environment of {sys.executable} lacks. Install a GPU "
            "stack in its place (`pip install -r envs/gpu.lock` or gpu-cuda12.lock; README, On GPUs), or generate.engine: transformers and rl.vllm: false"
        )


onerror:
    if workflow.is_main_process:
        print("\nWhat failed, and what waits for it:", flush=True)
        whole = Path(at("logs/config.json"))
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(json.dumps(config))
        look = [sys.executable, "scripts/status.py", "--failures", "--configfile", str(whole)]
        subprocess.run(look, check=False)
        print(f"Mend it, then go on with: snakemake {shlex.join(sys.argv[1:])}\n", flush=True)


onsuccess:
    finding = Path(at("report/finding.txt"))
    if finding.exists():
        print(f"\n{finding.read_text().strip()}\n")
        for made in ("page.html", "figures/", "tables/"):
            print(f"  {at('report')}/{made}")
