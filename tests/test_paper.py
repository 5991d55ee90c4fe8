"""The study set beside the paper: numbers are those of the tables, texts are harmless, what is missing is
named.
"""

import copy
import re
import shutil
import subprocess

import pandas
import paper
import pytest
import yaml
from conftest import REPOSITORY, SMOKE, snakemake

from valley import check, records
from valley.analysis import reproduction
from valley.figures import latex

LATEX = shutil.which("pdflatex")
HOSTILE = "\\input{/etc/passwd} 50 % of $x_1^2$ & #3 {~} <think>\x1b[2J “quoted” 中 ß é\n\\end{document}"


def balanced(text: str):
    """Every environment and brace is closed, in order; no special sign stands alone outside of what is
    meant.
    """
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\*?\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)#(?!\d)", text), "an unescaped # or the mark of a template"


def compiled(folder) -> int:
    """Pages of reproduction.tex, compiled twice as its head says."""
    for _ in range(2):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "reproduction.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    return int(re.search(r"Output written on reproduction\.pdf \((\d+) page", done.stdout).group(1))


@pytest.fixture(scope="module")
def beside(smoke, tmp_path_factory):
    """report/paper of a copy of the smoke study (others count on its configuration), made by its rule, and
    the report.
    """
    folder = tmp_path_factory.mktemp("paper") / "checkout"
    shutil.copytree(smoke, folder, symlinks=True)
    snakemake(folder, *SMOKE, "--config", "unfinished=True", "--", "paper")
    return folder / "studies/smoke/report/paper", folder / "studies/smoke/report"


def again(report, out, monkeypatch) -> str:
    """reproduction.tex, made anew of a report."""
    monkeypatch.setattr("sys.argv", ["paper.py", "--report", str(report), "--out", str(out)])
    paper.main()
    return (out / "reproduction.tex").read_text()


def test_the_rule_makes_figures_tables_and_the_report_in_the_form_of_the_challenge(beside):
    folder, report = beside
    text = (folder / "reproduction.tex").read_text()
    for head in ("Scope of reproducibility", "Methodology", "Models:", "Data:", "Hyperparameters:", "Computational requirements:",
                 "Results", "Results beyond the paper", "What was easy", "What was difficult", "Communication with the authors"):  # fmt: skip
        assert head in text
    assert r"\place{author: what was easy}" in text
    for file in [*folder.glob("*.tex")]:
        balanced(file.read_text())
    for name in re.findall(r"\\includegraphics\{(.*?)\}", text):
        assert (folder / name).read_bytes().startswith(b"%PDF")
    for name in re.findall(r"\\input\{(.*?)\}", text):
        assert (folder / name).exists()
    verdicts = pandas.read_csv(report / "tables/claims.csv")
    for row in verdicts[verdicts.part.isna()].itertuples():
        assert rf"{row.claim} & {latex.escape(row.text)} & \textbf{{{row.verdict}}}" in text
    assert latex.escape((report / "finding.txt").read_text()) in text


@pytest.mark.skipif(not LATEX, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_the_report_is_one_page_and_all_of_it_compiles(beside, tmp_path):
    shutil.copytree(beside[0], tmp_path / "whole")
    assert compiled(tmp_path / "whole") > 2
    whole = (tmp_path / "whole/reproduction.tex").read_text()
    (tmp_path / "whole/reproduction.tex").write_text(whole.split("\\clearpage")[0] + "\\end{document}\n")
    assert compiled(tmp_path / "whole") == 1


def test_a_number_of_a_table_moves_its_own_number_alone(beside, tmp_path, monkeypatch):
    report = tmp_path / "report"
    shutil.copytree(beside[1], report, ignore=shutil.ignore_patterns("cells", "paper", "figures"))
    file = report / "tables/cells.csv"
    table = pandas.read_csv(file)
    chosen = (table.run == "sft-64") & (table.task == "headline")
    assert chosen.sum() == 1
    table.loc[chosen, "accuracy_paper"] = 0.123
    table.to_csv(file, index=False)
    again(report, tmp_path / "out", monkeypatch)
    changed = {}
    for one in sorted((tmp_path / "out").glob("*.tex")):
        pair = [(folder / one.name).read_text().split("&") for folder in (beside[0], tmp_path / "out")]
        changed |= {one.name: [new for old, new in zip(*pair, strict=True) if old != new]}
    assert {name: found for name, found in changed.items() if found}.keys() == {"accuracy.tex"}
    assert [found.split()[0] for found in changed["accuracy.tex"]] == ["12.3"]


def test_what_the_study_has_no_data_for_is_named_and_not_drawn(beside, tmp_path, monkeypatch):
    report = tmp_path / "report"
    shutil.copytree(beside[1], report, ignore=shutil.ignore_patterns("cells", "paper", "figures"))
    file = report / "tables/cells.csv"
    table = pandas.read_csv(file)
    table[table.stage != "rl"].to_csv(file, index=False)
    (report / "tables/examples.parquet").unlink()
    text = again(report, tmp_path / "out", monkeypatch)
    assert "want of data:} figure 6, the same problem" in text
    assert "figure 7, RL from different starts." in text
    made = {file.name for file in (tmp_path / "out").iterdir()}
    assert not {"figure6.tex", "figure7.pdf"} & made
    assert "figure2.pdf" in made


def test_texts_of_models_are_shown_and_not_carried_out(tmp_path):
    rows = [
        {"model": "m_1", "run": run, "answer": HOSTILE, "gold": "5 %", "tokens": 9, "prompt": HOSTILE,
         "before": HOSTILE * 50, "error": HOSTILE, "after": ""} for run in ("base", "sft-8k")
    ]  # fmt: skip
    text = latex.columns(rows)
    balanced(text)
    assert "\\input{" not in text
    assert text.isascii() or set(re.findall(r"[^\x00-\x7f]", text)) == {"ß", "é"}
    assert "U+4E2D" in text
    if LATEX:
        head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage[utf8]{inputenc}\\usepackage{textcomp}\n"
        (tmp_path / "reproduction.tex").write_text(f"{head}\\begin{{document}}\n{text}\\end{{document}}\n")
        assert compiled(tmp_path) == 1


def test_a_departure_is_what_a_cell_is_and_not_how_it_is_run():
    papers = check.load([])
    assert reproduction.departures(papers, papers) == []
    here = copy.deepcopy(papers)
    here["sft"]["device_batch"], here["generate"]["chunk"] = 4, 7
    assert reproduction.departures(here, papers) == []
    here["sft"]["lr"] = 1e-5
    here["sizes"]["8k"]["batch"] = 64
    here["grid"]["cells"][0]["seeds"] = [0, 1]
    assert [tuple(row.values()) for row in reproduction.departures(here, papers)] == [
        ("grid", "seeds", [0], [0, 1]),
        ("size 8k", "batch", 8, 64),
        ("sft", "lr", 5e-5, 1e-5),
    ]


def test_the_papers_values_stand_beside_ours_by_its_grader():
    cells = pandas.DataFrame([
        {"model": "q", "run": run, "seed": seed, "stage": stage, "recipe": "protocol", "task": "headline", "examples": n,
         "accuracy": 0.9, "accuracy_paper": value, "accuracy_paper_low": 0.1, "accuracy_paper_high": 0.6, "length": 700.0}
        for run, stage, seed, n, value in (
            ("base", "base", 0, 0, 0.3), ("sft-8k", "sft", 0, 8000, 0.2), ("sft-8k", "sft", 1, 8000, 0.25))
    ])  # fmt: skip
    known = pandas.DataFrame([
        {"model": "q", "run": "sft-8k", "examples": 8000, "paper": 0.203, "paper_length": 8170.0},
        {"model": "q", "run": None, "examples": 16000, "paper": 0.253, "paper_length": None},
    ])  # fmt: skip
    table = reproduction.wide(reproduction.values_beside(cells, known, "accuracy"), "accuracy")
    ours = table.iloc[0]
    assert ours[["model", "side", "base", "8k"]].tolist() == [
        "q",
        "ours",
        "30.0 [10.0, 60.0]",
        "22.5 [20.0, 25.0]",
    ]
    assert pandas.isna(ours["16k"])
    assert table.iloc[1][["side", "8k", "16k"]].tolist() == ["paper", "20.3", "25.3"]


def test_what_the_text_states_is_of_models_that_the_paper_has():
    text = pandas.read_csv(REPOSITORY / "workflow/reference/paper_text.csv")
    figure2 = pandas.read_csv(REPOSITORY / "workflow/reference/paper_fig2.csv")
    assert set(text.model) <= set(figure2.model)
    assert set(text.figure) <= set(paper.FIGURES)
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    assert set(reproduction.of_models(text, config, ["qwen2.5-7b"]).model) == {"qwen2.5-7b"}
    assert reproduction.of_models(text, config, ["gemma3-1b"]).empty


def test_a_report_without_cells_is_refused(tmp_path, monkeypatch):
    records.write_json(tmp_path / "config.json", check.load([]))
    for name in ("cells", "paper", "replicates", "rl_curves"):
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / f"tables/{name}.csv").write_text("\n")
    monkeypatch.setattr("sys.argv", ["paper.py", "--report", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"cells\.csv: holds no cell"):
        paper.main()
    assert not (tmp_path / "out").exists()
