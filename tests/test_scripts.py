"""Scripts one by one, on tiny real inputs: what they must get right, and what they must refuse."""

import json
import shutil
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
from conftest import REPOSITORY, run, script

from valley import prompts, records


def parquet(path, rows):
    records.write_parquet(path, rows)
    return path


TRACE = {"problem": "p", "answer": "1", "solution": "s", "source": "x", "generations": ["bad", "good"],
         "correctness_math_verify": [False, True], "correctness_llama": [False, False]}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "verified", "llama", "kept"),
    [
        ("math-verify", [False, True], [True, False], ["good"]),
        ("math-verify", [False, False], [True, True], []),
        ("math-verify-else-llama", [False, True], [True, False], ["good"]),
        ("math-verify-else-llama", [False, False], [True, False], ["bad"]),
        ("any", [False, False], [False, False], ["bad", "good"]),
    ],
)
def test_correct_traces_follow_the_rule(rule, verified, llama, kept):
    import order_traces

    row = TRACE | {"correctness_math_verify": verified, "correctness_llama": llama}
    assert order_traces.correct_traces(row, rule) == kept


def order(tmp_path, base, rows, *flags, ok=True):
    traces = parquet(tmp_path / "traces.parquet", rows)
    output = script("order_traces", "--traces", traces, "--tokenizers", base, "--out", tmp_path / "pool.parquet", "--card",
                    tmp_path / "pool.json", "--max-tokens", 60, "--correct", "math-verify", "--seed", 0, *flags, ok=ok)  # fmt: skip
    return (
        output
        if not ok
        else (
            records.read_parquet(tmp_path / "pool.parquet").to_pylist(),
            records.read_json(tmp_path / "pool.json"),
        )
    )


def test_the_pool_counts_what_it_drops_and_why(tmp_path, base):
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    rows = [
        TRACE | {"problem": "1+2"}, TRACE | {"problem": "1+3"}, TRACE | {"problem": " 1+2 "},
        TRACE | {"problem": "4+5", "correctness_math_verify": [False, False]},
        TRACE | {"problem": f"so {words}"}, TRACE | {"problem": "7+8", "generations": ["x", "9" * 80]},
    ]  # fmt: skip
    task = parquet(tmp_path / "task.parquet", [{"id": "a", "problem": f"{words} and more", "answer": "1"}])
    pool, card = order(tmp_path, base, rows, "--decontaminate", task)
    assert {row["problem"] for row in pool} == {"1+2", "1+3"}
    assert card["dropped"] == {
        "no correct trace": 1,
        "duplicate problem": 1,
        "contaminated": 1,
        "too long": 1,
    }


def test_the_order_depends_on_the_seed_alone_and_prefixes_are_nested(tmp_path, base):
    rows = [TRACE | {"problem": f"{i}+1"} for i in range(40)]
    first, _ = order(tmp_path, base, rows)
    again, _ = order(tmp_path, base, rows)
    other, _ = order(tmp_path, base, rows, "--seed", 1)
    assert first == again
    assert [r["problem"] for r in first] != [r["problem"] for r in other]
    subsets = {}
    for size in ("8", "20", "all"):
        out = tmp_path / f"{size}.parquet"
        script(
            "subset",
            "--pool",
            tmp_path / "pool.parquet",
            "--examples",
            size,
            "--out",
            out,
            "--card",
            tmp_path / f"{size}.json",
        )
        subsets[size] = records.read_parquet(out).to_pylist()
    assert [len(subsets[size]) for size in subsets] == [8, 20, 40]
    assert subsets["20"][:8] == subsets["8"]
    assert subsets["all"] == [{k: v for k, v in row.items() if k != "leaks_before"} for row in other]


def test_a_subset_larger_than_the_pool_is_refused_and_nothing_is_written(tmp_path, base):
    order(tmp_path, base, [TRACE | {"problem": f"{i}+1"} for i in range(4)])
    output = script("subset", "--pool", tmp_path / "pool.parquet", "--examples", 5, "--out", tmp_path / "5.parquet",
                    "--card", tmp_path / "5.json", ok=False)  # fmt: skip
    assert "pool.parquet: holds 4 traces, 5 are asked for" in output
    assert not (tmp_path / "5.parquet").exists()


def test_a_corrupt_parquet_is_named_and_what_was_finished_stays(tmp_path, base):
    (tmp_path / "traces.parquet").write_bytes(b"PAR1 cut short")
    (tmp_path / "pool.parquet").write_bytes(b"finished before")
    output = script("order_traces", "--traces", tmp_path / "traces.parquet", "--tokenizers", base, "--out",
                    tmp_path / "pool.parquet", "--card", tmp_path / "pool.json", "--max-tokens", 60, "--correct", "any",
                    "--seed", 0, ok=False)  # fmt: skip
    assert "traces.parquet: is not a readable parquet file" in output
    assert (tmp_path / "pool.parquet").read_bytes() == b"finished before"


def preflight(tmp_path, model, rows, *flags, ok=True):
    data = parquet(tmp_path / "subset.parquet", rows)
    out = tmp_path / "preflight.json"
    output = script("preflight", "--model", model, "--data", data, "--out", out, "--max-length", 40, "--batch", 2,
                    "--max-truncated", 0.1, *flags, ok=ok)  # fmt: skip
    return records.read_json(out) if ok else output


ROW = {
    "problem": "18b-9c+7",
    "answer": "16",
    "trace": r"<think>so</think>\boxed{16}",
    "solution": r"\boxed{16}",
}


def changed(base, folder, **tokenizer):
    """A copy of a base model whose tokenizer has other attributes."""
    shutil.copytree(base, folder)
    fast = prompts.load_tokenizer(folder)
    for name, value in tokenizer.items():
        setattr(fast, name, value)
    fast.save_pretrained(folder)
    return folder


def test_preflight_reports_what_a_run_will_see(tmp_path, base):
    report = preflight(tmp_path, base, [ROW] * 4)
    assert report["truncated"] == 0
    assert report["optimiser_steps"] == 2
    assert report["sample"]["prompt"] == "<user>18b-9c+7<assistant>"
    assert report["sample"]["completion"] == ROW["trace"] + "<eos>"


def test_preflight_refuses_a_pad_token_that_is_the_end_token(tmp_path, base):
    output = preflight(tmp_path, changed(base, tmp_path / "model", pad_token="<eos>"), [ROW], ok=False)
    assert "pad token '<eos>' is the end token" in output
    assert not (tmp_path / "preflight.json").exists()


def test_preflight_refuses_a_template_that_drops_the_reasoning(tmp_path, base):
    template = (base / "chat_template.jinja").read_text()
    model = changed(base, tmp_path / "model", chat_template=template.replace("<assistant>{{ message['content'] }}",
                    "<assistant>{{ message['content'].split('</think>')[-1] }}"))  # fmt: skip
    assert "drops part of the completion" in preflight(tmp_path, model, [ROW], ok=False)


def test_preflight_refuses_too_many_cut_examples_and_too_long_a_limit(tmp_path, base):
    long = ROW | {"trace": ROW["trace"] * 9}
    assert "25.0% of the examples exceed max_length 40" in preflight(
        tmp_path, base, [ROW, ROW, ROW, long], ok=False
    )
    assert "exceeds the 1024 positions" in preflight(tmp_path, base, [ROW], "--max-length", 5000, ok=False)


def test_preflight_refuses_traces_of_unknown_tokens_and_of_next_to_none(tmp_path, base):
    """A text given as a list of its characters passed as `<pad><eos>`, and the study was published."""
    output = preflight(tmp_path, base, [ROW | {"trace": "天地玄黃"}] * 4, ok=False)
    assert "100.0% of the tokens to be learned are unknown" in output
    output = preflight(tmp_path, base, [ROW] * 3 + [ROW | {"trace": "c"}], ok=False)
    assert "25.0% of the completions have next to no tokens" in output
    assert not (tmp_path / "preflight.json").exists()


def test_preflight_says_how_many_traces_close_their_thought_and_have_a_box(tmp_path, base):
    rows = [ROW, ROW | {"trace": r"<think>so\boxed{6}wait"}, ROW | {"trace": "<think>so</think>6"}, ROW]
    shares = preflight(tmp_path, base, rows)["shares"]
    assert (shares["thought_not_closed"], shares["no_box"], shares["unknown_tokens"]) == (0.25, 0.25, 0)
    data = tmp_path / "subset.parquet"
    output = script("preflight", "--model", base, "--data", data, "--out", tmp_path / "p.json", "--max-length", 40,
                    "--batch", 2, "--max-truncated", 0.1)  # fmt: skip
    assert "25.0% with an open thought, 25.0% without a box" in output


def generate_flags(base, synthetic, out):
    return ["--model", base, "--task", synthetic / "task.parquet", "--engine", "transformers", "--samples", 2, "--temperature",
            0.6, "--top-p", 0.95, "--max-new-tokens", 40, "--max-context", 64, "--chunk", 1, "--seed", 3, "--out", out]  # fmt: skip


def test_generation_killed_half_way_continues_and_ends_with_the_same_responses(tmp_path, base, synthetic):
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    script("generate", *generate_flags(base, synthetic, whole))
    command = [
        sys.executable,
        "scripts/warm.py",
        "scripts/generate.py",
        *map(str, generate_flags(base, synthetic, killed)),
    ]
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(parts := sorted(tmp_path.glob("killed.parquet.chunks/*/0*.parquet"))) < 3:
        assert job.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    job.kill()
    job.wait()
    assert not killed.exists()
    time.sleep(0.3)  # the server ends the forked child, too
    parts = sorted(tmp_path.glob("killed.parquet.chunks/*/0*.parquet"))
    output = script("generate", *generate_flags(base, synthetic, killed))
    remade = [line.split("/")[0] for line in output.splitlines() if "/24 chunks" in line]
    assert len(remade) == 24 - len(parts)
    assert "1" not in remade  # the first part was not made again
    assert records.read_parquet(whole).to_pylist() == records.read_parquet(killed).to_pylist()
    assert not list(tmp_path.glob("*.parts"))


def test_any_seed_that_a_config_may_hold_can_be_sampled_with(tmp_path, base, synthetic):
    """A chunk's seed is the study's times a million, and NumPy's generator takes 32 bits."""
    out = tmp_path / "chain.parquet"
    script("generate", *generate_flags(base, synthetic, out), "--seed", 2**32 - 1)
    assert len(records.read_parquet(out)) == 24


def test_responses_carry_all_it_takes_to_grade_and_believe_them(tmp_path, base, synthetic):
    out = tmp_path / "chain.parquet"
    script("generate", *generate_flags(base, synthetic, out))
    rows = records.read_parquet(out).to_pylist()
    assert len(rows) == 24
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert all(
        0 < row["tokens"] <= 40 and row["prompt"].startswith("<user>") and row["seed"] >= 0 for row in rows
    )
    assert all(row["tokens"] == 40 for row in rows if row["finish_reason"] == "length")
    record = records.parquet_provenance(out)
    for name in ("temperature", "top_p", "max_new_tokens", "engine", "seed"):
        assert name in record["arguments"]
    assert {"code", "versions", "seconds", "git_commit"} <= record.keys()


def responses(tmp_path, count):
    rows = [
        {"id": f"q{i}", "sample": k, "response": r"\boxed{1}", "tokens": 3, "finish_reason": "stop"}
        for i in range(2)
        for k in range(2)
    ]
    return parquet(tmp_path / "chain.parquet", rows[:count])


def test_a_problem_without_exactly_k_responses_is_refused(tmp_path):
    task = parquet(
        tmp_path / "task.parquet", [{"id": f"q{i}", "problem": "2-1", "answer": "1"} for i in range(2)]
    )
    flags = ["--tasks", task, "--samples", 2, "--out", tmp_path / "grades.parquet"]
    output = script("grade", "--responses", responses(tmp_path, 3), *flags, ok=False)
    assert "chain.parquet: problem 'q1' has 1 responses, 2 are needed" in output
    assert not (tmp_path / "grades.parquet").exists()
    script("grade", "--responses", responses(tmp_path, 4), *flags)


def test_bytes_that_are_no_text_stop_no_cell(tmp_path):
    import pyarrow

    table = pyarrow.parquet.read_table(responses(tmp_path, 4))
    broken = pyarrow.array([b"\xff\xfe \\boxed{1}", b"\x00\\boxed{1}", b"\\boxed{\xc3\x28}", b""]).view(
        pyarrow.string()
    )
    pyarrow.parquet.write_table(table.set_column(2, "response", broken), tmp_path / "chain.parquet")
    task = parquet(
        tmp_path / "task.parquet", [{"id": f"q{i}", "problem": "2-1", "answer": "1"} for i in range(2)]
    )
    script(
        "grade",
        "--responses",
        tmp_path / "chain.parquet",
        "--tasks",
        task,
        "--samples",
        2,
        "--out",
        tmp_path / "g.parquet",
    )
    rows = pyarrow.parquet.read_table(tmp_path / "g.parquet").to_pylist()
    assert [row["outcome"] for row in rows] == ["correct", "correct", "wrong", "no answer"]


def test_listed_answers_change_the_grades_of_their_task_and_of_no_other(tmp_path):
    """Two tasks with the same problems and responses: naming the answers of one moves its grades alone."""
    texts = [r"\boxed{B is a knave}", r"\boxed{knave}", r"\boxed{knight}", r"\boxed{not a knave}"]
    rows = [{"id": f"q{i}", "problem": f"Who is {i}?", "answer": "Knave"} for i in range(len(texts))]
    answers = [
        {"id": row["id"], "sample": 0, "response": text, "tokens": 3, "finish_reason": "stop"}
        for row, text in zip(rows, texts, strict=True)
    ]
    tasks = [parquet(tmp_path / f"{name}-task.parquet", rows) for name in ("logic", "other")]
    files = [parquet(tmp_path / f"{name}.parquet", answers) for name in ("logic", "other")]

    def grades(*more, **options) -> dict:
        out = tmp_path / "grades.parquet"
        said = script(
            "grade",
            "--responses",
            *files,
            "--tasks",
            *tasks,
            "--samples",
            1,
            1,
            *more,
            "--out",
            out,
            **options,
        )
        if not options:
            table = pyarrow.parquet.read_table(out).drop_columns("seconds").to_pylist()
            return {name: [row for row in table if row["task"] == name] for name in ("logic", "other")}
        return said

    before, after = grades(), grades("--answers", "logic=knight,knave")
    assert [row["correct"] for row in before["logic"]] == [False, True, False, False]
    assert [row["correct"] for row in after["logic"]] == [True, True, False, False]
    assert after["other"] == before["other"]
    assert [row["correct_paper"] for row in after["logic"]] == [
        row["correct_paper"] for row in before["logic"]
    ]
    told = grades("--answers", "logic=knight,spy", ok=False)
    assert (
        "problem 'q0' has the answer 'Knave', which is not listed. Mend the task's source, or tasks.logic.answers"
        in told
    )


def test_a_task_row_without_an_answer_is_refused(tmp_path, base):
    task = parquet(tmp_path / "task.parquet", [{"id": "q0", "problem": "1+1", "answer": " "}])
    output = script("generate", "--model", base, "--task", task, "--engine", "transformers", "--samples", 1, "--temperature", 1,
                    "--top-p", 1, "--max-new-tokens", 4, "--max-context", 64, "--out", tmp_path / "r.parquet", ok=False)  # fmt: skip
    assert "task.parquet: row 'q0' has no id, problem or answer" in output
    lines = tmp_path / "task.jsonl"
    lines.write_text(json.dumps({"id": "q0", "problem": "1+1", "answer": None}))
    output = script("fetch_task", "--source", lines, "--out", tmp_path / "t.parquet", ok=False)
    assert "row 'q0' has no answer" in output


def test_arithmetic_expressions_keep_every_quotient_whole_and_state_their_value():
    import ast
    import random
    from fractions import Fraction

    import arithmetic

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        left, right = value(node.left), value(node.right)
        result = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}.get(type(node.op))
        result = left / right if result is None else result
        assert result.denominator == 1
        return result

    rng = random.Random(0)
    for _ in range(300):
        text, stated = arithmetic.draw(rng)
        assert value(ast.parse(text, mode="eval").body) == stated
        assert 5 <= sum(text.count(operator) for operator in "+-*/") <= 15


def test_provenance_says_by_which_code_a_file_was_made(tmp_path, synthetic):
    record = records.parquet_provenance(synthetic / "traces.parquet")
    assert {"scripts", "synthesize.py"} & set(record["code"]) == {"synthesize.py"}
    assert "valley/chain.py" in record["code"]
    assert record["arguments"]["traces"] == 64
    assert pyarrow.parquet.read_metadata(synthetic / "traces.parquet").num_rows == 64


def test_what_another_machine_is_writing_is_left_alone_and_what_a_dead_process_of_this_one_left_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(records.socket, "gethostname", lambda: "node")
    dead = 2**22 + 1  # above the largest process id
    others = [tmp_path / f".a.json.{host}-{dead}.tmp" for host in ("node-2", "node-2.b", "other", "node.b")]
    left = [tmp_path / f".a.json.node-{dead}.{end}" for end in ("tmp", "old")]
    for file in (*others, *left):
        file.touch()
    records.write_json(tmp_path / "a.json", {})
    assert set(tmp_path.iterdir()) == {tmp_path / "a.json", *others}


def test_every_script_says_what_it_does_when_asked():
    """In one process, so that libraries are loaded once."""
    code = """
import runpy, sys
from pathlib import Path
sys.path.insert(0, "scripts")
for path in sorted(Path("scripts").glob("*.py")):
    sys.argv = [str(path), "--help"]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        assert not end.code, path
    print("told by", path.stem)
"""
    output = run([sys.executable, "-c", code])
    assert output.count("told by") == len(list((REPOSITORY / "scripts").glob("*.py")))
    assert "as `python scripts/sft.py" in output  # warm.py, which has no parser
