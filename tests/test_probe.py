"""Probes on held-out traces: what they measure, that no subset holds them, and that a cell that did not train
is named.
"""

import json

import numpy
import pandas
import pytest
from conftest import script

from valley import check, records
from valley.analysis import probes
from valley.grid import Cell


def test_a_probe_is_the_loss_that_transformers_gives_on_the_completion(tmp_path, base, subset):
    import torch
    from transformers import AutoModelForCausalLM

    from valley import tokenised

    script("probe", "--model", base, "--data", subset, "--max-length", 64, "--out", tmp_path / "probe.json")
    found = json.loads((tmp_path / "probe.json").read_text())
    file, _ = tokenised.obtained(subset, base, "trace", None, "")
    model, sums, tokens = AutoModelForCausalLM.from_pretrained(base), 0.0, 0
    for row in tokenised.examples(file, 64):
        labels = torch.tensor([row["labels"]])
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            sums += model(torch.tensor([row["input_ids"]]), labels=labels).loss.item() * count
        tokens += count
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(sums / tokens, rel=1e-5)
    assert 0 <= found["token_accuracy"] <= 1


def test_held_out_traces_are_the_last_of_the_order_and_none_that_a_subset_holds(tmp_path):
    rows = [
        {"problem": f"p{i}", "answer": "1", "solution": "s", "source": "x", "trace": "t", "tokens": 3, "characters": 1, "leaks_before": 0}
        for i in range(20)
    ]  # fmt: skip
    pool = tmp_path / "pool.parquet"
    records.write_parquet(pool, rows, provenance={"card": {"dropped": {}}})
    asked = ["--pool", pool, "--examples", 8, "--out", tmp_path / "o.parquet", "--card", tmp_path / "o.json"]
    script("subset", *asked, "--last-after", 12)
    assert records.read_parquet(tmp_path / "o.parquet")["problem"].to_pylist() == [
        f"p{i}" for i in range(12, 20)
    ]
    output = script("subset", *asked, "--last-after", 13, ok=False)
    assert "holds 20 traces, 8 are asked for beside the first 13" in output
    assert "report.probe" in output


def test_a_size_that_takes_all_traces_leaves_none_to_probe_with(tmp_path):
    (tmp_path / "mine.yaml").write_text("report: {probe: 64}")
    with pytest.raises(check.ConfigError, match=r"report.probe: size 220k takes all of \d+ traces"):
        check.check(check.load([tmp_path / "mine.yaml"]))


def forged(rng, tells: float) -> pandas.DataFrame:
    """Probes of runs with five seeds each, whose loss tells a share of what seeds differ by."""
    rows = []
    for run in ("sft-16", "sft-64", "sft-256"):
        for seed in range(5):
            off = rng.normal()
            loss = 1 - 0.1 * (tells * off + (1 - tells) * rng.normal())
            rows.append({"model": "S", "run": run, "seed": seed, "loss": loss, "accuracy": 0.5 + 0.05 * off})
    return pandas.DataFrame(rows)


def test_a_probe_is_worth_what_it_tells_beyond_the_other_seeds():
    rng = numpy.random.default_rng(0)
    without, using, count = probes.worth(forged(rng, tells=1.0))
    assert count == 15
    assert using < 0.3 * without
    without, using, _ = probes.worth(forged(rng, tells=0.0))
    assert using > 0.8 * without


def test_a_cell_whose_loss_did_not_fall_is_named_unless_it_trained_on_something_else():
    found = {"loss": 2.0, "token_accuracy": 0.5, "entropy": 1.0}
    cells = {Cell("S", run, 0): found for run in ("base", "sft-16", "sft-16.short", "sft-64")}
    cells[Cell("S", "sft-64", 0)] = found | {"loss": 1.0}
    scores = pandas.DataFrame(
        [{"model": "S", "run": "sft-16", "seed": 0, "task": "headline", "accuracy": 0.25}]
    )
    table = probes.probed(cells, scores, {Cell("S", "sft-16", 0), Cell("S", "sft-64", 0)}).set_index("run")
    assert "did not train" in table.note["sft-16"]
    assert table.note[["base", "sft-16.short", "sft-64"]].tolist() == ["", "", ""]
    assert table.accuracy["sft-16"] == 0.25
