"""What a model would score at sizes it was not trained at, from its smallest sizes and other models' whole
curves.

A curve is read in logits. The gain from the last measured size to a larger one is a ridge regression, over
the other curves, on the level at the last size and on the slope from the first to it; the penalty is chosen
by leave-one-out among those curves alone. Intervals come from the residuals of leaving each of them out, and
are wider for a model that differs from them. What this reaches on the paper's eight models, and how often the
intervals cover: docs/afford.md.
"""

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

import numpy
import pandas

from valley.analysis.paper import is_near, is_same_model
from valley.grid import HEADLINE

PENALTIES = numpy.geomspace(0.03, 100, 12)
FEWEST_CURVES = 5  # curves of others: the regression spends up to three degrees of freedom
# SD of the accuracy of one cell: a change of one seed on 30/40/500 problems has 2.68 points, two cells
NOISE = 0.019
TRAINING = 0.01  # SD of one training, as the verdicts' prior has it
EDGE = 0.005  # accuracies are kept this far from 0 and 1: their logits have no end
NOTABLE = 1.25  # times as wide as for a model like the others: said in words
NOTHING_LEFT = "no larger size is left to forecast"
SETTLED = 0.01  # a doubling of the data that gains less than this gains nothing


class Curve(NamedTuple):
    """Accuracies of one model by training examples; its base is `None` where it was not measured."""

    name: str
    base: float | None
    points: dict[int, float]
    noise: float = NOISE  # SD of each
    model: str = ""  # its name in the study, where it is one of it
    seed: int | None = None  # of a model that is another with every seed


class Forecast(NamedTuple):
    """A model at sizes it was not trained at: arrays over `sizes`, accuracies between 0 and 1."""

    curve: Curve
    used: tuple[int, ...]  # measured sizes that the forecast rests on
    sizes: tuple[int, ...]
    value: numpy.ndarray
    low: numpy.ndarray
    high: numpy.ndarray
    step_low: numpy.ndarray  # of the gain from the size before, in accuracy
    step_high: numpy.ndarray
    above: numpy.ndarray  # probability of an accuracy above the base's; NaN without one
    others: int  # curves it was learnt from
    unlike: (
        float  # by how much the interval is wider because the model is unlike the others; 1 where it is not
    )


def logits(accuracy) -> numpy.ndarray:
    """Log odds of accuracies, kept from 0 and 1 by EDGE."""
    kept = numpy.clip(accuracy, EDGE, 1 - EDGE)
    return numpy.log(kept / (1 - kept))


def odds(level) -> numpy.ndarray:
    """Accuracies of log odds."""
    return 1 / (1 + numpy.exp(-numpy.asarray(level, float)))


def read_at(curve: Curve, sizes: Iterable[int]) -> numpy.ndarray:
    """Accuracies of a curve at sizes, linear in the logarithm of the size; NaN beyond what was measured.

    A size within a tenth of a measured one is that size: all traces that are left are not equally many
    everywhere.
    """
    known = sorted(curve.points)
    found = []
    for size in sizes:
        near = [one for one in known if is_near(size, one)]
        if near:
            found.append(curve.points[min(near, key=lambda one: abs(one - size))])
        elif known and known[0] < size < known[-1]:
            found.append(numpy.interp(math.log(size), numpy.log(known), [curve.points[one] for one in known]))
        else:
            found.append(math.nan)
    return numpy.array(found)


class Fit(NamedTuple):
    """A ridge regression of several targets on standardised features, with what leaving each row out
    leaves.
    """

    middle: numpy.ndarray
    scale: numpy.ndarray
    inverse: numpy.ndarray  # of the penalised product of features
    slopes: numpy.ndarray  # features × targets
    means: numpy.ndarray  # of the targets
    residuals: numpy.ndarray  # rows × targets, divided by the root of 1 − leverage
    freedom: float
    penalty: float

    def leverage(self, row: numpy.ndarray) -> float:
        """How far a new row is from those of the fit: its variance in units of a residual's."""
        z = (row - self.middle) / self.scale
        return float(1 / len(self.residuals) + z @ self.inverse @ z)

    def predict(self, row: numpy.ndarray) -> numpy.ndarray:
        """The targets of a new row."""
        return self.means + (row - self.middle) / self.scale @ self.slopes


def ridge(features: numpy.ndarray, targets: numpy.ndarray, penalties=PENALTIES) -> Fit:
    """Ridge regression whose penalty has the smallest squared error when each row is left out (PRESS, Allen
    1974).
    """
    rows = len(features)
    middle, scale = features.mean(axis=0), features.std(axis=0, ddof=1)
    z = (features - middle) / numpy.where(scale > 0, scale, 1)
    scale = numpy.where(scale > 0, scale, 1)
    means, best = targets.mean(axis=0), None
    for penalty in penalties:
        inverse = numpy.linalg.inv(z.T @ z + penalty * numpy.eye(z.shape[1]))
        hat = z @ inverse @ z.T + 1 / rows
        residuals, kept = targets - hat @ targets, 1 - numpy.diag(hat)
        press = float(((residuals / kept[:, None]) ** 2).sum())
        if best is None or press < best[0]:
            slopes = inverse @ z.T @ (targets - means)
            spread = residuals / numpy.sqrt(kept)[:, None]
            fit = Fit(
                middle, scale, inverse, slopes, means, spread, float(kept.sum()) - 1, float(penalty)
            )  # the penalty costs one more
            best = press, fit
    return best[1]


def reach(residuals: numpy.ndarray, freedom: float, confidence: float) -> numpy.ndarray:
    """Half the width of an interval in units of a root of 1 + leverage, a value a target.

    From as many curves as the confidence needs, the conformal rank of the residuals (Lei et al. 2018; valid
    for any population that the curves are exchangeable with). With n curves that reaches n / (n + 1) at most,
    so with fewer Student's t of their root mean square stands in for it.
    """
    from scipy import special

    size = numpy.abs(residuals)
    rank = math.ceil((len(size) + 1) * confidence)
    if rank <= len(size):
        return numpy.sort(size, axis=0)[rank - 1]
    return numpy.sqrt((size**2).mean(axis=0)) * special.stdtrit(freedom, 0.5 + confidence / 2)


def unlikeness(rows: numpy.ndarray, row: numpy.ndarray) -> float:
    """By how much further a new row is from others than four in five of those from their own others; 1 where
    it is not.

    Both by leverage with a penalty of 1, as the root of the ratio of variances. Not further than any of them:
    one that is unlike the rest would hide the next.
    """

    def variance(others: numpy.ndarray, one: numpy.ndarray) -> float:
        z = (others - others.mean(axis=0)) / (spread := others.std(axis=0, ddof=1))
        new = (one - others.mean(axis=0)) / spread
        return float(1 + 1 / len(z) + new @ numpy.linalg.inv(z.T @ z + numpy.eye(z.shape[1])) @ new)

    inside = [variance(numpy.delete(rows, i, axis=0), one) for i, one in enumerate(rows)]
    return max(1.0, float(variance(rows, row) / numpy.quantile(inside, 0.8)) ** 0.5)


def forecast_of(curve: Curve, others: list[Curve], sizes: Iterable[int], confidence: float) -> Forecast | str:
    """The model at those `sizes` that lie beyond its measured ones, or a sentence that says why there is no
    forecast.
    """
    from scipy import special

    used = tuple(sorted(curve.points))
    wanted = sorted(size for size in sizes if size > used[-1] and not is_near(size, used[-1])) if used else []
    if len(used) < 2:
        return (
            f"measured at {len(used)} size{'s' * (len(used) != 1)}: one point has no slope, two are the least"
        )
    if not wanted:
        return NOTHING_LEFT
    read = {
        one.name: read_at(one, [*used, *wanted]) for one in others if not is_same_model(one.name, curve.name)
    }
    whole = [one for one in others if one.name in read and not numpy.isnan(read[one.name]).any()]
    if len(whole) < FEWEST_CURVES:
        return (
            f"{len(whole)} curves of other models reach from {used[0]:,} to {wanted[-1]:,} examples, "
            f"{FEWEST_CURVES} are the least"
        )
    table = logits([read[one.name] for one in whole])
    first, last = 0, len(used) - 1
    mine = logits([curve.points[size] for size in used])
    features = numpy.column_stack([table[:, last], table[:, last] - table[:, first]])
    row = numpy.array([mine[last], mine[last] - mine[first]])
    gains = table[:, last + 1 :] - table[:, [last]]
    steps = numpy.diff(table[:, last:], axis=1)
    fit = ridge(features, gains)
    by_step = ridge(features, steps, [fit.penalty])
    value = mine[last] + fit.predict(row)

    unlike = 1.0
    if curve.base is not None and all(one.base is not None for one in whole):
        drops = [logits(one.base) - at[first] for one, at in zip(whole, table, strict=True)]
        drop = logits(curve.base) - mine[first]
        unlike = unlikeness(numpy.column_stack([features, drops]), numpy.append(row, drop))
    wide = (1 + fit.leverage(row)) ** 0.5 * unlike
    # What the inputs are noisier than the others': carried through the regression, which is linear in them.
    theirs = numpy.mean([one.noise**2 for one in whole])
    excess = max(0.0, curve.noise**2 - theirs)
    by_last = 1 + (fit.slopes / fit.scale[:, None]).sum(axis=0)
    by_first = -fit.slopes[1] / fit.scale[1]
    slack = lambda level: excess / (odds(level) * (1 - odds(level))) ** 2  # noqa: E731  variance in logits
    carried = by_last**2 * slack(mine[last]) + by_first**2 * slack(mine[first])
    z = float(special.stdtrit(fit.freedom, 0.5 + confidence / 2))
    half = numpy.hypot(reach(fit.residuals, fit.freedom, confidence) * wide, z * numpy.sqrt(carried))

    before = numpy.append(mine[last], value[:-1])
    middle, half_step = by_step.predict(row), reach(by_step.residuals, fit.freedom, confidence) * wide
    above = numpy.full(len(wanted), math.nan)
    if curve.base is not None:
        slope = odds(value) * (1 - odds(value))
        error = numpy.hypot(slope * half / z, curve.noise)  # the base is measured, too
        above = special.stdtr(fit.freedom, (odds(value) - curve.base) / error)
    return Forecast(
        curve,
        used,
        tuple(wanted),
        odds(value),
        odds(value - half),
        odds(value + half),
        odds(before + middle - half_step) - odds(before),
        odds(before + middle + half_step) - odds(before),
        above,
        len(whole),
        unlike,
    )


def back_from(sizes: list[int], above: numpy.ndarray) -> float:
    """Where a curve of accuracy minus the base's reaches 0 and stays there or above, in the logarithm of the
    size.

    The first size from which on it is nowhere below; infinite where it ends below.
    """
    if above[-1] < 0:
        return math.inf
    below = [i for i, value in enumerate(above) if value < 0]
    if not below:
        return float(sizes[0])
    i = below[-1]
    share = -above[i] / (above[i + 1] - above[i])
    return float(math.exp(math.log(sizes[i]) + share * math.log(sizes[i + 1] / sizes[i])))


def back_at_base(made: Forecast) -> tuple[float, float, float]:
    """(size at which the model is back at its base, the earliest, the latest): infinite where it is not by
    the largest.
    """
    sizes = [*made.used, *made.sizes]
    measured = numpy.array([made.curve.points[size] for size in made.used])
    slack = 1.645 * made.curve.noise * 2**0.5 * numpy.ones(len(measured))
    ends = [
        (made.value, 0 * slack),
        (made.high, slack),
        (made.low, -slack),
    ]
    at, early, late = (
        back_from(sizes, numpy.append(measured + moved, later) - made.curve.base) for later, moved in ends
    )
    return at, early, late


def stops_gaining(made: Forecast) -> tuple[float, float, float]:
    """(size from which on no doubling gains SETTLED, the earliest, the latest); infinite where the last step
    still does.
    """
    doublings = numpy.diff(numpy.log2([made.used[-1], *made.sizes]))
    middle = numpy.diff([made.curve.points[made.used[-1]], *made.value])
    starts = [made.used[-1], *made.sizes[:-1]]

    def first(steps: numpy.ndarray) -> float:
        gaining = [i for i, step in enumerate(steps / doublings) if step >= SETTLED]
        return float(starts[0] if not gaining else [*starts, math.inf][gaining[-1] + 1])

    return first(middle), first(made.step_low), first(made.step_high)


def tested(curves: list[Curve], smallest: int, confidence: float) -> list[tuple[Curve, Forecast]]:
    """Every whole curve forecast from its `smallest` sizes and all curves but its own; those that cannot be
    are left out.
    """
    found = []
    for curve in curves:
        sizes = sorted(curve.points)
        start = curve._replace(points={size: curve.points[size] for size in sizes[:smallest]})
        made = forecast_of(start, [one for one in curves if one.name != curve.name], sizes, confidence)
        if isinstance(made, Forecast):
            found.append((curve, made))
    return found


def sizes_table(made: Forecast) -> list[dict]:
    """A row a forecast size."""
    return [
        {
            "model": made.curve.model or made.curve.name,
            "seed": made.curve.seed,
            "from": " ".join(map(str, made.used)),
            "examples": size,
            "forecast": made.value[i],
            "low": made.low[i],
            "high": made.high[i],
            "above_base": made.above[i],
            "others": made.others,
            "wider": made.unlike,
        }
        for i, size in enumerate(made.sizes)
    ]


def tested_rows(curves: list[Curve], smallest: int, confidence: float) -> pandas.DataFrame:
    """A row a whole curve and size: truth, forecast, interval; and the recovery sizes of truth and
    forecast.
    """
    rows = []
    for curve, made in tested(curves, smallest, confidence):
        sizes = sorted(curve.points)
        known = numpy.array([curve.points[size] for size in sizes])
        ends = dict.fromkeys(("back_truth", "back_forecast", "back_earliest", "back_latest"))
        if curve.base is not None:
            ends = dict(
                zip(
                    ends,
                    (back_from(sizes, known - curve.base), *back_at_base(made)),
                    strict=True,
                )
            )
        rows += [{**row, "truth": curve.points[row["examples"]], **ends} for row in sizes_table(made)]
    return pandas.DataFrame(rows)


MODEL_COLUMNS = (
    "model", "seed", "from", "base", "why_not", "back_at", "back_earliest", "back_latest", "back_probability",
    "settled_at", "settled_earliest", "settled_latest", "sentence",
)  # fmt: skip


def models_row(curve: Curve, made: Forecast | str) -> dict:
    """What a model's forecast says in one row (MODEL_COLUMNS): back at its base, where it stops gaining; or
    why there is none.
    """
    row = {
        "model": curve.model or curve.name,
        "seed": curve.seed,
        "from": " ".join(map(str, sorted(curve.points))),
        "base": curve.base,
        "why_not": "",
    }
    if isinstance(made, str):
        return row | {"why_not": made}
    if curve.base is not None:
        row |= dict(zip(("back_at", "back_earliest", "back_latest"), back_at_base(made), strict=True))
        row["back_probability"] = made.above[-1]
    row |= dict(zip(("settled_at", "settled_earliest", "settled_latest"), stops_gaining(made), strict=True))
    return row | {"sentence": forecast_sentence(curve, made, row)}


def in_examples(size: float) -> str:
    """A number of examples in words: to three digits where it is between sizes."""
    return f"{float(f'{size:.3g}'):,.0f}"


def forecast_sentence(curve: Curve, made: Forecast, row: dict) -> str:
    """One sentence on what was forecast; it never says what was measured."""
    points = lambda share: f"{100 * share:.0f}"  # noqa: E731
    said = (
        f"Forecast, not measured: {curve.name} would score {points(made.value[-1])} % "
        f"[{points(made.low[-1])}–{points(made.high[-1])}] at {made.sizes[-1]:,} examples"
    )
    if curve.base is not None:
        between = f"{in_examples(row['back_earliest'])} and " + (
            in_examples(row["back_latest"])
            if math.isfinite(row["back_latest"])
            else "beyond the largest size"
        )
        if math.isinf(row["back_earliest"]):
            said += "; it would not be back at its base by then"
        elif math.isinf(row["back_at"]):
            said += f"; back at its base more likely not by then (probability {row['back_probability']:.2f})"
        else:
            said += f"; back at its base at about {in_examples(row['back_at'])} (between {between})"
    if made.unlike > NOTABLE:
        said += f"; it is unlike the {made.others} models the forecast comes from: its intervals are {made.unlike:.1f} times as wide"
    return said


def from_reference(reference: pandas.DataFrame) -> list[Curve]:
    """The paper's curves that have several sizes."""
    found = []
    for name, rows in reference.groupby("model", sort=False):
        accuracy = {int(n): a / 100 for n, a in zip(rows.train_examples, rows.accuracy_pct, strict=True)}
        base = accuracy.pop(0, None)
        if len(accuracy) > 1:
            found.append(Curve(name, base, accuracy))
    return found


def from_cells(cells: pandas.DataFrame, config: dict) -> list[Curve]:
    """Curves of a study from its table `cells`: by the study's protocol, on the headline.

    One a model over its seeds; one a seed of a model whose base is trained with the seed, for that is another
    model.
    """
    from valley import grid

    confidence = config["report"]["confidence"]
    rows = cells[(cells.task == HEADLINE) & cells.stage.isin(["base", "sft"]) & (cells.recipe == "protocol")]
    found = []
    for model, group in rows.groupby("model", sort=False):
        own = grid.is_pretrained_here(config, model)
        name = config["models"][model]["source"].rstrip("/").rsplit("/", 1)[-1]
        for seed, part in group.groupby("seed", sort=False) if own else [(None, group)]:
            means = part.groupby("examples").accuracy.mean().to_dict()
            seeds = part[part.stage == "sft"].groupby("examples").size().min() if len(part) else 1
            base = means.pop(0, None)
            points = {int(n): float(a) for n, a in means.items()}
            label = f"{model}/seed{seed}" if own else name
            noise = curve_noise(part, 1 if own else seeds, confidence)
            found.append(Curve(label, base, points, noise, model, seed))
    return found


def curve_noise(cells: pandas.DataFrame, seeds: float, confidence: float) -> float:
    """SD of the accuracy of a curve's points: of sampling, as the scores' intervals of that confidence have
    it, and of training by the prior.
    """
    errors = NormalDist().inv_cdf(0.5 + confidence / 2)
    sampled = (cells.samples_high - cells.samples_low) / 2 / errors
    seeds = 1 if not seeds or math.isnan(seeds) else seeds
    return float(math.sqrt(((sampled**2).mean() + TRAINING**2) / seeds))
