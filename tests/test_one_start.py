"""One start of the engine for all tasks of a cell: the same responses, put together by jobs of their own."""

import pytest
from conftest import script

from valley import records


@pytest.fixture
def tasks(tmp_path, synthetic):
    """Two tasks, the second of other problems and fewer."""
    rows = records.read_parquet(synthetic / "task.parquet")
    records.write_parquet(tmp_path / "a.parquet", rows.slice(0, 6))
    records.write_parquet(tmp_path / "b.parquet", rows.slice(6, 3))
    return tmp_path


def generate(model, task, samples, out, *more):
    return script("generate", "--model", model, "--task", task, "--samples", samples, "--out", out, "--engine", "transformers",
                  "--temperature", 0.8, "--top-p", 0.95, "--max-new-tokens", 12, "--max-context", 512, "--chunk", 2, "--seed", 3,
                  *more)  # fmt: skip


def responses(file):
    return records.read_parquet(file).to_pylist()


def chunks_of(out):
    return sorted(out.with_name(f"{out.name}.chunks").glob("*/*.parquet"))


def test_one_start_samples_what_each_task_by_itself_gives_and_their_jobs_put_it_together(base, tasks):
    """Room after the prompts bounds what is sampled: it is each task's own."""
    a, b, alone = tasks / "a.parquet", tasks / "b.parquet", tasks / "alone"
    rows = records.read_parquet(b).to_pylist()
    records.write_parquet(b, [row | {"problem": row["problem"] + "+1" * 500} for row in rows])
    generate(base, a, 1, alone / "a.parquet")
    generate(base, b, 2, alone / "b.parquet")

    one = tasks / "one"
    generate(base, a, 1, one / "a.parquet", "--then", b, 2, one / "b.parquet")
    assert not (one / "b.parquet").exists()
    assert len(chunks_of(one / "b.parquet")) == 3  # 3 problems × 2 samples by 2
    assert not chunks_of(one / "a.parquet")
    generate(base, b, 2, one / "b.parquet")
    for name, most in (("a.parquet", 12), ("b.parquet", 3)):
        assert responses(one / name) == responses(alone / name)
        assert max(row["tokens"] for row in responses(one / name)) == most
    [whole] = records.parquet_provenance(one / "b.parquet")["segments"]
    assert (whole["from"], whole["to"]) == (3, 3)  # no engine


def test_a_further_task_that_is_made_or_not_there_yet_is_left_to_its_own_job(base, tasks):
    a, b = tasks / "a.parquet", tasks / "b.parquet"
    generate(base, b, 2, tasks / "made/b.parquet")
    said = generate(
        base, a, 1, tasks / "made/a.parquet",
        "--then", b, 2, tasks / "made/b.parquet", "--then", tasks / "c.parquet", 1, tasks / "made/c.parquet",
    )  # fmt: skip
    assert "c.parquet is not there yet: its own job will make" in said
    assert not (tasks / "made/c.parquet.chunks").exists()
    assert not (tasks / "made/b.parquet.chunks").exists()
    generate(base, a, 1, tasks / "other/a.parquet", "--then", b, 1, tasks / "made/b.parquet")  # other samples
    assert len(chunks_of(tasks / "made/b.parquet")) == 2


def test_what_is_wrong_with_a_further_task_is_its_own_jobs_and_not_held_against_the_first(base, tasks):
    a, b = tasks / "a.parquet", tasks / "b.parquet"
    rows = records.read_parquet(b).to_pylist()
    records.write_parquet(b, [row | {"answer": ""} for row in rows])
    said = generate(base, a, 1, tasks / "out/a.parquet", "--then", b, 1, tasks / "out/b.parquet")
    assert "has no id, problem or answer" in said
    assert "left to its own job" in said
    assert len(responses(tasks / "out/a.parquet")) == 6
