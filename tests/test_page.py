"""The page in a real browser, the page of an unfinished study, and the page redrawn from a release."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import costs
import pandas
import pytest
from conftest import SMOKE, TOKEN, run, snakemake

from valley import plain, records

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STUDY = Path("studies/smoke")
PROBE = """<script>
const wrong = [];
addEventListener("error", event => wrong.push(event.message));
console.error = console.warn = (...words) => wrong.push(words.join(" "));
addEventListener("load", () => {
  const texts = (table, at) => [...table.tBodies[0].rows].map(row => row.cells[at].dataset.value);
  const table = [...document.querySelectorAll("table.sortable")].find(t => [...t.tHead.rows[0].cells].some(c => c.innerText.trim() === "length"));
  const at = [...table.tHead.rows[0].cells].findIndex(c => c.innerText.trim() === "length"), button = table.tHead.rows[0].cells[at].firstChild;
  button.click(); const up = texts(table, at);
  button.click(); const down = texts(table, at);
  const mark = document.querySelector("#valley [data-tip]");
  mark.dispatchEvent(new PointerEvent("pointerover", {bubbles: true, clientX: 50, clientY: 50}));
  const found = {
    wrong, up, down, tip: document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent,
    figures: [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().height),
    wide: document.documentElement.scrollWidth - innerWidth, outside: performance.getEntriesByType("resource").length,
  };
  const note = document.createElement("script"); note.type = "application/json"; note.id = "found";
  note.textContent = JSON.stringify(found); document.body.append(note);
});
</script>"""


def opened(page: Path, width: int, probe: str = PROBE) -> dict:
    """What a probe finds on a page in a headless Chromium of that width; PROBE: errors, a table sorted both ways, a
    hover text, figures.
    """
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("<head>", "<head>" + probe, 1))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
        "--virtual-time-budget=5000",
    ]
    dom = subprocess.run(
        [BROWSER, *flags, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    probed.unlink()
    return json.loads(re.search(r'id="found">(.*?)</script>', dom, re.DOTALL).group(1))


def make(folder: Path, *arguments) -> str:
    """Run a target of the Makefile with the environment of the tests instead of one of its own."""
    return run(["make", "-o", ".venv/complete", f"BIN={Path(sys.executable).parent}", *arguments], folder)


@pytest.fixture
def finished(smoke, tmp_path):
    """A copy of the checkout in which the smoke study has run."""
    folder = tmp_path / "checkout"
    shutil.copytree(smoke, folder, symlinks=True)
    return folder


@pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_opens_sorts_and_tells_values_in_a_browser(smoke, width):
    page = smoke / STUDY / "report/page.html"
    figures = list((smoke / STUDY / "report/figures").glob("*.svg"))
    found = opened(page, width)
    assert found["wrong"] == []
    assert found["outside"] == 0
    assert found["wide"] <= 0, "the page itself scrolls sideways"
    assert len(found["figures"]) == len(figures) > 4
    assert all(height > 50 for height in found["figures"])
    up = [float(value) for value in found["up"] if value]
    assert up == sorted(up)
    assert [float(value) for value in found["down"] if value] == sorted(up, reverse=True)
    assert len(set(up)) > 1
    assert re.search(r"accuracy.*\d", found["tip"])


def test_the_page_needs_no_network_and_stands_alone(smoke):
    text = (smoke / STUDY / "report/page.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', re.sub(r'xlink:href="#[^"]*"', "", text))
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


# What a model may answer: markup and scripts, in text, attributes and SVG; ends of elements that hold it; ANSI
# escapes; text turned around; a NUL; a lone surrogate cannot be stored.
HOSTILE = (
    '<script>window.harmed = 1</script><img src=x onerror=\'window.harmed = 2\'>"><svg onload="window.harmed = 3">'
    "</pre></td></table></details><style>body { display: none }</style>&lt;b&gt; {{ 7 * 6 }} {% raw %} javascript:harm()"
    "\x1b[2J\x1b[31mred\x1b]0;title\x07\u202eturned\u202c\u2066in\u2069\x00end\x9b31m\u2028line"
)
HARM = """<script>
addEventListener("load", () => {
  const found = {
    harmed: window.harmed ?? null, hidden: getComputedStyle(document.body).display,
    texts: [...document.querySelectorAll("pre, td, p.soft")].map(e => e.textContent).filter(t => t.includes("onerror")),
    elements: document.querySelectorAll("img, pre script, pre svg, p script, td script, td svg").length,
  };
  const note = document.createElement("script"); note.type = "application/json"; note.id = "found";
  note.textContent = JSON.stringify(found).replaceAll("<", "\\\\u003c"); document.body.append(note);
});
</script>"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")
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
    found = opened(page, 1200, HARM)
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
