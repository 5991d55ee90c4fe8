"""How generation is cut, and which of its prompts go to vLLM as one request. What vLLM makes of them:
tests/test_vllm.py.
"""

import itertools

from conftest import script

from valley import chunks, engines, records

# Lengths of nine problems, some alike; the last two are one problem asked twice, under two names.
LENGTHS = [5, 9, 9, 7, 5, 12, 9, 3, 3]
SAMPLES = 8


def items() -> list[tuple]:
    """(what, prompt ids) as generate.py lists them."""
    asked = [[min(name, 7)] * length for name, length in enumerate(LENGTHS)]
    return [((name, k), ids) for name, ids in enumerate(asked) for k in range(SAMPLES)]


def test_samples_of_a_problem_stand_beside_each_other_also_among_problems_of_one_length():
    placed = [what for part in chunks.cut(items(), 5) for what, _ in part]
    names = [name for name, _ in itertools.groupby(name for name, _ in placed)]
    assert sorted(names) == [*range(len(LENGTHS))]  # each once: no problem is torn apart
    assert [name for name in names if LENGTHS[name] == 9] == [1, 2, 6]
    assert placed != [what for what, _ in items()]


def test_samples_in_one_request_have_the_seeds_and_places_that_they_have_by_themselves():
    sizes = []
    for part in chunks.cut(items(), 5):  # 5 and 8: most chunks hold a part of a problem's samples
        batch = [ids for _, ids in part]
        single = [*engines.requests(batch, 70, together=False)]
        assert single == [(ids, 1, 70 + at) for at, ids in enumerate(batch)]
        asked = [*engines.requests(batch, 70, together=True)]
        assert [(ids, 1, seed + at) for ids, n, seed in asked for at in range(n)] == single
        assert all(a[0] != b[0] for a, b in itertools.pairwise(asked))
        sizes += [n for _, n, _ in asked]
    assert {1, 5} <= {*sizes}
    assert sum(sizes) == len(items())


def test_parallel_sampling_is_no_other_work_and_transformers_says_that_it_samples_without(
    tmp_path, base, synthetic
):
    task, out = tmp_path / "task.parquet", tmp_path / "out.parquet"
    records.write_parquet(task, records.read_parquet(synthetic / "task.parquet").slice(0, 3))

    def sample(wanted: bool) -> str:
        return script("generate", "--model", base, "--task", task, "--samples", 2, "--out", out, "--engine", "transformers",
                      "--temperature", 0.8, "--top-p", 0.95, "--max-new-tokens", 8, "--max-context", 512, "--chunk", 4,
                      "--parallel-sampling", wanted)  # fmt: skip

    said, found = [], []
    for wanted in (False, True):
        said.append(sample(wanted))
        found.append((records.read_parquet(out).to_pylist(), records.parquet_provenance(out)))
    assert ["--parallel-sampling is vLLM's" in text for text in said] == [False, True]
    (alone, other), (rows, own) = found
    assert rows == alone
    assert [own[key] for key in ("work", "identity")] == [other[key] for key in ("work", "identity")]
    assert (other["arguments"]["parallel_sampling"], own["arguments"]["parallel_sampling"]) == (False, True)
    assert "chunks_sampled_in_parallel" not in own  # none was
