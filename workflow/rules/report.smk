# From scores to a page: tables, figures, what it cost, the finding in one line.

# With `unfinished` (make page) what has been scored so far is reported, and what is missing is named.
DONE = [c for c in CELLS if not config["unfinished"] or PLACES.of(c, "scores.json").exists()]
SCORES = [str(PLACES.of(c, "scores.json")) for c in DONE]
GRADES = [str(PLACES.of(c, "grades.parquet")) for c in DONE]
CURVES = [str(PLACES.of(c, "curve.parquet")) for c in DONE if c.parsed.rl and c.parsed.step is None]
# The first seed of every run but the checkpoints along RL: whose responses the page shows.
SHOWN = [
    c
    for c in by_size(DONE)
    if c.parsed.step is None and c.seed == min(d.seed for d in DONE if d[:2] == c[:2])
]
CARDS = sorted({str(PLACES.subset_of(c, "json")) for c in DONE if c.parsed.size})

AGGREGATED = ["cells", "summary", "rl_curves", "crossings", "replicates", "paper", "subsets"]
ANALYSED = ["drop", "budget", "accuracy_by_length", "accuracy_by_steps", "accumulation", "hazard"]
RECOVERED = ["recovery", "recipes"]
DECIDED = ["claims", "claims_models"]
FORECAST = ["forecast", "forecast_models", "forecast_tested"]

# A figure is drawn where the grid has what it shows.
FIGURES = [
    "valley",
    "outcomes",
    *(["benchmarks"] if len(TASKS) > 1 else []),
    "efficiency",
    "budget",
    "reflection",
    *(["arithmetic", "errors"] if config["report"]["calculations"] else []),
    *(["recipes"] if any(c.parsed.recipe for c in CELLS) else []),
    *(["rl"] if any(c.parsed.rl for c in CELLS) else []),
    *(["forecast"] if len({c.run for c in CELLS if c.parsed.is_protocol}) > 2 else []),
]


rule aggregate:
    input:
        script="scripts/aggregate.py",
        scores=SCORES,
        curves=CURVES,
        cards=CARDS,
        problems=at("report/tables/problems.parquet"),
        reference="workflow/reference/paper_fig2.csv",
    output:
        report([table(name) for name in AGGREGATED], category="Tables", caption="../report/tables.rst"),
        latex=report(at("report/tables/accuracy.tex"), category="Tables", caption="../report/tables.rst"),
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
        names=paper_names(),
        confidence=config["report"]["confidence"],
        tables=lambda w: at("report/tables"),
    message:
        "Aggregate all scores into tables"
    shell:
        "python {input.script} --scores {input.scores} --curves {input.curves} --cards {input.cards}"
        " --examples {params.examples} --headline {params.headline} --reference {input.reference} --names {params.names}"
        " --confidence {params.confidence} --tables {params.tables} --finding {output.finding} 2> {log}"


rule analyse:
    input:
        script="scripts/analyse.py",
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
        tables=lambda w: at("report/tables"),
    message:
        "Analyse all grades"
    shell:
        "python {input.script} --grades {input.grades} {params.tasks} --confidence {params.confidence} --out {params.tables}"
        " 2> {log}"


rule recovery:
    input:
        script="scripts/recovery.py",
        problems=at("report/tables/problems.parquet"),
    output:
        report([table(name) for name in RECOVERED], category="Tables", caption="../report/tables.rst"),
    log:
        at("logs/recovery.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        tables=lambda w: at("report/tables"),
        study=study_flags(),
    message:
        "Find recovery points and compare recipes"
    shell:
        "python {input.script} --tables {params.tables} {params.study} 2> {log}"


rule claims:
    input:
        script="scripts/claims.py",
        claims="workflow/reference/claims.yaml",
        problems=at("report/tables/problems.parquet"),
        tables=[table("accumulation"), table("recovery")],
        cards=CARDS,
    output:
        report([table(name) for name in DECIDED], category="Claims", caption="../report/claims.rst"),
    log:
        at("logs/claims.log"),
    benchmark:
        at("benchmarks/claims.tsv")
    priority: 1  # it takes longest
    localrule: True
    conda:
        CPU_ENV
    params:
        tables=lambda w: at("report/tables"),
        study=study_flags(),
        parameters=parameters(),
    message:
        "Hold the paper's claims against the study"
    shell:
        "python {input.script} --claims {input.claims} --tables {params.tables} {params.study} --parameters {params.parameters} --cards {input.cards}"
        " 2> {log}"


# What larger sizes would give: make forecast. Its tables are its own; none of it stands beside a measurement.
rule forecast:
    input:
        script="scripts/forecast.py",
        cells=table("cells"),
        config=at("report/config.json"),
        reference="workflow/reference/paper_fig2.csv",
    output:
        report([table(name) for name in FORECAST], category="Forecast", caption="../report/forecast.rst"),
    log:
        at("logs/forecast.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        tables=lambda w: at("report/tables"),
        others=config["report"]["others"],
    message:
        "Forecast the sizes that are not measured"
    shell:
        "python {input.script} --cells {input.cells} --config {input.config} --others {params.others}"
        " --reference {input.reference} --tables {params.tables} 2> {log}"


# Texts for the page: the first seed of every run but the checkpoints along RL.
rule examples:
    input:
        script="scripts/examples.py",
        calculations="scripts/valley/calculations.py",
        grades=[str(PLACES.of(c, "grades.parquet")) for c in SHOWN],
        responses=[str(PLACES.responses(c, task)) for c in SHOWN for task in TASKS],
    output:
        at("report/tables/examples.parquet"),
    log:
        at("logs/examples.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        results=lambda w: at("results"),
        cells=list(map(str, SHOWN)),
    message:
        "Pick example responses"
    shell:
        "python {input.script} --results {params.results} --cells {params.cells} --out {output} 2> {log}"


# The whole configuration, whatever files and flags it came from: what a released report is rebuilt with.
rule configuration:
    output:
        at("report/config.json"),
    log:
        at("logs/configuration.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        config=json.dumps(config, indent=1, sort_keys=True),
    message:
        "Write down the configuration"
    shell:
        "printf '%s\\n' {params.config:q} > {output} 2> {log}"


# The bases against the paper's, before anything trains: make calibrate.
rule calibrate:
    input:
        script="scripts/calibrate.py",
        scores=[str(PLACES.of(c, "scores.json")) for c in DONE if c.run == "base"],
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
        figures=[
            f"scripts/valley/figures/{name}.py"
            for name in ("tidy", "style", "panels", "svg", "sizes", "bars", "runs")
        ],
        tables=[table(name) for name in [*AGGREGATED, *ANALYSED, *RECOVERED, "forecast"]],
    output:
        svg=report(at("report/figures/{figure}.svg"), category="Figures", caption="../report/figure.rst"),
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
        caption=lambda w: (Path(workflow.basedir) / f"workflow/report/{w.figure}.rst").read_text(),  # for figure.rst
        tables=lambda w: at("report/tables"),
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
        costs=report(table("costs"), category="Tables", caption="../report/tables.rst"),
        provenance=at("report/provenance.json"),
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
        "Sum up what it cost and what made it"
    shell:
        "python {input.script} --benchmarks {params.benchmarks} --results {params.results} --models {params.models}"
        " --out {output.costs} --provenance {output.provenance} 2> {log}"


rule page:
    input:
        script="scripts/page.py",
        html="scripts/valley/figures/html.py",
        template="workflow/report/page.html.jinja",
        tables=[table(name) for name in [*AGGREGATED, *ANALYSED, *RECOVERED, *DECIDED, "costs"]],
        examples=at("report/tables/examples.parquet"),
        provenance=at("report/provenance.json"),
        config=at("report/config.json"),
        figures=[at(f"report/figures/{name}.svg") for name in FIGURES],
        captions=[f"workflow/report/{name}.rst" for name in FIGURES],
    output:
        report(at("report/page.html"), category="Page", caption="../report/page.rst"),
    log:
        at("logs/page.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        study=Path(config["root"]).name or "paper",
        report=lambda w: at("report"),
        figures=FIGURES,
        grid=grid_names(),
        miniature="--miniature" if config["traces"]["source"] == "synthetic" else "",
    message:
        "Write the page"
    shell:
        "python {input.script} --study {params.study} --report {params.report} --figures {params.figures} --captions"
        " workflow/report --template {input.template} --grid {params.grid} {params.miniature} --out {output} 2> {log}"


# What others need to check the study or redraw its page, without weights: make release.
rule release:
    input:
        script="scripts/release.py",
        licences="workflow/reference/licences.yaml",
        page=at("report/page.html"),
        scores=SCORES,
        cards=CARDS,
    output:
        directory(at("release")),
    log:
        at("logs/release.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        study=lambda w: config["root"],
        cells=list(map(str, DONE)),
    message:
        "Gather the release"
    shell:
        "python {input.script} --study {params.study} --cells {params.cells} --cards {input.cards} --licences {input.licences}"
        " --out {output} 2> {log}"
