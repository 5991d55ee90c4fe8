"""At the door: what others wrote is taken in one form, put right where it can mean one thing only, or refused
by row.
"""

import json
import math
from datetime import date

import fetch_traces
import order_traces
import pyarrow
import pytest
from conftest import script
from hypothesis import given, settings
from hypothesis import strategies as st

from valley import golds, intake, records

ROW = {"problem": "1+1?", "answer": "2", "solution": "2.", "source": "made", "uuid": "u1",
       "generations": ["<think>a</think>2", "b"], "correctness_math_verify": [True, False],
       "correctness_llama": None, "finish_reasons": ["stop", "length"], "is_reasoning_complete": [True, False]}  # fmt: skip
ODD = [None, True, 7, 2.5, math.nan, math.inf, "", " ", "False", b"x", date(2026, 1, 1), [], {}, [None], [7], ["a"], [True],
       ["False"], [[True]], {"a": 1}, [{"role": "user", "content": "a"}], "\ud800", ["\ud800"], [0.0, 1.0], [0.5]]  # fmt: skip


def taken(row: dict) -> dict | None:
    """The row behind the door, where it must fit the schema; None where it is refused by a sentence."""
    try:
        made = intake.checked_trace(row)
    except intake.Wrong as error:
        told = str(error)
    else:
        return pyarrow.RecordBatch.from_pylist([made], schema=intake.traces_schema()).to_pylist()[0]
    assert any(told.startswith(f"{column} holds ") for column in row)
    return None


@pytest.mark.parametrize("column", ROW)
def test_every_odd_value_in_every_column_is_put_right_or_refused(column):
    for value in ODD:
        row = taken(ROW | {column: value})
        if row is None:
            continue
        assert {other: row[other] for other in ROW if other != column} == {
            c: ROW[c] for c in ROW if c != column
        }
        assert row[column] in (value, str(value), [], None) or row[column] == list(map(bool, value))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(sorted(ROW)), VALUES))
def test_no_row_whatsoever_ends_in_a_traceback(changes):
    row = taken(ROW | changes)
    if row is not None:
        assert isinstance(row["problem"], str)
        assert all(isinstance(trace, str | None) for trace in row["generations"])
        order_traces.correct_traces(row, "math-verify-else-llama")
        intake.cut_off(row)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(["id", "unique_id", "uuid", "problem", "level"]), VALUES))
def test_no_task_row_whatsoever_ends_in_a_traceback(changes):
    row = {"id": "a", "problem": "?", "answer": "1"} | changes
    try:
        made = intake.checked_problem(row)
    except intake.Wrong:
        return
    assert isinstance(made["problem"], str)
    assert made["problem"].strip()
    json.dumps(made).encode()


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("generations", "<think>a</think>co", r"generations holds a text ('<think>a</think>co') where a list must be"),
        ("generations", [[{"role": "assistant"}]], "generations holds a list ([{'role': 'assistant'}]) where a text must be"),
        ("problem", [{"role": "user"}], "problem holds a list"),
        ("problem", None, "problem holds nothing"),
        ("correctness_math_verify", ["False", "True"], "correctness_math_verify holds a text ('False') where true or false"),
        ("correctness_math_verify", True, "correctness_math_verify holds a truth value (True) where a list must be"),
        ("answer", "\ud800", "answer holds a text that is no Unicode"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_row(tmp_path, column, value, told):
    file = tmp_path / "traces.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in (ROW, ROW | {column: value})))
    output = script("fetch_traces", "--source", file, "--out", tmp_path / "t.parquet", ok=False)
    assert f"traces.jsonl row 2: {told}" in output
    assert "Traceback" not in output
    assert not (tmp_path / "t.parquet").exists()


def read(file):
    return list(fetch_traces.rows_of(str(file), None, None))


def test_parquet_json_lines_and_an_array_give_the_same_rows(tmp_path):
    rows = [ROW | {"problem": f"{n}\u2028a\x0b\x85b", "answer": n} for n in range(3)]
    records.write_parquet(tmp_path / "a.parquet", rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    (tmp_path / "bom.jsonl").write_text("\r\n".join(lines), encoding="utf-8-sig")
    (tmp_path / "a.json").write_text("\n " + json.dumps(rows), encoding="utf-8")
    want = [ROW | {"problem": f"{n}\u2028a\x0b\x85b", "answer": str(n)} for n in range(3)]
    for name in ("a.parquet", "a.jsonl", "bom.jsonl", "a.json"):
        assert read(tmp_path / name) == want, name


def test_columns_that_traces_can_do_without_may_be_absent_and_those_they_need_not(tmp_path):
    (tmp_path / "least.jsonl").write_text(json.dumps({"problem": "1+1", "generations": ["2"]}))
    assert read(tmp_path / "least.jsonl") == [{"problem": "1+1", "generations": ["2"]} |
                                              dict.fromkeys((*intake.ABSENT, *intake.LISTS))]  # fmt: skip
    (tmp_path / "other.jsonl").write_text(json.dumps({"question": "1+1", "generations": ["2"]}))
    for name in ("other.jsonl", "other.parquet"):
        records.write_parquet(tmp_path / "other.parquet", [{"question": "1+1", "generations": ["2"]}])
        with pytest.raises(SystemExit, match="has no column problem"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"problem": "a"\n', "line 1: is no JSON"),
        (b'[{"problem": "a", "generations": []}, 7]', "row 2: it is a int (7), no object of columns"),
        (b'"text"', "row 1: it is a text ('text'), no object"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[1, 2", "cannot be read as JSON"),
    ],
)
def test_files_that_are_no_json_say_where(tmp_path, content, told):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        read(tmp_path / "bad.jsonl")
    assert told in str(stop.value)


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, ["<think>a</think>2"]),
        ({"correctness_math_verify": [True, True]}, ["<think>a</think>2"]),
        ({"correctness_math_verify": [False, True]}, []),
        ({"correctness_math_verify": [True, True], "finish_reasons": None, "is_reasoning_complete": None}, ["<think>a</think>2", "b"]),
        ({"correctness_math_verify": [True, True], "finish_reasons": ["stop", "stop"]}, ["<think>a</think>2"]),
        ({"correctness_math_verify": [True, True], "is_reasoning_complete": [None, True]}, ["<think>a</think>2"]),
        ({"correctness_math_verify": [True]}, []),  # flags of another number belong to nobody knows which
        ({"generations": [None, ""], "correctness_math_verify": [True, True]}, []),
    ],
)  # fmt: skip
def test_what_was_cut_off_or_is_empty_is_not_trained_as_finished(changes, chosen):
    row = ROW | changes
    ones = intake.correct_ones(row, "math-verify")
    assert [row["generations"][i] for i in ones if i not in intake.cut_off(row)] == chosen


def test_cut_off_traces_are_counted_in_the_card(tmp_path, base):
    rows = [ROW | {"problem": f"{n}+1", "correctness_math_verify": [n != 2, n != 1]} for n in range(3)]
    records.write_parquet(tmp_path / "t.parquet", rows)
    script("order_traces", "--traces", tmp_path / "t.parquet", "--tokenizers", base, "--out", tmp_path / "pool.parquet",
           "--card", tmp_path / "pool.json", "--max-tokens", 60, "--correct", "math-verify", "--seed", 0)  # fmt: skip
    card = records.read_json(tmp_path / "pool.json")
    assert (card["kept"], card["dropped"]["cut off"], card["cut_off"]) == (2, 1, 2)
    assert set(records.read_parquet(tmp_path / "pool.parquet")["trace"].to_pylist()) == {
        ROW["generations"][0]
    }


def test_traces_without_the_flags_that_the_rule_asks_for_say_which_rule_needs_none(tmp_path, base):
    for rows in ([ROW | {"correctness_math_verify": None}], [{"problem": "1+1", "generations": ["2"]}]):
        records.write_parquet(tmp_path / "t.parquet", rows, intake.traces_schema())
        output = script("order_traces", "--traces", tmp_path / "t.parquet", "--tokenizers", base, "--out",
                        tmp_path / "pool.parquet", "--card", tmp_path / "pool.json", "--max-tokens", 60, "--correct",
                        "math-verify-else-llama", "--seed", 0, ok=False)  # fmt: skip
        assert "no row has correctness_math_verify" in output
        assert "traces.correct: any" in output


def test_ids_of_problems_are_taken_as_they_are_and_never_twice(tmp_path):
    file = tmp_path / "task.jsonl"

    def write(*ids: dict):
        file.write_text("\n".join(json.dumps({"problem": "?", "answer": 1} | row) for row in ids))

    write({"id": 0}, {"id": 7}, {"unique_id": "x"})
    script("fetch_task", "--source", file, "--out", tmp_path / "task.parquet")
    assert records.read_parquet(tmp_path / "task.parquet")["id"].to_pylist() == ["0", "7", "x"]
    for twice in ([{"id": "a"}, {"id": "b"}, {"id": "a"}], [{"id": 1}, {}]):
        write(*twice)
        output = script("fetch_task", "--source", file, "--out", tmp_path / "other.parquet", ok=False)
        assert "have the same id" in output
        assert not (tmp_path / "other.parquet").exists()


def test_rules_that_pandas_left_empty_are_none(tmp_path):
    rows = [{"id": "a", "problem": "?", "answer": "1, 2", "order": True, "tolerance": 0.5, "unit": "cm", "base": 2},
            {"id": "b", "problem": "?", "answer": "1, 2"}]  # fmt: skip
    nan = float("nan")
    empty = {"order": nan, "tolerance": nan, "unit": nan, "base": nan}
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, (rows[0], rows[1] | empty))))
    script("fetch_task", "--source", tmp_path / "task.jsonl", "--out", tmp_path / "task.parquet")
    first, second = golds.task(tmp_path / "task.parquet")
    assert golds.rules(first) == (True, 0.5, "centimetre", 2)
    assert golds.rules(second) == golds.rules(rows[1] | empty) == (None,) * 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gold": float("nan")}, "has no answer"),
        ({"gold": "proof"}, "no answer that could be compared"),
        ({"gold": {"a": 1}}, "type dict"),
        ({"response": [{"role": "assistant"}]}, "no text `response`"),
        ({"finish_reason": "tool_calls"}, "did the response end by itself"),
        ({"tokens": "many"}, "tokens holds a text"),
        ({"sample": True}, "sample holds a truth value"),
        ({"problem": ["?"]}, "problem holds a list"),
        ({"order": "yes"}, "`order`"),
        ({"unit": "furlongs"}, "`unit` 'furlongs', which is no unit"),
        ({"unit": 5}, "`unit` 5, str is needed"),
    ],
)
def test_a_response_of_others_that_cannot_be_graded_says_why(changes, told):
    with pytest.raises(intake.Wrong, match=told):
        golds.checked_response({"response": "5", "gold": "5"} | changes)


def test_responses_of_others_are_graded_in_their_form(tmp_path):
    """Half a surrogate pair, a number as gold, ids that are nought, other names of the end: all are read."""
    rows = [
        {"id": 0, "response": "<answer>5</answer>", "gold": 5, "finish_reason": "eos"},
        {"id": 0, "response": "\ud800 <answer>6</answer>", "gold": 5},
        {"id": 1, "response": "<answer>5</answer>", "answer": "5", "finish_reason": "max_tokens"},
        {"response": "<answer>7,3</answer>", "gold": "3,7", "order": True},
    ]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script(
        "grade",
        "--responses",
        tmp_path / "theirs.jsonl",
        "--answer",
        "<answer>",
        "--out",
        tmp_path / "grades.parquet",
    )
    grades = records.read_parquet(tmp_path / "grades.parquet").to_pylist()
    assert [(row["id"], row["sample"]) for row in grades] == [("0", 0), ("0", 1), ("1", 0), ("4", 0)]
    assert [row["outcome"] for row in grades] == ["correct", "wrong", "truncated", "wrong"]
