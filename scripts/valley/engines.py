"""Engines that turn prompt ids into response ids: vLLM on GPUs, transformers on CPU; one process a GPU, fed
from one queue.

An engine is made once a process from generate.py's arguments and gives `run`: (list of prompt ids, seed, most
new tokens) → list of (response ids, seed); and a function of the most new tokens: the sampling parameters in
force, for the record.
"""

import contextlib
import faulthandler
import itertools
import logging
import multiprocessing
import operator
import os
import signal
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from valley import environment, prompts, records

# What a chunk and the responses record of vLLM's sampling, as vLLM holds it after its own checks (greedy
# resets top_p). It is of each response: `n` is 1 also where a request asks for several, which vLLM samples
# each with n=1 and a seed of its own.
VLLM_SAMPLING = (
    "n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "max_tokens",
    "min_tokens", "stop", "stop_token_ids", "ignore_eos", "logit_bias", "bad_words",
)  # fmt: skip


def transformers_engine(args, tokenizer):
    """By transformers on this process's device, on CPU with decoding.py's loop: (run, sampling).

    A batch is sampled from one random stream, so its responses share the batch's seed.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, set_seed

    from valley.decoding import decode

    if in_parallel(args):
        print("--parallel-sampling is vLLM's: transformers samples without it", file=sys.stderr)
    ends = end_ids(args, tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loop = {"custom_generate": decode} if device == "cpu" else {}
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    model.to(device).eval()
    sampling = (
        {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
        if args.temperature
        else {}
    )

    def configured(limit: int):
        return GenerationConfig(
            max_new_tokens=limit,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            repetition_penalty=1.0,
            num_beams=1,
            **(sampling or {"do_sample": False}),
        )

    def in_force(limit: int) -> dict:
        return {k: v for k, v in configured(limit).to_diff_dict().items() if k != "transformers_version"}

    def run(batch, seed, limit):
        set_seed(seed % 2**32)  # more NumPy does not take; a chunk's is the study's times a million
        model.generation_config = configured(limit)
        longest = max(map(len, batch))
        ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(p)) + p for p in batch], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=device)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, **loop)[:, longest:].tolist()
        return [(cut(row, ends), seed) for row in out]

    return run, in_force


def vllm_options() -> dict:
    """How vLLM is to run on this machine; also sets the variables that it reads when it is imported."""
    import torch

    variables = {
        # the engine in this process: it dies with it, and schedules the same way again
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for the closing line
        "VLLM_NO_USAGE_STATS": "1",  # vLLM would report to its makers
        "HF_HUB_OFFLINE": "1",
    }
    options = {}
    if (
        not torch.cuda.is_available()
    ):  # vLLM's CPU build, which tests/test_vllm.py runs: little memory, no threads pinned
        variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        options["enforce_eager"] = True  # compiling takes longer than a test
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    return options


def in_parallel(args) -> bool:
    """Whether the samples of a prompt go to vLLM as one request; the judge, which has one each, does not
    ask.
    """
    return getattr(args, "parallel_sampling", False)


def requests(batch: list[list[int]], seed: int, together: bool):
    """(prompt ids, n, seed of the first response) of the requests for a batch whose responses have the seeds
    from `seed` on: a request each, or `together` one for equal prompts that stand beside each other.

    vLLM gives the i-th of n responses the request's seed + i (ParentRequest of vllm/v1/engine), so that
    seeds are the same in either way.
    """
    alike = operator.itemgetter(1 if together else 0)  # by prompt, or by place, of which no two are equal
    for _, group in itertools.groupby(enumerate(batch), alike):
        (at, ids), *more = group
        yield ids, 1 + len(more), seed + at


def vllm_engine(args, tokenizer):
    """By vLLM on this process's GPU: (run, sampling); every response has a seed of its own.

    Run on CPU by tests/test_vllm.py, not yet on a GPU (docs/measurements.md).
    """
    options, ends = vllm_options(), end_ids(args, tokenizer)
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import SamplingType

    # Without a tokenizer vLLM warns, with a traceback, that it cannot warm up a chat template; none of ours
    # goes through it.
    logging.getLogger("vllm.renderers.base").addFilter(lambda record: "warmup failed" not in str(record.msg))
    engine = LLM(
        model=str(args.model),
        dtype="bfloat16" if args.precision == "bf16" else "float32",
        max_model_len=args.max_context,
        # "vllm" ignores the model's own generation_config, from which vLLM would take repetition_penalty and
        # top_k silently.
        generation_config="vllm",
        enable_prefix_caching=True,
        tensor_parallel_size=args.tensor_parallel,
        trust_remote_code=False,
        skip_tokenizer_init=True,
        seed=args.seed,
        **options,
    )

    def sampling(limit: int, seed: int | None = None, n: int = 1):
        # ignore_eos: vLLM adds the end tokens of generation_config to ours even when it is switched off; ours
        # are the config's, the same for both engines and for every cell of a family.
        return SamplingParams(
            n=n,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=limit,
            min_tokens=0,
            seed=seed,
            stop_token_ids=ends,
            ignore_eos=True,
            detokenize=False,
        )

    # vLLM refuses to be greedy several times
    together = in_parallel(args) and sampling(1).sampling_type is not SamplingType.GREEDY
    of_batch = {"parallel_sampling": True} if together else {}

    def run(batch, seed, limit):
        asked = [*requests(batch, seed, together)]
        inputs = [{"prompt_token_ids": ids} for ids, _, _ in asked]
        outputs = engine.generate(inputs, [sampling(limit, own, n) for _, n, own in asked], use_tqdm=False)
        if [list(output.prompt_token_ids) for output in outputs] != [ids for ids, _, _ in asked]:
            records.fail(
                args.model, "vLLM changed the token ids of a prompt", "Nothing it generated here can be used"
            )
        return [
            (cut(list(one.token_ids), ends), own + one.index)
            for output, (_, _, own) in zip(outputs, asked, strict=True)
            for one in sorted(output.outputs, key=lambda one: one.index)
        ]

    def in_force(limit: int) -> dict:
        return {name: getattr(sampling(limit), name) for name in VLLM_SAMPLING} | of_batch

    return run, in_force


ERROR = "error"  # beside the names of cards in the workers' queue: one of them ended by an error of its own
ENGINES = {"vllm": vllm_engine, "transformers": transformers_engine}


def end_ids(args, tokenizer) -> list[int]:
    """Ids of the tokens that end a response: the tokenizer's end token first, then `--stop-tokens`."""
    known = tokenizer.get_vocab()
    if unknown := [token for token in args.stop_tokens if token not in known]:
        records.fail(
            "--stop-tokens",
            f"{unknown[0]} is not in the vocabulary of {args.model}",
            "Mend families.*.stop_tokens",
        )
    return [tokenizer.eos_token_id, *(known[token] for token in args.stop_tokens)]


def cut(ids: list[int], ends: list[int]) -> list[int]:
    """Response ids up to and including the first end token; all of them when there is none."""
    return next((ids[: at + 1] for at, token in enumerate(ids) if token in ends), ids)


def visible_gpus(each: int = 1) -> list[str]:
    """The job's GPUs as CUDA_VISIBLE_DEVICES names them (numbers or UUIDs), `each` together for an engine;
    where it is not set, all of the machine.
    """
    import torch

    everything = ",".join(map(str, range(torch.cuda.device_count())))
    names = os.environ.get("CUDA_VISIBLE_DEVICES", everything).split(",")
    names = [name.strip() for name in names if name.strip()]
    if each > 1 and len(names) % each:
        records.fail(
            f"--tensor-parallel {each}",
            f"does not divide the {len(names)} cards of this job",
            "Mend models.*.gpus or tensor_parallel in the config",
        )
    return [",".join(names[at : at + each]) for at in range(0, len(names), each)]


def start_worker(args, gpus):
    """First thing in a worker process: take one GPU, or those of one engine, off the queue and make the
    engine there.
    """
    environment.end_with_parent()  # or it would hold its GPU for ever
    faulthandler.register(signal.SIGUSR1)  # a parent that sees a standstill asks where this process stands
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()  # before anything in here imports torch
    global worker_engine, worker_queue
    worker_queue = gpus
    with dying_aloud():
        worker_engine = ENGINES[args.engine](args, prompts.load_tokenizer(args.model))


@contextlib.contextmanager
def dying_aloud():
    """In a worker: an error is shown, told through the queue, and ends the process: the pool then stops the
    others at once.
    """
    try:
        yield
    except BaseException:
        traceback.print_exc()
        worker_queue.put(ERROR)
        os._exit(1)


def work_chunk(name, batch: list[list[int]], seed: int, limit: int):
    """In a worker: (name of the chunk, responses, sampling)."""
    with dying_aloud():
        run, sampling = worker_engine
        return name, run(batch, seed, limit), sampling(limit)


def generate(args, tokenizer, todo: list[tuple], gpus: list[str]):
    """Yield (name, responses, sampling) of `todo`, chunks of (name, prompt ids, seed, most new tokens), as
    they are finished.

    One process a GPU takes chunks from one queue in the order given; with one GPU or none, this process does
    it.
    """
    if len(gpus) < 2:
        run, sampling = ENGINES[args.engine](args, tokenizer)
        for name, batch, seed, limit in todo:
            yield name, run(batch, seed, limit), sampling(limit)
        return

    context = multiprocessing.get_context("spawn")  # a process that has used CUDA cannot be forked
    queue = context.SimpleQueue()
    for gpu in gpus:
        queue.put(gpu)
    pool = ProcessPoolExecutor(min(len(gpus), len(todo)), context, start_worker, (args, queue))
    try:
        for job in as_completed([pool.submit(work_chunk, *chunk) for chunk in todo]):
            yield job.result()
    except BrokenProcessPool:
        left = []
        while not queue.empty():
            left.append(queue.get())
        # Killed, for want of memory or by somebody: a retry may not meet that. An error of its own it would.
        (records.fail if ERROR in left else records.fail_for_now)(
            args.out,
            "a worker process died, so the others were stopped (its error stands above; none if it was killed)",
            "The finished parts stay: mend the cause and run the same command again",
        )
    finally:
        for (
            worker
        ) in multiprocessing.active_children():  # after an error they would finish what they hold first
            worker.terminate()
        pool.shutdown()
