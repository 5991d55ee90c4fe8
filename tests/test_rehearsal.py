"""Real model, real traces, real problems through the same rules (skipped where the data are not there)."""

import pytest
from conftest import DATA, checkout, script, snakemake

from valley import records

pytestmark = pytest.mark.skipif(
    not (DATA / "stories260k").is_dir(), reason=f"no real data at {DATA}: set VALLEY_TEST_DATA"
)


def test_the_rehearsal_runs_every_rule_but_pretrain_on_real_text(tmp_path):
    folder = checkout(tmp_path)
    snakemake(folder, "--configfile", "config/rehearsal.yaml", VALLEY_TEST_DATA=str(DATA))
    root = folder / "studies/rehearsal"
    assert (root / "report/page.html").exists()
    preflight = records.read_json(root / "results/stories/sft-8/seed0/preflight.json")
    assert preflight["truncated"] > 0.5  # real traces are longer than 512 tokens, and it is said
    assert "boxed" in preflight["sample"]["completion"] or preflight["length"]["max"] > 512
    grades = records.read_parquet(root / "results/stories/sft-8/seed0/grades.parquet").to_pylist()
    assert {row["task"] for row in grades} == {"amc23", "math500"}
    assert len(grades) == 6 * 2 + 6
    card = records.read_json(root / "data/ordered/seed0.json")
    assert card["rows"] == 634
    assert card["kept"] + sum(card["dropped"].values()) == 634
    responses = records.read_parquet(
        root / "results/stories/base/seed0/responses/math500.parquet"
    ).to_pylist()
    assert all("Please reason step by step" in row["prompt"] for row in responses)


def test_preflight_refuses_the_model_as_it_stands(tmp_path):
    """It ends its texts with its pad token and has 512 positions."""
    rows = [{"problem": "1+1?", "answer": "2", "trace": r"\boxed{2}", "solution": ""}]
    records.write_parquet(tmp_path / "subset.parquet", rows)
    output = script("preflight", "--model", DATA / "stories260k", "--data", tmp_path / "subset.parquet", "--out",
                    tmp_path / "preflight.json", "--max-length", 16384, "--batch", 1, "--max-truncated", 1, ok=False)  # fmt: skip
    assert "is the end token" in output
    assert "exceeds the 512 positions" in output


def test_contaminated_traces_are_all_caught(tmp_path):
    """Every problem of these traces is in GSM8K or MATH500: against MATH500 itself none of its problems may
    be left.
    """
    problems = tmp_path / "math500.parquet"
    script("fetch_task", "--source", DATA / "benchmarks/math500.jsonl", "--out", problems)
    table = records.read_parquet(DATA / "traces/openr1_like.parquet")
    known = {row["problem"] for row in records.read_parquet(problems).to_pylist()}
    overlap = [row for row in table.to_pylist() if row["problem"] in known]
    from valley import overlaps

    forbidden = set().union(*(overlaps.ngrams(problem) for problem in known))
    assert len(overlap) > 50
    assert all(not forbidden.isdisjoint(overlaps.ngrams(row["problem"])) for row in overlap)
