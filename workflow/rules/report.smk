# From scores to a page: tables, figures, what it cost, the finding in one line.

# With `unfinished` (make page) what has been scored so far is reported, and what is missing is named. With `grid.now`
# (make next) the cells it lists are made, and all others are left until they are asked for.
NOW = set(config["grid"].get("now", map(str, CELLS)))
DONE = [
    c for c in CELLS if PLACES.of(c, "scores.json").exists() or (str(c) in NOW and not config["unfinished"])
]
if config["unfinished"] and not DONE:
    raise WorkflowError(
        f"{PLACES.root}: no cell is scored yet, so there is nothing to report. make run makes some, make status tells of them"
    )
SCORES = [str(PLACES.of(c, "scores.json")) for c in DONE]
GRADES = [str(PLACES.of(c, "grades.parquet")) for c in DONE]
CURVES = [str(PLACES.of(c, "curve.parquet")) for c in DONE if c.parsed.rl and c.parsed.step is None]
# The first seed of every run but the checkpoints along RL: whose responses the page shows.
FIRST_SEED = {(c.model, c.run): c.seed for c in sorted(DONE, key=lambda c: c.seed, reverse=True)}
SHOWN = [c for c in by_size(DONE) if c.parsed.step is None and c.seed == FIRST_SEED[c.model, c.run]]
PAGED = [c for c in DONE if c.parsed.step is None]  # the cells with a page of their own
CARDS = sorted({str(PLACES.subset_of(c, "json")) for c in DONE if c.parsed.size})
# A released folder lacks responses where a study has them: it brings what is made of them.
SHOWN_RESPONSES = [PLACES.responses(c, task) for c in SHOWN for task in TASKS]
RELEASED = config["unfinished"] and not all(map(Path.exists, SHOWN_RESPONSES))
CLAIMS = str(PLACES.claims)

AGGREGATED = ["cells", "summary", "rl_curves", "crossings", "replicates", "paper", "subsets"]
ANALYSED = ["drop", "budget", "accuracy_by_length", "accuracy_by_steps", "accumulation", "hazard"]
RECOVERED = ["recovery", "recipes"]
DECIDED = ["claims", "claims_models"]
FORECAST = ["forecast", "forecast_models", "forecast_tested"]
# A cell that is scored already needs no probe any more.
PROBED = [
    c
    for c in DONE
    if config["report"]["probe"]
    and c.parsed.step is None
    and (PLACES.of(c, "probe.json").exists() or not PLACES.of(c, "scores.json").exists())
]
REPEATED = ["repetition", "repetition_matched"] if grid.crosses_epochs(config) else []

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
    *(["repetition"] if REPEATED else []),
]


rule aggregate:
    input:
        script="scripts/aggregate.py",
        code=imports("aggregate"),
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
        bases=bases_flags(),
        tables=lambda w: at("report/tables"),
    message:
        "Aggregate all scores into tables"
    shell:
        "python {input.script:q} --scores {input.scores:q} --curves {input.curves:q} --cards {input.cards:q}"
        " --examples {params.examples} --headline {params.headline:q} --reference {input.reference:q} --names {params.names:q}"
        " --confidence {params.confidence:q}{params.bases} --tables {params.tables:q} --finding {output.finding:q} 2> {log:q}"


# What policies that solve nothing score: once a study, of the problems alone.
rule floors:
    input:
        script="scripts/floors.py",
        code=imports("floors"),
        tasks=[at(f"data/tasks/{task}.parquet") for task in TASKS],
    output:
        report(table("floors"), category="Tables", caption="../report/tables.rst"),
    log:
        at("logs/floors.log"),
    benchmark:
        at("benchmarks/floors.tsv")
    localrule: True
    conda:
        CPU_ENV
    message:
        "Score the policies that solve nothing"
    shell:
        "python {input.script:q} --tasks {input.tasks:q} --workers {threads} --out {output:q} 2> {log:q}"


rule analyse:
    input:
        script="scripts/analyse.py",
        code=imports("analyse"),
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
        bases=bases_flags(),
        tables=lambda w: at("report/tables"),
    message:
        "Analyse all grades"
    shell:
        "python {input.script:q} --grades {input.grades:q} {params.tasks} --confidence {params.confidence:q}{params.bases} --out {params.tables:q}"
        " 2> {log:q}"


rule recovery:
    input:
        script="scripts/recovery.py",
        code=imports("recovery"),
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
        "python {input.script:q} --tables {params.tables:q} {params.study} 2> {log:q}"


# The largest subset of every order that is trained on.
LARGEST = max(
    ({c.parsed.size for c in DONE} - {None}), key=lambda size: grid.examples_of(config, size), default=None
)
TRAINED_ON = sorted({str(PLACES.subset_of(c)) for c in DONE if LARGEST and c.parsed.size == LARGEST})

LEAKS = [table("leaks")] if leaking() and TRAINED_ON else []
# A released folder has the table and not the traces.
if LEAKS and (not config["unfinished"] or all(map(os.path.exists, TRAINED_ON))):

    rule leaks:
        input:
            script="scripts/leaks.py",
            code=imports("leaks"),
            traces=TRAINED_ON,
            tasks=[problems_of(task) for task in leaking()],
        output:
            report(table("leaks"), category="Tables", caption="../report/tables.rst"),
        log:
            at("logs/leaks.log"),
        localrule: True
        conda:
            CPU_ENV
        message:
            "Find the problems that occur in the traces"
        shell:
            "python {input.script:q} --traces {input.traces:q} --tasks {input.tasks:q} --out {output:q} 2> {log:q}"


rule claims:
    input:
        script="scripts/claims.py",
        code=imports("claims"),
        claims=CLAIMS,
        schema="workflow/schemas/claims.schema.yaml",
        problems=at("report/tables/problems.parquet"),
        tables=[table("accumulation"), table("recovery")],
        leaks=LEAKS,
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
        known=known_flags(),
        leaks=lambda w, input: f"--leaks {shlex.quote(input.leaks[0])}" if input.leaks else "",
    message:
        "Hold the paper's claims against the study"
    shell:
        "python {input.script:q} --claims {input.claims:q} --tables {params.tables:q} {params.study} --parameters {params.parameters:q} --cards {input.cards:q}"
        " {params.known} {params.leaks} 2> {log:q}"


if REPEATED:

    # Few traces many times, or many once: where a grid crosses sizes and epochs.
    rule repetition:
        input:
            script="scripts/repetition.py",
            code=imports("repetition"),
            problems=at("report/tables/problems.parquet"),
            config=at("report/config.json"),
        output:
            report([table(name) for name in REPEATED], category="Tables", caption="../report/tables.rst"),
        log:
            at("logs/repetition.log"),
        localrule: True
        conda:
            CPU_ENV
        params:
            tables=lambda w: at("report/tables"),
            study=study_flags(),
        message:
            "Map accuracy over examples and epochs"
        shell:
            "python {input.script:q} --tables {params.tables:q} --config {input.config:q} {params.study} 2> {log:q}"


if PROBED:

    rule probes:
        input:
            script="scripts/probes.py",
            code=imports("probes"),
            probes=[str(PLACES.of(c, "probe.json")) for c in PROBED],
            cells=table("cells"),
        output:
            report(table("probes"), category="Tables", caption="../report/tables.rst"),
        log:
            at("logs/probes.log"),
        localrule: True
        conda:
            CPU_ENV
        params:
            results=lambda w: at("results"),
            cells=list(map(str, PROBED)),
            tables=lambda w: at("report/tables"),
        message:
            "Gather the probes of held-out traces"
        shell:
            "python {input.script:q} --results {params.results:q} --cells {params.cells:q} --tables {params.tables:q} 2> {log:q}"


# Other studies are no part of a released folder, and others may lie where they lay: it brings its forecast.
if not (RELEASED and config["report"]["others"]):

    # What larger sizes would give: make forecast. Its tables are its own; none of it stands beside a measurement.
    rule forecast:
        input:
            script="scripts/forecast.py",
            code=imports("forecast"),
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
            "python {input.script:q} --cells {input.cells:q} --config {input.config:q} --others {params.others:q}"
            " --reference {input.reference:q} --tables {params.tables:q} 2> {log:q}"


if not RELEASED:

    # Texts for the page: the first seed of every run but the checkpoints along RL.
    rule examples:
        input:
            script="scripts/examples.py",
            code=imports("examples"),
            grades=[str(PLACES.of(c, "grades.parquet")) for c in SHOWN],
            responses=list(map(str, SHOWN_RESPONSES)),
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
            "python {input.script:q} --results {params.results:q} --cells {params.cells:q} --out {output:q} 2> {log:q}"


PAGED_RESPONSES = [PLACES.responses(c, task) for c in PAGED for task in TASKS]
if not config["unfinished"] or all(map(Path.exists, PAGED_RESPONSES)):

    # A page for every cell but the checkpoints along RL, with a sample of its responses.
    rule cell_pages:
        input:
            script="scripts/cell_pages.py",
            code=imports("cell_pages"),
            template="workflow/report/cell.html.jinja",
            shared=["workflow/report/macros.jinja", "workflow/report/style.css"],
            config=at("report/config.json"),
            scores=[str(PLACES.of(c, "scores.json")) for c in PAGED],
            grades=[str(PLACES.of(c, "grades.parquet")) for c in PAGED],
            responses=list(map(str, PAGED_RESPONSES)),
            cards=CARDS,
        output:
            directory(at("report/cells")),
        log:
            at("logs/cell_pages.log"),
        localrule: True
        conda:
            CPU_ENV
        params:
            study=lambda w: config["root"],
            cells=list(map(str, PAGED)),
        message:
            "Write the pages of the cells"
        shell:
            "python {input.script:q} --study {params.study:q} --config {input.config:q} --cells {params.cells:q}"
            " --template {input.template:q} --out {output:q} 2> {log:q}"


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
        sha=grid.fingerprint(config),  # what is recorded and, were it the whole, a screenful of every dry run
        config=lambda w, resources: json.dumps(config, indent=1, sort_keys=True),
    message:
        "Write down the configuration"
    shell:
        "printf '%s\\n' {params.config:q} > {output:q} 2> {log:q}"


# The bases against the paper's, before anything trains: make calibrate.
rule calibrate:
    input:
        script="scripts/calibrate.py",
        code=imports("calibrate"),
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
        headline=config["report"]["headline"],
    message:
        "Compare the bases with the paper's"
    shell:
        "python {input.script:q} --scores {input.scores:q} --reference {input.reference:q} --models {params.models:q}"
        " --headline {params.headline:q} --out {output:q} 2> {log:q}"


rule figure:
    input:
        script="scripts/figure.py",
        code=imports("figure"),
        tables=[table(name) for name in [*AGGREGATED, *ANALYSED, *RECOVERED, *REPEATED, "forecast"]],
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
        "python {input.script:q} --figure {wildcards.figure} --tables {params.tables:q} {params.tasks}"
        " --svg {output.svg:q} --png {output.png:q} --data {output.data:q} 2> {log:q}"


# Where benchmarks of what came before the report are, which a released folder lacks: it brings the costs.
if not config["unfinished"] or (PLACES.benchmarks / "generate").exists():

    rule costs:
        input:
            script="scripts/costs.py",
            code=imports("costs"),
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
            "python {input.script:q} --benchmarks {params.benchmarks:q} --results {params.results:q} --models {params.models:q}"
            " --out {output.costs:q} --provenance {output.provenance:q} 2> {log:q}"


rule page:
    input:
        script="scripts/page.py",
        code=imports("page"),
        template="workflow/report/page.html.jinja",
        shared=["workflow/report/macros.jinja", "workflow/report/style.css", "workflow/report/sort.js"],
        claims=CLAIMS,
        cells=at("report/cells"),
        tables=[table(name) for name in [*AGGREGATED, *ANALYSED, *RECOVERED, *DECIDED, "costs", "floors"]],
        probes=[table("probes")] if PROBED else [],
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
        "python {input.script:q} --study {params.study:q} --report {params.report:q} --figures {params.figures:q} --captions"
        " workflow/report --template {input.template:q} --claims {input.claims:q} --grid {params.grid:q} {params.miniature:q}"
        " --out {output:q} 2> {log:q}"


# The paper's figures and tables with ours beside them, and a report on the reproduction: make paper.
rule paper:
    input:
        script="scripts/paper.py",
        code=imports("paper"),
        template="workflow/report/reproduction.tex.jinja",
        reference="workflow/reference/paper_text.csv",
        protocol="config.yaml",
        tables=[table(name) for name in [*AGGREGATED, *DECIDED, "costs"]],
        examples=at("report/tables/examples.parquet"),
        provenance=at("report/provenance.json"),
        config=at("report/config.json"),
        finding=at("report/finding.txt"),
    output:
        directory(at("report/paper")),
    log:
        at("logs/paper.log"),
    localrule: True
    conda:
        CPU_ENV
    params:
        report=lambda w: at("report"),
    message:
        "Set the study beside the paper"
    shell:
        "python {input.script:q} --report {params.report:q} --out {output:q} 2> {log:q}"


# What others need to check the study or redraw its page, without weights: make release.
rule release:
    input:
        script="scripts/release.py",
        code=imports("release"),
        licences="workflow/reference/licences.yaml",
        page=at("report/page.html"),
        claims=CLAIMS,
        scores=SCORES,
        cards=CARDS,
        tasks=[at(f"data/tasks/{task}.parquet") for task in TASKS],
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
        "python {input.script:q} --study {params.study:q} --cells {params.cells:q} --cards {input.cards:q} --tasks {input.tasks:q}"
        " --claims {input.claims:q} --licences {input.licences:q}"
        " --out {output:q} 2> {log:q}"
