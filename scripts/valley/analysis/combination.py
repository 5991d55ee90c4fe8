"""Several labs' studies together: the same cells side by side, and each effect combined over them with their
spread.

An effect is the headline accuracy of an SFT run minus that of its base. Studies that answered the same
problems differ by their samples and trainings alone; where they did not, the problems add to it. The paper
counts as one study of one training, with samples that vary as the others' do. Effects are combined by a
random-effects model: the variance between studies by Paule and Mandel, the interval by Hartung, Knapp, Sidik
and Jonkman, never narrower than the plain one (Röver, Knapp and Friede 2015), with Student's t of as many
degrees of freedom as studies less one.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy
import pandas

from valley import grid, records
from valley.analysis import comparison, intervals
from valley.analysis.cells import pooled
from valley.analysis.comparison import PAPER, Side
from valley.analysis.paper import is_near

LOCAL = "pretrain"  # the source of models that a study makes itself
CELLS = ["model", "run", "examples", "study", "seeds", "accuracy", "length"]
EFFECTS = ["model", "run", "examples", "study", "trainings", "change", "low", "high"]
COMBINED = ["model", "run", "examples", "studies", "change", "low", "high", "these", "these_low", "these_high", "between",
            "share_between", "p_same", "next_low", "next_high", "over"]  # fmt: skip


class Effect(NamedTuple):
    """A run minus its base in one study, with its variances: of samples, of trainings, of samples and
    problems.
    """

    value: float
    samples: float
    trainings: tuple[float, float]  # and its degrees of freedom
    problems: float
    counted: int  # trainings of the run

    def variance(self, same: bool) -> float:
        """What it is off by, where all studies answered the same problems or did not."""
        return (self.samples if same else self.problems) + self.trainings[0]


def identities(side: Side) -> dict[str, tuple]:
    """What each model that a study has cells of is known by: its id on a hub or, where it has none, its name;
    both where the study has several models of one id.
    """
    ids = {model: (side.hub[model] or "").lower() for model, _ in side.cells}
    every = list(ids.values())
    return {model: (of, None if of and every.count(of) == 1 else model) for model, of in ids.items()}


def aligned(sides: list[Side]) -> list[Side]:
    """The studies with one name a model: the first study's of those that are one; sizes held to be the
    same.
    """
    known: dict[tuple, str] = {}
    found = []
    for side in sides:
        names = {}
        for model, what in identities(side).items():
            if what not in known:  # a name that another model has already is told apart by its study
                known[what] = model if model not in known.values() else f"{model} of {side.name}"
            names[model] = known[what]
        cells = {(names[model], run): seeds for (model, run), seeds in side.cells.items()}
        sources = {name: side.sources[model] for model, name in names.items()}
        hub = {name: side.hub[model] for model, name in names.items()}
        found.append(side._replace(cells=cells, sources=sources, hub=hub))
    sizes: dict[str, tuple[int, Path]] = {}
    for side in found:
        for size in {grid.parse_run(run).size for _, run in side.cells} - {None}:
            examples, first = sizes.setdefault(size, (side.examples[size], side.folder))
            if not is_near(side.examples[size], examples):
                records.fail(
                    f"{first}, {side.folder}",
                    f"their size {size} is {examples:,} and {side.examples[size]:,} examples",
                    "Only studies that mean the same by the name of a size can be combined",
                )
    return found


def of_sft(side: Side) -> list[tuple[str, str]]:
    """(model, run) of the cells that can be set side by side: bases and SFT, with every headline task."""
    return [
        (model, run)
        for (model, run), seeds in side.cells.items()
        if not grid.parse_run(run).rl and all(set(side.headline) <= set(made.ids) for made in seeds.values())
    ]


def size_of_run(side: Side, run: str) -> int:
    """Training examples of a run, 0 of a base."""
    size = grid.parse_run(run).size
    return side.examples[size] if size else 0


def cell_table(sides: list[Side], reference: pandas.DataFrame) -> pandas.DataFrame:
    """Accuracy and length of every cell in every study that has it, the paper's too: columns CELLS."""
    rows = []
    for side in sides:
        for model, run in of_sft(side):
            seeds = side.cells[model, run]
            cell = pooled(list(seeds.values()))
            accuracy = intervals.mean(comparison.rates(cell, side.headline, side.grader)).value
            length = intervals.mean(comparison.lengths(cell, side.length)).value
            rows.append((model, run, size_of_run(side, run), side.name, len(seeds), accuracy, length))
    for (model, run), (side, row) in papers(sides, reference).items():
        accuracy, length = row["accuracy_pct"] / 100, row["response_tokens"]
        rows.append((model, run, size_of_run(side, run), PAPER, 1, accuracy, length))
    return pandas.DataFrame(rows, columns=CELLS)


def papers(sides: list[Side], reference: pandas.DataFrame) -> dict[tuple[str, str], tuple[Side, dict]]:
    """The paper's value of each cell that a study has, with the first such study; none where its tasks are
    others.
    """
    found: dict = {}
    for side in sides:
        if comparison.has_papers_headline(side):
            for name, row in comparison.paper_cells(side, reference)[0].items():
                found.setdefault(name, (side, row))
    return found


def effect(side: Side, model: str, run: str, noise: tuple[float, float]) -> Effect:
    """What a study found of a run against its base; a base that is trained here is taken to be trained
    apart.
    """
    trained, bases = side.cells[model, run], side.cells[model, "base"]
    here, base = pooled(list(trained.values())), pooled(list(bases.values()))
    rates = [comparison.rates(cell, side.headline, side.grader) for cell in (here, base)]
    change = intervals.mean([b - a for b, a in zip(*rates, strict=True)])
    samples = sum(comparison.of_samples(cell, 1, side)[0] for cell in (here, base))
    count = 1 / len(trained) + (1 / len(bases) if side.sources[model] == LOCAL else 0.0)
    moved = (noise[0] * count, noise[1])
    return Effect(change.value, samples, moved, max(samples, change.error()[0] ** 2), len(trained))


def papers_effect(value: float, others: dict[str, tuple[Effect, Side]], model: str, run: str) -> Effect:
    """The paper's change as that of a study of one training whose samples vary as the others' do on one."""
    samples, noise, freedom = [], [], []
    for one, side in others.values():
        sides = [(side.cells[model, name], 1) for name in (run, "base")]
        samples.append(
            sum(
                comparison.of_samples(pooled(list(seeds.values())), len(seeds), side)[1] for seeds, _ in sides
            )
        )
        noise.append(one.trainings[0] * one.counted)
        freedom.append(one.trainings[1])
    within = float(numpy.mean(samples))
    return Effect(value, within, (float(numpy.mean(noise)), min(freedom)), within, 1)


def effects(sides: list[Side], reference: pandas.DataFrame) -> dict[tuple[str, str], tuple[dict, bool]]:
    """{(model, run): (the effect in each study, whether all answered the same problems)} of every SFT run
    with a base.
    """
    noise = {side.name: comparison.noise_of(side) for side in sides}
    known = papers(sides, reference)
    found: dict = {}
    for side in sides:
        names = of_sft(side)
        for model, run in names:
            if run != "base" and (model, "base") in names:
                one = effect(side, model, run, noise[side.name])
                found.setdefault((model, run), {})[side.name] = (one, side)
    made = {}
    for (model, run), of in found.items():
        first, *others = [pooled(list(side.cells[model, run].values())) for _, side in of.values()]
        headline = next(iter(of.values()))[1].headline
        same = all(comparison.same_problems(first, one, task) for one in others for task in headline)
        own = {name: one for name, (one, _) in of.items()}
        if (model, run) in known and (model, "base") in known:
            ends = [known[model, name][1]["accuracy_pct"] / 100 for name in (run, "base")]
            own[PAPER] = papers_effect(ends[0] - ends[1], of, model, run)
        made[model, run] = own, same
    return made


def effect_rows(
    model: str, run: str, examples: int, own: dict[str, Effect], same: bool, confidence: float
) -> list:
    """Rows of EFFECTS: each study's change with an interval of its own."""
    rows = []
    for study, one in own.items():
        within = one.samples if same else one.problems
        whole = intervals.Interval(one.value, ((within, math.inf),), one.trainings, -1.0, 1.0)
        rows.append((model, run, examples, study, one.counted, one.value, *whole.ends(confidence)))
    return rows


def combine(values, variances, confidence: float) -> dict:
    """The mean of effects, over studies and of these very studies, with its ends, and how far studies differ.

    `change` is the random-effects mean: over studies of which these are some; `these` the mean of these
    alone, weighted by how well each knows. `between` is the standard deviation between studies,
    `share_between` the share of all variation that is between them (I²), `p_same` the p-value of their all
    being one (Cochran's Q); `next_low` and `next_high` hold the effect of one more study, None of fewer than
    three.
    """
    from scipy import stats
    from statsmodels.stats.meta_analysis import combine_effects

    values, variances = numpy.asarray(values, float), numpy.asarray(variances, float)
    with numpy.errstate(divide="ignore"):  # I² of equal effects
        found = combine_effects(values, variances, method_re="pm")
    degrees, error = (
        len(values) - 1,
        float(found.sd_eff_w_re) * math.sqrt(max(1.0, float(found.scale_hksj_re))),
    )
    between, q = max(0.0, float(found.tau2)), float(found.q)

    def ends(mean: float, reach: float) -> list[float]:
        return [max(-1.0, float(mean - reach)), min(1.0, float(mean + reach))]

    over = ends(found.mean_effect_re, error * stats.t.ppf(0.5 + confidence / 2, degrees))
    these = ends(found.mean_effect_fe, found.sd_eff_w_fe * stats.norm.ppf(0.5 + confidence / 2))
    further = [None, None]
    if degrees > 1:
        reach = math.sqrt(between + error**2) * stats.t.ppf(0.5 + confidence / 2, degrees - 1)
        further = ends(found.mean_effect_re, reach)
    return {
        "studies": len(values),
        "change": float(found.mean_effect_re),
        **dict(zip(("low", "high"), over, strict=True)),
        "these": float(found.mean_effect_fe),
        **dict(zip(("these_low", "these_high"), these, strict=True)),
        "between": math.sqrt(between),
        "share_between": max(0.0, (q - degrees) / q) if q > 0 else 0.0,
        "p_same": float(stats.chi2.sf(q, degrees)),
        **dict(zip(("next_low", "next_high"), further, strict=True)),
    }


def tables_of(
    sides: list[Side], reference: pandas.DataFrame, confidence: float
) -> dict[str, pandas.DataFrame]:
    """`cells`, `effects` of each study and `combined` over those of which two or more have the run."""
    cells = cell_table(sides, reference)
    examples = cells.drop_duplicates(["model", "run"]).set_index(["model", "run"]).examples
    single, combined = [], []
    for (model, run), (own, same) in effects(sides, reference).items():
        size = int(examples[model, run])
        single += effect_rows(model, run, size, own, same, confidence)
        if len(own) > 1:
            found = combine(
                [one.value for one in own.values()], [one.variance(same) for one in own.values()], confidence
            )
            over = "samples and trainings" if same else "samples, trainings and problems"
            combined.append({"model": model, "run": run, "examples": size, "over": over} | found)
    return {
        "cells": cells,
        "effects": pandas.DataFrame(single, columns=EFFECTS),
        "combined": pandas.DataFrame(combined, columns=COMBINED),
    }


def who(side: Side) -> dict:
    """Who ran a study on what: from the provenance of its report; None where it does not say."""
    path = side.folder / "report/provenance.json"
    told = records.read_json(path) if path.exists() else {}
    hours = told.get("gpu_hours", {})
    return {
        "study": side.name,
        "cells": sum(len(seeds) for seeds in side.cells.values()),
        "seeds": ", ".join(map(str, told.get("seeds", []))) or None,
        "hardware": "; ".join(told.get("hardware", [])) or None,
        "GPU-hours": sum(hours.values()) if hours else None,
        "commit": side.commit or None,
        "versions": ", ".join(told.get("versions", [])) or None,
        "finished": told.get("finished"),
    }


PAPERS_OWN = {
    "study": PAPER, "cells": 63, "seeds": "one a cell", "hardware": "8 × H100 80 GB", "GPU-hours": 2500.0, "commit": None,
    "versions": "LLaMA-Factory", "finished": "2025",
}  # fmt: skip


def verdicts_of(sides: list[Side]) -> pandas.DataFrame:
    """What each study says of each claim: claim, text, a column a study; claims of other texts stand
    apart.
    """
    found = []
    for side in sides:
        path = side.folder / "report/tables/claims.csv"
        if path.exists():
            table = pandas.read_csv(path)
            found.append(table[table.part.isna()][["claim", "text", "verdict"]].assign(study=side.name))
    if not found:
        return pandas.DataFrame(columns=["claim", "text"])
    wide = pandas.concat(found).pivot(index=["claim", "text"], columns="study", values="verdict")
    return wide[[side.name for side in sides if side.name in wide]].reset_index().rename_axis(columns=None)
