"""The ordered pool at any size: streamed, seeded row by row, every drop counted, leaks located, exact token
counts.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time

import order_traces
import pytest
from conftest import DATA, REPOSITORY, script

from valley import overlaps, prompts, records, token_counts

TRACE = {"answer": "1", "solution": "s", "source": "x", "correctness_math_verify": [False, True, True],
         "correctness_llama": [False, False, True]}  # fmt: skip
real = pytest.mark.skipif(
    not (DATA / "traces").is_dir(), reason=f"no real data at {DATA}: set VALLEY_TEST_DATA"
)


def row(number: int, **changes) -> dict:
    return (
        TRACE | {"problem": f"{number}+1", "generations": [f"{number}{letter}" for letter in "xyz"]} | changes
    )


def write(path, rows):
    records.write_parquet(path, rows)
    return path


def command(folder, tokenizer, traces, *more) -> list:
    return ["--traces", traces, "--tokenizers", tokenizer, "--out", folder / "pool.parquet", "--card", folder / "pool.json",
            "--max-tokens", 60, "--correct", "math-verify", "--seed", 0, *more]  # fmt: skip


def result(folder):
    return records.read_parquet(folder / "pool.parquet").to_pylist(), records.read_json(folder / "pool.json")


def order(folder, tokenizer, rows, *more):
    script("order_traces", *command(folder, tokenizer, write(folder / "traces.parquet", rows), *more))
    return result(folder)


def task_of(folder, problems, name="task"):
    return write(
        folder / f"{name}.parquet",
        [{"id": str(i), "problem": p, "answer": "1"} for i, p in enumerate(problems)],
    )


def test_the_batch_size_changes_no_row(tmp_path, base, monkeypatch):
    rows = [row(n % 90, generations=[f"{n}{letter}" * (1 + n % 30) for letter in "xyz"]) for n in range(100)]
    write(tmp_path / "traces.parquet", rows)
    task = task_of(tmp_path, ["7+1", "8+1"])
    arguments = command(tmp_path, base, tmp_path / "traces.parquet", "--decontaminate", task)
    monkeypatch.setattr(sys, "argv", ["order_traces.py", *map(str, arguments)])
    results = []
    for size in (1, 7, 1000):
        monkeypatch.setattr(order_traces, "BATCH", size)
        order_traces.main()
        results.append(result(tmp_path))
    assert results[0] == results[1] == results[2]
    pool, card = results[0]
    assert card["dropped"]["too long"] > 0
    assert card["dropped"] | {"too long": 0} == {
        "no correct trace": 0, "duplicate problem": 10, "contaminated": 2, "too long": 0}  # fmt: skip
    assert len(pool) == card["kept"] == 100 - sum(card["dropped"].values())


def test_another_row_changes_neither_choice_nor_order_of_the_rest(tmp_path, base):
    rows = [row(n) for n in range(40)]
    whole, _ = order(tmp_path, base, rows)
    fewer, _ = order(
        tmp_path, base, [row(n) if n % 3 else row(n, correctness_math_verify=[False] * 3) for n in range(40)]
    )
    assert fewer == [r for r in whole if int(r["problem"].split("+")[0]) % 3]
    assert {r["trace"][-1] for r in whole} == {"y", "z"}  # the choice among the correct ones is random


def test_rows_of_a_block_stay_together_in_their_order_and_blocks_do_not(tmp_path, base):
    rows = [row(n) for n in range(96)]
    pool, _ = order(tmp_path, base, rows, "--block", 8)
    numbers = [int(r["problem"].split("+")[0]) for r in pool]
    blocks = [numbers[i : i + 8] for i in range(0, 96, 8)]
    assert all(block == list(range(block[0], block[0] + 8)) and block[0] % 8 == 0 for block in blocks)
    assert numbers != sorted(numbers)
    other, _ = order(tmp_path, base, rows, "--block", 8, "--seed", 1)
    assert [r["problem"] for r in other] != [r["problem"] for r in pool]


def test_the_order_is_no_trace_of_the_file_and_fills_more_than_one_bucket(tmp_path, base):
    pool, _ = order(tmp_path, base, [row(n) for n in range(400)])
    numbers = [int(r["problem"].split("+")[0]) for r in pool]
    assert sorted(numbers) == list(range(400))
    places = [random.Random(f"0:{n}") for n in range(400)]
    drawn = [(rng.random(), rng.random())[1] for rng in places]
    assert numbers == sorted(range(400), key=drawn.__getitem__)


def test_every_reason_and_task_is_counted(tmp_path, base):
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    rows = [row(1), row(2), row(0, problem=" 1+1 "), row(3, correctness_math_verify=[False] * 3),
            row(4, problem=f"so {words} 1"), row(5, problem=f"so {words} 2"), row(6), row(7, generations=["x", "9" * 80, "8" * 80])]  # fmt: skip
    tasks = [
        task_of(tmp_path, [f"{words} and more"], "long"),
        task_of(tmp_path, ["6 + 1", "6+1", f"ah {words}"], "short"),
    ]
    pool, card = order(tmp_path, base, rows, "--decontaminate", *tasks)
    assert {r["problem"] for r in pool} == {"1+1", "2+1"}
    assert card == {
        "rows": 8, "kept": 2, "seed": 0, "ngram": 13, "contaminated": {"long": 2, "short": 3},
        "dropped": {"no correct trace": 1, "duplicate problem": 1, "contaminated": 3, "too long": 1}}  # fmt: skip
    assert not list(tmp_path.glob(".*"))


SHORT = r"Compute $\sin 60^\circ$."


@pytest.mark.parametrize(
    "other",
    [SHORT[:-1], r"Compute $\sin 60^{\circ}$.", r"Compute \(\sin 60^\circ\).", "1. " + SHORT, r"compute \[\sin\,60^\circ\]",
     r"(12) Compute  $\sin\left 60^\circ\right$"],
)  # fmt: skip
def test_a_short_problem_is_known_in_any_writing(other):
    assert overlaps.ngrams(SHORT) & overlaps.ngrams(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("2+2", "2-2"), ("What is $1.5 + 2$?", "What is $15 + 2$?"), ("Is 1 2 a pair?", "Is 12 a pair?"),
     (r"Compute $\sin 60^\circ$.", r"Compute $\sin 60$."), ("What is $4!$?", "What is $4$?"), (r"$x\leftarrow 1$", r"$x\arrow 1$")],
)  # fmt: skip
def test_other_short_problems_stay_others(one, other):
    assert not overlaps.ngrams(one) & overlaps.ngrams(other)


def test_a_manner_of_speaking_makes_no_trace_a_leak_and_the_problem_itself_does(tmp_path, base):
    """As AIME puts its answers: 13 words that several of its problems share."""
    way = "can be written as m/n, where m and n are relatively prime positive integers. Find m+n."
    known = [
        f"The probability that a {thing} of the {number} shown on the board is green {way}"
        for thing, number in (("card", 9), ("ball", 8))
    ]
    only = f"It {way}"  # nothing but what others have as well
    clean = f"A point is drawn at random within a triangle; its chance to be nearer to A than to B or C {way}"
    reworded = known[0].replace("Find", "What is")
    tasks = [task_of(tmp_path, known, "aime"), task_of(tmp_path, [*known[:1], only], "again")]
    rows = [row(n, problem=text) for n, text in enumerate([clean, reworded, only.upper(), known[1]])]
    pool, card = order(tmp_path, base, rows, "--max-tokens", 999, "--decontaminate", *tasks)
    assert [kept["problem"] for kept in pool] == [clean]
    assert card["contaminated"] == {"aime": 2, "again": 2}


def test_leaks_before_counts_contaminated_rows_in_the_order_and_the_subset_card_says_so(tmp_path, base):
    rows = [row(n) for n in range(60)]
    whole, _ = order(tmp_path, base, rows)
    leaked = {f"{n}+1" for n in range(0, 60, 4)}
    clean, card = order(tmp_path, base, rows, "--decontaminate", task_of(tmp_path, sorted(leaked)))
    expected, leaks = [], 0
    for r in whole:
        leaks += r["problem"] in leaked
        if r["problem"] not in leaked:
            expected.append(r | {"leaks_before": leaks})
    assert clean == expected
    assert card["contaminated"] == {"task": 15}
    previous = []
    for size in (9, 20, "all"):
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
            tmp_path / "s.json",
        )
        subset, card = records.read_parquet(out).to_pylist(), records.read_json(tmp_path / "s.json")
        assert subset[: len(previous)] == previous
        assert subset == [{k: v for k, v in r.items() if k != "leaks_before"} for r in clean[: len(subset)]]
        assert card["leaks_removed"] == clean[len(subset) - 1]["leaks_before"]
        assert card["dropped"]["contaminated"] == 15
        assert card["examples"] == len(subset) == card["sources"]["x"]
        assert card["sha256"] == records.rows_sha256(subset)
        previous = subset


def test_the_streamed_hash_of_rows_is_that_of_their_json():
    import hashlib
    import json

    for rows in ([], [{"b": 1, "a": "é"}], [{"a": None}, {"a": [1.5, "x"]}]):
        assert (
            records.rows_sha256(iter(rows))
            == hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
        )


def byte_level(digits: str):
    """A small byte-level BPE tokenizer with the pre-tokenisation of Qwen (one digit) or Llama 3 (up to
    three).
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    pattern = next(p for p in token_counts.SPLITS if f"|{digits}|" in p)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )


def whole_text():
    """A small BPE tokenizer on whole texts with byte fallback, as Gemma's."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    special = ["<eos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    return tokenizer, trainer, normalizers.Replace(" ", "▁")


def fast(kind: str, texts: list[str]):
    from transformers import PreTrainedTokenizerFast

    if kind == "whole text":
        from tokenizers import pre_tokenizers

        tokenizer, trainer, normalizer = whole_text()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="never"
        )  # learns no token across words
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.normalizer, tokenizer.pre_tokenizer = (
            normalizer,
            pre_tokenizers.Split(" ", "merged_with_previous"),
        )
    else:
        tokenizer, trainer = byte_level(kind)
        tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


SAMPLE = (
    "So, let me see: 12 + 345 = 357. Wait, that's right; the answer is 357.\n\nWell,  then x = 12 and y = 345.\n"
    * 20
)


@pytest.mark.parametrize("kind", [r"\p{N}", r"\p{N}{1,3}", "whole text"])
def test_remembered_parts_give_the_very_count_of_the_whole_text(kind):
    tokenizer = fast(kind, [SAMPLE])
    pieces_in = token_counts.pieces_of(tokenizer)
    rng = random.Random(0)
    pieces = ["let", "me", "12", "345", "that's", "x", ".", ",", ";", "=", ")", "}", "-", " ", "  ", "\n", " \n", "\t", "\xa0",
             "é", "e\u0301", " \u0301", "▁", "中", "🙂", "क़", "<eos>", " a", " the", " b", "\r\n", ">", "</", "\\", "{", "^", "(",
             "/", "$", ":", "'", "s"]  # fmt: skip
    texts = [SAMPLE, *("".join(rng.choices(pieces, k=rng.randint(0, 80))) for _ in range(500))]
    whole = [len(ids) for ids in prompts.completion_ids(tokenizer, texts)]
    known = {}
    for _ in range(2):  # the second time many pieces are known
        assert token_counts.completion_lengths(tokenizer, texts, pieces_in, known) == whole
    assert len(known) > 20
    ids = {}
    for _ in range(2):  # and the very ids
        assert token_counts.remembered_ids(tokenizer, texts, pieces_in, ids) == prompts.completion_ids(
            tokenizer, texts
        )
    for room in (
        20,
        60,
    ):  # with room to spare a count may be too large, but never on the other side of the room
        bounds = token_counts.completion_lengths(tokenizer, texts, pieces_in, known, [room] * len(texts))
        assert all(
            bound >= count and (bound > room) == (count > room)
            for bound, count in zip(bounds, whole, strict=True)
        )
    assert all(count - 1 <= token_counts.size(text) for count, text in zip(whole, texts, strict=True))


def test_tokenizers_that_join_words_or_are_unknown_count_whole_texts(base):
    from tokenizers import AddedToken, normalizers

    assert token_counts.pieces_of(prompts.load_tokenizer(base)) is None
    tokenizer = fast(r"\p{N}", [SAMPLE])
    tokenizer.add_tokens([AddedToken("so what", normalized=False)])
    assert token_counts.pieces_of(tokenizer) is None
    tokenizer = fast(r"\p{N}", [SAMPLE])
    tokenizer.add_tokens([AddedToken("<s>", rstrip=True)])
    assert token_counts.pieces_of(tokenizer) is None
    tokenizer = fast(r"\p{N}", [SAMPLE])
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    assert token_counts.pieces_of(tokenizer) is None


def test_a_row_must_fit_under_every_tokenizer_and_tokens_are_the_first_ones(tmp_path):
    template = "{{ messages[0]['content'] }}"
    models = []
    for name, texts in (
        ("words", [SAMPLE]),
        ("bytes", ["x"]),
    ):  # the second one knows no word: a token a byte
        tokenizer = fast(r"\p{N}", texts)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / name)
        models.append(tmp_path / name)
    words = ["So, let me see: ", "that's right; "]
    rows = [row(n, generations=["bad", *[words[n % 2] * (1 + n)] * 2]) for n in range(12)]
    script(
        "order_traces",
        *command(tmp_path, models[0], write(tmp_path / "t.parquet", rows), "--tokenizers", *models),
    )
    pool, card = result(tmp_path)
    tokenizers = [prompts.load_tokenizer(model) for model in models]
    by_problem = {}
    for r in rows:
        problem, trace = r["problem"], r["generations"][1]
        by_problem[problem] = [
            len(prompts.prompt_ids(t, [problem], None, "")[0]) + len(prompts.completion_ids(t, [trace])[0])
            for t in tokenizers
        ]
    assert {r["problem"]: r["tokens"] for r in pool} == {
        p: n[0] for p, n in by_problem.items() if max(n) <= 60
    }
    assert any(n[0] <= 60 < n[1] for n in by_problem.values())
    assert card["dropped"]["too long"] == sum(max(n) > 60 for n in by_problem.values())


@pytest.mark.parametrize("kind", [r"\p{N}", "whole text"])
def test_parts_are_those_of_a_split_at_the_places_where_no_token_goes_on(kind):
    places = {
        r"\p{N}": r"(?<=[0-9A-Za-z])(?=[ \n\\^{}()\[\]=+*/,.;:$&-])",
        "whole text": r"(?<=[0-9A-Za-z.,;:=)}+\-])(?= )",
    }[kind]
    pieces_in, rng = token_counts.pieces_of(fast(kind, [SAMPLE])), random.Random(0)
    for text in [
        SAMPLE,
        *(
            "".join(rng.choices("aZ09 \n\\^{}()[]=+*/,.;:$&-é🙂'\"\t", k=rng.randint(0, 60)))
            for _ in range(3000)
        ),
    ]:
        assert list(filter(None, pieces_in.findall(text))) == list(filter(None, re.split(places, text)))


def test_the_number_of_workers_changes_nothing(tmp_path):
    """Each of them remembers other pieces; batches are finished out of order."""
    rng, models = random.Random(0), []
    for name, texts in (("words", [SAMPLE]), ("bytes", ["x"])):
        tokenizer = fast(r"\p{N}", texts)
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        tokenizer.save_pretrained(tmp_path / name)
        models.append(tmp_path / name)
    traces = [" ".join(rng.choices(SAMPLE.split(" "), k=rng.randint(1, 40))) for _ in range(1200)]
    rows = [row(n, generations=["bad", trace, trace + "!"]) for n, trace in enumerate(traces)]
    arguments = command(
        tmp_path, models[0], write(tmp_path / "t.parquet", rows), "--tokenizers", *models, "--max-tokens", 120
    )
    results = []
    for workers in (1, 2, 3):
        script("order_traces", *arguments, "--workers", workers)
        results.append(result(tmp_path))
    assert results[0] == results[1] == results[2]
    assert 0 < results[0][1]["dropped"]["too long"] < 1200


@real
def test_real_traces_of_math500_are_all_caught(tmp_path):
    script("fetch_task", "--source", DATA / "benchmarks/math500.jsonl", "--out", tmp_path / "math500.parquet")
    arguments = command(tmp_path, DATA / "stories260k", DATA / "traces/openr1_like.parquet", "--decontaminate",
                        tmp_path / "math500.parquet", "--max-tokens", 10**6, "--correct", "any")  # fmt: skip
    folder = tmp_path / "stories"
    tokenizer = prompts.load_tokenizer(DATA / "stories260k")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    script("order_traces", *arguments, "--tokenizers", folder)
    pool, card = result(tmp_path)
    known = {
        " ".join(r["problem"].lower().split())
        for r in records.read_parquet(tmp_path / "math500.parquet").to_pylist()
    }
    traces = records.read_parquet(DATA / "traces/openr1_like.parquet", ["problem"])["problem"].to_pylist()
    exact = {p for p in traces if " ".join(p.lower().split()) in known}
    assert len(exact) > 50
    assert card["contaminated"]["math500"] == card["dropped"]["contaminated"] >= len(exact)
    assert exact.isdisjoint(r["problem"] for r in pool)
    assert card["kept"] + sum(card["dropped"].values()) == card["rows"] == 634


def start(arguments) -> subprocess.Popen:
    """The script in a process of its own, which can be killed and measured."""
    line = [sys.executable, "scripts/order_traces.py", *map(str, arguments)]
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")
    }  # they keep freed memory
    return subprocess.Popen(
        line, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=plain
    )


def test_a_killed_run_leaves_no_pool_and_the_next_one_clears_what_it_left(tmp_path, base):
    rows = [row(n, generations=["x" * 4000] * 3) for n in range(1500)]
    arguments = command(tmp_path, base, write(tmp_path / "traces.parquet", rows), "--max-tokens", 5000)
    job = start(arguments)
    while not list(tmp_path.glob(".pool.parquet.buckets/*")):
        assert job.poll() is None, job.stderr.read().decode()
        time.sleep(0.002)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert {path.name for path in tmp_path.iterdir()} == {"traces.parquet", ".pool.parquet.buckets"}
    assert len(order(tmp_path, base, rows[:50], "--max-tokens", 5000)[0]) == 50
    assert not list(tmp_path.glob(".*"))


def test_an_error_half_way_leaves_nothing(tmp_path, base):
    rows = [row(n) for n in range(300)]
    write(tmp_path / "traces.parquet", rows)
    data = bytearray((tmp_path / "traces.parquet").read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)  # the footer, read first, stays whole
    (tmp_path / "traces.parquet").write_bytes(data)
    output = script("order_traces", *command(tmp_path, base, tmp_path / "traces.parquet"), ok=False)
    assert "traces.parquet: is not a readable parquet file" in output
    assert {path.name for path in tmp_path.iterdir()} == {"traces.parquet"}


def peak(arguments) -> int:
    """Bytes a run held at most."""
    job = start(arguments)
    error = job.stderr.read().decode()
    _, status, usage = os.wait4(job.pid, 0)
    assert status == 0, error
    return usage.ru_maxrss * 1024


def test_memory_does_not_grow_with_the_file(tmp_path):
    import pyarrow
    import pyarrow.parquet

    tokenizer = fast(r"\p{N}", [SAMPLE])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "model")
    rng = random.Random(0)
    text = " ".join(rng.choices(SAMPLE.split(" "), k=60_000))
    schema, held = pyarrow.Table.from_pylist([row(0)]).schema, {}
    for total in (1000, 3000):  # rows of 4 × 50 kB: 200 and 600 MB decoded
        traces = tmp_path / f"{total}.parquet"
        with pyarrow.parquet.ParquetWriter(traces, schema, compression="zstd") as writer:
            for begin in range(0, total, 500):
                rows = []
                for n in range(
                    begin, begin + 500
                ):  # one in eight has a correct trace, for the tests' own time
                    generations = [text[k : k + 50_000] for k in rng.choices(range(len(text) - 50_000), k=4)]
                    rows.append(row(n, generations=generations, correctness_math_verify=[n % 8 == 0] * 4))
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
        held[total] = peak(command(tmp_path, tmp_path / "model", traces, "--max-tokens", 60_000))
        assert result(tmp_path)[1]["kept"] == total // 8
    assert (
        held[3000] - held[1000] < 200_000_000
    )  # half of what the file grew by: batches in flight differ under load


def test_progress_is_told(tmp_path, base, monkeypatch, capsys):
    clock = iter(range(0, 100_000, 11))
    monkeypatch.setattr(order_traces.time, "perf_counter", lambda: next(clock))
    arguments = command(tmp_path, base, write(tmp_path / "traces.parquet", [row(n) for n in range(20)]))
    monkeypatch.setattr(sys, "argv", ["order_traces.py", *map(str, arguments)])
    order_traces.main()
    told = capsys.readouterr()
    assert re.search(r"^20/20 rows, \d+ rows/s$", told.err, re.MULTILINE)
    assert told.out.startswith("pool of 20 traces from 20, dropped {")


def test_problems_that_occur_in_the_traces_are_found_as_decontamination_finds_them(tmp_path):
    import leaks

    known = "A train leaves at noon and runs at ninety kilometres an hour for two hours and a half"
    problems = [
        {"id": 0, "problem": f"{known}; how far is it?"},
        {"id": 1, "problem": "1 + 1"},
        {"id": 2, "problem": "2 + 2"},
    ]
    traces = [[f"Riddle. {known}, then stops.", "2  +  2"], [f"Once more: {known}."]]
    assert leaks.leaks(problems, traces) == {"0": 2, "2": 1}
