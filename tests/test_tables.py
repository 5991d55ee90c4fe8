"""docs/tables.md: every table of a real study is there with every column, none is made up, and its examples
run.
"""

import os
import re
import shutil
import subprocess
import sys

import pandas
import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/tables.md").read_text(encoding="utf-8")
ENDS = ("", "_low", "_high")
# Columns that a study has only with what the smoke study lacks: sizes to forecast.
ELSEWHERE = {
    "back",
    "back_earliest",
    "back_latest",
    "sentence",
    "truth",
    "back_truth",
    "back_forecast",
    "reflective",
}


def documented() -> dict[str, set[str]]:
    """The columns of each table by the page; `name` (with `_low`, `_high`) stands for three, `a` … `b` for
    those between.
    """
    found = {}
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        head, _, rest = section.partition("\n")
        rows = re.findall(r"^\| (`.*?) \|", rest.split("\n## ")[0], re.MULTILINE)
        names = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
        for row in rows:
            if "(with" in row:
                names |= {
                    f"{name}{end}" for name in re.findall(r"`([^`]+)`", row.split("(with")[0]) for end in ENDS
                }
        for table in re.findall(r"`(\w+)`", head.split(":")[0]):
            found[table] = names - {"_low", "_high"}
    return found


def between(column: str) -> bool:
    """Columns that the page names by the first and the last of them, or by what they begin with."""
    return bool(re.fullmatch(r"pass@\d+|length_p\d\d|pool: .*", column))


@pytest.fixture(scope="module")
def tables(smoke):
    folder = smoke / "studies/smoke/report/tables"
    found = {file.stem: set(pandas.read_csv(file, nrows=1)) for file in folder.glob("*.csv")}
    return found | {"problems": set(pandas.read_parquet(folder / "problems.parquet"))}


def test_every_table_and_every_column_of_a_study_is_explained(tables):
    known = documented()
    assert set(tables) <= set(known)
    missing = {
        name: sorted(c for c in columns - known[name] if not between(c)) for name, columns in tables.items()
    }
    assert {name: columns for name, columns in missing.items() if columns} == {}


def test_no_column_is_made_up(tables):
    known = documented()
    shared = {"accuracy_by_length", "accuracy_by_steps", "forecast", "forecast_models", "forecast_tested"}
    extra = {
        name: sorted(c for c in known[name] - columns - ELSEWHERE if not between(c) and "…" not in c)
        for name, columns in tables.items()
        if name not in shared
    }
    assert {name: columns for name, columns in extra.items() if columns} == {}


def test_every_table_is_there_as_parquet_too(smoke):
    folder = smoke / "studies/smoke/report/tables"
    assert [file.name for file in folder.glob("*.csv") if not file.with_suffix(".parquet").exists()] == []


@pytest.mark.parametrize("number", range(len(re.findall(r"^```python", PAGE, re.MULTILINE))))
def test_an_example_runs_on_a_study_without_anything_of_ours(smoke, number):
    code = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]
    assert "valley" not in code
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=smoke / "studies/smoke", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def in_r(code: str, folder, packages: list[str]) -> str:
    """What R prints; a skip that says what is missing where it, or a package of the code, is not there."""
    if not shutil.which("Rscript"):
        pytest.skip("no R: apt-get install r-base-core r-cran-reticulate")
    for package in packages:
        if subprocess.run(
            ["Rscript", "--vanilla", "-e", f"library({package})"], capture_output=True
        ).returncode:
            pytest.skip(f"R is here and its package {package} is not")
    done = subprocess.run(
        ["Rscript", "--vanilla", "-"], input=code, cwd=folder, capture_output=True, text=True,
        env=os.environ | {"RETICULATE_PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    re.findall(r"^```r\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL),
    ids=["R", "R-reticulate", "R-arrow"],
)
def test_an_example_in_r_runs_on_a_study(smoke, code):
    printed = in_r(code, smoke / "studies/smoke", re.findall(r"^library\((\w+)\)", code, re.MULTILINE))
    assert "sft-64" in printed or "truncated" in printed


def test_base_r_reads_every_csv_as_pandas_does(smoke):
    folder = smoke / "studies/smoke/report"
    code = r"""for (file in Sys.glob("*/*.csv")) {
      table <- tryCatch(read.csv(file, check.names = FALSE), error = function(e) data.frame())
      cat(file, nrow(table), paste(names(table), collapse = "|"), sep = "\t"); cat("\n")
    }"""
    read = {line.split("\t")[0]: line.split("\t")[1:] for line in in_r(code, folder, []).splitlines()}
    tables = {file.relative_to(folder).as_posix(): pandas.read_csv(file) for file in folder.glob("*/*.csv")}
    assert len(tables) > 20
    assert read == {name: [str(len(table)), "|".join(table)] for name, table in tables.items()}
