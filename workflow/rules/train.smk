# Models: bases made or fetched, then SFT and RL. No script is a declared input here: editing sft.py must not retrain a
# grid. The records hold the hash of the code instead, and `make status` compares.


rule pretrain:
    input:
        template=template_of,
    output:
        directory(at("models/{model}/seed{seed}")),
    log:
        at("logs/pretrain/{model}.seed{seed}.log"),
    benchmark:
        at("benchmarks/pretrain/{model}.seed{seed}.tsv")
    priority: 20
    conda:
        CPU_ENV
    params:
        size=lambda w: flags.line(config["models"][w.model]["pretrain"], flags.PRETRAIN),
        lengths=flags.line(config.get("synthetic", {}), ("lengths",)),
    message:
        "Pre-train {wildcards.model} seed {wildcards.seed}"
    shell:
        "python scripts/pretrain.py --template {input.template:q} {params.size} {params.lengths}"
        " --seed {wildcards.seed} --out {output:q} 2> {log:q}"


rule fetch_model:
    input:
        template=template_of,
    output:
        directory(at("models/{model}/fetched")),
    log:
        at("logs/fetch_model/{model}.log"),
    benchmark:
        at("benchmarks/fetch_model/{model}.tsv")
    localrule: True
    conda:
        CPU_ENV
    params:
        source=lambda w: source_flags(config["models"][w.model]),
        end=lambda w: shlex.quote(config["families"][config["models"][w.model]["family"]]["end_token"]),
        pad=lambda w: shlex.quote(config["families"][config["models"][w.model]["family"]]["pad_token"]),
    message:
        "Fetch the model {wildcards.model}"
    shell:
        "python scripts/fetch_model.py {params.source} --template {input.template:q} --end-token {params.end}"
        " --pad-token {params.pad} --out {output:q} 2> {log:q}"


rule preflight:
    input:
        model=lambda w: base_model(w.model, w.seed),
        subset=subset_of,
    output:
        cell("{model}", "{run}", "{seed}", "preflight.json"),
    log:
        at("logs/preflight/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/preflight/{model}.{run}.seed{seed}.tsv")
    wildcard_constraints:
        run=grid.SFT_RUN,
    priority: priority(0)
    conda:
        CPU_ENV
    threads: 1 if config["traces"]["source"] == "synthetic" else 4  # a worker takes seconds to start
    resources:
        mem_mb=memory(preflight_memory),
        runtime=60,
        slurm_extra=nice,
    params:
        flags=what(PREFLIGHT_RECORD, sft_settings, flags.PREFLIGHT),
        prompt=prompt_flags,
        before=bound_before(PREFLIGHT_RECORD),
        max_truncated=lambda w, resources: config["preflight"]["max_truncated"],
    message:
        "Preflight {wildcards.model} {wildcards.run} seed {wildcards.seed}"
    shell:
        "python scripts/preflight.py --model {input.model:q} --data {input.subset:q} {params.flags} {params.prompt}"
        " --max-truncated {params.max_truncated:q} --workers {threads} --out {output:q} 2> {log:q}"


BRANCHES = "|".join(
    name for name, recipe in config["sft"]["recipes"].items() if recipe.get("protocol") == grid.TRUNK
)


rule sft:
    input:
        model=lambda w: base_model(w.model, w.seed),
        subset=subset_of,
        preflight=cell("{model}", "{run}", "{seed}", "preflight.json"),
    output:
        model=directory(cell("{model}", "{run}", "{seed}", "model")),
        record=cell("{model}", "{run}", "{seed}", "train.json"),
    log:
        at("logs/sft/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/sft/{model}.{run}.seed{seed}.tsv")
    wildcard_constraints:
        run=rf"(?!{grid.SFT_RUN_OF.format(BRANCHES)}/){grid.SFT_RUN}" if BRANCHES else grid.SFT_RUN,
    priority: lambda w: priority(3 if (w.model, w.run, int(w.seed)) in RL_STARTS else 1)(w)
    conda:
        MODEL_ENV
    resources:
        gpu=gpu_resource(training_gpus),
        gres=gres_resource(training_gpus),
        mem_mb=memory(sft_memory),
        runtime=time_asked(training_gpus),
        slurm_extra=nice,
    params:
        launch=launch_training(grid.sft_settings),
        flags=what(SFT_RECORD, sft_settings, flags.SFT),
        prompt=prompt_flags,
        before=started_before(SFT_RECORD),
        operation=how(sft_settings, flags.SFT),
    message:
        "SFT {wildcards.model} {wildcards.run} seed {wildcards.seed}"
    shell:
        "{params.launch} scripts/sft.py --model {input.model:q} --data {input.subset:q} {params.flags} {params.operation} {params.prompt}"
        " --seed {wildcards.seed} --out {output.model:q} --record {output.record:q} 2> {log:q}"


# One run for all sizes of a recipe whose protocol is `trunk`: the longest job of a model and seed, which leaves a checkpoint at
# each size. It lies in the cell of its largest size; like those of RL, its checkpoints are no declared outputs.
use rule sft as trunk with:
    input:
        model=rules.sft.input.model,
        subset=subset_of,
        preflight=cell("{model}", "{run}", "{seed}", "preflight.json"),
    output:
        model=directory(cell("{model}", "{run}", "{seed}", "trunk/model")),
        record=TRUNK_RECORD,
    log:
        at("logs/trunk/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/trunk/{model}.{run}.seed{seed}.tsv")
    wildcard_constraints:
        run=grid.SFT_RUN,
    params:
        launch=launch_training(grid.sft_settings),
        flags=what(TRUNK_RECORD, trunk_settings, flags.SFT),
        prompt=lambda w: f"--pieces {pieces_of(w)} {prompt_flags(w)}",
        before="",
        operation=how(sft_settings, flags.SFT),
    message:
        "Trunk of {wildcards.model} up to {wildcards.run} seed {wildcards.seed}"


# A cell of such a recipe: from its trunk's checkpoint on, while the rate falls.
use rule sft as branch with:
    input:
        model=rules.sft.input.model,
        subset=subset_of,
        preflight=cell("{model}", "{run}", "{seed}", "preflight.json"),
        trunk=trunk_of,
    log:
        at("logs/branch/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/branch/{model}.{run}.seed{seed}.tsv")
    wildcard_constraints:
        run=grid.SFT_RUN_OF.format(BRANCHES or "none"),
    params:
        launch=launch_training(grid.sft_settings),
        flags=what(SFT_RECORD, trunk_settings, flags.SFT),
        prompt=lambda w: f"--pieces {pieces_of(w)} --cooldown {sft_settings(w)['cooldown']} --trunk {shlex.quote(trunk_of(w))} {prompt_flags(w)}",
        before="",
        operation=how(sft_settings, flags.SFT),
    message:
        "Branch {wildcards.model} {wildcards.run} seed {wildcards.seed}"


rule rl:
    input:
        start=start_of,
        problems=rl_problems,
    output:
        model=directory(cell("{model}", "{run}", "{seed}", "model")),
        record=cell("{model}", "{run}", "{seed}", "train.json"),
        curve=cell("{model}", "{run}", "{seed}", "curve.parquet"),
    log:
        at("logs/rl/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/rl/{model}.{run}.seed{seed}.tsv")
    wildcard_constraints:
        run=grid.RL_RUN,
    priority: priority(2)
    conda:
        MODEL_ENV
    resources:
        gpu=gpu_resource(training_gpus),
        gres=gres_resource(training_gpus),
        mem_mb=memory(256000),
        runtime=time_asked(training_gpus),
        slurm_extra=nice,
    params:
        launch=launch_training(grid.rl_settings),
        flags=what(RL_RECORD, rl_settings, flags.RL),
        prompt=lambda w: " ".join(filter(None, (prompt_flags(w), rl_answer_flags(w), stop_flags(w)))),
        before=started_before(RL_RECORD),
        operation=how(rl_settings, flags.RL),
    message:
        "RL {wildcards.model} {wildcards.run} seed {wildcards.seed}"
    shell:
        "{params.launch} scripts/rl.py --model {input.start:q} --problems {input.problems:q} {params.flags} {params.operation} {params.prompt}"
        " --seed {wildcards.seed} --out {output.model:q} --record {output.record:q} --curve {output.curve:q} 2> {log:q}"


rule export_step:
    input:
        record=cell("{model}", "{whole}", "{seed}", "train.json"),
    output:
        directory(cell("{model}", "{whole}@{step}", "{seed}", "model")),
    log:
        at("logs/export_step/{model}.{whole}@{step}.seed{seed}.log"),
    benchmark:
        at("benchmarks/export_step/{model}.{whole}@{step}.seed{seed}.tsv")
    wildcard_constraints:
        whole=grid.RL_RUN,
        step="[0-9]+",
    localrule: True
    conda:
        CPU_ENV
    params:
        checkpoints=lambda w: cell(w.model, w.whole, w.seed, "checkpoints"),
    message:
        "Publish {wildcards.model} {wildcards.whole} step {wildcards.step} seed {wildcards.seed}"
    shell:
        "python scripts/export_step.py --checkpoints {params.checkpoints:q} --record {input.record:q} --step {wildcards.step}"
        " --out {output:q} 2> {log:q}"
