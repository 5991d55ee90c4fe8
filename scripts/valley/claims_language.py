"""The language of claims: a file of them read, and what is wrong with it, before a study is made that is held
against it.

What claims mean, and the verdicts on them: valley/analysis/claims.py.
"""

from pathlib import Path

from valley import check, grid

MEANS = ("last three sizes", "larger sizes", "smaller sizes")
SCHEMA = check.ROOT / "workflow/schemas/claims.schema.yaml"


def load(path: Path, schema: Path = SCHEMA) -> dict:
    """The claims; ConfigError with every place where they are not in the language of the schema."""
    import yaml

    try:
        claims = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise grid.ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if problems := [*lint(claims, schema)]:
        raise grid.ConfigError(
            f"{path}: not in the language of claims:\n" + "\n".join(f"  - {p}" for p in problems)
        )
    return claims


def lint(claims: dict, schema: Path = SCHEMA):
    """Sentences on what is wrong with claims: keys, types and selectors by the schema, and what a schema
    cannot say.
    """
    import jsonschema
    import yaml

    rules = yaml.safe_load(schema.read_text(encoding="utf-8"))
    for error in jsonschema.Draft202012Validator(rules).iter_errors(claims):
        error = jsonschema.exceptions.best_match([error])
        odd = isinstance(error.instance, dict) and not all(isinstance(key, str) for key in error.instance)
        hint = ". YAML reads on, off, yes and no as true and false: quote them" if odd else ""
        yield f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}{hint}"
        return
    for name, claim in claims.items():
        for key, part in claim["parts"].items():
            here, words = f"{name}.{key}", part["rule"].split()
            if words[:2] == ["at", "least"] and int(words[2]) > int(words[4]):
                yield f"{here}.rule: {part['rule']!r} asks for more than there are"
            if "of" in part and part["of"] in (part.get("minus"), part.get("over")):
                yield f"{here}: compares {part['of']!r} with itself"
            if part["models"] != "all" and (both := set(part["models"]) & set(part.get("except", []))):
                yield f"{here}.except: {', '.join(sorted(both))} is among its models"
            if part["measure"] == "fit":
                yield from fit_faults(here, part)
            if part["measure"] == "order":
                yield from order_faults(here, part)


def unused(here: str, part: dict, keys: tuple[str, ...], why: str):
    """The keys of a part that its measure would not look at."""
    yield from (f"{here}.{key}: {why}, and does not look at it. Leave it out" for key in keys if key in part)


def fit_faults(here: str, part: dict):
    """What the fit of p^k cannot be asked: it is a largest deviation with its ends, judged cell by cell."""
    yield from unused(here, part, ("minus", "over", "grader"), "fit is of a cell's own calculations")
    if part.get("tasks") == "headline":
        yield f"{here}.tasks: fit is of calculations"
    if part["of"].split(".")[0] in MEANS or "throughout" in part["of"]:
        yield f"{here}.of: fit is of single cells, and {part['of']!r} is a mean of several. Try each size"
    if part["rule"] in ("on average", "the lowest", "the highest"):
        yield f"{here}.rule: {part['rule']!r} cannot be asked of fit, only how many fit: every, any, at least m of n"
    if "below" not in part["expect"]:
        yield f"{here}.expect: fit is how far p^k is off at most, which can only be expected below a value"


def order_faults(here: str, part: dict):
    """What the order of recovery cannot be asked: it is a direction, and of several models."""
    yield from unused(here, part, ("tasks", "grader"), "order is of the recovery of headline accuracy")
    if part["rule"] != "every":
        yield f"{here}.rule: order is of all models together: every"
    if part["expect"] not in ({"below": 0}, {"above": 0}):
        yield f"{here}.expect: an order is below 0 (larger models recover at smaller sizes) or above 0"
    if part["models"] != "all" and len(part["models"]) == 1:
        yield f"{here}.models: one model has no order of sizes"
