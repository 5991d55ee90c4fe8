"""Answers made from gold answers by named changes whose truth is known by construction: what the graders are
measured on, class by class.

`pairs()` gives (class, gold, answer, same). A class that keeps the value measures refusals of right answers,
one that changes it acceptance of wrong ones. The golds are ours, of the kinds that AIME, AMC and MATH500
have.
"""

import random
import re

WHOLE = ["7", "42", "360", "-5", "1296", "20736", "113", "0", "9", "58000", "-318", "2025"]
DECIMALS = ["3.75", "0.0025", "12.5", ".375", "0.000417", "18.6"]
FRACTIONS = [
    r"\frac{3}{7}",
    r"-\frac{5}{12}",
    r"\frac{22}{9}",
    r"\dfrac{1}{6}",
    r"\frac{125}{216}",
    r"\frac{9}{4}",
]
SURDS = [
    r"3\sqrt{5}",
    r"\frac{\sqrt{6}}{4}",
    r"12\pi",
    r"2+3\sqrt{7}",
    r"\sqrt[3]{10}",
    r"\frac{\pi}{8}",
    r"4\sqrt{2}-1",
    r"e^3",
]
COMPLEX = ["3-4i", "5+2i", "-7+i"]
ROOTS_OF_LETTERS = [r"\frac{1}{\sqrt{n}}", r"\sqrt{\frac{a}{b}}", r"\sqrt{1/x}"]
SEQUENCES = [r"1, 2, \ldots, n", r"2, 4, 6, \ldots, 100", r"\{1, 3, \ldots, 2n-1\}"]
POLYNOMIALS = [
    "x^2-5x+6",
    "2k+1",
    "3n^2-4n+7",
    "(x-2)(x+9)",
    r"\frac{a+2b}{3}",
    "6r^2-4r-24",
    r"\sin x",
    "t^4+t^2+1",
]
TUPLES = ["(3,-4)", r"\left(2, \frac{\pi}{3}\right)", "(1,5,-2)", "(-6,11)"]
INTERVALS = ["(2,5]", r"[-3,\infty)", r"(-\infty,1) \cup (4,\infty)", r"\left[0,\frac{7}{2}\right)"]
INEQUALITIES = {
    INTERVALS[0]: (
        [r"2 < x \le 5", r"5 \ge x > 2", r"\{x \mid 2 < x \le 5\}"],
        [r"2 < x < 5", r"5 > x \ge 2"],
    ),
    INTERVALS[1]: ([r"x \ge -3", r"-3 \le x", r"\{x : x \ge -3\}"], ["x > -3", r"x \le -3"]),
    INTERVALS[2]: (
        [r"x < 1 \text{ or } x > 4", r"x > 4 \text{ or } 1 > x"],
        [r"x < 1 \text{ and } x > 4", r"x < 1 \text{ or } x \ge 4", r"x > 1 \text{ or } x < 4"],
    ),
    INTERVALS[3]: (
        [r"0 \le x < \frac{7}{2}", r"x \ge 0 \text{ and } x < \frac{7}{2}"],
        [r"x \ge 0 \text{ or } x < \frac{7}{2}", r"0 \le x < \frac{7}{3}"],
    ),
}
LISTS = ["2,-7", "1, 4, 9", r"\{3,8\}", r"3 \pm \sqrt{2}"]
MATRICES = [r"\begin{pmatrix} 2 \\ -5 \end{pmatrix}", r"\begin{pmatrix} 1/4 & 3 \\ 0 & -1/2 \end{pmatrix}"]
WORDS = [r"\text{blue}", r"\text{Monday}", "even", r"\text{parabola}", "Marta", "Bob", "yes", "no"]
CHOICES = [r"\text{(B)}", r"\text{(D)}"]
BASES = ["73_8", "2041_5", "1101_{2}"]
EQUATIONS = ["y = 3x - 2", "2x - 3y + 7z - 1 = 0"]
TINY = [r"2.88 \times 10^{-19}", r"\frac{1}{2004!}", "0.0000672", r"3 \cdot 10^{-12}"]
NUMBERS = [*WHOLE, *DECIMALS, *FRACTIONS]
VALUES = [*NUMBERS, *SURDS]
MATHS = [*VALUES, *COMPLEX, *POLYNOMIALS, *TUPLES, *INTERVALS, *LISTS, *MATRICES, *EQUATIONS]
EVERYTHING = [*MATHS, *WORDS, *CHOICES, *BASES, *TINY, *ROOTS_OF_LETTERS, *SEQUENCES]

UNITS = [
    r"\text{ cm}",
    r"\,\text{cm}^2",
    r"~\mathrm{cm}^2",
    r" \mathrm{~m}^3",
    " hours",
    r"\ \text{inches}",
    r"\text{ square units}",
    " km",
    r"\text{ people}",
    " dollars",
]
FULL_WIDTH = str.maketrans("0123456789-.,()[]", "０１２３４５６７８９－．，（）［］")


def top(gold: str) -> str:
    """The gold answer with its last digit raised by one, so that its value is another."""
    at = list(re.finditer(r"\d", gold))[-1]
    return gold[: at.start()] + str((int(at.group()) + 1) % 10) + gold[at.end() :]


def changes(gold: str):
    """Yield (class, answer, same) of one gold answer."""
    maths, number = gold in MATHS, gold in NUMBERS
    whole = gold in WHOLE
    yield "as it is", gold, True
    for name, wrapped in {"dollars": f"${gold}$", "parentheses": rf"\({gold}\)", "brackets": rf"\[{gold}\]", "full stop": f"{gold}.",
                          "spaces": f"  {gold} ", "braces": f"{{{gold}}}", "box": rf"\boxed{{{gold}}}"}.items():  # fmt: skip
        yield name, wrapped, True
    if gold in WHOLE[:4]:
        yield "many braces", "{" * 200 + gold + "}" * 200, True
    if maths:
        yield (
            "size commands",
            gold.replace("(", r"\left(")
            .replace(")", r"\right)")
            .replace("[", r"\left[")
            .replace("]", r"\right]")
            if "left" not in gold and "sqrt[" not in gold
            else gold,
            True,
        )
        yield "no spaces", re.sub(r"(?<![a-z]) | (?![A-Za-z])", "", gold), True
        yield (
            "thin spaces",
            gold.replace("+", r"\,+\,").replace(",", r",\ ") if "," not in gold or "(" in gold else gold,
            True,
        )
        yield "bold", rf"\mathbf{{{gold}}}" if "{" not in gold else gold, True
        yield "display fractions", gold.replace(r"\frac", r"\dfrac").replace(r"\ddfrac", r"\dfrac"), True
        yield "dashes", gold.replace("-", "−") if "begin" not in gold else gold, True
        yield "invisible signs", f"\u200e{gold}\u200b", True
    if number:
        yield "name", f"x = {gold}", True
        yield "named function", f"f(3) = {gold}", True
        yield "text", rf"\text{{{gold}}}", True
        for name, font in {"declared fonts": r"{\bf %s}", "old fonts": r"\bf{%s}", "upright": r"\mathrm{%s}", "colour": r"\color{red}{%s}",
                           "size": r"\Large %s"}.items():  # fmt: skip
            yield name, font % gold, True
        for currency in ("€", "£", r"US\$", r"\pounds ", r"\text{Rs. }"):
            yield "currency signs", f"{currency}{gold}", True
        for currency in (" euros", r"\text{ yen}", "元"):
            yield "currency words", f"{gold}{currency}", True
        yield "approximately", rf"\approx {gold}", True
        yield "money", rf"\${gold}", True
        for unit in UNITS:
            yield "units", f"{gold}{unit}", True
        yield "degrees", rf"{gold}^\circ", True
        yield "degree sign", f"{gold}°", True
        yield "sum", f"{gold}+0" if gold[0] != "." else gold, True
    if whole:
        yield "decimal zero", f"{gold}.0", True
        yield "over one", rf"\frac{{{gold}}}{{1}}", True
        yield "zero-padded", re.sub(r"^(-?)", r"\g<1>0", gold), True
        yield "product", rf"1 \cdot {gold}" if gold[0] != "-" else gold, True
        yield "scientific", f"{gold}e0", True
        if len(gold) > 4:
            yield "thousands", f"{int(gold):,}", True
            yield "thousands in LaTeX", f"{int(gold):,}".replace(",", "{,}"), True
            yield "thousands by spaces", f"{int(gold):,}".replace(",", "\u202f"), True
        yield "percent of it", rf"{int(gold) * 100}\%", int(gold) == 0
        yield "off by one", str(int(gold) + 1), False
        yield "negated", str(-int(gold)), int(gold) == 0
        yield "a digit more", f"{gold}7", False
        yield "ten times", f"{gold}0", int(gold) == 0
        for letter in "nkx":
            yield "letter behind", f"{gold}{letter}", int(gold) == 0
        yield "squared", f"({gold})^2", gold == "0"
        yield "one of two", rf"{gold} \text{{ or }} {int(gold) + 3}", False
        yield "modulus left open", rf"{gold}^{{30000000}} \bmod {abs(int(gold)) + 1}", False
        yield "prose", f"the number of ways to do it is at least {gold}", False
        yield "near", f"{gold}.0004", False
        yield "hardly apart", f"{gold}.00002", False
        yield "invisible sign inside", f"{gold[:1]}\u2060{gold[1:]}\ufe0f", True
        yield "full width", gold.translate(FULL_WIDTH), True
    if gold in DECIMALS:
        yield (
            "decimal comma in braces",
            gold.replace(".", "{,}") if gold[0] != "." else gold.replace(".", "0{,}"),
            True,
        )
        yield "full width", gold.translate(FULL_WIDTH), True
        yield "other last digit", top(gold), False
    if gold in FRACTIONS:
        t, b = map(int, re.search(r"\{(\d+)\}\{(\d+)\}", gold).groups())
        sign = "-" if gold.startswith("-") else ""
        yield "slash", f"{sign}{t}/{b}", True
        yield "doubled", rf"{sign}\frac{{{2 * t}}}{{{2 * b}}}", True
        yield "twelve places", f"{sign}{t / b:.12f}", True
        yield "six digits", f"{sign}{t / b:.6g}", True
        yield (
            "a wrong sixth digit",
            f"{sign}{t / b + 2 * 10 ** -len(f'{t / b:.6g}'.partition('.')[2]):.6g}",
            False,
        )
        whole, places = f"{t / b:.20f}".split(".")
        for start, period in ((start, period) for start in range(3) for period in range(1, 7)):
            if places[start : start + period] * 2 == places[start + period : start + 3 * period]:
                fixed, repeated = places[:start], places[start : start + period]
                if repeated != "0":
                    yield "repeating decimal", rf"{sign}{whole}.{fixed}\overline{{{repeated}}}", True
                    yield "digits that go on", rf"{sign}{whole}.{fixed}{repeated * 3}\ldots", True
                    other = str((int(repeated[-1]) + 1) % 10)
                    yield "other period", rf"{sign}{whole}.{fixed}\overline{{{repeated[:-1]}{other}}}", False
                break
        yield "sign on top", rf"\frac{{{sign}{t}}}{{{b}}}", True
        yield "upside down", rf"{sign}\frac{{{b}}}{{{t}}}", False
        yield "two places", f"{sign}{t / b:.2f}", float(f"{t / b:.2f}") == t / b
        yield "other top", rf"{sign}\frac{{{t + 1}}}{{{b}}}", False
        if t > b and t % b:
            yield "mixed number", rf"{sign}{t // b}\frac{{{t % b}}}{{{b}}}", True
    if gold in SURDS:
        yield "double negation", f"-(-({gold}))", True
        yield "over one", rf"\frac{{{gold}}}{{1}}", True
        yield "Unicode", gold.replace(r"\sqrt{", "√{").replace(r"\pi", "π"), True
        yield "a letter more", f"{gold}c", False
        yield "no root", gold.replace(r"\sqrt", ""), r"\sqrt" not in gold
        yield "negated", f"-({gold})", False
        yield "other number", top(gold), False
    if gold in COMPLEX:
        real, sign, imaginary = re.fullmatch(r"(-?\d)([+-])(\d?)i", gold).groups()
        yield "turned", f"{sign.strip('+')}{imaginary}i{'' if real[0] == '-' else '+'}{real}", True
        yield "decimals", f"{real}.0 {sign} {imaginary or 1}.0i", True
        yield "conjugate", f"{real}{'-' if sign == '+' else '+'}{imaginary}i", False
    if gold in POLYNOMIALS:
        yield "name", f"y = {gold}", True
        yield "named function", f"f(x) = {gold}", True
        yield "in brackets", f"({gold})", True
        yield "times one", f"1({gold})", True
        yield "other constant", f"{gold}+1", False
        yield "negated", f"-({gold})", False
        if letter := re.search(r"(?<![\\a-z])[xknrt](?![a-z])", gold):
            yield "other letter", re.sub(rf"(?<![\\a-z]){letter.group()}(?![a-z])", "w", gold), False
    if gold in TUPLES:
        inner = gold.replace(r"\left", "").replace(r"\right", "")[1:-1].split(",")
        yield "tight", f"({','.join(part.strip() for part in inner)})", True
        if "\\" not in gold:
            yield "full width", f"({', '.join(part.strip() for part in inner)})".translate(FULL_WIDTH), True
        yield "names in front", f"(x,y)=({','.join(inner)})" if len(inner) == 2 else gold, True
        yield "swapped", f"({','.join(reversed(inner))})", False
        yield "one short", f"({','.join(inner[:-1])})", False
        yield "a set", rf"\{{{','.join(inner)}\}}", False
    if gold in INTERVALS:
        yield "in x", rf"x \in {gold}", True
        right, wrong = INEQUALITIES[gold]
        for answer in right:
            yield "an inequality", answer, True
        for answer in wrong:
            yield "another inequality", answer, False
        yield "other bracket", gold.replace("(", "[", 1) if "(" in gold else gold.replace("[", "(", 1), False
        yield "other end", top(gold), False
    if gold in LISTS:
        inner = re.sub(r"\\[{}]", "", gold).split(",")
        if len(inner) > 1:
            yield "other order", ", ".join(reversed(inner)), True
            yield "and", r" \text{ and } ".join(inner), True
            yield "as a set", rf"\{{{','.join(inner)}\}}", True
            yield "one short", ",".join(inner[1:]), False
            yield "one more", ",".join([*inner, "77"]), False
            yield "other entry", ",".join([*inner[:-1], "78"]), False
        else:
            yield "written out", gold.replace(r"\pm", "+") + ", " + gold.replace(r"\pm", "-"), True
            yield "one short", gold.replace(r"\pm", "+"), False
    if gold in MATRICES:
        array = re.sub(r"(begin|end)\{pmatrix\}", r"\1{array}", gold).replace("{array}", "{array}{cc}", 1)
        yield "an array", rf"\left({array}\right)", True
        yield "an array", rf"\left[{array}\right]", True
        halves = (
            gold.replace("2", "4", 1).replace("-5", "-10")
            if "&" not in gold
            else gold.replace("1/4", "1/2").replace("3", "6").replace("-1/2", "-1")
        )
        yield "a number in front", rf"\frac{{1}}{{2}}{halves}", True
        yield "another number in front", rf"\frac{{1}}{{3}}{halves}", False
        yield "a sum", f"{gold} + 0{gold}", True
        yield "square brackets", gold.replace("pmatrix", "bmatrix"), True
        yield "tight", gold.replace(r" \\ ", r"\\").replace(" & ", "&"), True
        yield "lines", gold.replace(r"\\ ", "\\\\\n"), True
        yield "decimals", gold.replace("1/4", "0.25").replace("1/2", "0.5"), True
        yield "other entry", top(gold), False
        yield (
            "turned",
            gold.replace(r"\\", "&")
            if "&" not in gold
            else gold.replace("3", "0", 1).replace("0 & -1/2", "3 & -1/2"),
            False,
        )
    if gold in WORDS:
        word = re.sub(r"\\text\{(.*)\}", r"\1", gold)
        yield "plain", word, True
        yield "other case", rf"\text{{{word.upper()}}}", True
        yield "another font", rf"\mathrm{{{word}}}", True
        yield "stars", f"**{word}**", True
        yield "article", rf"\text{{the {word}}}", True
        yield "anagram", word[1:] + word[0], False
        yield "backwards", word[::-1], word[::-1].casefold() == word.casefold()
        yield "other word", r"\text{banana}", False
        yield "a letter less", word[:-1], False
    if gold in ROOTS_OF_LETTERS:
        if gold == r"\frac{1}{\sqrt{n}}":
            equal, other = (
                (r"\sqrt{1/n}", r"\frac{\sqrt{n}}{n}", "n^{-1/2}"),
                (r"\sqrt{n}", r"\sqrt{1/(n+1)}"),
            )
        elif gold == r"\sqrt{1/x}":
            equal, other = (r"\frac{1}{\sqrt{x}}", r"\frac{\sqrt x}{x}"), (r"\frac{1}{x}", r"\sqrt{2/x}")
        else:
            equal, other = (
                (r"\frac{\sqrt{a}}{\sqrt{b}}", r"\sqrt{a/b}"),
                (r"\sqrt{ab}", r"\sqrt{\frac{b}{a}}"),
            )
        for answer in equal:
            yield "roots of letters", answer, True
        for answer in other:
            yield "other root", answer, False
    if gold in SEQUENCES:
        yield "plain dots", gold.replace(r"\ldots", "..."), True
        yield "other dots", gold.replace(r"\ldots", r"\dots"), True
        yield "one sign of dots", gold.replace(r"\ldots", "…"), True
        yield "other end", re.sub(r"(100|n(?=\s*$)|2n-1)", "m", gold), False
        yield "other start", gold.replace("1, ", "3, ", 1).replace("2, 4", "2, 8", 1), False
    if gold in CHOICES:
        letter = gold[-3]
        yield "option", rf"\text{{Option {letter}}}", True
        yield "the choice", rf"\text{{the ({letter})}}", True
        yield "plain", letter, True
        yield "brackets only", f"({letter})", True
        yield "with its text", f"({letter}) 12", True
        yield "other choice", chr(ord(letter) + 1), False
    if gold in BASES:
        digits, base = gold.replace("{", "").replace("}", "").split("_")
        yield "braces of the base", f"{digits}_{{{base}}}", True
        yield "other base", f"{digits}_9", False
        yield "no base", str(int(digits, int(base))), False
        yield "other digits", f"{top(digits)}_{base}", False
    if gold in EQUATIONS:
        left, right = (side.strip() for side in gold.split("="))
        yield "sides swapped", f"{right} = {left}", True
        yield "times two", f"2({left}) = 2({right})" if right != "0" else f"2({left}) = 0", True
        yield "other number", top(gold) if right != "0" else gold.replace("7z", "8z"), False
    if gold in TINY:
        yield (
            "another tiny number",
            {"0": "0.0000668", "3": r"5 \cdot 10^{-12}", "2": r"3.69 \times 10^{-19}"}.get(
                gold[0], r"\frac{1}{2006!}"
            ),
            False,
        )
        yield "negated", f"-{gold}", False
        yield "zero", "0", False
        if gold == "0.0000672":
            yield "scientific", r"6.72 \times 10^{-5}", True


def pairs(share: float = 1.0, seed: int = 0) -> list[tuple[str, str, str, bool]]:
    """(class, gold, answer, same) of all golds and changes, or of a random share of them."""
    made = [(name, gold, answer, same) for gold in EVERYTHING for name, answer, same in changes(gold)]
    made = list(dict.fromkeys(made))
    return made if share == 1 else random.Random(seed).sample(made, round(share * len(made)))
