"""How often each grader is wrong on answers whose truth is known, class by class (tests/mutations.py).

python -m pytest tests/test_mutations.py --override-ini addopts= -m slow -s    # prints the table of
docs/grading.md
"""

import collections

import mutations
import pytest

from valley import equality
from valley.equality import Pair

GRADERS = ("headline", "paper", "plain")
# Right answers that the headline may refuse and wrong ones that it may accept, by class; none elsewhere.
CEILINGS: dict[str, tuple[int, int]] = {}
# Classes in which plain Math-Verify or the paper's grader is wrong less often than ours, and why it stays so.
EXCEPTIONS: dict[str, str] = {}


def measured(pairs) -> tuple[dict, dict, dict]:
    """Pairs by class; right answers refused and wrong ones accepted by class and grader, as lists of (gold,
    answer).

    A comparison that was given up is a refusal.
    """
    asked = [Pair(grader, gold, answer) for _, gold, answer, _ in pairs for grader in GRADERS]
    with equality.Comparer(2) as comparer:
        grades = comparer(asked)
    totals, refused, accepted = (
        collections.Counter(),
        collections.defaultdict(list),
        collections.defaultdict(list),
    )
    for name, gold, answer, same in pairs:
        totals[name] += 1
        for grader in GRADERS:
            equal = bool(grades[Pair(grader, gold, answer)][0])
            if equal != same:
                (refused if same else accepted)[name, grader].append((gold, answer))
    return totals, refused, accepted


def table(totals, refused, accepted) -> str:
    """Right answers refused + wrong ones accepted, a row a class, with the sums."""
    rows = [f"{'class':26} {'pairs':>5} {'headline':>10} {'paper':>10} {'plain':>10}   (refused + accepted)"]
    for name in [*sorted(totals), "all"]:
        cells = []
        for grader in GRADERS:
            wrong = [
                sum(len(cases) for (n, g), cases in kind.items() if g == grader and name in (n, "all"))
                for kind in (refused, accepted)
            ]
            cells.append("–" if not any(wrong) else f"{wrong[0]} + {wrong[1]}")
        total = sum(totals.values()) if name == "all" else totals[name]
        rows.append(f"{name:26} {total:5} " + " ".join(f"{cell:>10}" for cell in cells))
    return "\n".join(rows)


def check(pairs):
    """At most 1 % wrong in all, none beyond its class's ceiling, and no class where another grader is
    better.
    """
    totals, refused, accepted = measured(pairs)
    print(table(totals, refused, accepted))

    def wrong(name: str, grader: str) -> int:
        return len(refused[name, grader]) + len(accepted[name, grader])

    assert sum(wrong(name, "headline") for name in totals) <= 0.01 * len(pairs)
    for name in totals:
        for kind, ceiling in zip((refused, accepted), CEILINGS.get(name, (0, 0)), strict=True):
            assert len(kind[name, "headline"]) <= ceiling, (name, kind[name, "headline"])
    beaten = {n for n in totals if wrong(n, "headline") > min(wrong(n, "paper"), wrong(n, "plain"))}
    assert beaten <= set(EXCEPTIONS), beaten


def test_a_tenth_of_the_mutations_is_graded_rightly_and_better_than_by_others():
    check(mutations.pairs(share=0.1))


@pytest.mark.slow
def test_all_mutations_are_graded_rightly_and_better_than_by_others():
    check(mutations.pairs())
