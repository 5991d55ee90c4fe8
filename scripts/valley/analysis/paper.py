"""Our cells beside the paper's values, which are those of one training each, published without error bars."""

import numpy
import pandas

from valley.analysis import intervals
from valley.grid import HEADLINE, Cell

OURS = {
    "ours": "accuracy_paper",
    "ours_low": "accuracy_paper_low",
    "ours_high": "accuracy_paper_high",
    "length": "length",
}


def is_near(examples: float, paper: float) -> bool:
    """True for data sizes within a tenth: 220k is all that is left of the traces, there and here."""
    return abs(examples - paper) <= paper / 10


def is_same_model(ours: str, paper: str) -> bool:
    """True for one model's name on the hub and in the paper, which writes Gemma-3-1B-it for gemma-3-1b-it."""
    return ours.lower() == paper.lower()


def beside_paper(
    cells: pandas.DataFrame, reference: pandas.DataFrame, names: dict[str, str]
) -> pandas.DataFrame:
    """The paper's values of our models, our first seed's by the paper's grader beside them; a row a size.

    `examples` is ours where the two agree within a tenth (220k is all that is left of the traces, there and
    here).
    """
    found = []
    ours = cells[(cells.task == HEADLINE) & cells.stage.isin(["base", "sft"]) & (cells.recipe == "protocol")]
    for model, name in names.items():
        mine = ours[ours.model == model]
        for row in reference[[is_same_model(name, paper) for paper in reference.model]].itertuples():
            near = (
                mine[(mine.examples - row.train_examples).abs() <= row.train_examples / 10]
                .sort_values("seed")
                .head(1)
            )
            found.append(
                {
                    "model": model,
                    "run": near.run.item() if len(near) else None,
                    "examples": near.examples.item() if len(near) else row.train_examples,
                    "paper": row.accuracy_pct / 100,
                    "paper_length": row.response_tokens,
                    "source": row.source,
                    **{key: near[column].item() if len(near) else None for key, column in OURS.items()},
                }
            )
    table = pandas.DataFrame(
        found, columns=["model", "run", "examples", "paper", "paper_length", "source", *OURS]
    )
    return table.assign(difference=table.ours.astype(float) - table.paper)


def calibration(
    bases: dict[Cell, dict], reference: pandas.DataFrame, names: dict[str, str], headline: list[str]
) -> pandas.DataFrame:
    """A row a base that the paper has: our accuracy by the paper's grader, the paper's, their distance.

    `bases` are scores by cell, `names` the models' names in the paper. The distance is in standard errors of
    the difference over samples; the paper's is taken to be ours. They come from the solved counts, since the
    ends of an interval depend on its confidence and stop at 0 and 1.
    """
    rows = []
    for (model, *_), scores in bases.items():
        tasks = [scores["tasks"][task] for task in headline]
        counts = [(numpy.array([*task["solved"].values()]), task["samples"]) for task in tasks]
        error = (2 * intervals.samples_variance(counts)) ** 0.5
        for row in reference[reference.train_examples == 0].itertuples():
            if is_same_model(names.get(model, ""), row.model):
                ours, paper = scores["accuracy_paper"], row.accuracy_pct / 100
                rows.append(
                    {
                        "model": model,
                        "ours": ours,
                        "headline": scores["accuracy"],
                        "paper": paper,
                        "difference": ours - paper,
                        "standard_error": error,
                        "distance": abs(ours - paper) / error,
                        "truncated": scores["outcomes"]["truncated"],
                        "boxed": scores["boxed"],
                    }
                )
    return pandas.DataFrame(rows)
