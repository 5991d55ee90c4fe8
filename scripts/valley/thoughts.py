"""Where a thought ends: what a model writes between its tags is no answer.

The tags of a family stand in the config (`families.*.think`); those of the makers we know hold whatever the
family, for a model trained on another maker's traces writes that maker's tags.
"""

THINK = ("<think>", "</think>")
THOUGHTS = (
    THINK, ("[THINK]", "[/THINK]"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"), ("<reasoning>", "</reasoning>"), ("◁think▷", "◁/think▷"),
)  # fmt: skip


def answered(text: str, tags: tuple[str, str] = THINK) -> str:
    """A response without its thoughts. A thought ends at the first closing tag after its opening; one that
    never closes takes the rest with it; a first closing tag without an opening closes what the prompt opened.

    `tags` are the family's own, beside those of THOUGHTS. Later closing tags mean nothing.
    """
    for opening, closing in dict.fromkeys((tuple(tags), *THOUGHTS)):
        first, end = text.find(opening), text.find(closing)
        if end >= 0 and not 0 <= first < end:
            text = text[end + len(closing) :]
        kept, at = [], 0
        while (start := text.find(opening, at)) >= 0:
            kept.append(text[at:start])
            end = text.find(closing, start)
            at = len(text) if end < 0 else end + len(closing)
        text = "".join([*kept, text[at:]])
    return text
