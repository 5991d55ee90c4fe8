"""Every reader on damaged and odd files, by hypothesis: a clear error or a correct result, never a library's
traceback.

Two kinds of harm. Bytes: a file cut off, bits turned, pieces put in or left out; what is still read must be
what was written. Content: columns or keys missing, of other types, empty in places, values that nobody
expects; what is accepted must go through. 100 cases a reader in `make test`, 1,000 in `make test-slow`.
"""

import contextlib
import copy
import json
import shutil
import sys
from pathlib import Path

import fetch_task
import fetch_traces
import grade
import pyarrow
import pyarrow.parquet
import pytest
import score
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from valley import check, checkpoints, grid, manifests, prompts, records
from valley.analysis import cells, comparison

MAY_LACK = ("uuid", "level", "solution", "source", "correctness_math_verify", "finish_reasons")
CASES = [
    pytest.param(100, id="some"),
    pytest.param(1000, id="many", marks=pytest.mark.slow),
]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20), st.just(""),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["nan", "0", "-1", "null", "\x00", "‮", "../..", "a" * 300, "$(id)", "{x}", "1e999"]),
)  # fmt: skip
# How a parquet column may come instead: pyarrow types that a value is cast to, or made of.
TYPES = [pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.int8(), pyarrow.int64(), pyarrow.uint64(), pyarrow.float32(),
         pyarrow.float64(), pyarrow.bool_(), pyarrow.null(), pyarrow.timestamp("us"), pyarrow.date32(), pyarrow.decimal128(20, 3),
         pyarrow.list_(pyarrow.string()), pyarrow.struct([("a", pyarrow.int64())]), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]  # fmt: skip


def cases(number, **strategies):
    """A decorator: so many cases, found anew each time from the same start."""
    quiet = settings(
        max_examples=number, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    return lambda test: quiet(given(**strategies)(test))


@st.composite
def damages(draw):
    """A function that damages bytes."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "remove", "replace", "nothing"]))
    at, size = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 200))
    stuff = draw(st.binary(min_size=1, max_size=50))

    def damage(content: bytes) -> bytes:
        place = int(at * len(content))
        return {
            "cut": content[:place],
            "flip": content[:place] + bytes([content[place] ^ (1 << size % 8)]) + content[place + 1 :],
            "insert": content[:place] + stuff + content[place:],
            "remove": content[:place] + content[place + size :],
            "replace": stuff,
            "nothing": content,
        }[kind] if content else stuff  # fmt: skip

    return damage


def of_type(kind: pyarrow.DataType, count: int) -> pyarrow.Array:
    """A column of a type, with one empty place where there is room."""
    if pyarrow.types.is_dictionary(kind):
        return pyarrow.array(["x"] * count).dictionary_encode()
    value = {"list": ["x"], "struct": {"a": 1}, "string": "7", "large_string": "7", "binary": b"\xff7", "bool": True,
             "null": None}.get(str(kind).split("<")[0], 7)  # fmt: skip
    with contextlib.suppress(pyarrow.ArrowInvalid):
        return pyarrow.array([value] * count, kind)
    return pyarrow.array([7] * count).cast(kind)


@st.composite
def rearrangements(draw):
    """A function that changes the columns or rows of an arrow table."""
    kind = draw(
        st.sampled_from(
            ["retype", "drop", "rename", "twice", "empty", "holes", "double", "reverse", "odd text"]
        )
    )
    which, column = draw(st.integers(0, 30)), draw(st.sampled_from(TYPES))
    text = draw(
        st.text(max_size=30) | st.sampled_from(["", " ", "\\boxed{" * 50, "\x00", "\\boxed{9^{9^{9}}}"])
    )

    def rearrange(table: pyarrow.Table) -> pyarrow.Table:
        at = which % table.num_columns
        name, length = table.column_names[at], table.num_rows
        if kind == "retype":
            return table.set_column(at, name, of_type(column, length))
        if kind == "drop":
            return table.drop_columns([name])
        if kind == "rename":
            return table.rename_columns([f"{n}x" if n == name else n for n in table.column_names])
        if kind == "twice":
            return table.append_column(name, table[name])
        if kind == "empty":
            return table.slice(0, 0)
        if kind == "holes":
            mask = pyarrow.array([i % 3 == which % 3 for i in range(length)])
            return table.set_column(at, name, pyarrow.compute.if_else(mask, None, table[name]))
        if kind == "double":
            return pyarrow.concat_tables([table, table])
        if kind == "reverse":
            return table.take(list(range(length))[::-1])
        kept = pyarrow.types.is_string(table.schema.field(at).type)
        safe = text.encode("utf-8", "replace").decode()
        return table.set_column(at, name, pyarrow.array([safe] * length)) if kept else table

    return rearrange


def tried(function, *arguments):
    """What a reader returned; None where it refused with one sentence of our own."""
    try:
        return function(*arguments)
    except grid.ConfigError:
        return None
    except SystemExit as stop:
        said = stop.code
    assert isinstance(said, str), said
    assert said.startswith("error: "), said
    return None


def main_of(module, *arguments):
    """Run a script's main on arguments, quietly."""
    before = sys.argv
    sys.argv = [module.__file__, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            module.main()
    finally:
        sys.argv = before
    return True


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A cell with responses, a task, grades, and a report as a released folder has it; a subset; a
    tokenizer.
    """
    folder = tmp_path_factory.mktemp("study")
    ids = [f"p{n}" for n in range(4)]
    task = [{"id": i, "problem": f"What is {n}?", "answer": str(n), "level": None} for n, i in enumerate(ids)]
    records.write_parquet(folder / "task.parquet", task)
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task))
    responses = [
        {"id": i, "sample": k, "prompt": "?", "response": rf"ok \boxed{{{n + k}}}", "prompt_tokens": 1, "tokens": 5 + k,
         "seed": k, "finish_reason": "stop"}
        for n, i in enumerate(ids) for k in range(2)
    ]  # fmt: skip
    records.write_parquet(folder / "responses/chain.parquet", responses)
    cell = folder / "results/S/base/seed0"
    graded(folder, cell / "grades.parquet")
    config = check.load([check.ROOT / "config/miniature.yaml"])
    records.write_json(folder / "report/config.json", config)
    rows = cells.by_problem(cells.load_grades([cell / "grades.parquet"]))
    (folder / "report/tables").mkdir()
    rows.to_parquet(folder / "report/tables/problems.parquet")
    trace = {"problem": "1+1", "answer": "2", "solution": "2", "generations": ["<think>x</think> 2"], "source": "s",
             "uuid": "u", "correctness_math_verify": [True], "finish_reasons": ["stop"]}  # fmt: skip
    records.write_parquet(folder / "traces.parquet", [trace] * 3)
    return folder


def graded(folder, out, responses="responses/chain.parquet"):
    return main_of(
        grade,
        "--responses",
        folder / responses,
        "--tasks",
        folder / "task.parquet",
        "--samples",
        2,
        "--out",
        out,
    )


def scored(grades, out):
    return main_of(score, "--grades", grades, "--headline", "chain", "--length", "chain", "--out", out)


def content(path: Path) -> list[dict]:
    return pyarrow.parquet.read_table(path).to_pylist()


def alike(expected: Path, found: Path) -> bool:
    """Whether two tables hold the same; columns that may be missing may be empty, for a turned bit in the
    name of one is a column that nobody knows.
    """
    pairs = zip(content(expected), content(found), strict=True)
    return all(
        there.get(name) == value or (name in MAY_LACK and there.get(name) is None)
        for row, there in pairs
        for name, value in row.items()
    )


READERS = {
    "responses": ("responses/chain.parquet", lambda file, out: graded(file.parents[1], out)),
    "grades": ("results/S/base/seed0/grades.parquet", scored),
    "task.parquet": ("task.parquet", lambda file, out: main_of(fetch_task, "--source", file, "--out", out)),
    "traces": ("traces.parquet", lambda file, out: main_of(fetch_traces, "--source", file, "--out", out)),
}


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("reader", READERS)
def test_a_parquet_file_of_damaged_bytes_is_refused_or_read_as_it_was(study, tmp_path, reader, number):
    name, read = READERS[reader]
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    file, sound = folder / name, (study / name).read_bytes()
    expected = tmp_path / "expected"
    assert read(file, expected)

    @cases(number, damage=damages())
    def case(damage):
        file.write_bytes(damage(sound))
        out = tmp_path / "out"
        out.unlink(missing_ok=True)
        if tried(read, file, out):
            same = alike(expected, out) if reader != "grades" else expected.read_bytes() == out.read_bytes()
            assert same, f"read as something else: {content(out)} in place of {content(expected)}"
        else:
            assert not out.exists()

    case()


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("reader", ["responses", "grades"])
def test_a_table_of_odd_columns_is_refused_or_goes_through(study, tmp_path, reader, number):
    name, read = READERS[reader]
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    table = pyarrow.parquet.read_table(study / name)

    @cases(number, rearrange=rearrangements())
    def case(rearrange):
        pyarrow.parquet.write_table(rearrange(table), folder / name)
        out = tmp_path / "out"
        out.unlink(missing_ok=True)
        assert bool(tried(read, folder / name, out)) == out.exists()

    case()


@pytest.mark.parametrize("number", CASES)
def test_json_lines_of_damaged_bytes_are_refused_or_give_a_task(study, tmp_path, number):
    sound = (study / "task.jsonl").read_bytes()

    @cases(number, damage=damages())
    def case(damage):
        file, out = tmp_path / "task.jsonl", tmp_path / "out"
        file.write_bytes(damage(sound))
        out.unlink(missing_ok=True)
        assert bool(tried(main_of, fetch_task, "--source", file, "--out", out)) == out.exists()

    case()


@pytest.mark.parametrize("number", CASES)
def test_a_config_with_an_odd_value_anywhere_is_refused_or_has_cells(number):
    sound = check.load([check.ROOT / "config/miniature.yaml"])

    def places(value, at=()):
        if isinstance(value, (dict, list)):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield (*at, key)
                yield from places(inner, (*at, key))

    every = list(places(sound))

    @cases(number, place=st.sampled_from(every), value=ODD, kind=st.sampled_from(["set", "remove", "add"]))
    def case(place, value, kind):
        config = copy.deepcopy(sound)
        inner = config
        for key in place[:-1]:
            inner = inner[key]
        if kind == "remove":
            del inner[place[-1]]
        elif kind == "add" and isinstance(inner, dict):
            inner["added"] = value
        else:
            inner[place[-1]] = value

        def use():
            check.check(config)
            return grid.cells(config)

        tried(use)

    case()


@pytest.mark.parametrize("number", CASES)
def test_a_tokenizer_of_damaged_files_is_refused_or_works(base, tmp_path, number):
    names = ["tokenizer.json", "tokenizer_config.json"]
    shutil.copytree(base, tmp_path / "model")

    @cases(number, name=st.sampled_from(names), damage=damages())
    def case(name, damage):
        file = tmp_path / "model" / name
        file.write_bytes(damage((base / name).read_bytes()))
        tokenizer = tried(prompts.load_tokenizer, tmp_path / "model")
        shutil.copyfile(base / name, file)
        assert tokenizer is None or len(tokenizer)

    case()


@pytest.mark.parametrize("number", CASES)
def test_a_damaged_model_is_refused_or_is_the_one_that_was_written(base, tmp_path, number):
    names = [path.name for path in base.iterdir()]
    shutil.copytree(base, tmp_path / "model")

    @cases(number, name=st.sampled_from(names), damage=damages())
    def case(name, damage):
        file = tmp_path / "model" / name
        harmed = damage((base / name).read_bytes())
        file.write_bytes(harmed)
        with contextlib.redirect_stderr(None):
            passed = tried(lambda: manifests.check_model(tmp_path / "model") or True)
        shutil.copyfile(base / name, file)
        assert not passed or harmed == (base / name).read_bytes() or name == manifests.MANIFEST

    case()


@pytest.mark.parametrize("number", CASES)
def test_a_damaged_checkpoint_is_passed_over_or_is_the_one_that_was_written(tmp_path, number):
    sound = {
        "optimizer.pt": b"o" * 300,
        "trainer_state.json": b'{"global_step": 8}',
        "rng_state.pth": b"r" * 50,
    }
    kept = tmp_path / "kept"
    kept.mkdir()
    for name, stuff in sound.items():
        (kept / name).write_bytes(stuff)
    manifests.seal(kept, step=8, seconds_useful=1.0)
    names = [*sound, manifests.MANIFEST]

    @cases(number, name=st.sampled_from(names), damage=damages() | st.just(None))
    def case(name, damage):
        folder = tmp_path / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        for step in (4, 8):
            shutil.copytree(kept, folder / f"checkpoint-{step}")
        file = folder / "checkpoint-8" / name
        before = file.read_bytes()
        file.unlink() if damage is None else file.write_bytes(damage(before))
        same = damage is not None and damage(before) == before
        with contextlib.redirect_stderr(None):
            found = checkpoints.newest(folder)
        assert found in (folder / "checkpoint-8", folder / "checkpoint-4")
        if found.name == "checkpoint-8" and name != manifests.MANIFEST:
            assert same, "a damaged checkpoint was taken"

    case()


@pytest.mark.parametrize("number", CASES)
def test_a_released_folder_of_damaged_files_is_refused_or_compared(study, tmp_path, number):
    names = ["report/config.json", "report/tables/problems.parquet", "results/S/base/seed0/grades.parquet"]
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    tables = {name: pyarrow.parquet.read_table(study / name) for name in names[1:]}

    @cases(number, name=st.sampled_from(names), damage=damages(), rearrange=rearrangements() | st.none())
    def case(name, damage, rearrange):
        if rearrange and name in tables:
            pyarrow.parquet.write_table(rearrange(tables[name]), folder / name)
        else:
            (folder / name).write_bytes(damage((study / name).read_bytes()))
        try:
            tried(comparison.load, folder, "ours", "headline", {})
        finally:
            shutil.copyfile(study / name, folder / name)

    case()


@pytest.mark.parametrize("number", CASES)
def test_a_record_of_any_json_is_refused_or_read(tmp_path, number):
    values = st.recursive(
        ODD,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )

    @cases(number, value=values, damage=damages() | st.none())
    def case(value, damage):
        file = tmp_path / "train.json"
        text = json.dumps(value).encode()
        file.write_bytes(damage(text) if damage else text)
        found = tried(records.read_json, file)
        assert found is None or isinstance(found, dict)
        assert manifests.manifest_of(tmp_path) is None

    case()
