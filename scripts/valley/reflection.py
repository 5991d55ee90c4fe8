"""The keyword half of the paper's reflection measure; there an LLM judge has to agree, here the keywords stand alone."""

KEYWORDS = (
    "recheck", "rethink", "reassess", "reevaluate", "re-evaluate", "reevaluation", "re-examine", "reexamine", "reconsider",
    "reanalyze", "double-check", "check again", "think again", "verify again", "go over the steps",
)  # fmt: skip


def is_reflective(response: str) -> bool:
    """True when the response contains one of the paper's keywords, case aside."""
    text = response.lower()
    return any(keyword in text for keyword in KEYWORDS)
