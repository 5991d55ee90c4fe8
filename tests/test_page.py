"""The page in a real browser, the page of an unfinished study, and the page redrawn from a release."""

import re
import shutil
import sys
import time
from pathlib import Path

import browser
import pytest
from conftest import SMOKE, run

from valley import places, records
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


def test_an_unfinished_study_has_a_page_that_names_the_gaps(finished):
    gone = finished / STUDY / "results/S/sft-64/seed0"
    assert gone.exists(), sorted((finished / STUDY / "results/S").iterdir())
    shutil.rmtree(gone)
    shutil.rmtree(finished / STUDY / "report")
    make(finished, "page", f"STUDY={' '.join(SMOKE)}")
    text = (finished / STUDY / "report/page.html").read_text()
    assert "S/sft-64/0" in text
    assert "1 cell is missing" in text


def test_a_release_redraws_the_page_in_under_a_minute_without_weights_or_data(finished, tmp_path):
    make(finished, "release", f"STUDY={' '.join(SMOKE)}")
    release = tmp_path / "released"
    shutil.move(finished / STUDY / "release", release)
    assert not list(release.rglob("*.safetensors")) + list(release.rglob("responses"))
    run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], release)
    card = (release / "README.md").read_text()
    assert "Licences" in card
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
