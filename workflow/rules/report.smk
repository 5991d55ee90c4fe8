# From scores to a page: tables, figures, what it cost, the finding in one line.

SCORES = [cell(model, run, seed, "scores.json") for model, run, seed in CELLS]
TRAINED = [(model, run, seed) for model, run, seed in CELLS if run != "base" and "@" not in run]
CURVES = [cell(model, run, seed, "curve.parquet") for model, run, seed in TRAINED if "+rl" in run]
GRADES = [cell(model, run, seed, "grades.parquet") for model, run, seed in CELLS]
AGGREGATED = ["cells", "summary", "rl_curves", "replicates", "paper"]
ANALYSED = ["drop", "budget", "accuracy_by_length", "accuracy_by_steps", "accumulation", "hazard"]
RECIPES = {grid.parse_run(run).recipe for _, run, _ in CELLS} - {None}
# Each is drawn where the grid has what it shows.
FIGURES = [
    "valley",
    "outcomes",
    *(["benchmarks"] if len(TASKS) > 1 else []),
    "efficiency",
    "budget",
    "reflection",
    *(["arithmetic", "errors"] if config["report"]["calculations"] else []),
    *(["recipes"] if RECIPES else []),
    *(["rl"] if CURVES else []),
]


def table(name):
    """The path of a table of the report."""
    return at(f"report/tables/{name}.csv")


def tasks_flags():
    """The flags of scripts that make tables: which tasks count for what."""
    chosen = {f"--{key}": config["report"][key] for key in ("headline", "length", "calculations")}
    return " ".join(f"{flag} {' '.join(tasks)}" for flag, tasks in chosen.items() if tasks)


rule aggregate:
    input:
        script="scripts/aggregate.py",
        difference="scripts/difference.py",
        statistics="scripts/valley/statistics.py",
        reference="workflow/reference/paper_fig2.csv",
        scores=SCORES,
        curves=CURVES,
    output:
        report([table(name) for name in AGGREGATED], category="Tables", caption="../report/tables.rst"),
        finding=at("report/finding.txt"),
    log:
        at("logs/aggregate.log"),
    benchmark:
        at("benchmarks/aggregate.tsv")
    localrule: True
    conda:
        CPU_ENV
    params:
        examples=examples_flags(),
        headline=config["report"]["headline"],
        confidence=config["report"]["confidence"],
        names=paper_names(),
        tables=at("report/tables"),
    message:
        "Aggregate all scores into tables"
    shell:
        "python {input.script} --scores {input.scores} --curves {input.curves} --examples {params.examples}"
        " --headline {params.headline} --confidence {params.confidence} --reference {input.reference} --names {params.names}"
        " --tables {params.tables} --finding {output.finding} 2> {log}"


rule analyse:
    input:
        script="scripts/analyse.py",
        accumulation="scripts/valley/accumulation.py",
        statistics="scripts/valley/statistics.py",
        grades=GRADES,
    output:
        report([table(name) for name in ANALYSED], category="Tables", caption="../report/tables.rst"),
        problems=at("report/tables/problems.parquet"),
    log:
        at("logs/analyse.log"),
    benchmark:
        at("benchmarks/analyse.tsv")
    localrule: True
    conda:
        CPU_ENV
    params:
        tasks=tasks_flags(),
        confidence=config["report"]["confidence"],
        tables=at("report/tables"),
    message:
        "Analyse all grades"
    shell:
        "python {input.script} --grades {input.grades} {params.tasks} --confidence {params.confidence} --out {params.tables}"
        " 2> {log}"


# The bases against the paper's, before anything trains: make calibrate.
rule calibrate:
    input:
        script="scripts/calibrate.py",
        scores=[path for path, (_, run, _) in zip(SCORES, CELLS) if run == "base"],
        reference="workflow/reference/paper_fig2.csv",
    output:
        at("report/calibration.csv"),
    log:
        at("logs/calibrate.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        models=paper_names(),
    message:
        "Compare the bases with the paper's"
    shell:
        "python {input.script} --scores {input.scores} --reference {input.reference} --models {params.models}"
        " --out {output} 2> {log}"


rule figure:
    input:
        script="scripts/figure.py",
        drawing="scripts/valley/drawing.py",
        bars="scripts/valley/figures_bars.py",
        runs="scripts/valley/figures_runs.py",
        tables=[table(name) for name in [*AGGREGATED, *ANALYSED]],
    output:
        svg=report(at("report/figures/{figure}.svg"), category="Figures", caption="../report/{figure}.rst"),
        png=at("report/figures/{figure}.png"),
        data=at("report/figures/{figure}.csv"),
    log:
        at("logs/figure/{figure}.log"),
    benchmark:
        at("benchmarks/figure/{figure}.tsv")
    localrule: True
    conda:
        CPU_ENV
    params:
        tasks=tasks_flags(),
        tables=at("report/tables"),
    message:
        "Draw the figure {wildcards.figure}"
    shell:
        "python {input.script} --figure {wildcards.figure} --tables {params.tables} {params.tasks}"
        " --svg {output.svg} --png {output.png} --data {output.data} 2> {log}"


rule costs:
    input:
        script="scripts/costs.py",
        scores=SCORES,
    output:
        at("report/tables/costs.csv"),
    log:
        at("logs/costs.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        benchmarks=at("benchmarks"),
        results=lambda w: at("results"),
        models=lambda w: at("models"),
    message:
        "Sum up what it cost"
    shell:
        "python {input.script} --benchmarks {params.benchmarks} --results {params.results} --models {params.models}"
        " --out {output} 2> {log}"


rule page:
    input:
        script="scripts/page.py",
        template="workflow/report/page.html.jinja",
        cells=at("report/tables/cells.csv"),
        summary=at("report/tables/summary.csv"),
        costs=at("report/tables/costs.csv"),
        finding=at("report/finding.txt"),
        figures=[at(f"report/figures/{name}.svg") for name in FIGURES],
    output:
        report(at("report/page.html"), category="Page", caption="../report/page.rst"),
    log:
        at("logs/page.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        study=lambda w: config["root"],
        miniature="--miniature" if config["traces"]["source"] == "synthetic" else "",
        results=at("results"),
    message:
        "Write the page"
    shell:
        "python {input.script} --study {params.study} {params.miniature} --template {input.template} --cells {input.cells}"
        " --summary {input.summary} --costs {input.costs} --finding {input.finding} --figures {input.figures}"
        " --results {params.results} --out {output} 2> {log}"
