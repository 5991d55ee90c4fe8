"""One way of writing an answer: what stands in front of every comparison of the headline grader.

`normal` takes Unicode, spacing, fonts, delimiters and spelling variants of LaTeX out of an answer without
changing what it says; `Written` holds what else an answer carries beside its value: a unit, a percent sign, a
base, a name (`x =`). Text only: nothing here reads mathematics or can take long.
"""

import functools
import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()")
UNICODE_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
    "∞": r"\infty ", "≈": r"\approx ", "≡": r"\equiv ", "…": r"\ldots ", "°": r"^\circ ", "º": r"^\circ ", "′": "'", "’": "'",
    "、": ",", "。": ".", "⟨": "(", "⟩": ")", "【": "[", "】": "]", "∘": r"\circ ", "∠": r"\angle ", "元": " yuan ", "円": " yen ",
    "ℝ": r"\mathbb{R}", "ℂ": r"\mathbb{C}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}",
}  # fmt: skip
THOUSANDS_SPACE = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
RAISED, LOWERED = re.compile(f"[{'⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ'}]+"), re.compile(f"[{'₀₁₂₃₄₅₆₇₈₉₊₋₍₎'}]+")
ROOT_SIGN = re.compile(r"([√∛∜])\s*(?:\(([^()]*)\)|\{([^{}]*)\}|([\d.]+|[A-Za-z]|\\[a-z]+))")
ROOT_OF_SIGN = {"√": "", "∛": "[3]", "∜": "[4]"}

# Spacing commands become a space, `\!` nothing; two backslashes end a row of a matrix and stay.
SPACING = re.compile(
    r"(\\\\)(?:\[[^\]]*\])?|\\!|(?:\\[,;:> ]|~|\\(?:quad|qquad|thinspace|enspace|displaystyle|limits|mathstrut)(?![A-Za-z])"
    r"|\\[hv]space\*?\{[^{}]*\}|\\(?:left|right|[bB]ig+[lr]?)(?![A-Za-z])\.?)"
)
INSIDE = r"((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)"  # of braces, two deep
FONT = (
    r"\\(?:math(?:bf|rm|it|sf|tt|normal)|text(?:bf|it|rm|sf|tt|normal|up)?|mbox|fbox|boxed|hbox|emph|underline|underbrace"
    r"|tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge"
    rf"|boldsymbol|bm|pmb|operatorname\*?|bf|rm)\s*\{{{INSIDE}\}}"
)
SWITCH = re.compile(
    r"\\(?:bf|rm|it|sf|tt|sl|em|bfseries|boldmath|tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge"
    r"|textstyle|scriptstyle|nonumber|notag)(?![A-Za-z{])|\\(?:text)?color\s*(?:\[\w*\])?\{[^{}]*\}"
    r"|\\math(?:bf|rm|it|sf|tt)(?=\s*[^\s{])|\\(?:checkmark|blacksquare|qed)(?![A-Za-z])"
)
BOXED = re.compile(r"\\(?:[fh]?box(?:ed)?|mathbf|textbf|bf|boldsymbol|bm|underline|displaystyle)\s*\{")
CURRENCY = re.compile(
    r"(?<![A-Za-z\\])(?:US|AU|CA|NZ|HK|A|C|S)(?=\\?\$\s*[-+]?(?:[\d.]|\\[dt]?frac))|\\(?:pounds|textdollar|texteuro|textsterling|euro|yen)(?![a-z])(?:\{\})?"
    r"|(?<![^\s({=$-])(?:\\(?:text|mathrm)\s*\{\s*)?(?:USD|EUR|GBP|INR|JPY|CNY|RMB|Rs|Rp)\b\.?\s*(?:\}\s*)?(?=[-+]?(?:[\d.]|\\[dt]?frac))"
)
# The last one takes the brackets away that enclose one matrix: another environment brings its own.
REWRITTEN = [
    (r",\s*\\!\s*", ","), (r"(?<!\d)0\{,\}(?=\d)", "0."), (r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ""), (r"(?<=\d)\{,\}(?=\d)", "."), (r"\{:\}", ":"),
    (r"\.{3,}", r"\\ldots "), (r"\\(?:text|mathrm)\s*\{\s*(\^\\circ)\s*([CF]?)\s*\}", r"\1\2"),
    (r"(\\(?:text(?:rm|it|bf|normal)?|mathrm|mbox|operatorname)\s*\{[^{}$^]*)\$?\^\s*\{?\s*([23])\s*\}?\$?\s*\}", r"\1}^\2"),
    (r"(?<=\d)\s*\^?\s*\{?\s*\\(?:text(?:rm|it|bf|normal)?|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?|(?<=\d)\s*\^\s*\{\s*(?:st|nd|rd|th)\s*\}|(?<=^\d)th$|(?<=^\d\d)th$", ""),
    (r"\\[dtc]frac(?![a-z])", r"\\frac"), (r"\\(?:leq|leqslant)(?![a-z])", r"\\le"), (r"\\(?:geq|geqslant)(?![a-z])", r"\\ge"),
    (r"\\neq(?![a-z])", r"\\ne"), (r"\\lt(?![a-z])", "<"), (r"\\gt(?![a-z])", ">"), (r"\\(?:dots|cdots|dotsc|dotsb)(?![a-z])", r"\\ldots"),
    (r"\\varnothing(?![a-z])", r"\\emptyset"), (r"\\(?:lbrace|lcb)(?![a-z])", r"\\{"), (r"\\rbrace(?![a-z])", r"\\}"),
    (r"\\(?:exp)\s*\(([^()]*)\)", r"e^{\1}"), (r"\\mod(?![a-z])", r"\\bmod"), (r"\\colon(?![a-z])", ":"),
    (r"\\begin\{(?:[bBp]|small)?matrix\}", r"\\begin{pmatrix}"), (r"\\end\{(?:[bBp]|small)?matrix\}", r"\\end{pmatrix}"),
    (r"\\begin\{array\}\s*(?:\[\w\]\s*)?\{[^{}]*\}", r"\\begin{pmatrix}"), (r"\\end\{array\}", r"\\end{pmatrix}"), (r"\\cr(?![a-z])", r"\\\\"),
    (r"(?:\\(?:left|[bB]igg?l?)\s*|(?<!\\))[(\[]\s*(\\begin\{pmatrix\}(?s:(?!\\(?:begin|end)\{).)*\\end\{pmatrix\})\s*(?:\\(?:right|[bB]igg?r?)\s*)?[)\]]", r"\1"),
]  # fmt: skip
SHORTER = [
    (r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"), (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"), (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"\\frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}"), (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"), (r"\\sqrt\s+([A-Za-z])", r"\\sqrt{\1}"),
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"), (r"(?<![\d.])\.(?=\d)", "0."), (r"\+\s*-", "-"), (r"-\s*-(?=\d)", "+"),
]  # fmt: skip
REWRITTEN, SHORTER = (
    [(re.compile(pattern), replacement) for pattern, replacement in rules] for rules in (REWRITTEN, SHORTER)
)
FONT = re.compile(FONT)
REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|dot|bar)\s*\{?\s*(\d+)\s*\}?")
GOES_ON = re.compile(r"^(-?\s*)(\d*)\.(\d*?)(?:(\d)\4{2,}|(\d{2,}?)\5+)\s*\\ldots$")  # 0.333… and 0.1212…
DIGITS_GO_ON = re.compile(r"(?<=\d)(\.\d+)\s*\\ldots$")
REALS = re.compile(r"(?:^|(?<=\\in)|(?<=\\in ))\s*\\mathbb\s*\{?\s*R\s*\}?$")
LEADING = re.compile(
    r"^(?:(?:\\approx|\\sim(?:eq)?|\\text\{\s*Answer:?\s*\}|=|:|(?:final )?answer:)\s*)+", re.IGNORECASE
)

# ---- units, from a list and never by a letter behind a number

UNIT_NAMES = {
    "degree": "degrees degree deg °", "inch": "inches inch", "foot": "feet foot ft", "yard": "yards yard yd", "mile": "miles mile mi",
    "centimetre": "centimeters centimeter centimetres centimetre cm", "millimetre": "millimeters millimeter millimetres millimetre mm",
    "kilometre": "kilometers kilometer kilometres kilometre km", "metre": "meters meter metres metre", "gram": "grams gram",
    "kilogram": "kilograms kilogram kg", "pound": "pounds pound lbs lb", "ounce": "ounces ounce oz", "litre": "liters liter litres litre",
    "millilitre": "milliliters milliliter ml mL", "gallon": "gallons gallon", "pint": "pints pint", "quart": "quarts quart", "cup": "cups cup",
    "tablespoon": "tablespoons tablespoon tbsp", "teaspoon": "teaspoons teaspoon tsp", "ton": "tons ton tonnes tonne", "milligram": "milligrams milligram mg",
    "megabit": "megabits megabit mb", "gigabyte": "gigabytes gigabyte gb", "kilobyte": "kilobytes kilobyte kb", "hectare": "hectares hectare", "kmph": "kmph kph",
    "ampere": "amperes ampere amps amp", "ohm": "ohms ohm", "hertz": "hertz hz", "pascal": "pascals pascal", "kelvin": "kelvin", "calorie": "calories calorie",
    "decade": "decades decade", "century": "centuries century", "hour": "hours hour hrs hr",
    "minute": "minutes minute mins min", "second": "seconds second secs sec", "day": "days day", "week": "weeks week",
    "month": "months month", "year": "years year", "mph": "mph", "cent": "cents cent", "dollar": "dollars dollar bucks usd", "euro": "euros euro eur",
    "sterling": "gbp", "rupee": "rupees rupee inr", "yen": "yen jpy", "yuan": "yuan rmb cny", "peso": "pesos peso", "rouble": "roubles rubles",
    "radian": "radians radian rad", "unit": "units unit", "cubit": "cubits cubit", "acre": "acres acre", "percent": "percent",
    "time am": "am a.m", "time pm": "pm p.m", "time": "o'clock", "newton": "newtons newton", "joule": "joules joule", "volt": "volts volt", "watt": "watts watt",
    "thing": "ways way people person persons students student points point apples apple coins coin cards card balls ball marbles marble "
            "cats dogs books sides side terms term times digits digit solutions solution integers integer numbers pairs pair triangles cookies pages men women "
            "boys girls children tickets arrangements possibilities paths games votes bags boxes slices pieces edges vertices faces rows "
            "columns outcomes sequences subsets functions values words word letters letter colors color colours colour eggs egg oranges orange "
            "pencils pencil pens pen toys toy bottles bottle bottles animals animal birds bird trees tree flowers flower cars car pizzas pizza "
            "cakes cake cupcakes rooms room stamps stamp stickers sticker questions question classes houses seats seat inhabitants members "
            "quarters quarter dimes dime nickels nickel pennies penny socks shirts fish sheep cows chickens horses workers players teams "
            "rectangles squares circles lines roots zeros factors divisors multiples primes steps rolls flips moves committees combinations "
            "permutations choices routes codes license plates passwords strings handshakes shares laps candies lollipops pieces piece "
            "elements element vectors matrices polynomials real complex positive distinct different possible",
}  # fmt: skip
LETTER_UNITS = {"m": "metre", "g": "gram", "s": "second", "h": "hour", "L": "litre", "l": "litre", "N": "newton", "J": "joule", "V": "volt", "W": "watt", "C": "degree", "F": "degree", "in": "inch", "in.": "inch"}  # fmt: skip
UNIT_OF_NAME = {name: unit for unit, names in UNIT_NAMES.items() for name in names.split()}
POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3}
ANY_UNIT = "|".join(
    re.escape(name)
    for name in sorted([*UNIT_OF_NAME, *POWERS, "per", "of", "in", "total"], key=len, reverse=True)
)
UNIT_TEXT = re.compile(
    r"\\(?:text(?:rm|it|bf|normal)?|mathrm|mbox|operatorname)\s*\{\s*([^{}]*?)\s*\}\s*(?:\^\s*\{?\s*([23])\s*\}?)?\s*\.?$"
)
UNIT_PLAIN = re.compile(
    rf"(?<=[\d)}}\]\w])\s*((?:(?<![A-Za-z\\])(?:{ANY_UNIT})(?![A-Za-z])[\s/]*)+)(?:\^\s*\{{?\s*([23])\s*\}}?)?\s*\.?$",
    re.IGNORECASE,
)

NUMBER = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.\d*)?(?<=[\d.])")
SCIENTIFIC = re.compile(
    r"([+-]?\d+(?:\.\d+)?)(?:[eE]|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*)\{?\s*([+-]?\d{1,4})\s*\}?"
)
PLAIN_FRACTION = re.compile(r"([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|([+-]?\d+)/(\d+)")
MIXED = re.compile(r"(?<![\d.}])([+-]?)(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}")
BASE = re.compile(  # 52_8, 52_{(8)}, 52_{eight}, 52 base 8, 52 (in base 8)
    r"\(?([0-9A-Z]+?)\)?(?:_\{?\(?(?:base)?|\(?(?:in)?base)_?\{?"
    r"(\d+|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)\)?\}?(?:base)?\)?",
    re.IGNORECASE,
)
BASE_WORDS = {
    word: number
    for number, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 2
    )
} | {"sixteen": 16}
NAME = re.compile(
    r"(?:\([A-Za-z](?:, ?[A-Za-z])+\)|\\?[A-Za-z]+(?:_\{?\w+\}?)?:\\?[A-Za-z]+(?:_\{?\w+\}?)?|\\?[A-Za-z]+(?:_\{?\w+\}?)?'*|[A-Za-z]\([^()=<>]{1,12}\)|\\angle\s*[A-Z]+|\\overline\{\w+\}|\|?[A-Z]{2}\|?)\s*(?:=(?!=)|\\in(?![a-z]))\s*(?=\S)"
)


class Written(NamedTuple):
    """What an answer says beside its value: `text` is the value's own normal form."""

    text: str
    unit: str | None = None
    percent: bool = False
    base: int | None = None


def plain_unicode(text: str) -> str:
    """Unicode signs as LaTeX or ASCII: fractions, powers, roots, Greek, dashes, full width; nothing
    invisible.
    """
    text = THOUSANDS_SPACE.sub("", text)
    text = RAISED.sub(lambda match: f"^{{{match.group().translate(SUPERSCRIPTS)}}}", text)
    text = LOWERED.sub(lambda match: f"_{{{match.group().translate(SUBSCRIPTS)}}}", text)
    if text.isascii() and text.isprintable():
        return text
    found = []
    for char in text:
        if char in UNICODE_SIGNS:
            found.append(UNICODE_SIGNS[char])
        elif char not in "\n\t\r$" and (
            unicodedata.category(char) in ("Cf", "Cc", "Co", "Cs", "Sc") or "\ufe00" <= char <= "\ufe0f"
        ):  # nothing visible, or a currency's sign: it says no more than a unit
            continue
        elif (
            (name := unicodedata.name(char, "")).startswith("GREEK")
            and " LETTER " in name
            and len(name.split()) == 4
        ):
            greek = name.split()[-1].lower().replace("lamda", "lambda")
            found.append(f"\\{greek.title() if 'CAPITAL' in name else greek} ")
        elif char.isascii() or char in ROOT_OF_SIGN:
            found.append(char)
        else:
            folded = unicodedata.normalize("NFKC", char)
            found.append(re.sub(r"(\d+)⁄(\d+)", r"\\frac{\1}{\2}", folded) if folded != char else char)
    text = "".join(found)
    return ROOT_SIGN.sub(
        lambda match: rf"\sqrt{ROOT_OF_SIGN[match[1]]}{{{next(filter(None, match.groups()[1:]), '')}}}", text
    )


def unwrapped(text: str) -> str:
    """The text without braces, boxes, bold type, dollar signs or stars that enclose all of it."""
    while len(text) > 1:
        box = BOXED.match(text)
        if box and closing(text, box.end() - 1) == len(text) - 1:
            text = text[box.end() : -1].strip()
        elif text[:1] + text[-1:] in ("**", "$$", "``") or (
            text[:1] + text[-1:] == "{}" and closing(text) == len(text) - 1
        ):
            text = text[1:-1].strip()
        else:
            break
    return text


def closing(text: str, start: int = 0) -> int:
    """Where the brace that opens at `start` closes; -1 where it does not."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return -1


def repeating(match: re.Match) -> str:
    """A repeating decimal as the fraction that it is."""
    whole, fixed, period = (match.group(at) or "" for at in (1, 2, 3))
    nines = (10 ** len(period) - 1) * 10 ** len(fixed)
    top = int(f"{whole or 0}{fixed}{period}") - int(f"{whole or 0}{fixed}")
    return rf"\frac{{{top}}}{{{nines}}}"


def going_on(match: re.Match) -> str:
    """A decimal whose digits go on as they repeat, as the fraction that it is."""
    sign, whole, fixed, digit, period = match.groups()
    return sign + REPEATING.sub(repeating, rf"{whole}.{fixed}\overline{{{digit or period}}}")


@functools.lru_cache(maxsize=8192)
def spaced(text: str) -> str:
    """The normal form of an answer, `\\text{…}` and what looks like a unit still in it; single spaces."""
    text = re.sub(r"(?<!\\)\\$", "", plain_unicode(text).strip())  # of `\\ `, a space
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z{}()])", r"\\", text)  # escaped once too often
    text = unwrapped(SWITCH.sub(" ", CURRENCY.sub("", text)).strip())
    for pattern, replacement in REWRITTEN:
        text = pattern.sub(replacement, text)
    text = SPACING.sub(lambda match: match.group(1) or ("" if match.group() == "\\!" else " "), text)
    text = re.sub(r"\\\$|\$|\\[()]|(?<!\\)\\[\[\]]", "", text)
    text = re.sub(r"\\%", "%", text)
    text = LEADING.sub("", text.strip())
    text = re.sub(r"\s+", " ", GOES_ON.sub(going_on, REPEATING.sub(repeating, text))).strip()
    text = REALS.sub(r"(-\\infty,\\infty)", DIGITS_GO_ON.sub(r"\1", text))
    text = re.sub(r"(?<![\d/.])(\d+) (\d+)/(\d+)(?![\d/])", r"\1\\frac{\2}{\3}", text)
    text = text.rstrip(",;").rstrip()
    return unwrapped(text.removesuffix(".").strip())


def without_fonts(text: str) -> str:
    """The text with the content of `\\text{…}`, `\\mathbf{…}`, boxes in boxes and the like in their place."""
    for _ in range(5):
        text, count = FONT.subn(r"\1", text)
        if not count:
            break
    return unwrapped(text.strip())


def shorter(text: str) -> str:
    """The text with full fractions and roots, single characters without braces."""
    for pattern, replacement in SHORTER:
        text = pattern.sub(replacement, text)
    return re.sub(r"\s+", " ", text).strip()


@functools.lru_cache(maxsize=8192)
def normal(answer: str) -> str:
    """The normal form of an answer without white space: equal strings are equal answers."""
    return re.sub(r"\s+", "", shorter(without_fonts(spaced(answer))))


def unit_of(words: str, power: str | None, wrapped: bool) -> str | None:
    """The unit that words name (`square inches`: inch^2), None where one of them is no unit."""
    found, exponent = [], int(power or 1)
    for word in re.split(r"[\s/]+", re.sub(r"^\((.*)\)$", r"\1", words.strip())):
        bare = word if word in LETTER_UNITS else word.rstrip(".,")
        if bare.lower() in POWERS:
            exponent = POWERS[bare.lower()]
        elif bare.lower() in UNIT_OF_NAME:
            found.append(UNIT_OF_NAME[bare.lower()])
        elif bare in ("per", "of", "total") or (bare == "in" and not wrapped):
            continue
        elif wrapped and bare in LETTER_UNITS:
            found.append(LETTER_UNITS[bare])
        elif bare:
            return None
    return "/".join(found) + (f"^{exponent}" if exponent > 1 else "") if found else None


UNIT_SIGNS = {"%": "percent", "$": "dollar", "€": "euro", "£": "sterling", "¥": "yen", "^\\circ": "degree"}


@functools.lru_cache(maxsize=512)
def unit_named(text: str) -> str | None:
    """The unit that a gold's rule names, as answers may (`cm^2`, `square inches`, `\\text{dollars}`, `%`) or
    by the name that stands for all of them (`centimetre^2`); None where it is no unit of the list.
    """
    if (sign := text.strip().lstrip("\\")) in UNIT_SIGNS:
        return UNIT_SIGNS[sign]
    plain = re.sub(r"\s+", " ", without_fonts(plain_unicode(text).replace("$", ""))).strip()
    words, power = re.fullmatch(r"(.*?)\s*(?:\^\s*\{?\s*([1-9])\s*\}?)?", plain).groups()
    if words in UNIT_SIGNS or plain in UNIT_SIGNS:
        return UNIT_SIGNS.get(plain)
    if words in UNIT_NAMES:
        return words + (f"^{power}" if int(power or 1) > 1 else "")
    return unit_of(words, power, True)


@functools.lru_cache(maxsize=8192)
def as_written(answer: str) -> Written:
    """An answer's value in normal form (single spaces), and its unit, percent sign and base."""
    text, unit, percent = spaced(answer), None, False
    if (whole := FONT.fullmatch(text)) and re.search(r"\d", text):
        text = whole.group(1).strip()
    for _ in range(3):
        if text.endswith("%"):
            text, percent = text[:-1].strip(), True
        if match := re.search(r"\^\s*\{?\s*\\circ\s*\}?\s*([CF](?![A-Za-z]))?$|\\degree$", text):
            text, unit = text[: match.start()].strip(), unit or "degree"
        for pattern in (UNIT_TEXT, UNIT_PLAIN):
            match = pattern.search(text)
            named = (
                match and match.start() > 0 and unit_of(match.group(1), match.group(2), pattern is UNIT_TEXT)
            )
            if named:
                text, unit = text[: match.start()].strip(), unit or named
    if unit == "percent":
        unit, percent = None, True
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])", "", text)
    text = shorter(without_fonts(text))
    base = BASE.fullmatch(text.replace(" ", ""))
    if base and re.search(r"\d", base.group(1)):
        number = base.group(2).lower()
        return Written(
            base.group(1), unit, percent, int(number) if number.isdecimal() else BASE_WORDS[number]
        )
    return Written(text, unit, percent)


def number(text: str) -> Decimal | None:
    """The decimal number a normal form writes (`27.0`, `1,234`, `025`, `3.8e5`), None when it is not one.

    A comma with a space behind it separates entries: `10, 100` is no 10100.
    """
    plain = re.sub(r"\s+", "", text)
    if not plain or len(plain) > 100 or not re.search(r"\d", plain):
        return None
    if NUMBER.fullmatch(plain) and not re.search(r",\s", text):
        return Decimal(plain.replace(",", ""))
    if match := SCIENTIFIC.fullmatch(text.strip()):
        return Decimal(f"{match.group(1)}e{match.group(2)}")
    if re.fullmatch(r"\d{1,3}(?: \d{3})+", text.strip()):
        return Decimal(plain)
    return None


# ---- words

SMALL_WORDS = {
    "no",
    "yes",
    "odd",
    "on",
    "off",
    "all",
    "any",
    "one",
    "two",
    "six",
    "ten",
    "red",
    "so",
    "not",
    "up",
    "yen",
    "cat",
    "dog",
}
SEPARATES = re.compile(r"[,;&]|(?<![^\W\d_])and(?![^\W\d_])")
LISTED = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*(?: [^\W\d_]+(?:['’-][^\W\d_]+)*)*")
ROMAN = re.compile(r"X{0,3}(?:IX|IV|V?I{0,3})")
ARTICLE = re.compile(r"^(?:an?|the)\s+(?=\w)", re.IGNORECASE)
NO_SOLUTION = {"no solution", "no solutions", "none", "empty set", "no real solution", "no real solutions", "does not exist", "dne", "there are no solutions"}  # fmt: skip
ALL_REALS = {"all real numbers", "all reals", "real numbers", "all real values"}


def words(answer: str) -> str | None:
    """The words of an answer that says nothing else, without article and case; None for anything else.

    Letters that may be a product (`ab`, `xyz`) are words only inside `\\text{…}` or where English has them.
    """
    text = spaced(answer)
    inner = re.fullmatch(
        r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox|mathbf|operatorname)\s*\{([^{}]*)\}", text
    )
    plain = re.sub(r"\s+", " ", without_fonts(text)).strip(" .!*\"'`")
    if not re.fullmatch(r"[^\W\d_]+(?:['’-][^\W\d_]+)*(?:,? [^\W\d_]+(?:['’-][^\W\d_]+)*)*", plain):
        return None
    plain = ARTICLE.sub("", plain)
    if ("\\" in text and not inner) or all(
        len(word) == 1 for word in re.findall(r"[^\W\d_]+", plain)
    ):  # `xyz`, `a-e`
        return None
    if "," in plain and not inner and not any(map(is_word, re.findall(r"[^\W\d_]+", plain))):
        return None  # a list of letters and products: `A, C`, `ab, c`
    return plain.casefold() if inner or " " in plain or is_word(plain) else None


@functools.lru_cache(maxsize=8192)
def words_listed(answer: str) -> tuple[list[str], bool] | None:
    """The words or letters that an answer lists by commas or `and` (`A, C`, `\\text{Alice and Bob}`), and
    whether all are letters without a mark, which may stand for numbers; None for anything else.
    """
    text = spaced(answer)
    if not SEPARATES.search(text):
        return None
    plain = without_fonts(text).replace("\\{", "").replace("\\}", "")
    pieces = [piece.strip(" .!*\"'`") for piece in SEPARATES.split(plain)]
    pieces = [ARTICLE.sub("", re.sub(r"^\(([A-Za-z])\)$", r"\1", piece)) for piece in pieces if piece]
    marked = re.search(r"\\(?:text|math|mbox|operatorname)", text) is not None
    if len(pieces) < 2 or not all(map(LISTED.fullmatch, pieces)):
        return None
    if not all(
        marked or len(piece) == 1 or " " in piece or ROMAN.fullmatch(piece) or is_word(piece)
        for piece in pieces
    ):
        return None
    return pieces, not marked and all(len(piece) == 1 for piece in pieces)


def is_word(letters: str) -> bool:
    """Whether letters without a mark are a word rather than a product of variables.

    Three letters are where they could be spoken and are no product as it is written: `Bob`, `tan`; not `abc`,
    `lwh`.
    """
    named, letters = letters[:1].isupper() and letters[1:].islower(), letters.casefold()
    if letters in SMALL_WORDS:
        return True
    if len(letters) < 3 or not re.search("[aeiouy]", letters):
        return False
    run = "".join(chr(ord(letters[0]) + step) for step in range(len(letters)))
    return letters != run if len(letters) > 3 else named or sorted(letters) != list(letters)


CHOICE = re.compile(
    r"^(?:the\s+)?(?:(?:correct\s+)?(?:option|choice|answer|letter|graph|figure|statement|part|case)\s*:?\s*|(?=\([A-J]\)))(?=\(?[A-J]\b)",
    re.IGNORECASE,
)


def chosen_letter(answer: str) -> str | None:
    """The letter of an answer that chooses one: `C`, `(C)`, `\\text{(C)}`, `(C) 12`, `C. 12`, `Option C`."""
    plain = CHOICE.sub("", without_fonts(spaced(answer)))
    match = re.match(r"(?:\(([A-J])\)|([A-J])(?=[.):]\s|[.)]?$))", plain)
    return match and (match.group(1) or match.group(2))
