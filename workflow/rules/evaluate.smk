# From a model to scores, one rule each for every stage. Generation is one job a cell and task, so that a new task remakes
# nothing; grading and scoring are cheap and cover all tasks of a cell.


rule generate:
    input:
        model=model_of,
        task=at("data/tasks/{task}.parquet"),
        first=first_task,
    output:
        cell("{model}", "{run}", "{seed}", "responses/{task}.parquet"),
    log:
        at("logs/generate/{model}.{run}.seed{seed}.{task}.log"),
    benchmark:
        at("benchmarks/generate/{model}.{run}.seed{seed}.{task}.tsv")
    priority: priority(0)
    conda:
        MODEL_ENV
    resources:
        gpu=gpu_resource(gpus),
        gres=gres_resource(gpus),
        runtime=time_asked(gpus),
        slurm_extra=nice,
    params:
        launch=launch,
        flags=what(RESPONSES, sampling, flags.SAMPLING),
        before=started_before(RESPONSES),
        operation=how(sampling, flags.SAMPLING),
        samples=lambda w: config["tasks"][w.task]["samples"],
        prompt=prompt_flags,
        stop=lambda w: f"{stop_flags(w)} {think_flags(w)}".strip(),
        then=then_flags,
    message:
        "Generate {wildcards.model} {wildcards.run} seed {wildcards.seed} {wildcards.task}"
    shell:
        "{params.launch} scripts/generate.py --model {input.model:q} --task {input.task:q} --samples {params.samples:q}"
        " {params.flags} {params.operation} {params.prompt} {params.stop} --seed {wildcards.seed} --out {output:q} {params.then} 2> {log:q}"


# Before the generation of the same cell, which costs far more: `make status` and the page name a cell that did not train.
rule probe:
    input:
        model=model_of,
        traces=lambda w: str(PLACES.held_out(grid.order_seed(config, int(w.seed)))),
    output:
        cell("{model}", "{run}", "{seed}", "probe.json"),
    log:
        at("logs/probe/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/probe/{model}.{run}.seed{seed}.tsv")
    priority: priority(5)
    conda:
        MODEL_ENV
    resources:
        gpu=gpu_resource(one_gpu),
        gres=gres_resource(one_gpu),
        mem_mb=memory(32000),
        runtime=60,
        slurm_extra=nice,
    params:
        launch=lambda w, resources: launched(one_gpu(w)),
        max_length=config["sft"]["max_length"],
        precision=config["generate"]["precision"],
        prompt=prompt_flags,
    message:
        "Probe {wildcards.model} {wildcards.run} seed {wildcards.seed} on held-out traces"
    shell:
        "{params.launch} scripts/probe.py --model {input.model:q} --data {input.traces:q} --max-length {params.max_length:q}"
        " --precision {params.precision:q} {params.prompt} --out {output:q} 2> {log:q}"


rule grade:
    input:
        script="scripts/grade.py",
        code=imports("grade"),
        responses=[cell("{model}", "{run}", "{seed}", f"responses/{task}.parquet") for task in TASKS],
        tasks=[at(f"data/tasks/{task}.parquet") for task in TASKS],
        judged=judged("{model}", "{run}", "{seed}"),
    output:
        cell("{model}", "{run}", "{seed}", "grades.parquet"),
    log:
        at("logs/grade/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/grade/{model}.{run}.seed{seed}.tsv")
    priority: priority(0)
    conda:
        CPU_ENV
    resources:
        mem_mb=memory(16000),
        runtime=60,
        slurm_extra=nice,
    params:
        samples=[config["tasks"][task]["samples"] for task in TASKS],
        calculations=config["report"]["calculations"],
        answer=lambda w: answer_flags(w, {task: config["tasks"][task] for task in TASKS}),
    message:
        "Grade {wildcards.model} {wildcards.run} seed {wildcards.seed}"
    shell:
        "python {input.script:q} --responses {input.responses:q} --tasks {input.tasks:q} --samples {params.samples:q}"
        " --calculations {params.calculations:q} --judged {input.judged:q} {params.answer} --workers {threads}"
        " --out {output:q} 2> {log:q}"


rule score:
    input:
        script="scripts/score.py",
        code=imports("score"),
        grades=cell("{model}", "{run}", "{seed}", "grades.parquet"),
    output:
        cell("{model}", "{run}", "{seed}", "scores.json"),
    log:
        at("logs/score/{model}.{run}.seed{seed}.log"),
    benchmark:
        at("benchmarks/score/{model}.{run}.seed{seed}.tsv")
    priority: priority(0)
    localrule: True
    conda:
        CPU_ENV
    params:
        headline=config["report"]["headline"],
        length=config["report"]["length"],
        confidence=config["report"]["confidence"],
    message:
        "Score {wildcards.model} {wildcards.run} seed {wildcards.seed}"
    shell:
        "python {input.script:q} --grades {input.grades:q} --headline {params.headline:q} --length {params.length:q}"
        " --confidence {params.confidence:q} --out {output:q} 2> {log:q}"


# All grades and scores of a finished study: make regrade.
rule regrade:
    input:
        [cell(model, run, seed, "scores.json") for model, run, seed in CELLS],
    localrule: True
