"""Snakemake's profiles, as far as a plan depends on them: settings of the config, time limits, retries."""

import math
import re
from pathlib import Path

from valley import records

ROOT = Path(__file__).resolve().parents[2]
MINUTES = {"m": 1, "h": 60, "d": 24 * 60, "": 1}


def merged(names: list[str]) -> dict:
    """The settings of profiles, found as Snakemake finds them (a folder, or a name below
    ~/.config/snakemake).

    A later profile replaces a key of an earlier one as a whole. `fail`s on a name that is no profile.
    """
    import yaml

    found: dict = {}
    for name in names:
        folders = [Path(name), ROOT / name, Path.home() / ".config/snakemake" / name]
        files = [folder / "config.yaml" for folder in folders if (folder / "config.yaml").is_file()]
        if not files:
            records.fail(
                f"profile {name}", "is not there", "Give a folder that holds a config.yaml, as profiles/slurm"
            )
        found |= yaml.safe_load(files[0].read_text(encoding="utf-8")) or {}
    return found


def pairs(given) -> dict:
    """A mapping, whether a profile writes it as one or as a list of `name=value`."""
    import yaml

    if isinstance(given, dict):
        return given
    words = [word.split("=", 1) for word in given or []]
    return {name: yaml.safe_load(value) if value else None for name, value in words}


def config(profile: dict) -> dict:
    """What a profile sets in the config (`gres` of a site, `root` on its scratch)."""
    return pairs(profile.get("config"))


def limit(profile: dict, rule: str) -> float:
    """Minutes that a job of a rule may run; infinite where a profile sets no limit."""
    own = pairs(pairs(profile.get("set-resources")).get(rule))
    asked = own.get("runtime", pairs(profile.get("default-resources")).get("runtime"))
    if asked is None:
        return math.inf
    match = re.fullmatch(r"\s*([0-9.]+)\s*([mhd]?)[a-z]*\s*", str(asked))
    if not match:
        records.fail(f"runtime {asked}", "is no time", "Write minutes, or a number with m, h or d")
    return float(match[1]) * MINUTES[match[2]]


def requeues(profile: dict) -> bool:
    """Whether jobs may be put back into SLURM's queue under their own id."""
    return profile.get("executor") == "slurm" and bool(profile.get("slurm-requeue"))


def tries(profile: dict) -> int:
    """How often a job is started at most."""
    return 1 + int(profile.get("retries") or 0)
