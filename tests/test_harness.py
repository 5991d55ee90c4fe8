"""A release in lm-evaluation-harness' files: the numbers are the grades', and the harness itself opens
them.
"""

import json
import os
import subprocess

import pytest
from conftest import REPOSITORY, run, script

from valley import places, records
from valley.grid import Cell

CELL = Cell("m", "sft-8k", 3)
PYTHON = os.environ.get("VALLEY_LM_EVAL_PYTHON")  # of an environment with lm-eval, which is not part of ours


def release(folder):
    """A release of one cell: two problems with two responses each, the responses in two parts."""
    grades, texts = [], []
    for problem, answers in (("p0", ("1", None)), ("p1", ("4", "4"))):
        for sample, answer in enumerate(answers):
            right = answer == {"p0": "1", "p1": "5"}[problem]
            grades.append({
                "task": "t_1", "id": problem, "sample": sample, "answer": answer, "correct": right, "correct_boxed": right,
                "correct_paper": True, "outcome": "correct" if right else "truncated" if answer is None else "wrong",
                "tokens": 10 * (sample + 1), "reflective": sample == 1,
            })  # fmt: skip
            texts.append(
                {
                    "id": problem,
                    "sample": sample,
                    "prompt": f"ask {problem}",
                    "response": f"ß {problem} {sample}\n",
                }
            )
    told = {"arguments": {"engine": "vllm", "temperature": 0.6, "max_new_tokens": 64}, "finished": "2026-01-02T03:04:05Z",
            "seconds": 2.0, "git_commit": "abc"}  # fmt: skip
    records.write_parquet(places.folder(folder / "results", CELL) / "grades.parquet", grades)
    for part in (0, 1):
        file = places.folder(folder / "responses", CELL) / f"t_1.part{part}.parquet"
        records.write_parquet(file, texts[2 * part : 2 * part + 2], provenance=told)
    problems = [
        {"id": "p0", "problem": "one?", "answer": "1"},
        {"id": "p1", "problem": "five?", "answer": "5"},
    ]
    records.write_parquet(folder / "tasks/t_1.parquet", problems)
    records.write_json(folder / "report/config.json", {"models": {"m": {"source": "Org/M"}}})
    return folder


def exported(folder, out):
    """The results and the lines of the one cell."""
    script("harness", "--release", folder, "--out", out)
    (results,), (lines,) = (
        sorted((out / "m__sft-8k__3").glob(name)) for name in ("results_*.json", "samples_*.jsonl")
    )
    assert lines.name == "samples_t_1_2026-01-02T03-04-05.jsonl"
    return json.loads(results.read_text()), [json.loads(line) for line in lines.read_text().splitlines()]


def test_a_problem_is_a_line_with_all_its_responses_and_the_means_of_its_grades(tmp_path):
    results, lines = exported(release(tmp_path / "release"), tmp_path / "out")
    assert [line["doc"]["problem"] for line in lines] == ["one?", "five?"]
    assert [line["resps"] for line in lines] == [[["ß p0 0\n", "ß p0 1\n"]], [["ß p1 0\n", "ß p1 1\n"]]]
    assert [line["filtered_resps"] for line in lines] == [[["1", "[invalid]"]], [["4", "4"]]]
    assert [line["exact_match"] for line in lines] == [0.5, 0.0]
    assert [line["exact_match_paper"] for line in lines] == [1.0, 1.0]
    assert [line["truncated"] for line in lines] == [0.5, 0.0]
    told = results["results"]["t_1"]
    assert told["exact_match,none"] == 0.25
    assert told["exact_match_stderr,none"] == pytest.approx(
        0.25
    )  # two problems: the standard deviation over its root
    assert told["tokens,none"] == 15.0
    assert results["configs"]["t_1"]["repeats"] == 2
    assert results["config"]["model_args"]["pretrained"] == "Org/M"


def test_a_grade_without_its_response_is_refused_and_nothing_is_left(tmp_path):
    folder = release(tmp_path / "release")
    file = places.folder(folder / "results", CELL) / "grades.parquet"
    records.write_parquet(file, records.read_parquet(file).to_pylist()[1:])
    said = script("harness", "--release", folder, "--out", tmp_path / "out", ok=False)
    assert "does not fit the responses to t_1" in said
    assert not (tmp_path / "out").exists()
    assert "holds no grades" in script("harness", "--release", tmp_path, "--out", tmp_path / "out", ok=False)


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path):
    folder, out = release(tmp_path / "release"), tmp_path / "out"
    exported(folder, out)
    exported(folder, out)  # its own
    other = out / "org__model" / "results_2026.json"  # of the harness itself
    records.write_json(other, {"model_source": "hf"})
    for kept, named in ((other, out), (folder / "report/config.json", folder)):
        before = kept.read_bytes()
        said = script("harness", "--release", folder, "--out", named, ok=False)
        assert f"{named}: holds something else. It would be replaced as a whole" in said
        assert kept.read_bytes() == before
    (tmp_path / "empty").mkdir()
    exported(folder, tmp_path / "empty")


@pytest.mark.parametrize("name", ["harness", "paper", "release"])
def test_scripts_replace_a_named_folder_in_the_one_way_that_asks_whose_it_is(name):
    text = (REPOSITORY / f"scripts/{name}.py").read_text()
    assert "records.whole_folder(args.out, " in text
    assert "records.whole(args.out)" not in text


def test_make_harness_writes_beside_the_release():
    line = run(["make", "--dry-run", "harness", "FROM=x/release/"], REPOSITORY).strip().splitlines()[-1]
    assert 'scripts/harness.py --release "x/release/" --out "x/release-harness"' in line


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON, reason="pip install lm-eval==0.4.13 elsewhere, its python as VALLEY_LM_EVAL_PYTHON"
)
@pytest.mark.parametrize("spoilt", [None, "doc_id", "target_hash", "exact_match"])
def test_the_harness_itself_opens_it_and_would_notice(tmp_path, spoilt):
    _, lines = exported(release(tmp_path / "release"), tmp_path / "out")
    if spoilt:
        (file,) = (tmp_path / "out").glob("*/samples_*.jsonl")
        lines[0][spoilt] = "x"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run(
        [PYTHON, REPOSITORY / "tests/opened_by_lm_eval.py", tmp_path / "out"],
        capture_output=True, text=True, env=os.environ | {"HF_HOME": str(tmp_path / "hub")},
    )  # fmt: skip
    assert (done.returncode == 0) == (spoilt is None), done.stderr[-2000:]
    if not spoilt:
        assert "|exact_match      |↑  |" in done.stdout
