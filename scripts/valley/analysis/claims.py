"""Claims held against a study: the quantity of each part on its cells, and the verdict on what was expected of it.

What is claimed of every model needs every model (intersection–union, uncorrected) and is refuted by one (Holm). A claim
holds when all its parts do and fails when one does. The intervals: estimates.py.
"""

import math

import numpy
import pandas

from valley.analysis.cells import Study
from valley.analysis.estimates import Estimate, compared
from valley.analysis.measures import Tasks
from valley.grading import GRADERS

MODEL_COLUMNS = ["claim", "part", "model", "run", "against", "value", "low", "high", "verdict", "seeds", "interval_over",
                 "signs", "would_decide"]  # fmt: skip


def decide(ends: tuple[float, float], expect: dict) -> str:
    """`holds` when the whole interval is as expected, `fails` when none of it is, else `undecided`."""
    low, high = ends
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if "below" in expect:
        return "holds" if high < expect["below"] else "fails" if low > expect["below"] else "undecided"
    if "above" in expect:
        return "holds" if low > expect["above"] else "fails" if high < expect["above"] else "undecided"
    least, most = expect["about"] - expect["within"], expect["about"] + expect["within"]
    if least <= low and high <= most:
        return "holds"
    return "fails" if high < least or low > most else "undecided"


def every(estimates: list[Estimate], expect: dict, confidence: float) -> str:
    """Verdict on "every": holds when each does (no correction), fails when one does under Holm's.

    Holm's first step tests the most extreme of m at 1 − α/m (Holm 1979); one rejection refutes "every".
    """
    if all(decide(e.interval(confidence), expect) == "holds" for e in estimates):
        return "holds"
    strict = 1 - (1 - confidence) / len(estimates)
    return "fails" if any(decide(e.interval(strict), expect) == "fails" for e in estimates) else "undecided"


def some(estimates: list[Estimate], expect: dict, confidence: float) -> str:
    """Verdict on "any": holds when one does under Holm's correction, fails when each does."""
    if all(decide(e.interval(confidence), expect) == "fails" for e in estimates):
        return "fails"
    strict = 1 - (1 - confidence) / len(estimates)
    return "holds" if any(decide(e.interval(strict), expect) == "holds" for e in estimates) else "undecided"


def would_decide(e: Estimate, expect: dict, confidence: float) -> str:
    """What would move an undecided interval off the threshold: samples, problems or seeds.

    More samples shrink only what sampling adds to the interval; the choice of problems and the seed of the
    training stay.
    """
    from scipy import stats

    ends = [expect[side] for side in ("below", "above") if side in expect]
    ends = ends or [expect["about"] - expect["within"], expect["about"] + expect["within"]]
    distance = min(abs(e.value - end) for end in ends)
    if not distance or not math.isfinite(distance):
        return "nothing: the estimate lies on the threshold or cannot be computed"
    down, up, seeds = e.parts(confidence)
    problems = max(down, up)
    samples = stats.norm.ppf((1 + confidence) / 2) * e.samples_error
    rest = max(0.0, problems**2 - samples**2) + seeds**2
    if samples and rest < distance**2:
        return f"{samples**2 / (distance**2 - rest):.1f} times the samples"
    none = "no number of samples can; " if samples else ""
    if seeds < distance:
        return none + f"{problems**2 / (distance**2 - seeds**2):.1f} times the problems"
    if problems < distance:
        spread = e.by_seed.std(ddof=1)
        for count in range(len(e.by_seed) + 1, 1000):
            if (
                math.hypot(stats.t.ppf((1 + confidence) / 2, count - 1) * spread / count**0.5, problems)
                < distance
            ):
                return none + f"some {count} training seeds"
    return none + "only more problems and more training seeds together"


def sign_test(e: Estimate, expect: dict) -> str:
    """How many seeds lie on the expected side, and what a sign test makes of so few."""
    count = len(e.by_seed)
    side = "below" if "below" in expect else "above" if "above" in expect else None
    if count < 2 or side is None:
        return ""
    sign = -1 if side == "below" else 1
    agree = int((sign * (e.by_seed - expect[side]) > 0).sum())
    text = f"{agree} of {count} seeds"
    return text + (f"; a sign test of {count} seeds cannot decide" if 0.5**count > 0.025 else "")


def asked_of(study: Study, part: dict) -> list[str]:
    """The models of the study that a part speaks of."""
    models = part["models"] if isinstance(part["models"], list) else study.models
    return [m for m in study.models if m in models and m not in part.get("except", [])]


def on_calculations(part: dict, tasks: Tasks) -> Tasks:
    """The tasks a part looks at: those whose calculations are counted in place of all others where it says so."""
    return Tasks(*[tasks.calculations] * 3) if part.get("tasks") == "calculations" else tasks


def decided(
    study: Study, part: dict, tasks: Tasks, confidence: float, grader: str
) -> tuple[str, list[dict], list[str]]:
    """(verdict, rows a model and pair of runs, missing cells) of a part that compares runs."""
    rows, gaps, estimates = [], [], []
    for model in asked_of(study, part):
        found, missing = compared(study, model, part, on_calculations(part, tasks), grader)
        gaps += missing
        for left, right, estimate in found:
            low, high = estimate.interval(confidence)
            verdict, several = decide((low, high), part["expect"]), len(estimate.by_seed) > 1
            open_ = verdict == "undecided"
            estimates.append(estimate)
            rows.append(
                {
                    "model": model,
                    "run": left,
                    "against": right,
                    "value": estimate.value,
                    "low": low,
                    "high": high,
                    "verdict": verdict,
                    "seeds": len(estimate.by_seed),
                    "interval_over": "problems and training seeds" if several else "problems, one training",
                    "signs": sign_test(estimate, part["expect"]),
                    "would_decide": would_decide(estimate, part["expect"], confidence) if open_ else "",
                }
            )
    if not estimates:
        return "undecided" if gaps else "not applicable", rows, gaps
    combine, settled = (some, "holds") if part["models"] == "any" else (every, "fails")
    verdict = combine(estimates, part["expect"], confidence)
    return (
        "undecided" if gaps and verdict != settled else verdict,
        rows,
        gaps,
    )  # more cells cannot unsettle it


def order(points: pandas.DataFrame, parameters: dict[str, float], confidence: float) -> tuple[str, str]:
    """(verdict, why): do larger models recover at smaller sizes? Kendall's tau by permutation."""
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
    """(verdict, why) of p^k: refuted where the test rejects it (Holm), never proved by not being rejected."""
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
    study: Study, part: dict, tasks: Tasks, fits, points, parameters, reflective: bool, confidence: float
) -> tuple[dict, list[dict]]:
    """The row of a part in claims.csv, and its rows a model.

    `fits` and `points` are the tables accumulation and recovery; `parameters` the models' sizes in billions;
    `reflective`: the traces hold some of the paper's keywords.
    """

    def not_applicable(why: str):
        return {"verdict": "not applicable", "why": why}, []

    if part.get("needs") == "reflection" and not reflective:
        return not_applicable("the traces hold none of the paper's reflection keywords")
    if not asked_of(study, part):
        return not_applicable("no model of this study is meant")
    if part.get("tasks") == "calculations" and not tasks.calculations:
        return not_applicable("no task of this study counts calculations")
    if part["measure"] == "order":
        return dict(zip(("verdict", "why"), order(points, parameters, confidence), strict=True)), []
    if part["measure"] == "fit":
        return dict(zip(("verdict", "why"), adds_up(study, fits, part, confidence), strict=True)), []
    grader = part.get("grader", "headline")
    verdict, rows, gaps = decided(study, part, tasks, confidence, grader)
    why = "" if rows else "the grid has no such cells"
    why = f"{len(gaps)} cells are missing, {gaps[0]} first" if gaps else why
    if part["measure"] in ("accuracy", "efficiency") and grader == "headline" and rows:
        by_grader = {name: decided(study, part, tasks, confidence, name)[0] for name in GRADERS}
        if len(set(by_grader.values())) > 1:
            why = ", ".join(f"{name}: {said}" for name, said in by_grader.items())
            return {"verdict": "grader-dependent", "why": why}, rows
    return {"verdict": verdict, "why": why}, rows


def overall(verdicts: list[str]) -> str:
    """The verdict of a claim from those of its parts; parts that are not applicable say nothing."""
    said = [verdict for verdict in verdicts if verdict != "not applicable"]
    if not said:
        return "not applicable"
    if all(verdict == "holds" for verdict in said):
        return "holds"
    return next((verdict for verdict in ("fails", "grader-dependent") if verdict in said), "undecided")


def decide_all(claims: dict, *known) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Tables `claims` (a row a claim and part) and `claims_models` (a row a part and model); `known` as for part_row."""
    parts, models = [], []
    for name, claim in claims.items():
        made = []
        for key, part in claim["parts"].items():
            row, rows = part_row(known[0], part, *known[1:])
            said = {
                "claim": name,
                "part": key,
                "text": part["text"],
                "grader": part.get("grader", "headline"),
            }
            made.append(said | row)
            models += [{"claim": name, "part": key} | row for row in rows]
        verdict = overall([row["verdict"] for row in made])
        parts += [{"claim": name, "part": "", "text": claim["claim"], "verdict": verdict, "why": ""}, *made]
    return pandas.DataFrame(parts), pandas.DataFrame(models, columns=MODEL_COLUMNS)
