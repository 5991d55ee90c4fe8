"""The fourth stage: generation and the judge, by vLLM where an interpreter has it and by transformers; its
rate; and two jobs on one card. What tells nothing of speed is run without compiling (acceptance.EAGER).

On CPU vLLM's build for CPUs runs them (`make test-slow`), on a card the one of this environment.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from acceptance import DEVICE, EAGER, ON_CARD, VLLM, call, command, needs_vllm, note, surroundings
from conftest import REPOSITORY
from test_models import SUFFIX
from test_sft_path import real_base, sampled_base

from valley import prompts, records

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
ENGINES = {"transformers": sys.executable, "vllm": VLLM}
PROBLEMS, SAMPLES, CHUNK = 12, 2, 4
TIE = 0.02 if ON_CARD else 1e-3  # nats; a card's fp32 may multiply in TF32, of 11 bits


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return sampled_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Twelve problems."""
    file = tmp_path_factory.mktemp("task") / "sums.parquet"
    rows = [{"id": f"{n:02}", "problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(PROBLEMS)]
    records.write_parquet(file, rows)
    return file


@pytest.fixture(params=[pytest.param(name, marks=needs_vllm if name == "vllm" else ()) for name in ENGINES])
def engine(request):
    return request.param


def sampling(base, task, out, engine: str, seed: int = 3) -> list[str]:
    """The command that samples two responses a problem, four in a chunk."""
    return command("generate", "--model", base, "--task", task, "--out", out, "--samples", SAMPLES, "--temperature", 0.8, "--top-p",
                   0.95, "--max-new-tokens", 96, "--max-context", 256, "--chunk", CHUNK, "--seed", seed, "--engine", engine,
                   "--precision", "bf16", "--suffix", SUFFIX, python=ENGINES[engine], under=EAGER)  # fmt: skip


def done(job: list[str]) -> str:
    """What a command says; fails where it does."""
    ran = subprocess.run(job, cwd=REPOSITORY, capture_output=True, text=True, env=surroundings(job[0]))
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-6000:]
    return ran.stdout + ran.stderr


def agreement(left: list[dict], right: list[dict]) -> float:
    """The share of two lists' rows that hold the same response; all else must be the same in each."""
    for a, b in zip(left, right, strict=True):
        assert [a[key] for key in ("id", "sample", "prompt", "seed")] == [
            b[key] for key in ("id", "sample", "prompt", "seed")
        ]
    return sum(a["response"] == b["response"] for a, b in zip(left, right, strict=True)) / len(left)


def parted(model, prompt: list[int], ours: list[int], theirs: list[int]) -> tuple[int, float]:
    """How many tokens two greedy responses share, and by how much log-probability `model` holds the first
    ones that differ apart, in nats; 0 where none does.
    """
    import torch

    same = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if same is None:
        assert len(ours) == len(theirs)
        return len(ours), 0.0
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + ours[:same]], device=model.device)).logits[0, -1]
    return same, abs(logits[ours[same]] - logits[theirs[same]]).item()


@needs_vllm
@pytest.mark.parametrize("made", [sampled_base, real_base], ids=["weights as they fall", "real weights"])
def test_greedy_responses_of_both_engines_part_only_where_two_tokens_are_nearly_alike(tmp_path, made):
    """In fp32, of eight problems 64 tokens each. Kernels of two makers round otherwise, so that two tokens
    within TIE of each other may change places; what follows then is another text.
    """
    import torch
    from transformers import AutoModelForCausalLM

    base, tokens, found = made(tmp_path), 64, {}
    tokenizer = prompts.load_tokenizer(base)
    asked = prompts.prompt_ids(tokenizer, [f"What is {n} + {n} * 3?" for n in range(8)], None, SUFFIX)
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    for name, python in ENGINES.items():
        out = tmp_path / f"{name}.json"
        done(
            [
                python,
                EAGER,
                "tests/gpu/greedy.py",
                str(base),
                str(tmp_path / "asked.json"),
                name,
                "fp32",
                str(tokens),
                str(out),
            ]
        )
        found[name] = json.loads(out.read_text())
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(DEVICE).eval()
    apart = [parted(model, *three) for three in zip(asked, found["transformers"], found["vllm"], strict=True)]
    share = sum(same for same, _ in apart) / sum(map(len, found["transformers"]))
    widest = max(gap for _, gap in apart)
    note(f"greedy-{made.__name__.split('_')[0]}", share_of_tokens=share, widest_gap=widest)
    assert widest <= TIE
    assert share >= 0.5
    first, other, *_ = dict.fromkeys(map(tuple, found["vllm"]))  # of another problem: this can fail
    assert parted(model, asked[0], list(first), list(other))[1] > TIE


def test_a_seed_gives_its_responses_again_also_where_the_job_was_killed_and_continued(
    tmp_path, base, task, engine
):
    """Chunks that a killed job has finished are kept, and those of one that was left alone are the same. A
    card may round otherwise from one batch to the next, so that few responses may differ there.
    """
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    done(sampling(base, task, whole, engine))
    job = subprocess.Popen(
        sampling(base, task, killed, engine), cwd=REPOSITORY, env=surroundings(ENGINES[engine]), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("w"),
    )  # fmt: skip
    while not (kept := sorted(tmp_path.glob("killed.parquet.chunks/*/0*.parquet"))):
        assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not killed.exists()
    kept = {file: file.read_bytes() for file in tmp_path.glob("killed.parquet.chunks/*/0*.parquet")}
    assert 0 < len(kept) < PROBLEMS * SAMPLES / CHUNK

    said = done(sampling(base, task, killed, engine))
    chunks = PROBLEMS * SAMPLES // CHUNK
    assert sum(f"/{chunks} chunks" in line for line in said.splitlines()) == chunks - len(kept)
    rows, again = (records.read_parquet(file).to_pylist() for file in (whole, killed))
    assert len(rows) == PROBLEMS * SAMPLES
    equal = agreement(rows, again)
    note(f"repeat-{engine}", chunks_kept=len(kept), responses_equal=equal)
    assert equal >= (0.8 if ON_CARD else 1.0)
    assert any(a["response"] != b["response"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert len({row["response"] for row in rows}) > PROBLEMS


@needs_vllm
def test_the_rate_of_generation_beside_bare_vllm_and_of_samples_in_one_request(tmp_path, base):
    """What comes after the first chunk, in which the engine starts and compiles: how long that takes is what
    `generate.one_start` spares, by which the last chunk is another task's. With as many responses in hand as
    vLLM takes at once, each to its last token, for weights as they fall hardly ever end one. In the same
    engine eight samples a prompt go both ways of `generate.parallel_sampling`, with the same seeds: a card
    may round otherwise in another batch.
    """
    chunks, each, tokens = (3, 1024, 512) if ON_CARD else (3, 4, 16)
    rows = [
        {"id": f"{n:05}", "problem": f"What is {n:05} + 1?", "answer": str(n + 1)}
        for n in range(chunks * each)
    ]
    records.write_parquet(tmp_path / "task.parquet", rows[:-each])
    records.write_parquet(tmp_path / "other.parquet", rows[-each:])
    ahead, begun = tmp_path / "ahead.parquet", time.perf_counter()
    job = command("generate", "--model", base, "--task", tmp_path / "task.parquet", "--out", tmp_path / "out.parquet", "--samples", 1,
                  "--temperature", 0.8, "--top-p", 0.95, "--max-new-tokens", tokens, "--max-context", 1024, "--chunk", each, "--seed",
                  0, "--engine", "vllm", "--precision", "bf16", "--suffix", SUFFIX, "--then", tmp_path / "other.parquet", 1, ahead,
                  python=VLLM)  # fmt: skip
    running = subprocess.Popen(job, cwd=REPOSITORY, env=surroundings(VLLM), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    ended = [time.perf_counter() for line in running.stderr if f"/{chunks} chunks" in line]
    assert running.wait() == 0
    assert len(ended) == chunks
    assert len([*tmp_path.glob("ahead.parquet.chunks/*/*.parquet")]) == 1
    a_chunk = (ended[-1] - ended[0]) / (chunks - 1)
    made = records.parquet_provenance(tmp_path / "out.parquet")["tokens_generated"] / (chunks - 1)
    rate = made / a_chunk
    rounds, bare = (1 if ON_CARD else 2), tmp_path / "bare.json"
    done([VLLM, "tests/gpu/bare.py", *map(str, (base, "bf16", each, tokens, 1024, rounds, bare))])
    found = json.loads(bare.read_text())
    note(
        "generate",
        vllm=True,
        tokens_per_second=rate,
        bare_tokens_per_second=found["tokens_per_second"],
        responses=each,
        tokens=tokens,
        mean_tokens=made / each,
        start_seconds=ended[0] - begun - a_chunk,
    )
    singly, together = found["singly"], found["together"]
    note(
        "parallel-sampling",
        ratio=sum(together) / sum(singly),
        turns=[b / a for a, b in zip(singly, together, strict=True)],
        responses_equal=found["responses_equal"],
    )
    assert rate > (0.5 if ON_CARD else 0.05) * found["tokens_per_second"]
    assert found["responses_equal"] >= (0.8 if ON_CARD else 1.0)


@needs_vllm
def test_the_judge_by_vllm_says_what_it_says_by_transformers(tmp_path, base, task):
    """Weights as they fall name no category: what is compared are the words. A real model is asked in
    tests/test_judge.py.
    """
    records.write_parquet(
        tmp_path / "sums.parquet",
        [{"id": f"{n:02}", "sample": 0, "response": f"{n} + 1, wait, that is {n + 1}."} for n in range(PROBLEMS)],
    )  # fmt: skip
    found = {}
    for name, python in ENGINES.items():
        out = tmp_path / f"{name}.parquet"
        call("judge", "--model", base, "--responses", tmp_path / "sums.parquet", "--tasks", task, "--prompt",
             "workflow/reference/judge_prompt.txt", "--max-characters", 400, "--engine", name, "--max-context", 4096, "--chunk", 6,
             "--precision", "fp32", "--out", out, python=python, under=EAGER)  # fmt: skip
        found[name] = records.read_parquet(out).to_pylist()
        assert records.parquet_provenance(out)["labels"]["unreadable"] == PROBLEMS
    assert found["vllm"] == found["transformers"]
    assert all(row["text"] for row in found["vllm"])


def test_two_jobs_take_turns_on_one_card():
    """The second waits until the first has ended, and says so. On CPU a number stands for a card."""
    hold = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(6)"
    script = REPOSITORY / ".acceptance_hold.py"
    script.write_text(hold)
    shown = surroundings() | ({} if ON_CARD else {"CUDA_VISIBLE_DEVICES": "0"})
    if ON_CARD:
        shown["CUDA_VISIBLE_DEVICES"] = shown.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    start = [sys.executable, "scripts/launch.py", "--gpus", "1", str(script)]
    try:
        first = subprocess.Popen(start, cwd=REPOSITORY, env=shown, stdout=subprocess.PIPE, text=True)
        taken = first.stdout.readline().strip()
        second = subprocess.run(start, cwd=REPOSITORY, env=shown, capture_output=True, text=True)
        assert first.poll() is not None
        assert second.stdout.strip() == taken
        assert "waiting for 1 of 1 GPUs to be free" in second.stderr
        first.wait()
    finally:
        script.unlink()
