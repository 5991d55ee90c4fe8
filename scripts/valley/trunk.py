"""One run for all sizes: what it trains on, in which order, and where its branches leave it.

A trunk trains at one batch and, after a warm-up, at one rate over the traces in the order of the subsets. It
is made of pieces, one a size: the traces that the size adds to the one before, seen so many times, shuffled
among themselves every time. At the end of each piece it leaves a checkpoint with all states. A branch of a
size continues from there, on the traces of that size alone, drawn anew, while its rate falls to nothing
(Hägele et al. 2024, arXiv 2405.18392, find that this comes near to separate runs with a cosine of their own
where the data are seen once).

So a cell of size n has seen the n traces of its size and no other, as often as their pieces say and in the
cool-down once more a part of them. It departs from the paper's protocol in three ways: the traces of smaller
sizes come first and not again, batch and rate are those of all sizes, and each size ends with a short fall of
its rate in place of a cosine.
"""

from typing import NamedTuple

import numpy

ALL = "all"  # as many traces as there are, of the largest size
DECAY = "1-sqrt"  # the form of the fall that Hägele et al. recommend


class Piece(NamedTuple):
    """The traces up to a number (None: all that are there) that come after those of the piece before, and how
    often each is seen.
    """

    examples: int | None
    passes: int


class Layout(NamedTuple):
    """What is trained on: row numbers, a batch after the other; the steps after which each piece is done, and
    those that warm up and cool down.
    """

    rows: numpy.ndarray
    stops: tuple[int, ...]
    warmup: int
    cooldown: int

    def settings(self) -> dict:
        """What a trainer is told of it: no other order, no more steps, a rate that rises, stays and, in a
        branch, falls.
        """
        fall = {"num_decay_steps": self.cooldown, "decay_type": DECAY} if self.cooldown else None
        return {
            "lr_scheduler_type": "warmup_stable_decay" if fall else "constant_with_warmup",
            "lr_scheduler_kwargs": fall,
            "warmup_steps": self.warmup,
            "num_train_epochs": 1,
            "max_steps": self.stops[-1] + self.cooldown,
            "train_sampling_strategy": "sequential",
        }


def piece(text: str) -> Piece:
    """`64:8` or `all:2` of a command line; ValueError for anything else."""
    examples, _, passes = text.partition(":")
    found = Piece(None if examples == ALL else int(examples), int(passes))
    if found.passes < 1 or found.examples == 0:
        raise ValueError(text)
    return found


def shuffled(rows, passes: int, rng) -> numpy.ndarray:
    """Rows seen so many times, anew in another order."""
    return numpy.concatenate([rng.permutation(rows) for _ in range(passes)])


def laid_out(
    pieces: list[Piece], there: int, batch: int, warmup: float, cooldown: float | None, seed: int
) -> Layout:
    """The layout of a trunk, or with `cooldown` (a share of the steps so far) of the branch at its last
    piece.

    `there` is how many rows the last piece ends with, `warmup` a share of the steps of the first piece. What
    is left of the last piece beside whole batches is not trained on. Both depend on the pieces up to theirs
    alone, so that a trunk begins as each of its branches does.
    """
    order, stops, start = [], [], 0
    for examples, passes in pieces:
        rng = numpy.random.default_rng([seed, start])
        end = there if examples is None else examples
        order.append(shuffled(numpy.arange(start, end), passes, rng))
        stops.append(sum(map(len, order)) // batch)
        start = end
    rows = numpy.concatenate(order)[: stops[-1] * batch]
    cool = 0 if cooldown is None else max(1, round(cooldown * stops[-1]))
    if cool:
        rng = numpy.random.default_rng([seed, start, 1])
        rows = numpy.concatenate([rows, shuffled(numpy.arange(start), -(-cool * batch // start), rng)])
    return Layout(rows[: (stops[-1] + cool) * batch], tuple(stops), round(warmup * stops[0]), cool)
