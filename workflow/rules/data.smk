# Traces and problems: fetched or synthesised, then one ordered pool whose prefixes are the subsets.
#
# Training and generation come after these rules, so their scripts are no declared inputs: editing one plans no GPU job.
# `make status` shows data made by other code; `--forcerun order_traces` makes them anew, and all that was trained on them.
# (ancient() on the inputs of sft would hide too much: Snakemake 9.27 then plans neither a changed setting nor a missing
# cell downstream of a job that is to be remade.)

FETCHED_TASKS = [
    name for name, task in config["tasks"].items() if task["source"] not in ("synthetic", "arithmetic")
]
FETCHED_RL = [name for name, problems in config["rl"]["sets"].items() if problems["source"] != "synthetic"]
TASKS_AND_SETS = sorted(
    {*config["grid"]["tasks"], *config["traces"]["decontaminate"]}
    | {grid.rl_settings(config, model, run)["problems"] for model, run, _ in CELLS if grid.parse_run(run).rl}
)
ARITHMETIC_TASKS = [name for name, task in config["tasks"].items() if task["source"] == "arithmetic"]
SYNTHETIC_TASKS = [name for name, task in config["tasks"].items() if task["source"] == "synthetic"]
SYNTHETIC_RL = [name for name, problems in config["rl"]["sets"].items() if problems["source"] == "synthetic"]

if config["traces"]["source"] == "synthetic":

    rule synthesize:
        output:
            traces=at("data/traces.parquet"),
            task=at(f"data/tasks/{SYNTHETIC_TASKS[0]}.parquet"),
            rl=at(f"data/rl/{SYNTHETIC_RL[0]}.parquet"),
        log:
            at("logs/synthesize.log"),
        benchmark:
            at("benchmarks/synthesize.tsv")
        localrule: True
        conda:
            CPU_ENV
        params:
            counts=flags.line(config["synthetic"], flags.SYNTHETIC),
        message:
            "Synthesise traces, RL problems and held-out problems"
        shell:
            "python scripts/synthesize.py --traces-out {output.traces:q} --task-out {output.task:q} --rl-out {output.rl:q}"
            " {params.counts} 2> {log:q}"

else:

    rule fetch_traces:
        output:
            at("data/traces.parquet"),
        log:
            at("logs/fetch_traces.log"),
        benchmark:
            at("benchmarks/fetch_traces.tsv")
        localrule: True
        conda:
            CPU_ENV
        params:
            source=lambda w: source_flags(config["traces"], PLACES.traces),
        message:
            "Fetch the traces"
        shell:
            "python scripts/fetch_traces.py {params.source} --out {output:q} 2> {log:q}"


rule fetch_task:
    output:
        at("data/tasks/{task}.parquet"),
    log:
        at("logs/fetch_task/{task}.log"),
    benchmark:
        at("benchmarks/fetch_task/{task}.tsv")
    wildcard_constraints:
        task="|".join(FETCHED_TASKS) or "none",
    localrule: True
    conda:
        CPU_ENV
    params:
        source=lambda w: source_flags(config["tasks"][w.task], PLACES.task(w.task)),
    message:
        "Fetch the task {wildcards.task}"
    shell:
        "python scripts/fetch_task.py {params.source} --out {output:q} 2> {log:q}"


rule fetch_rl:
    output:
        at("data/rl/{problems}.parquet"),
    log:
        at("logs/fetch_rl/{problems}.log"),
    benchmark:
        at("benchmarks/fetch_rl/{problems}.tsv")
    wildcard_constraints:
        problems="|".join(FETCHED_RL) or "none",
    localrule: True
    conda:
        CPU_ENV
    params:
        source=lambda w: source_flags(config["rl"]["sets"][w.problems], PLACES.rl_set(w.problems)),
    message:
        "Fetch the RL problems {wildcards.problems}"
    shell:
        "python scripts/fetch_task.py {params.source} --out {output:q} 2> {log:q}"


# All that needs the network, for the login node: snakemake --profile profiles/local fetch
rule fetch:
    input:
        [] if config["traces"]["source"] == "synthetic" else at("data/traces.parquet"),
        [at(f"data/pools/{name}/traces.parquet") for name in grid.own_traces(config)],
        [
            base_model(model, None)
            for model in grid.models_needed(config)
            if not grid.is_pretrained_here(config, model)
        ],
        [problems_of(name) for name in TASKS_AND_SETS if name in FETCHED_TASKS + FETCHED_RL],
    localrule: True


rule arithmetic:
    output:
        at("data/tasks/{task}.parquet"),
    log:
        at("logs/arithmetic/{task}.log"),
    benchmark:
        at("benchmarks/arithmetic/{task}.tsv")
    wildcard_constraints:
        task="|".join(ARITHMETIC_TASKS) or "none",
    localrule: True
    conda:
        CPU_ENV
    params:
        problems=lambda w: config["tasks"][w.task].get("problems", 400),
        seed=lambda w: config["tasks"][w.task].get("seed", 0),
    message:
        "Draw the arithmetic expressions of the task {wildcards.task}"
    shell:
        "python scripts/arithmetic.py --problems {params.problems:q} --seed {params.seed:q} --out {output:q} 2> {log:q}"


# The data depend on `traces` alone: neither a new model nor a new task changes the pool, or the whole grid would retrain.
rule order_traces:
    input:
        traces=at("data/traces.parquet"),
        tokenizers=lambda w: [base_model(model, w.order) for model in config["traces"]["tokenizers"]],
        decontaminate=[problems_of(name) for name in config["traces"]["decontaminate"]],
    output:
        pool=at("data/ordered/seed{order}.parquet"),
        card=at("data/ordered/seed{order}.json"),
    log:
        at("logs/order_traces/seed{order}.log"),
    benchmark:
        at("benchmarks/order_traces/seed{order}.tsv")
    priority: 20
    conda:
        CPU_ENV
    threads: 1 if config["traces"]["source"] == "synthetic" else 4  # a worker takes seconds to start
    resources:
        mem_mb=memory(16000),
        runtime=120,
    params:
        decontaminate=lambda w, input: (
            f"--decontaminate {shlex.join(input.decontaminate)}" if input.decontaminate else ""
        ),
        max_tokens=config["traces"]["max_tokens"],
        correct=config["traces"]["correct"],
        think=config["traces"]["think"],
        prompt=lambda w: f"{prompt_flags(w)} {flags.line(config['traces'], ('block',))}".strip(),
    message:
        "Filter and order the traces (order {wildcards.order})"
    shell:
        "python scripts/order_traces.py --traces {input.traces:q} --tokenizers {input.tokenizers:q} {params.decontaminate}"
        " --max-tokens {params.max_tokens:q} --correct {params.correct:q} --think {params.think:q} --seed {wildcards.order}"
        " --workers {threads} {params.prompt}"
        " --out {output.pool:q} --card {output.card:q} 2> {log:q}"


# Traces of a pool's own source come in as the study's do.
rule fetch_pool:
    output:
        at("data/pools/{pool}/traces.parquet"),
    log:
        at("logs/fetch_pool/{pool}.log"),
    benchmark:
        at("benchmarks/fetch_pool/{pool}.tsv")
    localrule: True
    conda:
        CPU_ENV
    params:
        source=lambda w: source_flags(config["pools"][w.pool]["traces"], PLACES.fetched(w.pool)),
    message:
        "Fetch the traces of the pool {wildcards.pool}"
    shell:
        "python scripts/fetch_traces.py {params.source} --out {output:q} 2> {log:q}"


use rule order_traces as order_pool with:
    input:
        traces=at("data/pools/{pool}/traces.parquet"),
        tokenizers=rules.order_traces.input.tokenizers,
        decontaminate=rules.order_traces.input.decontaminate,
    output:
        pool=at("data/pools/{pool}/ordered/seed{order}.parquet"),
        card=at("data/pools/{pool}/ordered/seed{order}.json"),
    log:
        at("logs/order_pool/{pool}.seed{order}.log"),
    benchmark:
        at("benchmarks/order_pool/{pool}.seed{order}.tsv")
    resources:
        mem_mb=memory(16000),
        runtime=120,
    message:
        "Filter and order the traces of the pool {wildcards.pool} (order {wildcards.order})"


rule pool:
    input:
        unpack(pool_inputs),
    output:
        pool=at("data/pools/{pool}/seed{order}.parquet"),
        card=at("data/pools/{pool}/seed{order}.json"),
    log:
        at("logs/pool/{pool}.seed{order}.log"),
    benchmark:
        at("benchmarks/pool/{pool}.seed{order}.tsv")
    priority: 20
    conda:
        CPU_ENV
    resources:
        mem_mb=memory(8000),
        runtime=60,
    params:
        flags=pool_flags,
        leave=lambda w, resources: config["report"]["probe"],  # a pool's end, which no subset reaches: of operation
        leave_of=lambda w, input, resources: (
            f"--leave-of {shlex.quote(input.study)}" if input.get("study") else ""
        ),
    message:
        "Take the pool {wildcards.pool} (order {wildcards.order})"
    shell:
        "python scripts/pool.py --pools {input.pools:q} {params.flags} --leave {params.leave:q} {params.leave_of}"
        " --out {output.pool:q} --card {output.card:q} 2> {log:q}"


rule subset:
    input:
        pool=lambda w: str(PLACES.pool(w.order, name=w.size.partition(".")[2])),
    output:
        subset=at("data/subsets/{size}/seed{order}.parquet"),
        card=at("data/subsets/{size}/seed{order}.json"),
    log:
        at("logs/subset/{size}.seed{order}.log"),
    benchmark:
        at("benchmarks/subset/{size}.seed{order}.tsv")
    priority: 20
    conda:
        CPU_ENV
    resources:
        mem_mb=memory(8000),
        runtime=60,
    params:
        examples=lambda w: config["sizes"][w.size.partition(".")[0]]["examples"],
    message:
        "Take the subset {wildcards.size} (order {wildcards.order})"
    shell:
        "python scripts/subset.py --pool {input.pool:q} --examples {params.examples:q}"
        " --out {output.subset:q} --card {output.card:q} 2> {log:q}"


# The last traces of an order, which no subset holds: what report.probe measures models on.
rule held_out:
    input:
        pool=at("data/ordered/seed{order}.parquet"),
    output:
        traces=at("data/held_out/seed{order}.parquet"),
        card=at("data/held_out/seed{order}.json"),
    log:
        at("logs/held_out/seed{order}.log"),
    benchmark:
        at("benchmarks/held_out/seed{order}.tsv")
    localrule: True
    conda:
        CPU_ENV
    params:
        last=config["report"]["probe"],
        after=lambda w, resources: max(  # a check, so of operation
            (grid.examples_of(config, c.parsed.size) for c in CELLS if c.parsed.size), default=0
        ),
    message:
        "Take the traces that no subset holds (order {wildcards.order})"
    shell:
        "python scripts/subset.py --pool {input.pool:q} --examples {params.last:q} --last-after {params.after:q}"
        " --out {output.traces:q} --card {output.card:q} 2> {log:q}"
