"""Probes on held-out traces beside what they are to foretell: did a cell train, and how well will it
score?
"""

import numpy
import pandas

from valley.grid import HEADLINE, Cell

LEAST = 0.02  # nats a token that the loss must fall by, from the base's, for a cell to have trained


def probed(probes: dict[Cell, dict], cells: pandas.DataFrame, on_traces: set[Cell]) -> pandas.DataFrame:
    """A row a probed cell: its `loss`, `token_accuracy`, `entropy`, the base's loss, its headline accuracy
    where it is scored, and `note`: what is wrong with a cell `on_traces`, trained on long traces, whose loss
    did not fall.

    `cells` is the table of that name. The base is that of the same seed or, where bases have none, the
    model's.
    """
    scored = cells[cells.task == HEADLINE].set_index(["model", "run", "seed"]).accuracy
    bases = {(cell.model, cell.seed): found["loss"] for cell, found in probes.items() if cell.run == "base"}
    shared = {model: loss for (model, _), loss in reversed(bases.items())}
    rows = []
    for cell, found in probes.items():
        base = bases.get((cell.model, cell.seed), shared.get(cell.model, numpy.nan))
        fell = cell not in on_traces or not base - found["loss"] < LEAST
        rows.append(cell._asdict() | {name: found[name] for name in ("loss", "token_accuracy", "entropy")}
                    | {"base_loss": base, "accuracy": scored.get(tuple(cell), numpy.nan),
                       "note": "" if fell else "the loss on held-out traces did not fall: this did not train"})  # fmt: skip
    return pandas.DataFrame(rows)


def worth(table: pandas.DataFrame) -> tuple[float, float, int]:
    """(error without the probe, error with it, cells): mean absolute error of a cell's accuracy, out of
    sample.

    Without: the mean of the other seeds of the same model and run. With: that, corrected by how far the
    cell's loss lies from the other seeds', at a slope that all *other* runs' cells give. NaN where no run has
    two seeds.
    """
    known = table[table.accuracy.notna()].copy()
    groups = known.groupby(["model", "run"])
    for name in ("loss", "accuracy"):
        others = (groups[name].transform("sum") - known[name]) / (groups[name].transform("count") - 1)
        known[f"{name}_off"] = known[name] - others
    known = known[groups.accuracy.transform("count") > 1]
    errors = []
    for (model, run), rows in known.groupby(["model", "run"]):
        rest = known[(known.model != model) | (known.run != run)]
        steep = (rest.loss_off**2).sum()
        slope = (rest.loss_off * rest.accuracy_off).sum() / steep if steep else 0.0
        errors += [
            (abs(row.accuracy_off), abs(row.accuracy_off - slope * row.loss_off)) for row in rows.itertuples()
        ]
    without, using = numpy.mean(errors, axis=0) if errors else (numpy.nan, numpy.nan)
    return float(without), float(using), len(errors)
