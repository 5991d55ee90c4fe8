"""Weights that are damaged are found before they are used, by every script that uses them, and named in one
sentence.
"""

import re
import shutil

import pytest
from conftest import script
from test_training import RL, sft_flags

from valley import manifests


def flip(file):
    """One bit of the last tensor's last byte turned: no header tells."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def cut_header(file):
    file.write_bytes(file.read_bytes()[:40])


def garble(file):
    file.write_bytes(b"\xff" * file.stat().st_size)


HARMS = {
    flip: "model.safetensors is not what was written",
    cut: r"model.safetensors has [\d,]+ bytes where its header tells of [\d,]+",
    cut_header: "model.safetensors is cut short, or no safetensors file",
    garble: "model.safetensors is cut short, or no safetensors file",
}


def users(folder, model, subset, synthetic):
    """The command lines of the scripts that use weights."""
    task = synthetic / "task.parquet"
    sampling = ["--max-context", 512, "--engine", "transformers", "--temperature", 0.6, "--top-p", 0.95]
    return {
        "sft": sft_flags(folder, model, subset),
        "rl": ["--model", model, "--problems", synthetic / "rl.parquet", "--out", folder / "model", "--record",
               folder / "train.json", "--curve", folder / "curve.parquet", *RL],
        "generate": ["--model", model, "--task", task, "--out", folder / "chain.parquet", "--samples", 1,
                     "--max-new-tokens", 8, *sampling],
    }  # fmt: skip


@pytest.fixture
def damaged(tmp_path, base):
    """A function that gives a copy of the base model with one kind of damage."""

    def make(harm):
        model = shutil.copytree(base, tmp_path / f"model of {harm.__name__}")
        harm(model / "model.safetensors")
        return model

    return make


@pytest.mark.parametrize("name", ["sft", "rl", "generate"])
def test_one_flipped_bit_stops_every_script_that_uses_the_weights(tmp_path, damaged, subset, synthetic, name):
    model = damaged(flip)
    output = script(name, *users(tmp_path, model, subset, synthetic)[name], ok=False)
    assert f"error: {model}: {HARMS[flip]}" in output
    assert "Remove the folder and run again" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_weights_are_named_in_one_sentence(damaged, harm):
    with pytest.raises(SystemExit, match=HARMS[harm]):
        manifests.check_model(damaged(harm))


@pytest.mark.parametrize("harm", [cut, cut_header, garble])
def test_what_a_header_tells_is_checked_without_hashes_and_without_a_manifest(damaged, harm, monkeypatch):
    monkeypatch.setenv("VALLEY_WEIGHTS", "quick")
    model = damaged(harm)
    for _ in range(2):
        with pytest.raises(SystemExit, match=HARMS[harm]):
            manifests.check_model(model)
        (model / manifests.MANIFEST).unlink(missing_ok=True)


def test_the_quick_check_reads_no_weights(damaged, monkeypatch):
    monkeypatch.setenv("VALLEY_WEIGHTS", "quick")
    manifests.check_model(damaged(flip))  # it cannot see that


def test_a_sound_model_passes_and_its_cost_is_said(base, capsys):
    manifests.check_model(base)
    assert re.search(r"are what was written: 0\.\d MB in", capsys.readouterr().err)


def test_a_missing_file_of_a_model_is_named(damaged):
    model = damaged(lambda file: (file.parent / "tokenizer.json").unlink())
    with pytest.raises(SystemExit, match=r"tokenizer\.json is missing"):
        manifests.check_model(model)
