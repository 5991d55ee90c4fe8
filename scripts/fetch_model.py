"""Bring a base model into the study's folder, with our chat template, pad token and end token.

    python scripts/fetch_model.py --source Qwen/Qwen2.5-0.5B-Instruct --revision 7ae557… \\
        --template templates/qwen2.5.jinja \\
        --end-token '<|im_end|>' --pad-token '<|endoftext|>' --out /tmp/qwen

`--source` is a hub id (needs the network and a pinned `--revision`) or a local folder. Only safetensors, JSON
and tokenizer files are taken; no code is. A pad token that the vocabulary lacks is added to tokenizer and
embeddings.
"""

import os
import shutil
from pathlib import Path

from valley import flags, manifests, prompts, records, weights

PATTERNS = ["model*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*",
            "special_tokens_map.json", "vocab.json", "merges.txt", "LICENSE*", "README.md"]  # fmt: skip


def download(source: str, revision: str | None, folder: Path):
    """Fetch a model from the hub at a pinned commit into `folder`; a refused or gated one says what to do.

    What a broken download left in `folder` is continued, not fetched again.
    """
    import re

    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        records.fail(
            source,
            f"revision {revision!r} pins no commit",
            "Give the 40-digit commit of the model in the config",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        snapshot_download(source, revision=revision, allow_patterns=PATTERNS, local_dir=folder)
    except GatedRepoError:
        records.fail(
            source, "is gated", "Accept its licence on its hub page, then log in with `hf auth login`"
        )
    except (HfHubHTTPError, OSError) as error:
        records.fail(
            source,
            f"could not be downloaded ({error})",
            "Check the network, or set `source` to a local folder",
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--source", required=True, help="hub id or local folder")
    parser.add_argument("--revision", default=None, help="commit on the hub")
    parser.add_argument("--template", required=True, type=Path)
    parser.add_argument("--end-token", required=True)
    parser.add_argument("--pad-token", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    with records.whole(args.out) as folder:
        local = Path(os.path.expandvars(args.source)).expanduser()
        if local.is_dir():
            files = {file for pattern in PATTERNS for file in local.glob(pattern)}
            needed = weights.loaded_files(local)
            if not needed:
                records.fail(
                    local, "holds no safetensors", "Convert the weights first; pickled weights are not read"
                )
            files = sorted({file for file in files if file.suffix != ".safetensors"} | set(needed))
            folder.mkdir(parents=True)
            for file in files:
                shutil.copyfile(file, folder / file.name)
        else:
            partial = args.out.with_name(f".{args.out.name}.partial")
            download(args.source, args.revision, partial)
            os.replace(partial, folder)

        config = records.read_json(folder / "config.json")
        if "vision_config" in config:
            kind = ", ".join(config.get("architectures", [])) or config.get("model_type")
            records.fail(
                args.source,
                f"reads pictures too ({kind}), and this study trains models of text alone",
                "Choose one without, or save its text model in a folder of its own and name that as source",
            )
        tokenizer = prompts.load_tokenizer(folder)
        if args.end_token not in tokenizer.get_vocab():
            todo = f"Choose one that is; this model's own is {tokenizer.eos_token}"
            records.fail(
                f"families.*.end_token {args.end_token}", f"is not in the vocabulary of {args.source}", todo
            )
        tokenizer.add_special_tokens(
            {"eos_token": args.end_token, "pad_token": args.pad_token}
        )  # a pad token may be new
        tokenizer.chat_template = args.template.read_text()
        tokenizer.save_pretrained(folder)
        # Not by len(tokenizer): Gemma 3 1B's tokenizer names an image token beyond the model's vocabulary.
        rows = max(tokenizer.eos_token_id, tokenizer.pad_token_id) + 1
        if rows > config.get("text_config", config)["vocab_size"]:
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", local_files_only=True, use_safetensors=True
            )
            model.resize_token_embeddings(rows)
            model.save_pretrained(folder)
            config = records.read_json(folder / "config.json")
        # transformers and vLLM read the ids from these two files, whatever the tokenizer says.
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        records.write_json(folder / "config.json", config | ids)
        records.write_json(folder / "generation_config.json", {"bos_token_id": tokenizer.bos_token_id} | ids)
        records.write_json(folder / "fetched.json", records.provenance(args))
        manifests.seal(folder, everything=True)
    records.done(f"base model of {args.source}", args.out)


if __name__ == "__main__":
    main()
