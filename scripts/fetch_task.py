"""Bring a set of problems with answers into the study's folder: a benchmark, or the problems of RL.

    python scripts/fetch_task.py --source HuggingFaceH4/MATH-500 --revision 6e4ed1a… --split test --out /tmp/math500.parquet
    python scripts/fetch_task.py --source data/amc23.jsonl --out /tmp/amc23.parquet

Writes id, problem, answer (text) and level. A row without problem or answer is an error, never silently
dropped. An answer that the grader cannot read is named on standard error, in the closing line and in the
file's metadata (`unreadable`): only a response with the very same string will equal it.
"""

import json
import os
import sys
from pathlib import Path

from valley import equality, flags, records


def rows_of(source: str, revision: str | None, name: str | None, split: str | None) -> list[dict]:
    """The rows of a local .jsonl or .parquet file, or of a hub data set at a pinned commit."""
    local = Path(os.path.expandvars(source)).expanduser()
    if local.suffix == ".parquet" and local.exists():
        return records.read_parquet(local).to_pylist()
    if local.suffix == ".jsonl" and local.exists():
        try:
            return [
                json.loads(line) for line in local.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        except ValueError as error:
            records.fail(local, f"is not JSON lines ({error})", "Mend the file")
    if local.suffix:
        records.fail(local, "does not exist", "Give an existing .jsonl or .parquet file, or a hub id")
    if not revision:
        records.fail(
            source,
            "no revision pins its commit",
            "Give the 40-digit commit in the config, or a local file as source",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    from datasets import load_dataset

    return load_dataset(source, name, revision=revision, split=split or "train").to_list()


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--source", required=True, help="hub id, or local .jsonl or .parquet")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--name", default=None, help="configuration of the hub data set")
    parser.add_argument("--split", default=None)
    parser.add_argument(
        "--where", default=None, help="column=text: keep only rows whose column contains the text"
    )
    parser.add_argument("--limit", type=int, default=None, help="keep the first so many rows")
    parser.add_argument("--problems", type=int, default=None, help="how many there must be before --limit")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    rows = rows_of(args.source, args.revision, args.name, args.split)
    if args.where:
        column, text = args.where.split("=", 1)
        rows = [row for row in rows if text in str(row.get(column, ""))]
    if args.problems not in (None, len(rows)):
        records.fail(
            args.source,
            f"gives {len(rows)} problems, {args.problems} are expected",
            "Check `where`, `split` and `revision` in the config, or correct `problems`",
        )
    out = []
    for number, row in enumerate(rows[: args.limit]):
        if not isinstance(row, dict):
            records.fail(args.source, f"line {number + 1} holds no JSON object", "Mend the file")
        identity = row.get("id") or row.get("unique_id") or row.get("uuid") or number
        problem, answer = (row.get(key) for key in ("problem", "answer"))
        if not problem or answer is None or not str(answer).strip():
            records.fail(
                args.source,
                f"row {identity!r} has no {'answer' if problem else 'problem'}",
                "Mend the source or leave the row out",
            )
        level = str(row["level"]) if row.get("level") is not None else None
        out.append({"id": str(identity), "problem": problem, "answer": str(answer), "level": level})
    if not out:
        records.fail(args.source, "gives no rows", "Check `where`, `name` and `split` in the config")
    unread = equality.unreadable([row["answer"] for row in out])
    for row in out:
        if row["answer"] in unread:
            print(
                f"warning: {args.source}: the answer of {row['id']!r} cannot be read: {row['answer']!r}",
                file=sys.stderr,
            )
    records.write_parquet(args.out, out, provenance=records.provenance(args) | {"unreadable": unread})
    records.done(
        f"{len(out)} problems" + (f", {len(unread)} unreadable answers (see the log)" if unread else ""),
        args.out,
    )


if __name__ == "__main__":
    main()
