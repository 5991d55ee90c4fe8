"""Which files of this project a script is made of: itself and, by their import statements, all that it
imports.

Rules that are cheap declare them as inputs, so that an edited module remakes what it makes and nothing else.
The statements are read, not run: those inside functions count, and heavy libraries are never loaded.
"""

import ast
import functools
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]


def files(script: str, folder: Path = SCRIPTS) -> list[str]:
    """The modules that the script `<script>.py` of `folder` imports, directly or not: paths below it,
    sorted.
    """
    start, found = folder / f"{script}.py", set()
    waiting = [start]
    while waiting:
        for file in imported(waiting.pop(), folder):
            if file not in found:
                found.add(file)
                waiting.append(file)
    return sorted(file.relative_to(folder).as_posix() for file in found - {start})


@functools.cache
def imported(file: Path, folder: Path = SCRIPTS) -> frozenset[Path]:
    """The files below `folder` that the import statements of one file name, with the packages they lie in."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = file.relative_to(folder).parent.parts if node.level else ()
            package = ".".join([*inside[: len(inside) - node.level + 1], *filter(None, [node.module])])
            # What is imported from a package may be a module of it, or a name in its __init__.py.
            names |= {package, *(f"{package}.{alias.name}" for alias in node.names)}
    parts = {tuple(name.split(".")) for name in names}
    steps = {part[:end] for part in parts for end in range(1, len(part) + 1)}
    candidates = {folder.joinpath(*step) for step in steps}
    return frozenset(
        path
        for candidate in candidates
        for path in (candidate.with_suffix(".py"), candidate / "__init__.py")
        if path.is_file()
    )
