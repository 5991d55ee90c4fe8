"""Write the paper's synthetic arithmetic task: 400 expressions whose every intermediate result is an integer.

5–15 operations, operands uniform in 1..100, + − × ÷; some expressions carry one bracketed group. An operand
that would break integrality is drawn again.

    python scripts/arithmetic.py --problems 400 --seed 0 --out /tmp/arithmetic.parquet
"""

import random
from pathlib import Path

from valley import flags, records

PROMPT = "Compute the answer to this arithmetic expression: {}"


def draw_flat(rng: random.Random, operations: int) -> tuple[str, int]:
    """(text, value) of an expression without brackets; × and ÷ bind first, and every quotient is an
    integer.
    """
    total, text, sign = 0, "", "+"
    product = rng.randint(1, 100)
    text = str(product)
    for _ in range(operations):
        operator = rng.choice("+-*/")
        if operator == "/":
            divisors = [d for d in range(1, 101) if product % d == 0]
            operand = rng.choice(divisors)
            product //= operand
        elif operator == "*":
            operand = rng.randint(1, 100)
            product *= operand
        else:
            total += product if sign == "+" else -product
            sign, operand = operator, rng.randint(1, 100)
            product = operand
        text += f"{operator}{operand}"
    return text, total + (product if sign == "+" else -product)


def draw(rng: random.Random) -> tuple[str, int]:
    """(text, value) of an expression of 5–15 operations, in half of the cases with one bracketed sum."""
    operations = rng.randint(5, 15)
    if rng.random() < 0.5:
        return draw_flat(rng, operations)
    left, right, operator = rng.randint(1, 100), rng.randint(1, 100), rng.choice("+-")
    before = rng.randint(0, operations - 3)  # the group and its two neighbours take three operations
    head, head_value = draw_flat(rng, before)
    tail, tail_value = draw_flat(rng, operations - 3 - before)
    value = left + right if operator == "+" else left - right
    return f"{head}+({left}{operator}{right})+{tail}", head_value + value + tail_value


def main():
    parser = flags.parser(__doc__)
    parser.add_argument("--problems", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    rng, rows = random.Random(args.seed), {}
    while len(rows) < args.problems:
        text, value = draw(rng)
        rows[text] = {
            "id": f"arithmetic/{len(rows)}",
            "problem": PROMPT.format(text),
            "answer": str(value),
            "level": None,
        }
    records.write_parquet(args.out, list(rows.values()), provenance=records.provenance(args))
    records.done(f"{len(rows)} expressions", args.out)


if __name__ == "__main__":
    main()
