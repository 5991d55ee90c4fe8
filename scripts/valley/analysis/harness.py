"""Grades and responses in the schema of lm-evaluation-harness (EleutherAI, `lm_eval/result_schema.py` of
0.4.13).

A cell becomes what the harness writes of one model: `results_<date>.json` and `samples_<task>_<date>.jsonl`,
a line a problem with its k responses as repeats. A metric of a line is the mean over them, so that
`exact_match` is avg@k; its standard error is the harness's own, of the mean over problems.
"""

import hashlib
import json
import statistics

import pandas

from valley.grading import GRADERS
from valley.grid import Cell

METRICS = {
    f"exact_match{'' if name == 'headline' else f'_{name}'}": column for name, column in GRADERS.items()
}
MORE = ("tokens", "truncated", "reflective")  # means over the responses to a problem, beside the metrics
HIGHER = {metric: metric not in ("tokens", "truncated", "reflective") for metric in (*METRICS, *MORE)}
INVALID = "[invalid]"  # what the harness writes where it finds no answer
DEFAULT = "none"  # the name of the filter that takes all


def sha(text: str) -> str:
    """The harness's hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def samples(
    grades: pandas.DataFrame, responses: pandas.DataFrame, problems: list[dict], told: dict
) -> list[dict]:
    """The lines of a task: `problems` in their order, the responses of `grades` and `responses` by id and
    sample.

    `told` is the provenance of the responses, from which come the arguments of generation.
    """
    joined = grades.merge(responses[["id", "sample", "prompt", "response"]], on=["id", "sample"])
    joined = joined.assign(truncated=joined.outcome.isin(["truncated", "looping"])).sort_values("sample")
    by_problem = dict(list(joined.groupby("id", sort=False)))
    asked = told.get("arguments", {})
    settings = {
        "until": asked.get("stop_tokens", []),
        "max_gen_toks": asked.get("max_new_tokens"),
        "temperature": asked.get("temperature"),
        "top_p": asked.get("top_p"),
        "do_sample": bool(asked.get("temperature")),
    }
    lines = []
    for number, doc in enumerate(problems):
        if doc["id"] not in by_problem:
            continue
        rows, target = by_problem[doc["id"]], str(doc["answer"])
        prompt = rows.prompt.iat[0]
        lines.append(
            {
                "doc_id": number,
                "doc": doc,
                "target": target,
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": settings}},
                "resps": [rows.response.tolist()],
                "filtered_resps": [rows.answer.fillna(INVALID).tolist()],
                "filter": DEFAULT,
                "metrics": [*METRICS, *MORE],
                "doc_hash": sha(json.dumps(doc, indent=2, ensure_ascii=False)),
                "prompt_hash": sha(prompt),
                "target_hash": sha(target),
                **{metric: float(rows[column].mean()) for metric, column in METRICS.items()},
                **{column: float(rows[column].mean()) for column in MORE},
            }
        )
    return lines


def scores(lines: list[dict], task: str) -> dict:
    """What the harness says of a task: the mean of each metric and its standard error over problems."""
    found: dict = {"name": task, "alias": task, "sample_len": len(lines)}
    for metric in (*METRICS, *MORE):
        values = [line[metric] for line in lines]
        found[f"{metric},{DEFAULT}"] = statistics.fmean(values)
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else "N/A"
        found[f"{metric}_stderr,{DEFAULT}"] = error
    return found


def whole_results(cell: Cell, lines: dict[str, list[dict]], told: dict[str, dict], source: str) -> dict:
    """The whole of results_<date>.json of a cell: `lines` and the provenance of the responses, by task."""
    first = next(iter(told.values()))
    asked = first.get("arguments", {})
    return {
        "results": {task: scores(of, task) for task, of in lines.items()},
        "group_subtasks": {task: [] for task in lines},
        "configs": {
            task: {
                "task": task,
                "output_type": "generate_until",
                "repeats": len(of[0]["resps"][0]),
                "num_fewshot": 0,
            }
            for task, of in lines.items()
        },
        "versions": dict.fromkeys(lines),
        "n-shot": dict.fromkeys(lines, 0),
        "higher_is_better": dict.fromkeys(lines, HIGHER),
        "n-samples": {task: {"original": len(of), "effective": len(of)} for task, of in lines.items()},
        "config": {
            "model": str(asked.get("engine")),
            "model_args": {"pretrained": source, "cell": str(cell)},
            "model_dtype": str(asked.get("precision")),
            "gen_kwargs": {name: asked.get(name) for name in ("temperature", "top_p", "max_new_tokens")},
            "random_seed": cell.seed,
        },
        "git_hash": str(first.get("git_commit")),
        "date": pandas.Timestamp(finished(told)).timestamp(),
        "transformers_version": str(first.get("versions", {}).get("transformers")),
        "model_source": "valley",
        "model_name": str(cell),
        "model_name_sanitized": folder_of(cell),
        "system_instruction": asked.get("system"),
        "fewshot_as_multiturn": False,
        "task_hashes": {
            task: sha("".join(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in of))
            for task, of in lines.items()
        },
        "total_evaluation_time_seconds": str(sum(one.get("seconds", 0.0) for one in told.values())),
    }


def finished(told: dict[str, dict]) -> str:
    """When the last responses of a cell were done."""
    return max(one.get("finished", "1970-01-01T00:00:00Z") for one in told.values())


def folder_of(cell: Cell) -> str:
    """The folder of a cell, by the harness's rule for names of models."""
    return str(cell).replace("/", "__")


def date_of(told: dict[str, dict]) -> str:
    """The date in the names of its files."""
    return finished(told).rstrip("Z").replace(":", "-")
