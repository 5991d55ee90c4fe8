"""docs/your-study.md at toy size: from a model and traces that nobody here has seen to the page, by the file
that one copies.
"""

import json
import random
import sys

import pytest
import yaml
from conftest import REPOSITORY, checkout, run, snakemake

from valley import records

TOY = {"max_length": 512, "max_tokens": 512, "max_new_tokens": 64, "max_context": 512}


def own_data(folder):
    """A model of another make with a tokenizer of its own, traces and a task in words, as the template names
    them.
    """
    import tokenizers
    import torch
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng, problems = random.Random(0), {}
    while len(problems) < 180:
        a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9)
        text = f"{rng.choice(['Ana', 'Ben', 'Cleo'])} has {a} bags with {b} figs each and finds {c} more. How many?"
        problems[text] = (a, b, c)
    traces = [
        {"problem": text, "generations": [f"<think>{a} times {b} is {a * b}.</think> \\boxed{{{a * b + c}}}"],
         "solution": f"\\boxed{{{a * b + c}}}"}
        for text, (a, b, c) in list(problems.items())[:160]
    ]  # fmt: skip
    task = [
        {"id": number, "problem": text, "answer": a * b + c}
        for number, (text, (a, b, c)) in enumerate(list(problems.items())[160:])
    ]
    folder.mkdir()
    for name, rows in {"my-traces": traces, "my-task": task}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator([row["problem"] + row["generations"][0] for row in traces], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "my-model")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, eos_token_id=2, **shape)
    LlamaForCausalLM(config).save_pretrained(folder / "my-model")


def edited() -> dict:
    """The template with what a user changes: counts, sizes, lengths; nothing else."""
    config = yaml.safe_load((REPOSITORY / "config/bring-your-own.yaml").read_text(encoding="utf-8"))
    config["traces"] |= {"rows": 160, "max_tokens": TOY["max_tokens"]}
    config["models"]["mine"] |= {"parameters": 0.001, "gpus": 0}
    config["sizes"] = {
        "20": {"examples": 20, "epochs": 2, "batch": 4},
        "40": {"examples": 40, "epochs": 2, "batch": 8},
        "80": {"examples": 80, "epochs": 2, "batch": 16},
    }
    config["grid"]["cells"][0] |= {
        "runs": ["base", "sft-20", "sft-40", "sft-80", "sft-20.short"],
        "seeds": [0],
    }
    config["sft"] |= {"max_length": TOY["max_length"], "lr": 1e-3}
    config["generate"] |= {key: TOY[key] for key in ("max_new_tokens", "max_context")}
    config["tasks"]["mine"]["samples"] = 1
    config["report"]["probe"] = 16
    return config


def test_the_template_for_own_studies_asks_for_nothing_of_the_papers():
    from valley import check, grid

    files = [REPOSITORY / "config/bring-your-own.yaml", REPOSITORY / "config/on-cpu.yaml"]
    config = check.load(files)
    check.check(config)
    assert {cell.model for cell in grid.cells(config)} == {"mine"}
    asked = [*config["grid"]["tasks"], *config["traces"]["decontaminate"], *config["traces"]["tokenizers"]]
    assert set(asked) == {"mine"}
    steps = {
        size["examples"] * size["epochs"] / size["batch"]
        for name, size in config["sizes"].items()
        if name in ("500", "1000", "2000", "4000")
    }
    assert len(steps) == 1


@pytest.mark.slow
def test_a_model_and_traces_of_ones_own_reach_the_page_by_the_commands_of_the_docs(tmp_path):
    folder = checkout(tmp_path)
    own_data(folder / "data")
    (folder / "mine.yaml").write_text(yaml.safe_dump(edited()))
    files = ["mine.yaml", "config/on-cpu.yaml"]
    told = run([sys.executable, "scripts/check.py", "--configfile", *files], folder)
    assert "ok: the study's own data are what it counts on" in told
    run([sys.executable, "scripts/canary.py", "--configfile", *files], folder)
    snakemake(folder, "--configfile", *files, "studies/canary.yaml")
    canary = folder / "studies/canary/results/mine/sft-20.canary/seed0"
    assert records.parquet_rows(canary / "grades.parquet") == 10
    output = snakemake(folder, "--configfile", *files)
    assert "mine, 1 seed: base" in output
    page = (folder / "studies/mine/report/page.html").read_text()
    assert "at n=80" in page
