"""Open an export with lm-evaluation-harness itself: run by an interpreter that has it (pip install
lm-eval==0.4.13).

    <its python> tests/opened_by_lm_eval.py <folder of scripts/harness.py>

Its own schema (`lm_eval.result_schema`), names of files, hashes, standard error, table and the loader of its
data cards.
"""

import json
import sys
from pathlib import Path

from datasets import load_dataset
from lm_eval import utils
from lm_eval.api.metrics import mean_stderr
from lm_eval.result_schema import EvalResults, SampleResult
from pydantic import TypeAdapter


def opened(folder: Path):
    """Hold one cell's files to the harness; prints its table."""
    names = [str(file) for file in folder.iterdir()]
    (results,) = utils.get_results_filenames(names)
    content = json.loads(Path(results).read_text(encoding="utf-8"))
    # Its annotation of `configs` knows no numbers, which the harness itself writes there.
    TypeAdapter(EvalResults).validate_python(content | {"configs": {}})
    assert utils.sanitize_model_name(content["model_name"]) == content["model_name_sanitized"] == folder.name
    for file in utils.get_sample_results_filenames(names):
        task = utils.get_file_task_name(Path(file).name)
        assert utils.get_file_datetime(Path(file).name) == utils.get_file_datetime(results).replace(
            ".json", ""
        )
        lines = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
        TypeAdapter(list[SampleResult]).validate_python(lines)
        for line in lines:
            doc = json.dumps(line["doc"], indent=2, default=utils.handle_non_serializable, ensure_ascii=False)
            assert line["doc_hash"] == utils.hash_string(doc)
            assert line["target_hash"] == utils.hash_string(line["target"])
        hashes = (line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in lines)
        assert content["task_hashes"][task] == utils.hash_string("".join(hashes))
        values = [line["exact_match"] for line in lines]
        told = content["results"][task]
        assert abs(told["exact_match,none"] - sum(values) / len(values)) < 1e-12
        assert abs(told["exact_match_stderr,none"] - mean_stderr(values)) < 1e-12
        assert load_dataset("json", data_files=file, split="train").num_rows == len(lines)
    print(utils.make_table(content))


if __name__ == "__main__":
    for cell in sorted(Path(sys.argv[1]).iterdir()):
        opened(cell)
