"""Hold the paper's claims against a study: holds, fails, undecided, grader-dependent or not applicable, and
why.

    python scripts/claims.py --claims workflow/reference/claims.yaml --tables report/tables --grid S/base/0 S/sft-64/0 \\
        --examples 64=64 --parameters S=58000 --cards data/subsets/64/seed0.json --headline chain --length chain --calculations chain

Reads `problems.parquet`, `accumulation.csv` and `recovery.csv` and writes `claims.csv` (a row a part of a
claim) and `claims_models.csv` (a row a part and model: the quantity, its interval, what would decide). A
claim holds when all its parts do and fails when one does. What is claimed of every model needs every model
(intersection–union, uncorrected) and is refuted by one (Holm). The intervals: valley/inference.py.
"""

import math
from pathlib import Path

import numpy
import pandas
import yaml

from aggregate import write
from valley import flags, inference, records
from valley.study import Study, estimates, load


def asked_of(study: Study, part: dict) -> list[str]:
    """The models of the study that a part speaks of."""
    models = part["models"] if isinstance(part["models"], list) else study.models
    return [m for m in study.models if m in models and m not in part.get("except", [])]


def judge(study: Study, part: dict, confidence: float, verdict: str) -> tuple[str, list[dict], list[str]]:
    """(verdict, rows a model and pair of runs, missing cells) of a part that compares runs."""
    rows, gaps, all_estimates = [], [], []
    for model in asked_of(study, part):
        found, missing = estimates(study, model, part, verdict)
        gaps += missing
        for left, right, estimate in found:
            low, high = estimate.interval(confidence)
            decision = inference.decide((low, high), part["expect"])
            all_estimates.append(estimate)
            rows.append(
                {
                    "model": model,
                    "run": left,
                    "against": right,
                    "value": estimate.value,
                    "low": low,
                    "high": high,
                    "verdict": decision,
                    "seeds": len(estimate.by_seed),
                    "interval_over": "problems and training seeds"
                    if len(estimate.by_seed) > 1
                    else "problems, one training",
                    "signs": inference.sign_test(estimate, part["expect"]),
                    "would_decide": inference.would_decide(estimate, part["expect"], confidence)
                    if decision == "undecided"
                    else "",
                }
            )
    if not all_estimates:
        return "undecided" if gaps else "not applicable", rows, gaps
    combine = inference.some if part["models"] == "any" else inference.every
    decision = combine(all_estimates, part["expect"], confidence)
    settled = "holds" if part["models"] == "any" else "fails"  # what cells still to come cannot change
    return "undecided" if gaps and decision != settled else decision, rows, gaps


def order(points: pandas.DataFrame, parameters: dict[str, float], confidence: float) -> tuple[str, str]:
    """(verdict, why): do larger models recover at smaller sizes? Kendall's tau by permutation, recovery at
    its estimate.
    """
    from scipy import stats

    known = points[points.model.isin(parameters)]
    size = known.model.map(parameters).to_numpy(float)
    if len(known) < 2:
        return "undecided", "fewer than two models with all their sizes"
    ranks = stats.rankdata(known.by)
    tau = lambda ours: stats.kendalltau(ours, ranks).statistic if len(set(ranks)) > 1 else 0.0  # noqa: E731
    result = stats.permutation_test(
        (size,), tau, permutation_type="pairings", n_resamples=9999, rng=numpy.random.default_rng(0)
    )
    why = f"tau {result.statistic:+.2f}, p {result.pvalue:.2f}, {len(known)} models"
    if result.pvalue > 1 - confidence:
        few = 2 / math.factorial(len(known)) > 1 - confidence
        return "undecided", why + (
            ": no order of so few models can decide; more models" if few else ": more models"
        )
    return "holds" if result.statistic < 0 else "fails", why


def adds_up(study: Study, fits: pandas.DataFrame, part: dict, confidence: float) -> tuple[str, str]:
    """(verdict, why) of p^k: refuted where the test rejects it (Holm over models), never proved by not being
    rejected.
    """
    chosen = [(m, r) for m in asked_of(study, part) for r in study.resolve(m, part["of"])]
    table = fits.set_index(["model", "run"])
    known = [pair for pair in chosen if pair in table.index]
    if not known:
        return "undecided", "no fit yet"
    tested = table.loc[known].dropna(subset=["p_value"])
    why = "; ".join(f"{m} {r}: {table.loc[(m, r)].verdict}" for m, r in known)
    if len(tested) and tested.p_value.min() < (1 - confidence) / len(tested):
        return "fails", why
    return "undecided", why + ". A fit that is not rejected is no proof"


def part_row(
    study: Study, part: dict, fits, points, parameters, reflective: bool, confidence: float
) -> tuple[dict, list[dict]]:
    """The row of a part in claims.csv, and its rows a model."""
    if part.get("needs") == "reflection" and not reflective:
        return {
            "verdict": "not applicable",
            "why": "the traces hold none of the paper's reflection keywords",
        }, []
    if not asked_of(study, part):
        return {"verdict": "not applicable", "why": "no model of this study is meant"}, []
    if part.get("on") == "calculations" and not study.tasks.calculations:
        return {"verdict": "not applicable", "why": "no task of this study counts calculations"}, []
    if part["measure"] in ("order", "fit"):
        decide = (
            (order, (points, parameters)) if part["measure"] == "order" else (adds_up, (study, fits, part))
        )
        return dict(zip(("verdict", "why"), decide[0](*decide[1], confidence), strict=True)), []
    verdict = part.get("verdict", "headline")
    decision, rows, gaps = judge(study, part, confidence, verdict)
    why = (
        f"{len(gaps)} cells are missing, {gaps[0]} first"
        if gaps
        else ""
        if rows
        else "the grid has no such cells"
    )
    if part["measure"] in ("accuracy", "efficiency") and verdict == "headline" and rows:
        by_grader = {name: judge(study, part, confidence, name)[0] for name in inference.VERDICTS}
        if len(set(by_grader.values())) > 1:
            return {
                "verdict": "grader-dependent",
                "why": ", ".join(f"{g}: {v}" for g, v in by_grader.items()),
            }, rows
    return {"verdict": decision, "why": why}, rows


def overall(verdicts: list[str]) -> str:
    """The verdict of a claim from those of its parts; parts that are not applicable say nothing."""
    said = [verdict for verdict in verdicts if verdict != "not applicable"]
    if not said:
        return "not applicable"
    if all(verdict == "holds" for verdict in said):
        return "holds"
    return next((verdict for verdict in ("fails", "grader-dependent") if verdict in said), "undecided")


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--claims", required=True, type=Path)
    parser.add_argument(
        "--parameters", nargs="*", default=[], help="model=number of parameters, for the order of sizes"
    )
    parser.add_argument("--cards", nargs="*", type=Path, default=[], help="cards of the subsets")
    flags.add_study(parser)
    args = parser.parse_args()

    parameters = {name: float(count) for name, count in (pair.split("=") for pair in args.parameters)}
    study = load(args)
    reflective = any(records.read_json(card)["reflective"] > 0 for card in args.cards)
    points = pandas.read_csv(args.tables / "recovery.csv")
    fits = pandas.read_csv(args.tables / "accumulation.csv")
    parts, models = [], []
    for name, claim in yaml.safe_load(args.claims.read_text(encoding="utf-8")).items():
        made = []
        for key, part in claim["parts"].items():
            row, rows = part_row(study, part, fits, points, parameters, reflective, args.confidence)
            made.append(
                {
                    "claim": name,
                    "part": key,
                    "text": part["text"],
                    "grader": part.get("verdict", "headline"),
                    **row,
                }
            )
            models += [{"claim": name, "part": key} | row for row in rows]
        verdict = overall([row["verdict"] for row in made])
        parts += [{"claim": name, "part": "", "text": claim["claim"], "verdict": verdict, "why": ""}, *made]
        print(f"{name} {verdict}: {claim['claim']}")
    write(pandas.DataFrame(parts), args.tables / "claims.csv")
    columns = ["claim", "part", "model", "run", "against", "value", "low", "high", "verdict", "seeds", "interval_over", "signs",
               "would_decide"]  # fmt: skip
    write(pandas.DataFrame(models, columns=columns), args.tables / "claims_models.csv")
    records.done("verdicts on the claims", args.tables / "claims.csv")


if __name__ == "__main__":
    main()
