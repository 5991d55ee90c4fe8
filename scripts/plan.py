"""What is left to run, and what it will take: jobs, GPU-hours, wall time on N GPUs, disk.

    python scripts/plan.py --configfile config/one-gpu.yaml --gpus 8

The jobs are those of Snakemake's own dry run. A job costs what finished jobs of the same rule and model took
(their benchmark files), else what a stated model says (workflow/reference/costs.yaml, presets `paper`,
`computed` and `measured`). Wall time is a simulation: each job starts, by priority, as soon as what it needs
is done and its GPUs are free. Memory is that of the moment with the least room of each rule and model
(valley/vram.py).
"""

import collections

from valley import check, contract, costs, flags, grid, jobs, profiles, records, tariff, vram
from valley.places import Places


def table(planned: list[dict], keys) -> list[tuple[str, int, float]]:
    """(name, jobs, GPU-hours) by what `keys` says of a job, the costliest first."""
    count, hours = collections.Counter(), collections.Counter()
    for job in planned:
        count[keys(job)] += 1
        hours[keys(job)] += job["seconds"] / 3600 if job["gpus"] else 0.0
    return sorted(((name, count[name], hours[name]) for name in count), key=lambda row: (-row[2], row[0]))


def warnings(config: dict, planned: list[dict], profile: dict, card: dict, constants: dict) -> list[str]:
    """What cannot work as planned: jobs that outlive their time and its retries, jobs that a card cannot
    hold; and what runs in portions.
    """
    found, requeue = [], profiles.requeues(profile)

    def limit(rule: str) -> float:
        return profiles.limit(profile, rule)

    for job, hours, given in costs.endless(planned, config, limit, profiles.tries(profile), requeue):
        name = ".".join(job["wildcards"].values())
        found.append(
            f"cannot end        {job['rule']} {name}: {hours:,.0f} h, and the profile gives it {given:,.0f} h in all"
        )
    long = [
        (costs.job_hours(job), job)
        for job in planned
        if requeue and job["rule"] in (*costs.TRAINING, "rl") and costs.portions(job, limit(job["rule"])) > 1
    ]
    for hours, job in sorted(long, key=lambda pair: -pair[0]):
        count, name = costs.portions(job, limit(job["rule"])), ".".join(job["wildcards"].values())
        found.append(
            f"in portions       {job['rule']} {name}: {hours:,.0f} h in {count} of {limit(job['rule']) / 60:,.0f} h, each from the last one's checkpoint"
        )
    found += [
        f"does not fit      {line}" for line in vram.refusals(config, planned, card["memory"], constants)
    ]
    if unknown := vram.unknown(config, planned):
        found.append(f"memory unknown    of {', '.join(unknown)}, until it is fetched")
    return [*found, *([""] if found else [])]


def margins(config: dict, planned: list[dict], card: dict, constants: dict, widths=(1, 2, 4, 8)) -> list[str]:
    """Lines of what each planned rule and model needs of a card, the tightest first, and on other numbers of
    cards.
    """
    rows = vram.by_model(config, planned, card["memory"], constants)
    if not rows:
        return []
    head = f"GiB of a card's {card['memory']:g}"
    lines = [f"{head:28}{'GPUs':>5}{'needs':>8}{'margin':>8}   " + "".join(f"{f'on {n}':>7}" for n in widths)]
    for row in rows:
        others = (vram.moments(config, row.job, card["memory"], constants["device"], gpus=n) for n in widths)
        needs = "".join(f"{vram.tightest(found).needed / vram.GIB:7.1f}" for found in others)
        lines.append(
            f"{f'{row.rule} {row.model}':28}{row.job['gpus']:5}{row.moment.needed / vram.GIB:8.1f}"
            f"{row.moment.margin / vram.GIB:8.1f}   {needs}  {row.moment.name}"
        )
    return [*lines, ""]


def uncounted(config: dict) -> list[str]:
    """A line on the tasks of the grid whose number of problems is assumed, where there are any."""
    if not (tasks := [task for task in config["grid"]["tasks"] if costs.problems(config, task) is None]):
        return []
    what = f"{costs.PROBLEMS} problems each, until they are fetched or tasks.*.problems says how many"
    return [f"assumed          {', '.join(tasks)}: {what}", ""]


def main():
    parser = flags.parser(__doc__)
    flags.add_configs(parser)
    parser.add_argument("--gpus", type=int, default=8, help="GPUs that run jobs side by side")
    parser.add_argument("--cores", type=int, default=8, help="CPU jobs side by side")
    parser.add_argument(
        "--card",
        default=None,
        help="kind of GPU: a key of `cards` in workflow/reference/costs.yaml (the config's card, else h100)",
    )
    parser.add_argument("--preset", choices=list(costs.load()["presets"]), default="paper")
    parser.add_argument(
        "targets", nargs="*", default=[], help="as for snakemake; all of the study by default"
    )
    args = parser.parse_args()

    profile, constants = profiles.merged(args.profile), costs.load()
    config = contract.study(args.configfile, profiles.config(profile))
    kind = args.card or config["card"] or next(iter(constants["cards"]))
    card = costs.card(constants, kind)
    preset = costs.on_card(constants["presets"][args.preset], card, next(iter(constants["cards"].values())))
    cells, places = grid.cells(config), Places(config)
    measured = costs.measured_seconds(places.benchmarks)
    planned = jobs.planned(args.configfile, check.ROOT, args.targets, profiles.config(profile))
    if args.gpus < 1 and any(job["gpus"] for job in planned):
        records.fail(
            "--gpus", f"{args.gpus} GPUs run no job of this plan that asks for one", "Set GPUS=1 or more"
        )
    known = 0
    for job in planned:
        if job["rule"] == "generate":
            served = any(planned[at]["rule"] == "generate" for at in job["waits_for"])
            job["tasks"] = costs.sampled_by(job["wildcards"]["task"], config, served)
        job["seconds"], told = costs.seconds(
            job, config, constants, preset, measured, tariff.computed_seconds
        )
        known += told

    done = sum(places.of(cell, "scores.json").exists() for cell in cells)
    study = config["root"] if config["root"] != "." else "the paper"
    print(f"{study}: {len(cells)} cells, {done} done; {len(planned)} jobs to run\n")
    for title, keys in (
        ("rule", lambda job: job["rule"]),
        ("model", lambda job: job["wildcards"].get("model", "-")),
    ):
        print(f"{title:16}{'jobs':>8}{'GPU-hours':>12}")
        for name, count, hours in table(planned, keys):
            print(f"{name:16}{count:8,}{hours:12,.1f}")
        print()
    hours = sum(job["seconds"] for job in planned if job["gpus"]) / 3600
    end, peak = costs.disk(config, constants, cells, planned, args.gpus)
    wall = costs.wall_seconds(planned, args.gpus, args.cores) / 3600
    print(f"GPU-hours        {hours:,.0f}")
    print(f"wall time        {wall:,.1f} h on {args.gpus} GPUs ({kind})")
    print(f"critical path    {costs.critical_seconds(planned) / 3600:,.1f} h, however many GPUs")
    print(f"disk             {end:,.0f} GB at the end, {peak:,.0f} GB at the peak\n")
    for line in uncounted(config):
        print(line)
    flops = preset["peak_flops"] * preset["sft_mfu"] * 3600  # of a GPU-hour
    for recipe, together, apart in costs.trunk_savings(config, constants):
        print(
            f"trunk            {recipe}: {100 * together / apart:.0f} % of the training that its sizes take one by one"
            f" ({together / flops:,.0f} for {apart / flops:,.0f} GPU-hours); not the paper's protocol (docs/afford.md)\n"
        )
    for line in [
        *margins(config, planned, card, constants),
        *warnings(config, planned, profile, card, constants),
    ]:
        print(line)
    print(
        f"{known} jobs cost what finished jobs of their rule and cell took; the rest by preset `{args.preset}`: "
        f"{preset['source']}."
    )
    lengths = ", ".join(f"{length:,} ({stage})" for stage, length in constants["lengths"].items())
    print(
        f"Assumed: {tariff.assumed(preset)}, {constants['trace_tokens']:,} tokens a trace, "
        f"responses of {lengths} tokens."
    )


if __name__ == "__main__":
    main()
