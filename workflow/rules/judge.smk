# The judge half of the reflection measure (report.judge), off by default. A rule of its own: no response is made again.

if JUDGE:

    # The script is no declared input, as in all rules that may need a GPU; the prompt is, for it makes the labels.
    rule judge:
        input:
            model=base_model(JUDGE["model"], 0),  # one judge for all cells, also where bases have seeds
            prompt=judge_prompt_of,
            responses=[
                cell("{model}", "{run}", "{seed}", f"responses/{task}.parquet")
                for task in config["report"]["length"]
            ],
            tasks=[at(f"data/tasks/{task}.parquet") for task in config["report"]["length"]],
        output:
            cell("{model}", "{run}", "{seed}", "judged.parquet"),
        log:
            at("logs/judge/{model}.{run}.seed{seed}.log"),
        benchmark:
            at("benchmarks/judge/{model}.{run}.seed{seed}.tsv")
        conda:
            MODEL_ENV
        resources:
            gpu=gpu_resource(lambda w: gpus(JUDGING)),
            gres=gres_resource(lambda w: gpus(JUDGING)),
            slurm_extra=nice,
        params:
            launch=lambda w, resources: launch(JUDGING, resources),
            flags=what(LABELS, judge_sampling, flags.JUDGING),
            before=started_before(LABELS),
            operation=how(judge_sampling, flags.JUDGING),
            max_characters=JUDGE["max_characters"],
            stop=stop_flags(JUDGING),
        message:
            "Judge {wildcards.model} {wildcards.run} seed {wildcards.seed}"
        shell:
            "{params.launch} scripts/judge.py --model {input.model:q} --responses {input.responses:q} --tasks {input.tasks:q}"
            " --prompt {input.prompt:q} --max-characters {params.max_characters:q} {params.flags} {params.operation} {params.stop}"
            " --out {output:q} 2> {log:q}"
