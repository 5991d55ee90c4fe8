"""The paper's grader: the rules of the public Qwen2.5-Math evaluator, its errors included.

The paper was graded by that evaluator (paper, section 4), so its numbers are compared with this grade and
with no other. What it does is a matter of fact and is repeated here step by step, in its order: the
extraction (`answer`), the way an answer is simplified (`stripped`), the comparison (`equal`). Three things
are left out on purpose, each listed with its count in docs/grading.md: sympy's `parse_expr`, which runs what
it reads as Python; latex2sympy 1, whose place Math-Verify's descendant of it takes; and words that are equal
as products of their letters only.

Not to be mended where it is wrong: `grading.py`'s headline is what we believe.
"""

import contextlib
import functools
import io
import math
import re

LAST_NUMBER = re.compile(r"-?\d*\.?\d+")

# Removed where they stand between characters that are no letters or digits, in this order, twice over: the
# units that the evaluator knows (MathQA's, noise included). Patterns, as there: "." stands for any character.
MATHQA_UNITS = """east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|p . m|lb
tile|per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st|inches
noon|percent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|toy|coin|sq . m|gallon|° f|profit|minw|yr|women|feet|am
pm|hr|cu cm|square|v â € ™|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour|minute|min|second|man|woman|sec
cube|mt|sq inch|mp|∏ cm ³|hectare|more|sec|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard|pure
year|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch"""
MATHQA_UNITS = MATHQA_UNITS.replace("\n", "|").split("|")
MATHQA_UNITS = [
    (unit.replace(" .", " "), re.compile(rf"(^|\W){unit}($|\W)"))
    for unit in [*MATHQA_UNITS, *(f"{unit}s" for unit in MATHQA_UNITS)]
]

# What is rewritten before units are removed, and after.
BEFORE_UNITS = [
    (r"\n", ""), (r"\.+$", ""), (r"\\!", ""), (r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}"),
    (r"\\end\{array\}", r"\\end{pmatrix}"), ("bmatrix", "pmatrix"), ("[td]frac", "frac"), (r"\\neq", r"\\ne"),
    (r"\\leq", r"\\le"), (r"\\geq", r"\\ge"), (r"\\left|\\right", ""), (r"\\([{}])", r"\1"),
]  # fmt: skip
AFTER_UNITS = [(r"\^\{\\circ\}|\^\\circ", ""), (r"\\\$", ""), (r"\$", ""), (r"\\\(", ""), (r"\\\)", "")]
LAST = [
    (r"\\text\{(.*?)\}", r"\1"),
    *((sign, "") for sign in ("x=", "y=", "z=", r"x\\in", r"y\\in", r"z\\in", r"x\\to", r"y\\to", r"z\\to")),
    (r"\\emptyset", "{}"), (r"\(-\\infty,\\infty\)", r"\\mathbb{R}"), (r"\\%", ""), ("%", ""), (r" \.", " 0."),
    (r"\{\.", "{0."), ("infinity", r"\\infty"),
]  # fmt: skip
VERY_LAST = [(r"\+\\inity", r"\\infty"), ("and", ""), (r"\\mathbf", ""), (r"\\mbox{.*?}", "")]
ZEROS = [(r"(\d+)\.0*([^\d])", r"\1\2"), (r"(\d+)\.0*$", r"\1")]
BEFORE_UNITS, AFTER_UNITS, LAST, VERY_LAST, ZEROS = (
    [(re.compile(pattern), replacement) for pattern, replacement in rules]
    for rules in (BEFORE_UNITS, AFTER_UNITS, LAST, VERY_LAST, ZEROS)
)
UNIT_AT_END = re.compile(r"\\text{.*?}$")
PYTHON = re.compile(r"(?=.*[_,])[\d_.,+*/ -]+")
FRACTION = re.compile(r"(-?)\\frac\{(\d{1,15})\}\{(\d{1,15})\}")
SENTENCE = re.compile(
    r"-?(?:[\d.,]+(?=[A-Za-z]*[^\W\d_eiEI])[A-Za-z]{2}|(?=[A-Za-z]*[^\W\d_eiEI])[A-Za-z]{3})"
)
LISTED = re.compile(r"[(\[].+[)\]]")
PMATRIX = re.compile(r"\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}", re.DOTALL)
WORD = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox)\s*\{\s*([^\W\d_]{2,})\s*\}|([^\W\d_]{2,})")

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
NUMBER_WORDS = {word: value for value, word in enumerate(f"{ONES} seventeen eighteen nineteen".split())}
NUMBER_WORDS |= {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2
    )
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


# ---- extraction


def boxed(rest: str) -> str:
    """What the evaluator takes of the text behind the last "boxed": to the closing brace, else to the end; to
    the next dollar sign where no brace opens.
    """
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    depth = 0
    for match in re.finditer(r"[{}]", rest):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return rest[1 : match.start()]
    return rest[1:]


def answer(text: str) -> tuple[str | None, str | None]:
    """The answer that the evaluator extracts of a response, and from where: `box`, `statement` or `last
    number`.

    It ends with the text, whatever stands there, and is not simplified yet.
    """
    text = text.replace("ки", "")
    if "final answer is $" in text and "$. I hope" in text:
        found, source = text.split("final answer is $", 1)[1].split("$. I hope", 1)[0], "statement"
    elif "boxed" in text:
        found, source = boxed(text[text.rindex("boxed") + len("boxed") :]), "box"
    elif "he answer is" in text or "final answer is" in text:
        found, source = (
            re.split("he answer is" if "he answer is" in text else "final answer is", text)[-1],
            "statement",
        )
    elif "答案是" in text:
        found, source = text.split("答案是")[1].strip().split("\n\n")[0], "statement"
    else:
        found, source = "", "last number"
        for match in LAST_NUMBER.finditer(text.replace(",", "")):
            found = match.group()
    found = re.sub(r"\n\s*", "", found.strip() if source == "statement" else found)
    found = found.removeprefix(":").removesuffix(".").removesuffix("/")
    return (found, source) if found.strip() else (None, None)


# ---- simplification


def replaced(text: str, rules) -> str:
    """The text after each of the rules, one after the other."""
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def without_units(text: str) -> str:
    """The text without the units of the list, but never without everything."""
    for _ in range(2):
        for name, pattern in MATHQA_UNITS:
            if name.strip(" .") in text:
                text = pattern.sub(r"\1\2", text) or text
    return text


def number_of_words(text: str) -> str:
    """The number that the words of a text make (`twenty one apples`: 21), the text itself where there is
    none.
    """
    plain = text.replace("-", " ").lower()
    if plain.isdecimal():  # `¹` is a digit that int() does not read
        return str(int(plain))
    words = [word for word in plain.split() if word in {*NUMBER_WORDS, *SCALES, "hundred", "point"}]
    scales = [SCALES[word] for word in words if word in SCALES]
    if not words or words.count("point") > 1 or scales != sorted(set(scales), reverse=True):
        return text
    whole, _, places = " ".join(words).partition("point")
    total = group = 0
    for word in whole.split():
        if word in SCALES:
            total, group = total + max(group, 1) * SCALES[word], 0
        else:
            group = max(group, 1) * 100 if word == "hundred" else group + NUMBER_WORDS[word]
    digits = [NUMBER_WORDS.get(word, 10) for word in places.split()]
    if digits and max(digits) < 10:
        return str(total + group + float("0." + "".join(map(str, digits))))
    return str(total + group)


def with_fractions(text: str) -> str:
    """`\\frac12` and `\\frac1{72}` with braces; a whole `a/b` as a fraction."""
    pieces = text.split("\\frac")
    for at, piece in enumerate(pieces[1:], 1):
        if not piece.startswith("{"):
            if len(piece) < 2:
                pieces = [text]
                break
            top, bottom, rest = piece[0], piece[1], piece[2:]
            pieces[at] = f"{{{top}}}{{{rest}" if bottom == "{" else f"{{{top}}}{{{bottom}}}{rest}"
    text = "\\frac".join(pieces)
    sides = text.split("/")
    if len(sides) == 2:
        with contextlib.suppress(ValueError):
            whole = [side if "sqrt" in side else str(int(side)) for side in sides]
            if text == "/".join(whole):
                return f"\\frac{{{whole[0]}}}{{{whole[1]}}}"
    return text


@functools.lru_cache(maxsize=4096)
def stripped(text: str) -> str:
    """An answer as the evaluator compares it: without units, degree and percent signs, delimiters, `x=`,
    spaces.
    """
    text = replaced(text.strip(), BEFORE_UNITS)
    text = UNIT_AT_END.sub("", text).strip() or text
    text = replaced(number_of_words(replaced(without_units(text), AFTER_UNITS)), LAST)
    if "\\infty" not in text:
        text = text.replace("inf", "\\infty")
    text = replaced(text, VERY_LAST)
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = replaced(text, ZEROS)
    text = "0" + text if text.startswith(".") else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    return with_fractions(re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", ""))


# ---- comparison


def as_float(text: str) -> float | None:
    """The number that a text is, commas dropped; None for anything else."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def near_enough(gold: float, found: float) -> bool:
    """Equal within 10⁻⁴ of the larger."""
    return math.isclose(gold, found, rel_tol=1e-4)


def plain_word(text: str) -> str | None:
    """The word that an answer is as a whole, None for anything else."""
    match = WORD.fullmatch(text.strip())
    return match and (match.group(1) or match.group(2)).casefold()


def anagrams(gold: str, found: str) -> bool:
    """Whether two words have the same letters in another order: equal to the evaluator, as products."""
    words = plain_word(gold), plain_word(found)
    return None not in words and words[0] != words[1] and sorted(words[0]) == sorted(words[1])


def graded_equal(gold: str, found: str) -> bool:
    """The evaluator's grade of an extracted answer, both simplified; anagrams are refused on purpose."""
    return not anagrams(gold, found) and equal(stripped(gold), stripped(found))


def equal(gold: str, found: str) -> bool:
    """The evaluator's comparison of two simplified answers. No time limit of its own."""
    if gold.strip().lower() == found.strip().lower() or (gold in {*"ABCDE"} and last_choice(found) == gold):
        return True
    numbers = as_float(gold), as_float(found)
    if None not in numbers:  # and nothing else decides: `3,5,7` is 357 to it, and `52_8` 528
        golds = (numbers[0] / 100, numbers[0], numbers[0] * 100)
        return any(near_enough(value, numbers[1]) for value in golds)
    if not found:
        return False
    gold, found = gold.strip(), found.strip()
    if "pmatrix" in found and "pmatrix" not in gold:
        sets = [group.strip("{}").replace(",", "\\") for group in re.findall(r"\{.*,.*\}", gold)]
        gold = ", ".join(rf"\begin{{pmatrix}}{entries}\end{{pmatrix}}" for entries in sets)
    return same_without_brackets(gold, found) or equal_entries(gold, found) or same_by_algebra(gold, found)


def last_choice(text: str) -> str:
    """The last letter A to E that stands alone in an answer, else the answer."""
    plain = text.strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    return (re.findall(r"\b([A-E])\b", plain.upper()) or [plain.strip(" .")])[-1].rstrip("./")


def without_algebra(gold: str, found: str) -> bool | None:
    """`equal` of two simplified answers where it can be told without reading them; None where it cannot.

    A sentence, behind a number or not, is to the evaluator a product of its letters, and no number but
    nought; most answers of a response without a box are such. Fractions of whole numbers it compares by their
    values.
    """
    if gold.strip().lower() == found.strip().lower():
        return True
    values = fraction(gold), fraction(found)
    if None not in values:
        numbers = None not in (as_float(gold), as_float(found))
        return equal(gold, found) if numbers else same_without_brackets(gold, found) or near_enough(*values)
    return False if values[0] and SENTENCE.match(found) else None


def fraction(text: str) -> float | None:
    """The value of a number or of a fraction of whole numbers, None for anything else."""
    match = FRACTION.fullmatch(text)
    if match and int(match[3]):
        return int(match[1] + match[2]) / int(match[3])
    return as_float(text)


def same_without_brackets(gold: str, found: str) -> bool:
    """True where only braces, round brackets and, at the ends, square ones tell both apart."""
    ends = [(text[:1], text[-1:]) for text in (gold, found)]
    if (ends[1] == ("[", "]") and ends[0] != ("(", ")")) or (ends[1] == ("(", ")") and ends[0] != ("[", "]")):
        gold, found = gold.strip("[]()"), found.strip("[]()")
    return re.sub("[{}()]", "", gold).lower() == re.sub("[{}()]", "", found).lower()


def equal_entries(gold: str, found: str) -> bool:
    """True for lists and matrices with equal entries; every comma separates."""
    if LISTED.match(gold) and LISTED.match(found):
        rows = [[text[1:-1].split(",")] for text in (gold, found)]
        if all_equal(*rows):
            return True
    matrices = [PMATRIX.fullmatch(text) for text in (gold, found)]
    if all(matrices):
        lines = [
            [line.strip().split("&") for line in matrix.group(1).split("\\\\") if line.strip()]
            for matrix in matrices
        ]
        return all_equal(*lines)
    return False


def all_equal(gold: list[list[str]], found: list[list[str]]) -> bool:
    """Equal entry by entry, and as many."""
    if list(map(len, gold)) != list(map(len, found)):
        return False
    return all(equal(*pair) for lines in zip(gold, found, strict=True) for pair in zip(*lines, strict=True))


def same_by_algebra(gold: str, found: str) -> bool:
    """Equations by their two sides, `x=5` by what follows the sign, everything else as expressions."""
    counts = gold.count("="), found.count("=")
    if counts == (1, 1):
        differences = [
            "{} - ({})".format(*(side.strip() for side in text.split("="))) for text in (gold, found)
        ]
        return symbolically_equal(*differences) or symbolically_equal(differences[0], f"-({differences[1]})")
    for one, other in ((found, gold), (gold, found)):
        if one.count("=") == 1 and "=" not in other and len(one.split("=")[0].strip()) <= 2:
            sides = {found: found, gold: gold} | {one: one.split("=")[1]}
            return equal(sides[gold], sides[found])
    return symbolically_equal(gold, found)


def symbolically_equal(gold: str, found: str) -> bool:
    """True when sympy reads the same in both, finds their difference zero, or their values within 10⁻⁴.

    As in the evaluator each test stands alone, and what raises an error decides nothing.
    """
    import sympy

    left, right = read(found), read(gold)

    def value_of(item) -> float:
        return float(sympy.N(item))

    with contextlib.suppress(Exception):
        values = value_of(right), value_of(left)
        if all(
            map(math.isfinite, values)
        ):  # two numbers: none of the other tests holds where this one does not
            return near_enough(*values)
    tests = [
        lambda: str(left) == str(right) or left == right,
        lambda: left.equals(right) or sympy.simplify(left - right) == 0,
        lambda: abs(left.lhs - left.rhs).equals(abs(right.lhs - right.rhs)),
        lambda: left.shape == right.shape and rounded(left).equals(rounded(right)),
    ]
    for test in tests:
        with contextlib.suppress(Exception):
            if test():
                return True
    return False


def rounded(matrix):
    """A matrix of numbers to three places."""
    return matrix.applyfunc(lambda entry: round(entry, 3))


@functools.lru_cache(maxsize=256)
def read(text: str):
    """What the first grammar that can reads at the start of an answer, backslashes single before double; else
    the text itself.
    """
    for grammar in (by_sympy, by_python, leading_list, by_math_verify):
        for written in dict.fromkeys((text.replace("\\\\", "\\"), text)):
            with contextlib.suppress(Exception):
                return grammar(written)
    return text


def by_python(text: str) -> tuple:
    """Numbers as Python writes them (there: sympy's `parse_expr`): `52_8` is 528, and `3,5,7` three
    numbers.
    """
    if not PYTHON.fullmatch(text):
        raise ValueError(text)
    return tuple(by_sympy(entry.replace("_", "")) for entry in text.split(","))


def leading_list(text: str) -> list:
    """The list in brackets that an answer begins with; what follows it is dropped."""
    if text[:1] not in ("[", "{"):
        raise ValueError(text)
    entries, depth = [""], 0
    for char in text:
        depth += (char in "[{(") - (char in ")}]")
        if depth == 0:
            return [by_sympy(entry) for entry in entries]
        if char == "," and depth == 1:
            entries.append("")
        elif depth > 1 or char not in "[{(":
            entries[-1] += char
    raise ValueError(text)


def by_sympy(text: str):
    """sympy's `parse_latex`, not strict: what follows the first expression is dropped (`52_8` is 52).

    Its parts are called one by one since the function refuses the version of antlr4 that Math-Verify brings,
    whose tables are the same; the note that both say so is swallowed.
    """
    import antlr4
    from sympy.parsing.latex import _parse_latex_antlr as grammar

    text = text.strip()
    listener = grammar.MathErrorListener(text)
    with contextlib.redirect_stdout(io.StringIO()):
        lexer = grammar.LaTeXLexer(antlr4.InputStream(text))
        parser = grammar.LaTeXParser(antlr4.CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(listener)
    return grammar.convert_relation(parser.math().relation())


def by_math_verify(text: str):
    """What latex2sympy2_extended, Math-Verify's own parser, reads."""
    from latex2sympy2_extended import latex2sympy

    return latex2sympy(text)
