"""What the paper claims, held against a study: the verdict on every part of claims.yaml.

A part speaks of several models at once; its rule, written beside it before any data, says how many must
agree. Verdicts count the noise of training; what the trainings of this study show by themselves stands beside
them. How intervals and rules work: intervals.py; what could make a verdict mean something else: sanity.py.
"""

import math
from typing import NamedTuple

import numpy
import pandas

from valley.analysis import estimates, intervals, sanity
from valley.analysis.cells import Study
from valley.analysis.estimates import Row
from valley.analysis.measures import Tasks
from valley.grading import GRADERS

PART_COLUMNS = ["claim", "part", "text", "verdict", "why", "but", "rule", "counts", "grader", "these_trainings", "every",
                "average"]  # fmt: skip
MODEL_COLUMNS = ["claim", "part", "model", "run", "against", "value", "low", "high", "verdict", "problems_low",
                 "problems_high", "trainings"]  # fmt: skip
MORE = (2, 3, 5, 10, 20, 50)  # times the seeds, or the problems, that are tried for what would decide


class Known(NamedTuple):
    """What a study knows beside its cells."""

    tasks: Tasks
    fits: pandas.DataFrame  # accumulation
    points: pandas.DataFrame  # recovery
    parameters: dict[str, float]  # billions, by model
    reflective: bool = True  # the traces hold the paper's keywords
    judged: bool = True  # a judge labelled the responses
    leaking: tuple[str, ...] = ()  # tasks whose problems were not taken out of the traces
    leaks: frozenset = frozenset()  # (task, id) of problems that occur in the traces
    confidence: float = 0.95

    def of(self, part: dict) -> Tasks:
        """The tasks a part looks at: those whose calculations are counted in place of all others where it
        says so.
        """
        return Tasks(*[self.tasks.calculations] * 3) if part.get("tasks") == "calculations" else self.tasks


def asked_of(study: Study, part: dict) -> list[str]:
    """The models of the study that a part speaks of."""
    models = study.models if part["models"] == "all" else part["models"]
    return [m for m in study.models if m in models and m not in part.get("except", [])]


def rows_of(study: Study, part: dict, known: Known, grader: str) -> tuple[list[Row], list[str], str]:
    """(comparisons a model and pair of sides, missing cells, why there is none) of a part that compares
    runs.
    """
    found, gaps, whys = [], [], []
    for model in asked_of(study, part):
        rows, missing, why = estimates.compared(study, model, part, known.of(part), grader)
        found += rows
        gaps += missing
        whys += [why] if why else []
    return found, gaps, "" if found else whys[0]


def decide(
    part: dict, rows: list[Row], confidence: float, rule: str | None = None, training: bool = True
) -> str:
    """The verdict on a part's rows by its rule, or by another."""
    estimates_ = [row.estimate for row in rows]
    p_values = intervals.by_rule(rule or part["rule"], estimates_, part["expect"], training)
    return intervals.verdict(*p_values, confidence)


def order(study: Study, known: Known, part: dict) -> tuple[str, str]:
    """(verdict, why): of the models that a part speaks of, do larger ones recover at smaller sizes (`below`
    0), or at larger ones (`above`)? Kendall's tau of parameters and recovery, by permutation.

    Recovery is known to lie between two sizes, before the first, or beyond the last: models in one of these
    intervals tie, and those that are not back within the grid come after all others (Gehan 1965).
    """
    from scipy import stats

    meant = set(asked_of(study, part)) & set(known.parameters)
    points = known.points[known.points.model.isin(meant)]
    if len(points) < 2:
        return "undecided", "fewer than two models with all their sizes"
    size, ranks = points.model.map(known.parameters).to_numpy(float), stats.rankdata(points.by)
    later = numpy.sign(ranks[:, None] - ranks)
    if not later.any():
        why = f"all {len(points)} models are back between the same two sizes: sizes between these would tell them apart"
        if numpy.isinf(points.by.to_numpy(float)).all():
            why = f"none of {len(points)} models is back within the grid: larger sizes would tell them apart"
        return "undecided", why
    pairs = max(1.0, float(numpy.abs(later).sum()))

    def tau(ours: numpy.ndarray, axis: int = -1) -> numpy.ndarray:
        return (numpy.sign(ours[..., :, None] - ours[..., None, :]) * later).sum(axis=(-2, -1)) / pairs

    result = stats.permutation_test(
        (size,),
        tau,
        permutation_type="pairings",
        n_resamples=9999,
        vectorized=True,
        rng=numpy.random.default_rng(0),
    )
    beyond = int(numpy.isinf(points.by.to_numpy(float)).sum())
    why = f"tau {result.statistic:+.2f}, p {result.pvalue:.2f}, {len(points)} models, {beyond} of them not back within the grid"
    if result.pvalue <= 1 - known.confidence:
        sign = 1 if "above" in part["expect"] else -1
        return "holds" if sign * result.statistic > 0 else "fails", why
    few = 2 / math.factorial(len(points)) > 1 - known.confidence
    return "undecided", why + (
        ": no order of so few models can decide; more models" if few else ": more models"
    )


def adds_up(study: Study, known: Known, part: dict) -> tuple[str, str]:
    """(verdict, why) of p^k: is the largest deviation of any number of calculations surely within what is
    allowed?
    """
    table = known.fits.set_index(["model", "run"])
    verdicts, said = [], []
    for model in asked_of(study, part):
        for weights in study.resolve(model, part["of"])[0]:
            pair = (model, next(iter(weights)))
            if pair not in table.index or pandas.isna(table.loc[pair].deviation_high):
                verdicts.append("undecided")
                said.append(f"{' '.join(pair)}: no fit yet")
                continue
            low, high = table.loc[pair, ["deviation_low", "deviation_high"]]
            limit = part["expect"]["below"]
            verdicts.append("holds" if high < limit else "fails" if low > limit else "undecided")
            said.append(f"{' '.join(pair)}: off by {low:.2f} to {high:.2f}")
    if not verdicts:
        return "not applicable", "the grid has no such cells"
    count = intervals.rule_count(part["rule"], len(verdicts))
    wrong = len(verdicts) - count + 1
    return (
        "holds"
        if verdicts.count("holds") >= count
        else "fails"
        if verdicts.count("fails") >= wrong
        else "undecided"
    ), "; ".join(said)


def not_applicable(study: Study, part: dict, known: Known) -> str:
    """Why a part says nothing of this study; empty where it does."""
    needs = part.get("needs", [])
    if "reflection" in needs and not known.reflective:
        return "the traces hold none of the paper's reflection keywords"
    if "judge" in needs and not known.judged:
        return "the paper's number is of keywords and a judge; this study has no judge"
    if not asked_of(study, part):
        return "no model of this study is meant"
    if part["measure"] == "order" and len(asked_of(study, part)) == 1:
        return "one model has no order of sizes"
    if (part.get("tasks") == "calculations" or part["measure"] == "fit") and not known.tasks.calculations:
        return "no task of this study counts calculations"
    return ""


def judge(study: Study, part: dict, known: Known) -> tuple[dict, list[Row]]:
    """The row of a part in claims.csv (verdict, why, but, beside), and its rows a model."""
    confidence, grader = known.confidence, part.get("grader", "headline")
    if why := not_applicable(study, part, known):
        return {"verdict": "not applicable", "why": why}, []
    if part["measure"] in ("order", "fit"):
        found = order(study, known, part) if part["measure"] == "order" else adds_up(study, known, part)
        return dict(zip(("verdict", "why"), found, strict=True)), []
    rows, gaps, why = rows_of(study, part, known, grader)
    if not rows:
        return {"verdict": "not applicable", "why": why}, []
    verdict, there = decide(part, rows, confidence), [row for row in rows if row.estimate]
    defined = [row for row in there if not math.isnan(row.estimate.value)]
    said = [sentence(part, defined, len(rows), confidence)] if defined else []
    if gaps:
        said.append(f"{len(gaps)} cells are missing, {gaps[0]} first")
    if uneven := sorted({task for row in there for task, k in row.samples.items() if len(k) > 1}):
        said.append(f"cells have different numbers of samples on {', '.join(uneven)}")
    if part["measure"] in ("accuracy", "efficiency") and grader == "headline" and there:
        others = {name: decide(part, rows_of(study, part, known, name)[0], confidence) for name in GRADERS}
        if set(others.values()) >= {"holds", "fails"}:
            said.append(", ".join(f"{name}: {other}" for name, other in others.items()))
            return {"verdict": "grader-dependent", "why": "; ".join(said)}, rows
    but = sanity.doubts(study, part, rows, known, verdict)
    if verdict == "undecided" and (there or not gaps):
        said.append(would_decide(part, rows, bool(gaps), confidence))
    return {
        "verdict": verdict + (", but" if but and verdict != "undecided" else ""),
        "why": "; ".join(said),
        "but": "; ".join(but),
        "these_trainings": decide(part, rows, confidence, training=False),
        "every": decide(part, rows, confidence, "every"),
        "average": decide(part, rows, confidence, "on average"),
    }, rows


def sentence(part: dict, rows: list[Row], total: int, confidence: float) -> str:
    """What the rule says in numbers, and of which trainings that is said."""
    estimates = [row.estimate for row in rows]
    if part["rule"] == "on average" or total == 1:
        whole = intervals.average(estimates)
        low, high = whole.ends(confidence)
        said = f"{whole.value:.3g} [{low:.3g}, {high:.3g}]"
    elif part["rule"].startswith("the "):
        value, low, high = intervals.extreme_ends(part["rule"], estimates, confidence)
        said = f"{part['rule']} is {value:.3g} [{low:.3g}, {high:.3g}]"
    else:
        so, other = (
            intervals.surely(list(values), (1 - confidence) / 2)
            for values in zip(*(estimate.tests(part["expect"]) for estimate in estimates), strict=True)
        )
        some = "all" if so == total else f"at least {so} of" if so else "none of"
        said = f"surely so in {some} {total}"
        if other:
            said += f", surely not in {'any of them' if other == total else f'at least {other}'}"
    if any(row.trainings == 1 for row in rows):
        said += "; of one training each, whose noise is taken from all cells and a prior"
    return said


def would_decide(part: dict, rows: list[Row], gaps: bool, confidence: float) -> str:
    """How many times the seeds, the problems, or both would decide, were the estimates the truth; or why
    there is no estimate. `gaps`: cells of the part are missing.
    """
    estimates = [row.estimate for row in rows]
    if None in estimates:
        return "the missing cells first" if gaps else "runs of it have no training seed in common that counts"
    for what, problems, seeds in (("seeds", 0, 1), ("problems", 1, 0), ("seeds and problems", 1, 1)):
        for times in MORE:
            scaled = [
                e._replace(
                    problems=tuple((v / times**problems, df * times**problems) for v, df in e.problems),
                    training=(e.training[0] / times**seeds, e.training[1]),
                )
                for e in estimates
            ]
            if (
                intervals.verdict(*intervals.by_rule(part["rule"], scaled, part["expect"]), confidence)
                != "undecided"
            ):
                return f"were these estimates the truth, {times} times the {what} would decide"
    if undefined := [row for row in rows if math.isnan(row.estimate.value)]:
        what, one = "ratio" if "over" in part else "measure", undefined[0]
        first = f"{one.model} {' against '.join(filter(None, one.names))}"
        return f"the {what} is not defined in {len(undefined)} of {len(rows)} comparisons, {first} first"
    if any(math.isnan(one.error()[0]) for one in estimates):
        return "a single problem of a task tells no interval: more problems"
    return "the estimates lie too near the threshold for any number of seeds and problems"


def table_rows(part: dict, rows: list[Row], confidence: float) -> list[dict]:
    """The rows of a part in claims_models.csv."""
    found = []
    for row in rows:
        if not row.estimate:
            continue
        low, high = row.estimate.ends(confidence)
        inner = row.estimate.ends(confidence, training=False)
        run, against = row.names
        found.append(
            {
                "model": row.model,
                "run": run,
                "against": against,
                "value": row.estimate.value,
                "low": low,
                "high": high,
                "verdict": intervals.verdict(*row.estimate.tests(part["expect"]), confidence),
                "problems_low": inner[0],
                "problems_high": inner[1],
                "trainings": row.trainings,
            }
        )
    return found


def judged(study: Study, claims: dict, known: Known) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Tables `claims` (a row a claim and part, the claim first) and `claims_models` (a row a part and
    model).
    """
    parts, models = [], []
    for name, claim in claims.items():
        made = {}
        for key, part in claim["parts"].items():
            row, rows = judge(study, part, known)
            said = {
                name: part.get(name, default) for name, default in (("counts", True), ("grader", "headline"))
            }
            made[key] = {
                "claim": name,
                "part": key,
                "text": part["text"],
                "rule": part["rule"],
                **said,
                **row,
            }
            models += [{"claim": name, "part": key} | row for row in table_rows(part, rows, known.confidence)]
        against = [
            f"{key} fails"
            for key, row in made.items()
            if "control" in key and row["verdict"].startswith("fails")
        ]
        verdict = overall([row["verdict"] for row in made.values() if row["counts"]])
        verdict += ", but" if against and verdict == "holds" else ""
        whole = {"claim": name, "part": "", "text": claim["claim"], "verdict": verdict, "why": ""}
        parts += [whole | {"but": "; ".join(against)}, *made.values()]
    return pandas.DataFrame(parts, columns=PART_COLUMNS), pandas.DataFrame(models, columns=MODEL_COLUMNS)


def overall(verdicts: list[str]) -> str:
    """The verdict of a claim from those of its parts; parts that are not applicable say nothing."""
    said = [verdict for verdict in verdicts if verdict != "not applicable"]
    if not said:
        return "not applicable"
    if all(verdict.startswith("holds") for verdict in said):
        return max(said, key=len)
    order = ("fails", "fails, but", "grader-dependent")
    return next((verdict for verdict in order if verdict in said), "undecided")
