"""What the paper claims, held against a study: the language of claims.yaml, and the verdict on every part of it.

A part speaks of several models at once; its rule, written down beside it before any data, says how many must agree.
Verdicts count the noise of training; what the trainings of this study show by themselves stands beside them.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy
import pandas

from valley import grid, paired, sanity
from valley.quantities import GRADERS, Study

MORE = (2, 3, 5, 10, 20, 50)  # times the seeds, or the problems, that are tried for what would decide


class Row(NamedTuple):
    """A comparison of one model: the weights by run on both sides, its estimate (None where cells are missing)."""

    model: str
    left: dict[str, float]
    right: dict[str, float] | None
    estimate: paired.Interval | None
    trainings: int

    @property
    def names(self) -> tuple[str, str]:
        """Both sides in words."""
        return tuple("" if side is None else named(side) for side in (self.left, self.right))


class Known(NamedTuple):
    """What a study knows beside its cells."""

    fits: pandas.DataFrame  # accumulation
    points: pandas.DataFrame  # recovery
    parameters: dict[str, float]  # of each model
    reflective: bool = True  # the traces hold the paper's keywords
    judged: bool = True  # a judge labelled the responses
    leaking: tuple[str, ...] = ()  # tasks whose problems were not taken out of the traces
    leaks: frozenset = frozenset()  # (task, place of the problem) that occur in the traces
    other_gold: tuple[str, ...] = ()  # tasks under whose ids other right answers stand in some cells


def named(weights: dict[str, float]) -> str:
    """A side's name: its run, or the first and last of those it is the mean of; the end of an RL run by its run."""
    runs = list(weights)
    if len({grid.parse_run(run).whole for run in runs}) == 1:
        return runs[-1]
    return f"mean of {runs[0]} … {runs[-1]}"


def read(path: Path, schema: Path) -> dict:
    """The claims; ConfigError with every place where they are not in the language of the schema."""
    import yaml

    claims = yaml.safe_load(path.read_text(encoding="utf-8"))
    if problems := [*lint(claims, schema)]:
        raise grid.ConfigError(f"{path}: not in the language of claims:\n" + "\n".join(f"  - {p}" for p in problems))
    return claims


def lint(claims: dict, schema: Path):
    """Sentences on what is wrong with claims: keys, types and selectors by the schema, and what a schema cannot say."""
    import jsonschema
    import yaml

    rules = yaml.safe_load(schema.read_text(encoding="utf-8"))
    for error in jsonschema.Draft202012Validator(rules).iter_errors(claims):
        error = jsonschema.exceptions.best_match([error])
        hint = ". YAML reads on, off, yes and no as true and false: quote them" if isinstance(error.instance, bool) else ""
        yield f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}{hint}"
        return
    for name, claim in claims.items():
        for key, part in claim["parts"].items():
            here, words = f"{name}.{key}", part["rule"].split()
            if words[:2] == ["at", "least"] and int(words[2]) > int(words[4]):
                yield f"{here}.rule: {part['rule']!r} asks for more than there are"
            if part.get("of") == part.get("minus", part.get("over", math.nan)):
                yield f"{here}: compares {part['of']!r} with itself"
            if part["models"] != "all" and (both := set(part["models"]) & set(part.get("except", []))):
                yield f"{here}.except: {', '.join(sorted(both))} is among its models"


def asked_of(study: Study, part: dict) -> list[str]:
    """The models of the study that a part speaks of."""
    models = study.models if part["models"] == "all" else part["models"]
    return [m for m in study.models if m in models and m not in part.get("except", [])]


def rows_of(study: Study, part: dict, grader: str) -> tuple[list[Row], list[str], str]:
    """(comparisons a model and pair of sides, missing cells, why there is none) of a part that compares runs."""
    other = part.get("minus", part.get("over"))
    rl = "+rl" in part["of"] or "+rl" in (other or "")
    found, gaps, why = [], [], ""
    for model in asked_of(study, part):
        left, reason = study.resolve(model, part["of"], rl)
        right, reason_right = study.resolve(model, other, rl) if other else ([None], "")
        why = why or reason or reason_right
        if "@" in part["of"] and other:
            step = lambda weights: grid.parse_run(next(iter(weights))).step  # noqa: E731
            pairs = [(a, b) for a in left for b in right if step(a) == step(b)]
        else:
            pairs = [(a, right[0]) for a in left if right]
        for a, b in pairs:
            if b is not None and set(a) & set(b):
                why = "both sides are the same cells"
                continue
            estimate, missing, trainings = study.estimate(model, a, b, part, grader)
            gaps += missing
            found.append(Row(model, a, b, estimate, trainings))
    return found, gaps, why or "the grid has no such cells"


def decide(part: dict, rows: list[Row], confidence: float, rule: str | None = None, training: bool = True) -> str:
    """The verdict on a part's rows by its rule, or by another."""
    return paired.verdict(*paired.by_rule(rule or part["rule"], [row.estimate for row in rows], part["expect"], training), confidence)


def order(known: Known, confidence: float) -> tuple[str, str]:
    """(verdict, why): do larger models recover at smaller sizes? Kendall's tau of parameters and recovery sizes, by permutation.

    A model that is back before the first size, or not by the last, is censored there: it ties with others like it and
    comes before, or after, all that recover within the grid (Gehan's ranks).
    """
    from scipy import stats

    points = known.points[known.points.model.isin(known.parameters)]
    size = points.model.map(known.parameters).to_numpy(float)
    if len(points) < 2:
        return "undecided", "fewer than two models with all their sizes"
    at = points["at"].to_numpy(float)
    later = numpy.sign(stats.rankdata(at)[:, None] - stats.rankdata(at))

    def tau(ours, axis=-1):
        larger = numpy.sign(ours[..., :, None] - ours[..., None, :])
        return (larger * later).sum(axis=(-2, -1)) / max(1.0, numpy.sqrt((larger[..., :, :] ** 2).sum(axis=(-2, -1)).max() * (later**2).sum()))

    result = stats.permutation_test(
        (size,), tau, permutation_type="pairings", n_resamples=9999, vectorized=True, rng=numpy.random.default_rng(0)
    )
    censored = int((points["at"] == math.inf).sum())
    why = f"tau {result.statistic:+.2f}, p {result.pvalue:.2f}, {len(points)} models, {censored} of them not back within the grid"
    if result.pvalue > 1 - confidence:
        few = 2 / math.factorial(len(points)) > 1 - confidence
        return "undecided", why + (": no order of so few models can decide; more models" if few else ": more models")
    return "holds" if result.statistic < 0 else "fails", why


def adds_up(study: Study, known: Known, part: dict, confidence: float) -> tuple[str, str]:
    """(verdict, why) of p^k: is the largest deviation of any number of calculations surely within what is allowed?"""
    table = known.fits.set_index(["model", "run"])
    verdicts, said = [], []
    for model in asked_of(study, part):
        for weights in study.resolve(model, part["of"], False)[0]:
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
    count = paired.rule_count(part["rule"], len(verdicts))
    wrong = len(verdicts) - count + 1
    return ("holds" if verdicts.count("holds") >= count else "fails" if verdicts.count("fails") >= wrong else "undecided"), "; ".join(said)


def not_applicable(study: Study, part: dict, known: Known) -> str:
    """Why a part says nothing of this study; empty where it does."""
    needs = part.get("needs", [])
    if "reflection" in needs and not known.reflective:
        return "the traces hold none of the paper's reflection keywords"
    if "judge" in needs and not known.judged:
        return "the paper's number is of keywords and a judge; this study has no judge"
    if not asked_of(study, part):
        return "no model of this study is meant"
    if (part.get("tasks") == "calculations" or part["measure"] == "fit") and not study.tasks.calculations:
        return "no task of this study counts calculations"
    return ""


def judge(study: Study, part: dict, known: Known, confidence: float) -> tuple[dict, list[Row]]:
    """The row of a part in claims.csv (verdict, why, but, beside), and its rows a model."""
    if why := not_applicable(study, part, known):
        return {"verdict": "not applicable", "why": why}, []
    if part["measure"] in ("order", "fit"):
        found = order(known, confidence) if part["measure"] == "order" else adds_up(study, known, part, confidence)
        return dict(zip(("verdict", "why"), found, strict=True)), []
    grader = part.get("grader", "headline")
    rows, gaps, why = rows_of(study, part, grader)
    if not rows:
        return {"verdict": "not applicable", "why": why}, []
    verdict, there = decide(part, rows, confidence), [row for row in rows if row.estimate]
    said = [sentence(part, there, len(rows), confidence)] if there else []
    if gaps:
        said.append(f"{len(gaps)} cells are missing, {gaps[0]} first")
    if part["measure"] in ("accuracy", "efficiency") and grader == "headline" and there:
        others = {name: decide(part, rows_of(study, part, name)[0], confidence) for name in GRADERS if name != grader}
        if {verdict, *others.values()} >= {"holds", "fails"}:
            said.append(", ".join(f"{g}: {v}" for g, v in {grader: verdict, **others}.items()))
            return {"verdict": "grader-dependent", "why": "; ".join(said)}, rows
    but = sanity.doubts(study, part, rows, known, confidence, verdict) if verdict in ("holds", "fails") else []
    if verdict == "undecided" and there:
        said.append(would_decide(part, [row.estimate for row in rows], confidence))
    beside = {f"{name}": decide(part, rows, confidence, rule) for name, rule in (("every", "every"), ("average", "on average"))}
    return {
        "verdict": verdict + (", but" if but else ""),
        "why": "; ".join(said),
        "but": "; ".join(but),
        "rule": part["rule"],
        "these_trainings": decide(part, rows, confidence, training=False),
        **beside,
    }, rows


def sentence(part: dict, rows: list[Row], total: int, confidence: float) -> str:
    """What the rule says in numbers, and of which trainings that is said."""
    estimates = [row.estimate for row in rows]
    if part["rule"] == "on average" or total == 1:
        whole = paired.average(estimates)
        low, high = whole.ends(confidence)
        said = f"{whole.value:.3g} [{low:.3g}, {high:.3g}]"
    elif part["rule"].startswith("the "):
        value, low, high = paired.extreme_ends(part["rule"], estimates, confidence)
        said = f"{part['rule']} is {value:.3g} [{low:.3g}, {high:.3g}]"
    else:
        sure = paired.surely([estimate.tests(part["expect"])[0] for estimate in estimates], (1 - confidence) / 2)
        said = f"at least {sure} of {total} surely are"
    if any(row.trainings == 1 for row in rows):
        said += "; of one training each: what another would give is not seen here, but taken from all cells and a prior"
    return said


def would_decide(part: dict, estimates: list, confidence: float) -> str:
    """How many times the seeds, the problems, or both would decide, were the estimates the truth."""
    if None in estimates:
        return "the missing cells first"
    for what, problems, seeds in (("seeds", 0, 1), ("problems", 1, 0), ("seeds and problems", 1, 1)):
        for times in MORE:
            scaled = [
                e._replace(
                    problems=tuple((v / times**problems, df * times**problems) for v, df in e.problems),
                    training=(e.training[0] / times**seeds, e.training[1]),
                )
                for e in estimates
            ]
            if paired.verdict(*paired.by_rule(part["rule"], scaled, part["expect"]), confidence) != "undecided":
                return f"were these estimates the truth, {times} times the {what} would decide"
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
                "verdict": paired.verdict(*row.estimate.tests(part["expect"]), confidence),
                "problems_low": inner[0],
                "problems_high": inner[1],
                "trainings": row.trainings,
            }
        )
    return found


def held(study: Study, claims: dict, known: Known, confidence: float) -> tuple[list[dict], list[dict]]:
    """(rows of claims.csv, rows of claims_models.csv): every claim first, then its parts."""
    parts, models = [], []
    for name, claim in claims.items():
        made = {}
        for key, part in claim["parts"].items():
            row, rows = judge(study, part, known, confidence)
            made[key] = {"claim": name, "part": key, "text": part["text"], "counts": part.get("counts", True), **row}
            models += [{"claim": name, "part": key} | row for row in table_rows(part, rows, confidence)]
        against = [key for key, row in made.items() if key.startswith("control") and row["verdict"].startswith("fails")]
        counted = [row["verdict"] for row in made.values() if row["counts"]]
        verdict = overall(counted)
        but = "; ".join(f"{key} fails" for key in against)
        if against and verdict == "holds":
            verdict += ", but"
        parts += [{"claim": name, "part": "", "text": claim["claim"], "verdict": verdict, "why": "", "but": but}, *made.values()]
    return parts, models


def overall(verdicts: list[str]) -> str:
    """The verdict of a claim from those of its parts; parts that are not applicable say nothing."""
    said = [verdict for verdict in verdicts if verdict != "not applicable"]
    if not said:
        return "not applicable"
    if all(verdict.startswith("holds") for verdict in said):
        return max(said, key=len)
    order = ("fails", "fails, but", "grader-dependent")
    return next((verdict for verdict in order if verdict in said), "undecided")
