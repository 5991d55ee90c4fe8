"""The page in a real browser, the page of an unfinished study, and the page redrawn from a release."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import browser
import costs
import page
import pandas
import pytest
import reader
import yaml
from conftest import SMOKE, TOKEN, run, snakemake

from valley import chain, places, plain, records
from valley.figures import html
from valley.grid import Cell

STUDY = Path("studies/smoke")
SORT = """
  const texts = (table, at) => [...table.tBodies[0].rows].map(row => row.cells[at].dataset.value);
  const table = [...document.querySelectorAll("table.sortable")].find(t => [...t.tHead.rows[0].cells].some(c => c.innerText.trim() === "length"));
  const at = [...table.tHead.rows[0].cells].findIndex(c => c.innerText.trim() === "length"), button = table.tHead.rows[0].cells[at].firstChild;
  button.click(); found.up = texts(table, at);
  button.click(); found.down = texts(table, at);
  const said = mark => { mark.dispatchEvent(new PointerEvent("pointerover", {bubbles: true})); return document.getElementById("tip").textContent; };
  found.tips = ["#valley [data-tip]", ".multiple a"].map(where => said(document.querySelector(where)));
"""
CHOOSE = """
  const shown = () => [...document.querySelectorAll(".panel")].filter(panel => !panel.hidden).map(panel => [panel.dataset.model, panel.dataset.task]);
  found.first = shown();
  const form = document.getElementById("choice");
  form.elements.task.value = [...form.elements.task.options].at(-1).value;
  form.elements.task.dispatchEvent(new Event("change", {bubbles: true}));
  found.then = shown(); found.address = location.hash;
  const box = form.querySelector("[type=checkbox]");
  box.click(); found.without = shown().map(one => one[0]).includes(box.value);
  found.rows = [...document.querySelectorAll(`tr[data-model="${box.value}"]`)].filter(row => !row.hidden).length;
"""


def make(folder: Path, *arguments) -> str:
    """Run a target of the Makefile with the environment of the tests instead of one of its own."""
    return run(["make", "-o", ".venv/complete", f"BIN={Path(sys.executable).parent}", *arguments], folder)


@pytest.fixture
def finished(smoke, tmp_path):
    """A copy of the checkout in which the smoke study has run."""
    folder = tmp_path / "checkout"
    shutil.copytree(smoke, folder, symlinks=True)
    return folder


@browser.needed
@pytest.mark.parametrize("width", [390, 768, 1440])
def test_the_page_opens_sorts_and_tells_values_in_a_browser(smoke, width):
    page = smoke / STUDY / "report/page.html"
    found = browser.opened(page, width, browser.LOOK + SORT)
    browser.stands(found, page, width)
    assert len(found["figures"]) == len(list((smoke / STUDY / "report/figures").glob("*.svg"))) > 4
    assert all(height > 50 for height in found["figures"])
    up = [float(value) for value in found["up"] if value]
    assert up == sorted(up)
    assert [float(value) for value in found["down"] if value] == sorted(up, reverse=True)
    assert len(set(up)) > 1
    assert all(re.search(r"accuracy.*\d", tip) for tip in found["tips"])


@browser.needed
def test_a_choice_of_model_and_task_holds_for_panels_and_rows_and_stands_in_the_address(smoke):
    page = smoke / STUDY / "report/page.html"
    found = browser.opened(page, 768, CHOOSE)
    assert found["first"] == [["S", "headline"]]
    assert found["then"] == [["S", "chain"]]
    assert found["address"] == "#models=S&task=chain"
    assert (found["without"], found["rows"]) == (False, 0)
    again = browser.opened(page, 768, CHOOSE, address="#models=&task=chain")
    assert again["first"] == []


@browser.needed
@pytest.mark.parametrize(
    ("file", "width", "dark"), [("page.html", 1440, False), ("page.html", 390, True), ("cell", 768, False)]
)
def test_axe_finds_nothing_against_the_pages(smoke, file, width, dark):
    report = smoke / STUDY / "report"
    page = report / file if file != "cell" else report / places.page_of(Cell("S", "sft-64", 0))
    found = browser.opened(page, width, browser.JUDGE, browser.axe(), dark=dark)
    assert found["violations"] == []


@browser.needed
def test_the_page_of_a_cell_shows_its_making_and_filters_its_responses_beside_the_bases(smoke):
    page = smoke / STUDY / "report" / places.page_of(Cell("S", "sft-64", 0))
    grades = records.read_parquet(smoke / STUDY / "results/S/sft-64/seed0/grades.parquet").to_pandas()
    outcome = grades.outcome.iloc[0]
    script = """found.shown = [...document.querySelectorAll("article")].filter(a => !a.hidden).map(a => a.dataset.outcome);
      found.beside = document.querySelector("article").querySelectorAll("pre").length; found.text = document.body.innerText;"""
    found = browser.opened(page, 390, script, address=f"#outcome={outcome.replace(' ', '+')}")
    assert set(found["shown"]) == {outcome}
    assert (found["beside"], found["wrong"]) == (2, [])
    assert found["wide"] <= 0
    trained = records.read_json(smoke / STUDY / "results/S/sft-64/seed0/train.json")
    for said in (
        "Training: loss",
        trained["git_commit"][:12] if trained["git_commit"] else "unknown",
        "lr",
        "cores",
    ):
        assert said in found["text"], said
    assert page.stat().st_size < 500_000


def test_every_dot_leads_to_the_page_of_a_cell(smoke):
    report = smoke / STUDY / "report"
    leads = set(re.findall(r'href="(cells/[^"]+)"', (report / "page.html").read_text()))
    assert leads == {path.relative_to(report).as_posix() for path in report.glob("cells/*/*/*.html")}
    assert len(leads) > 4


def test_the_page_needs_no_network_and_stands_alone(smoke):
    text = (smoke / STUDY / "report/page.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#|cells/)[^"]*"', re.sub(r'xlink:href="#[^"]*"', "", text))
    panels = re.findall(r'data-task="([^"]+)"( hidden)?', text)
    assert {task for task, hidden in panels if not hidden} == {"headline"}, "what is shown without scripts"
    for name in (
        "C1",
        "C6",
        "Valley or bug?",
        "Data or recipe?",
        "Do errors add up?",
        "Beside the paper",
        "Where it comes from",
    ):
        assert name in text


def test_snakemakes_own_report_holds_figures_and_tables_by_category(smoke, tmp_path):
    report = tmp_path / "report.html"
    run([sys.executable, "-m", "snakemake", *SMOKE, "--report", report], smoke)
    text = report.read_text()
    for category in ("Figures", "Tables", "Claims", "Page"):
        assert f'"{category}"' in text
    assert "one panel a model" in text  # a caption


@browser.needed
@pytest.mark.parametrize(("width", "most"), [(1440, 3), (390, 4)])
def test_a_reader_finds_what_matters_in_few_steps(smoke, width, most):
    """The questions of docs/report.md, answered from what is in the window, and answered rightly."""
    report, cell = smoke / STUDY / "report", Cell("S", "sft-64", 0)
    grades = records.read_parquet(
        places.folder(smoke / STUDY / "results", cell) / "grades.parquet"
    ).to_pandas()
    outcome = grades.outcome[grades.outcome != "correct"].iloc[0]
    steps, read = reader.of_a_study(report / "page.html", cell, width)
    further, of_cell = reader.of_a_cell(report / places.page_of(cell), outcome, width)
    steps |= {question: steps["the dot of a cell"] + more for question, more in further.items()}
    print(f"{width} pixels: {steps}")
    assert max(steps.values()) <= most
    tables = {
        name: pandas.read_csv(report / f"tables/{name}.csv") for name in ("claims", "costs", "recovery")
    }
    head, sentence = read["does it recover, and by which size"]
    assert (report / "finding.txt").read_text().strip() == f"S, {sentence}"
    recovery = tables["recovery"].iloc[0]
    assert page.back(recovery, {16: "16", 64: "64"}) in head
    assert [float(value) for value in read["between which sizes, surely"][1:]] == recovery[1:].tolist()
    whole = tables["claims"][tables["claims"].part.isna()]
    said = read["which claims fail, and why"]
    assert [claim for claim, _, _ in said] == whole.claim.tolist()
    assert all(verdict in badge for verdict, (_, badge, _) in zip(whole.verdict, said, strict=True))
    assert all(why for _, badge, why in said if "fails" in badge)
    assert tables["claims"].text[tables["claims"].part.notna()].iloc[0] in read["with what numbers"]
    words, row = read["what did it cost"]
    assert page.duration(tables["costs"].set_index("rule").wall_seconds["all"]) in words
    assert float(row[2]) == tables["costs"].wall_seconds.iat[-1]
    assert of_cell["a response that went wrong"][0] == outcome
    assert "right is" in of_cell["a response that went wrong"][1]
    assert " s on " in of_cell["what did the cell cost"]


# What a model may answer: markup and scripts, in text, attributes and SVG; ends of elements that hold it;
# ANSI escapes; text turned around; a NUL; a lone surrogate cannot be stored.
HOSTILE = (
    '<script>window.harmed = 1</script><img src=x onerror=\'window.harmed = 2\'>"><svg onload="window.harmed = 3">'
    "</pre></td></table></details><style>body { display: none }</style>&lt;b&gt; {{ 7 * 6 }} {% raw %} javascript:harm()"
    "\x1b[2J\x1b[31mred\x1b]0;title\x07\u202eturned\u202c\u2066in\u2069\x00end\x9b31m\u2028line"
)
HARM = """
  found.harmed = window.harmed ?? null;
  found.hidden = getComputedStyle(document.body).display;
  found.texts = [...document.querySelectorAll("pre, td, p.soft")].map(e => e.textContent).filter(t => t.includes("onerror"));
  found.elements = document.querySelectorAll("img, pre script, pre svg, p script, td script").length;
"""


def test_counts_stay_counts_on_the_page_where_one_is_missing(tmp_path):
    table = pandas.DataFrame(
        {"run": ["base", "sft-8"], "above_base": pandas.array([None, 2], "Int64"), "change": [None, 0.5]}
    )
    table.to_csv(tmp_path / "summary.csv", index=False)
    [base, sft] = page.read(tmp_path)["summary"]
    assert [html.number(value) for value in base.values()] == ["base", "–", "–"]
    assert [html.number(value) for value in sft.values()] == ["sft-8", "2", "0.500"]


def test_all_jobs_together_took_what_the_table_of_costs_sums_them_to():
    """The page counted the row of the sum once more."""
    rows = [
        {"rule": rule, "wall_seconds": seconds}
        for rule, seconds in (("sft", 60.0), ("grade", None), ("all", 60.0))
    ]
    assert page.spent(rows) == 60.0


def test_the_page_tells_the_miniatures_world_in_the_worlds_own_numbers(finished):
    text = (finished / STUDY / "report/page.html").read_text()
    assert f"forget {100 * chain.FORGET:g} % of the carries" in text
    assert f"but {100 - 100 * chain.KNOWN:g} % of the 180 column facts" in text


@browser.needed
def test_what_a_model_wrote_does_nothing_on_the_page_wherever_it_is_shown(finished):
    """Responses, prompts, gold and extracted answers, in outcomes, disputes and problems side by side."""
    file = finished / STUDY / "report/tables/examples.parquet"
    table = records.read_parquet(file).to_pandas()
    for column in ("prompt", "before", "error", "after", "gold", "answer", "answer_paper"):
        table[column] = HOSTILE
    shown = table.assign(shown="dispute", kind="headline only")  # the graders agree in a study this small
    pandas.concat([table, shown]).to_parquet(file, index=False)
    told = finished / STUDY / "report/provenance.json"
    lost = {"training": 9.0, "generation": 3.0, "lost": 1.5}
    bad = {"warnings": {"S/sft-16/0": [f"the loss rose {HOSTILE}"]}, "gpu_hours": lost}
    records.write_json(told, records.read_json(told) | bad)
    page = finished / STUDY / "report/page.html"
    page.unlink()
    snakemake(finished, *SMOKE, "--allowed-rules", "page", "--", page.relative_to(finished))
    text = page.read_text()
    assert not plain.HARMFUL.search(text)
    assert "1 training with numbers gone bad" in text
    assert "1.500 of them lost" in text
    found = browser.opened(page, 1200, HARM)
    assert (found["harmed"], found["elements"]) == (None, 0)
    assert found["hidden"] != "none"
    assert len(found["texts"]) >= 2 * len(table)
    assert any(
        "␛[2J␛[31mred␛]0;title␇⟨U+202E⟩turned" in text and "␀end⟨U+009B⟩31m" in text
        for text in found["texts"]
    )
    assert all("<script>window.harmed = 1</script>" in text for text in found["texts"])


def test_what_records_say_of_numbers_gone_bad_and_of_lost_time_reaches_the_page(tmp_path):
    cell = tmp_path / "S/sft-16/seed0"
    record = {"seconds": 7200, "seconds_lost": 1800, "gpus": ["one", "two"], "cores": 2, "machine": "x"}
    records.write_json(cell / "train.json", record | {"warnings": ["the loss rose"]})
    found = costs.provenance(tmp_path)
    assert found["warnings"] == {"S/sft-16/0": ["the loss rose"]}
    assert found["gpu_hours"] == {"training": 4.0, "generation": 0.0, "lost": 1.0}


def test_a_token_of_the_hub_stands_in_no_file_of_a_study_or_its_release(finished):
    make(finished, "release", f"STUDY={' '.join(SMOKE)}")
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert any("logs" in path.parts for path in files)
    assert any("release" in path.parts for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_an_unfinished_study_has_a_page_that_names_the_gaps(finished):
    gone = finished / STUDY / "results/S/sft-64/seed0"
    assert gone.exists(), sorted((finished / STUDY / "results/S").iterdir())
    shutil.rmtree(gone)
    shutil.rmtree(finished / STUDY / "report")
    make(finished, "page", f"STUDY={' '.join(SMOKE)}")
    text = (finished / STUDY / "report/page.html").read_text()
    assert "S/sft-64/0" in text
    assert "1 cell is missing" in text


def test_claims_of_ones_own_are_held_against_the_study_and_named_as_such(finished):
    (finished / "mine.yaml").write_text(yaml.safe_dump({"report": {"claims": "my-claims.yaml"}}))
    part = {"text": "16 traces are no gain", "measure": "accuracy", "of": "sft-16", "minus": "base",
            "expect": {"below": 0.5}, "rule": "every", "models": "all"}  # fmt: skip
    own = {"Q1": {"claim": "Few traces do not help.", "parts": {"gain": part}}}
    (finished / "my-claims.yaml").write_text(yaml.safe_dump(own))
    snakemake(finished, *SMOKE, "mine.yaml")
    text = (finished / STUDY / "report/page.html").read_text()
    assert "Claims of this study's own, not the paper's (my-claims.yaml)" in text
    assert "Few traces do not help." in text
    table = pandas.read_csv(finished / STUDY / "report/tables/claims.csv")
    assert set(table.claim) == {"Q1"}


def test_a_release_redraws_the_page_in_under_a_minute_without_weights_or_data(finished, tmp_path):
    make(finished, "release", f"STUDY={' '.join(SMOKE)}")
    release = tmp_path / "released"
    shutil.move(finished / STUDY / "release", release)
    assert not list(release.rglob("*.safetensors"))
    assert list(release.glob("responses/S/base/seed0/*.parquet"))
    assert list(release.glob("tasks/*.parquet"))
    run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], release)
    card = (release / "README.md").read_text()
    assert "Licences" in card
    for config in yaml.safe_load(card.split("---")[1])["configs"]:  # as the hub reads it
        assert len(pandas.read_parquet(release / config["data_files"])), config
    before = {file.name: file.read_bytes() for file in (release / "report/figures").glob("*.csv")}
    shutil.rmtree(finished / "studies")
    for made in ("figures", "page.html"):
        path = release / "report" / made
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    start = time.monotonic()
    make(finished, "figures", f"FROM={release}")
    assert time.monotonic() - start < 60
    assert {file.name: file.read_bytes() for file in (release / "report/figures").glob("*.csv")} == before
    assert (release / "report/page.html").exists()
    assert list(release.glob("report/cells/S/*/seed0.html"))


@pytest.mark.slow
def test_one_grade_and_one_number_changed_in_a_release_are_the_only_lines(finished):
    make(finished, "release", f"STUDY={' '.join(SMOKE)}")
    folder = finished / STUDY / "release"
    grades = folder / "results/S/base/seed0/grades.parquet"
    table, told = records.read_parquet(grades), records.parquet_provenance(grades)
    rows = table.to_pylist()
    rows[2]["correct"] = not rows[2]["correct"]
    records.write_parquet(grades, rows, schema=table.schema, provenance=told)
    cells = pandas.read_csv(folder / "report/tables/cells.csv", dtype=str, keep_default_na=False)
    was = cells.loc[1, "accuracy"]
    cells.loc[1, "accuracy"] = "0.987"
    cells.to_csv(folder / "report/tables/cells.csv", index=False)
    done = subprocess.run(
        [sys.executable, finished / "scripts/verify.py", "--release", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    right = not rows[2]["correct"]
    assert done.stdout.splitlines()[:2] == [
        f"results/S/base/seed0/grades.parquet row 3, column correct: {not right} released, {right} again",
        f"report/tables/cells.csv row 2, column accuracy: 0.987 released, {was} again",
    ]
    assert "differences: 2" in done.stdout
    assert done.returncode == 1
