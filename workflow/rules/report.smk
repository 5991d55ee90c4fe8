# From scores to a page: tables, figures, what it cost, the finding in one line.

SCORES = [cell(model, run, seed, "scores.json") for model, run, seed in CELLS]
TRAINED = [(model, run, seed) for model, run, seed in CELLS if run != "base" and "@" not in run]
CURVES = [cell(model, run, seed, "curve.parquet") for model, run, seed in TRAINED if "+rl" in run]
FIGURES = ["valley", "outcomes"] + (["rl"] if CURVES else [])


def examples_flags():
    """--examples size=count of the sizes that the grid uses, for the data axis."""
    used = sorted({grid.parse_run(run).size for _, run, _ in CELLS} - {None})
    count = lambda size: config["sizes"][size]["examples"]
    return " ".join(f"{s}={config['traces']['rows'] if count(s) == 'all' else count(s)}" for s in used)


rule aggregate:
    message:
        "Aggregate all scores into tables"
    input:
        script="scripts/aggregate.py",
        scores=SCORES,
        curves=CURVES,
    output:
        cells=report(at("report/tables/cells.csv"), category="Tables", caption="../report/cells.rst"),
        summary=report(at("report/tables/summary.csv"), category="Tables", caption="../report/summary.rst"),
        curves=at("report/tables/rl_curves.csv"),
        finding=at("report/finding.txt"),
    params:
        examples=examples_flags(),
        task=f"--task {config['report']['task']}" if config["report"]["task"] else "",
        confidence=config["report"]["confidence"],
    log:
        at("logs/aggregate.log"),
    benchmark:
        at("benchmarks/aggregate.tsv")
    conda:
        CPU_ENV
    shell:
        "{PYTHON} {input.script} --scores {input.scores} --curves {input.curves} --examples {params.examples} {params.task}"
        " --confidence {params.confidence} --cells {output.cells} --summary {output.summary}"
        " --curves-out {output.curves} --finding {output.finding} 2> {log}"


rule figure:
    message:
        "Draw the figure {wildcards.figure}"
    input:
        script="scripts/figure.py",
        cells=at("report/tables/cells.csv"),
        curves=at("report/tables/rl_curves.csv"),
    output:
        svg=report(at("report/figures/{figure}.svg"), category="Figures", caption="../report/{figure}.rst"),
        png=at("report/figures/{figure}.png"),
        data=at("report/figures/{figure}.csv"),
    log:
        at("logs/figure/{figure}.log"),
    benchmark:
        at("benchmarks/figure/{figure}.tsv")
    conda:
        CPU_ENV
    shell:
        "{PYTHON} {input.script} --figure {wildcards.figure} --cells {input.cells} --curves {input.curves}"
        " --svg {output.svg} --png {output.png} --data {output.data} 2> {log}"


rule costs:
    message:
        "Sum up what it cost"
    input:
        script="scripts/costs.py",
        scores=SCORES,
    output:
        at("report/tables/costs.csv"),
    params:
        benchmarks=at("benchmarks"),
        results=at("results"),
        models=at("models"),
    log:
        at("logs/costs.log"),
    conda:
        CPU_ENV
    shell:
        "{PYTHON} {input.script} --benchmarks {params.benchmarks} --results {params.results} --models {params.models}"
        " --out {output} 2> {log}"


rule page:
    message:
        "Write the page"
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
    params:
        study=config["root"].rsplit("/", 1)[-1] if config["root"] != "." else "paper",
        miniature="--miniature" if config["traces"]["source"] == "synthetic" else "",
        results=at("results"),
    log:
        at("logs/page.log"),
    conda:
        CPU_ENV
    shell:
        "{PYTHON} {input.script} --study {params.study} {params.miniature} --template {input.template} --cells {input.cells}"
        " --summary {input.summary} --costs {input.costs} --finding {input.finding} --figures {input.figures}"
        " --results {params.results} --out {output} 2> {log}"
