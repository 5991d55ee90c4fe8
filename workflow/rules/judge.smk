# The judge half of the reflection measure (report.judge), off by default. A rule of its own: no response is made again.

from types import SimpleNamespace

JUDGE = config["report"]["judge"]
# The labels of a cell; nothing without a judge.
JUDGED = [cell("{model}", "{run}", "{seed}", "judged.parquet")] if JUDGE else []

if JUDGE:
    # The judge in place of a job's wildcards, for what depends on the model alone. One judge for all: seed 0 where it is
    # pre-trained here.
    JUDGING = SimpleNamespace(model=JUDGE["model"])

    # The script is no declared input, as in all rules that may need a GPU; the prompt is, for it makes the labels.
    rule judge:
        input:
            model=base_model(JUDGE["model"], 0),
            prompt="workflow/reference/judge_prompt.txt",
            responses=[cell("{model}", "{run}", "{seed}", f"responses/{task}.parquet") for task in config["report"]["length"]],
            tasks=[at(f"data/tasks/{task}.parquet") for task in config["report"]["length"]],
        output:
            JUDGED,
        log:
            at("logs/judge/{model}.{run}.seed{seed}.log"),
        benchmark:
            at("benchmarks/judge/{model}.{run}.seed{seed}.tsv")
        conda:
            MODEL_ENV
        resources:
            gpu=gpus(JUDGING),
        params:
            launch=launch(JUDGING),
            flags=grid.flags(config["generate"], ("engine", "max_context", "chunk", "precision")),
            max_characters=JUDGE["max_characters"],
            stop=stop_flags(JUDGING),
        message:
            "Judge {wildcards.model} {wildcards.run} seed {wildcards.seed}"
        shell:
            "{params.launch} scripts/judge.py --model {input.model} --responses {input.responses} --tasks {input.tasks}"
            " --prompt {input.prompt} --max-characters {params.max_characters} {params.flags} {params.stop}"
            " --out {output} 2> {log}"
