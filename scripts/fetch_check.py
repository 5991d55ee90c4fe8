"""Before anything is downloaded: is every source there, pinned and open to us, and is there room on the disk?

    python scripts/fetch_check.py --configfile config/one-gpu.yaml

Asks the hub about the models, traces and tasks that the study needs, one line each; downloads nothing. A
gated model whose licence is not accepted, a missing token, an unpinned source (with the commit its main
branch is at today) and a disk too small for what the grid keeps are each named with what to do.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from valley import contract, costs, flags, grid, profiles, records


def sources(config: dict) -> list[tuple[str, str, str | None, str]]:
    """(config key, source, revision, `model` or `dataset`) of everything that a fetch rule of this study
    would bring.
    """
    found = [(f"models.{name}", config["models"][name], "model") for name in grid.models_needed(config)]
    found.append(("traces", config["traces"], "dataset"))
    found += [
        (f"pools.{name}.traces", config["pools"][name]["traces"], "dataset")
        for name in grid.own_traces(config)
    ]
    tasks = {*config["grid"]["tasks"], *config["traces"]["decontaminate"]}
    found += [
        (f"tasks.{name}", config["tasks"][name], "dataset") for name in sorted(tasks & config["tasks"].keys())
    ]
    sets = {
        grid.rl_settings(config, m, r)["problems"] for m, r, _ in grid.cells(config) if grid.parse_run(r).rl
    }
    sets |= tasks & config["rl"]["sets"].keys()
    found += [(f"rl.sets.{name}", config["rl"]["sets"][name], "dataset") for name in sorted(sets)]
    made_here = ("pretrain", "synthetic", "arithmetic")
    return [
        (key, e["source"], e.get("revision"), kind) for key, e, kind in found if e["source"] not in made_here
    ]


def problem(source: str, revision: str | None, kind: str) -> str | None:
    """What stands in the way of one source, None when nothing does."""
    local = Path(os.path.expandvars(source)).expanduser()
    if local.exists():
        return None
    if local.suffix in (".jsonl", ".json", ".parquet") or source.startswith(("/", ".", "$", "~")):
        return "no such file or folder"
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

    api = HfApi()
    try:
        api.auth_check(source, repo_type=kind)
        head = api.repo_info(source, revision=revision, repo_type=kind).sha
    except GatedRepoError:
        return (
            f"gated: accept its licence on https://huggingface.co/{source}, then log in with `hf auth login`"
        )
    except RepositoryNotFoundError:
        return "not on the hub, or private and no token is set (`hf auth login`)"
    except HfHubHTTPError as error:
        return f"the hub does not answer ({type(error).__name__}): try again later"
    except (HTTPError, OSError) as error:
        records.fail(
            api.endpoint, f"cannot be reached from here ({error})", "Run this on a machine with network"
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return f"pins no commit. Its main branch is at {head} today: set that as `revision`"
    return None


def main():
    parser = flags.parser(__doc__)
    flags.add_configs(parser)
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "0"
    over = profiles.config(profiles.merged(args.profile))
    config, failed = contract.study(args.configfile, over, sources=False), 0
    for fault in contract.faults(config):
        failed += 1
        print(f"fail  {fault}", flush=True)
    for key, source, revision, kind in sources(config):
        what = problem(source, revision, kind)
        failed += what is not None
        print(f"{'fail' if what else 'ok':5} {key}: {source}" + (f": {what}" if what else ""), flush=True)
    needed, _ = costs.disk(config, costs.load(), grid.cells(config), [], 1)
    root = Path(config["root"])
    free = shutil.disk_usage(root if root.exists() else ".").free / costs.GIGA
    print(
        f"{'ok' if free > needed else 'fail':5} disk: the study keeps {needed:,.0f} GB, {free:,.0f} GB are free"
    )
    if failed or free <= needed:
        records.fail(
            "fetch",
            f"{failed} source(s) cannot be fetched" if failed else "the disk is too small",
            "See the lines above",
        )
    print("everything can be fetched", file=sys.stderr)


if __name__ == "__main__":
    main()
