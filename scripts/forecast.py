"""What would larger sizes give? From the base and the two or three smallest sizes of each model, with 90 %
intervals.

    python scripts/forecast.py --cells report/tables/cells.csv --config report/config.json \\
        --tables report/tables
    python scripts/forecast.py --test 2

Learnt from whole curves of other models: the paper's, this study's, and those of `--others`, folders of
studies or of releases. Writes tables of their own, never columns beside measurements: `forecast` (a row a
model and size), `forecast_models` (where a model is back at its base and where it stops gaining, or why
nothing is forecast) and `forecast_tested`: every whole curve known, forecast from its smallest sizes without
itself, beside the truth. With `--test` it prints that last table for the models of `--reference` alone, in
percent: the paper's, or (a table of the same columns) twelve bases of the miniature,
workflow/reference/miniature_curves.csv. Method: valley/analysis/forecast.py.
"""

from pathlib import Path

import numpy
import pandas

from valley import check, flags, grid, records
from valley.analysis import forecast, tables


def study_curves(cells: Path, config: Path) -> tuple[list[forecast.Curve], dict]:
    """(curves of a study, its config), from its table and its configuration."""
    known = records.read_json(config)
    return forecast.from_cells(pandas.read_csv(cells), known), known


def sizes_of(config: dict) -> dict[int, str]:
    """The run of each size at which the grid trains by the protocol, by its examples."""
    runs = {cell.run: cell.parsed for cell in grid.cells(config)}
    found = {grid.examples_of(config, run.size): name for name, run in runs.items() if run.is_protocol}
    return dict(sorted(found.items()))


def markdown(table: pandas.DataFrame) -> str:
    """The tested curves in percent, a row a model, and the errors over all of them."""
    sizes = list(dict.fromkeys(table.examples))
    lines = [
        "| model | " + " | ".join(f"{size:,}" for size in sizes) + " | back at its base |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    shown = lambda size: forecast.in_examples(size) if numpy.isfinite(size) else "never"  # noqa: E731
    for model, rows in table.groupby("model", sort=False):
        cells = [
            f"{100 * r.truth:.1f}: {100 * r.forecast:.1f} [{100 * r.low:.1f}–{100 * r.high:.1f}]"
            for r in rows.itertuples()
        ]
        back = rows.iloc[0]
        ends = f"{shown(back.back_forecast)} [{shown(back.back_earliest)}–{shown(back.back_latest)}]"
        lines.append(f"| {model} | " + " | ".join(cells) + f" | {shown(back.back_truth)}: {ends} |")
    error = 100 * (table.forecast - table.truth).abs()
    largest = error[table.examples == sizes[-1]]
    inside = (table.low <= table.truth) & (table.truth <= table.high)
    firsts = table.groupby("model", sort=False).first()
    used = firsts["from"].str.split().str[-1].astype(int)
    ahead = firsts[
        (firsts.back_truth > used) & numpy.isfinite(firsts.back_truth) & numpy.isfinite(firsts.back_forecast)
    ]
    doublings = numpy.log2(ahead.back_forecast / ahead.back_truth).abs()
    off = (
        f"; of those not yet back the recovery size is off by {doublings.mean():.2f} doublings"
        if len(ahead)
        else ""
    )
    back, told = numpy.isfinite(firsts.back_truth), numpy.isfinite(firsts.back_forecast)
    agree = (back == told).sum()
    lines += [
        "",
        f"Mean error {error.mean():.2f} points, {largest.mean():.2f} at {sizes[-1]:,}, the largest {error.max():.1f}; "
        f"{inside.sum()} of {len(table)} truths inside; recovers or not: {agree} of {len(firsts)} right{off}.",
    ]
    return "\n".join(lines)


def plain_guesses(curves: list[forecast.Curve], table: pandas.DataFrame) -> str:
    """How far two guesses without a model of the curve are off, in points: the mean of the others at the
    size, which looks at no point of the model's own, and the last accuracy measured.
    """
    known = {curve.name: curve for curve in curves}
    errors = []
    for name, size, truth, used in zip(table.model, table.examples, table.truth, table["from"], strict=True):
        others = [forecast.read_at(curve, [size])[0] for curve in curves if curve.name != name]
        last = known[name].points[int(used.split()[-1])]
        errors.append([abs(numpy.nanmean(others) - truth), abs(last - truth)])
    mean, same = 100 * numpy.mean(errors, axis=0)
    return f"Without a forecast: the mean of the others is off by {mean:.2f} points, the last value by {same:.2f}."


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--cells", type=Path, help="the study's table of cells")
    parser.add_argument("--config", type=Path, help="the study's configuration (report/config.json)")
    parser.add_argument(
        "--others", type=Path, nargs="*", default=[], help="folders of other studies or releases"
    )
    parser.add_argument("--reference", type=Path, default=check.ROOT / "workflow/reference/paper_fig2.csv")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--tables", type=Path, help="folder that the tables go to")
    parser.add_argument(
        "--test", type=int, help="test on the reference from so many smallest sizes, and print"
    )
    args = parser.parse_args()

    known = forecast.from_reference(pandas.read_csv(args.reference))
    if args.test:
        table = forecast.tested_rows(known, args.test, args.confidence)
        print(markdown(table), plain_guesses(known, table), sep="\n")
        return
    if not (args.cells and args.config and args.tables):
        parser.error("--cells, --config and --tables, or --test")
    mine, config = study_curves(args.cells, args.config)
    for folder in args.others:
        files = folder / "report/tables/cells.csv", folder / "report/config.json"
        if gone := [file for file in files if not file.exists()]:
            records.fail(
                folder,
                f"has no {gone[0].relative_to(folder)}",
                "Name folders of studies or releases that have a report, or none, in report.others",
            )
        known += study_curves(*files)[0]
    rows, models, sizes = [], [], sizes_of(config)
    for curve in mine:
        others = [one for one in [*mine, *known] if one is not curve]
        made = forecast.forecast_of(curve, others, sizes, args.confidence)
        for row in [] if isinstance(made, str) else forecast.sizes_table(made):
            rows.append(row | {"run": sizes[row["examples"]]})
        models.append(forecast.models_row(curve, made))
    columns = [
        "model",
        "seed",
        "run",
        "examples",
        "from",
        "forecast",
        "low",
        "high",
        "above_base",
        "others",
        "wider",
    ]
    found = {
        "forecast": pandas.DataFrame(rows, columns=columns),
        "forecast_models": pandas.DataFrame(models, columns=forecast.MODEL_COLUMNS),
        "forecast_tested": forecast.tested_rows([*mine, *known], 2, args.confidence),
    }
    tables.write(args.tables, found)
    for row in models:
        if row["why_not"] != forecast.NOTHING_LEFT:
            print(row.get("sentence") or f"{row['model']}: not forecast, {row['why_not']}")
    records.done(f"forecasts of {found['forecast'].model.nunique()} of {len(mine)} curves", args.tables)


if __name__ == "__main__":
    main()
