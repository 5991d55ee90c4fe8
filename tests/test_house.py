"""The house: who may import whom, how long a script may be, that one name means one thing, that what is
declared in several places says the same in each.
"""

import ast
import collections
import contextlib
import importlib
import modulefinder
import re
import statistics
from pathlib import Path

import pandas
import pytest
import yaml
from conftest import REPOSITORY

from valley import check, flags, grading, grid, sources
from valley.analysis import measures, summary

SCRIPTS = REPOSITORY / "scripts"
ROOM = SCRIPTS / "valley"
ALL_SCRIPTS = sorted(SCRIPTS.glob("*.py"))
MODULES = sorted(ROOM.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(SCRIPTS).as_posix()


def ours(path: Path) -> set[str]:
    """What a file imports of ours."""
    return {name(file) for file in sources.imported(path)}


def test_no_script_imports_a_script_and_no_module_does():
    scripts = {name(path) for path in ALL_SCRIPTS}
    found = {name(path): ours(path) & scripts for path in [*ALL_SCRIPTS, *MODULES]}
    assert {importer: imported for importer, imported in found.items() if imported} == {}


def test_modules_import_one_another_in_no_circle():
    edges = {name(path): ours(path) - {name(path)} for path in MODULES if path.name != "__init__.py"}
    done = set()
    while left := {module for module in edges if module not in done}:
        free = {module for module in left if not (edges[module] & left)}
        assert free, f"a circle among {sorted(left)}"
        done |= free


def test_the_rooms_of_analysis_and_figures_stand_above_the_rest():
    """What data and training are made with imports neither, and analysis knows nothing of figures."""
    rooms = ("valley/analysis/", "valley/figures/")
    for path in MODULES:
        above = [room for room in rooms if not name(path).startswith(room)]
        if name(path).startswith("valley/figures/"):
            above = []
        assert [file for file in ours(path) if file.startswith(tuple(above))] == [], name(path)


def test_analysis_takes_plain_values():
    """So that a simulation can call it as the scripts do: no argparse, no `args`."""
    room = [path for path in MODULES if name(path).startswith("valley/analysis/")]
    assert room
    for path in room:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        arguments = {node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.arg)}
        assert not (names | arguments) & {"args", "argparse"}, name(path)


def test_names_of_runs_and_paths_of_cells_are_taken_apart_in_one_place():
    """`+rl` and `@` mean something in a run's name, which grid.py alone parses; a path's parts are
    places.py's.
    """
    apart = re.compile(r"""["']\+rl["']|["']@["']|parts\[-\d\]|\.split\(["'][+@]""")
    home = {"valley/grid.py", "valley/places.py", "valley/equality.py"}
    files = [*ALL_SCRIPTS, *MODULES, *sorted((REPOSITORY / "workflow/rules").glob("*.smk"))]
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in files
        if not path.is_relative_to(SCRIPTS) or name(path) not in home
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if apart.search(line)
    ]
    assert found == []


def test_the_page_on_architecture_names_every_module():
    known = re.split(r"## Words", (REPOSITORY / "docs/architecture.md").read_text())[0]
    missing = [
        name(path)
        for path in MODULES
        if path.stem != "__init__" and not re.search(rf"\b{path.stem.replace('_', '.')}\b", known)
    ]
    assert missing == []


def modules_in(tree: ast.Module) -> dict:
    """The modules of ours that a file imports, by the names that nothing else in it has."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "valley":
            for alias in node.names:
                with contextlib.suppress(ImportError):  # a function of a module
                    found[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
    names = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return {name: module for name, module in found.items() if name not in names}


def test_what_a_file_takes_from_a_module_of_ours_is_there():
    """A script that no test ran called a function that had moved, and its study could not be reported."""
    missing = []
    for path in [*ALL_SCRIPTS, *MODULES]:
        tree = ast.parse(path.read_text())
        known = modules_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = known.get(node.value.id)
                if module and not hasattr(module, node.attr):
                    missing.append(f"{path.name}:{node.lineno}: {node.value.id}.{node.attr}")
    assert missing == []


def test_scripts_stay_short():
    lines = {name(path): path.read_text().count("\n") for path in ALL_SCRIPTS}
    assert statistics.median(lines.values()) < 150
    assert {script: count for script, count in lines.items() if count > 300} == {}


def test_no_line_is_wider_than_110_but_in_literal_tables():
    wide = []
    for path in [*ALL_SCRIPTS, *MODULES, *sorted((REPOSITORY / "tests").rglob("*.py"))]:
        text = path.read_text()
        literal = literal_lines(text)
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > 110 and number not in literal:
                wide.append(f"{path.relative_to(REPOSITORY)}:{number}")
    assert wide == []


def literal_lines(text: str) -> set[int]:
    """Lines with a text, which no formatter breaks, and lines of what is marked as a table laid out by hand;
    docstrings are neither.
    """
    tree, lines = ast.parse(text), text.splitlines()
    nodes = list(ast.walk(tree))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found = set()
    for node in nodes:
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and id(node) not in prose:
            found |= set(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.stmt) and "# fmt: skip" in lines[node.end_lineno - 1]:
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found


# Functions and classes that may stand in several modules: the same idea, of each one's own thing.
SHARED = {
    "of what a module reads, writes or makes": {"load", "read", "unreadable", "folder", "finish", "cut", "draw", "start_worker", "answers"},
    "the rows of a table, and its figure": {"budget", "cell_rows", "curves", "recipes", "short", "noise", "rates"},
    "a number in its own setting": {"number", "rank", "billions", "over_seeds", "join", "pairs", "change", "side", "Side"},
    "what is said of one": {"decide", "outcome"},
}  # fmt: skip


def test_a_name_means_one_thing():
    """Of what modules define; scripts are never imported, so that their names meet nobody's."""
    places = collections.defaultdict(set)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places[node.name].add(name(path))
    shared = set().union(*SHARED.values())
    twice = {word: sorted(files) for word, files in places.items() if len(files) > 1 and word not in shared}
    assert twice == {}, "give it a name of its own, or say in SHARED why it may have this one"


@pytest.mark.parametrize("script", [path.stem for path in ALL_SCRIPTS if path.stem != "warm"])
def test_what_a_script_is_made_of_is_found_as_python_itself_finds_it(script):
    """Against the standard library's module finder, which reads byte code, that of functions too."""
    finder = modulefinder.ModuleFinder(path=[str(SCRIPTS)])
    finder.run_script(str(SCRIPTS / f"{script}.py"))
    files = {Path(module.__file__) for module in finder.modules.values() if module.__file__}
    found = {name(file) for file in files if file.is_relative_to(SCRIPTS)} - {f"{script}.py"}
    assert set(sources.files(script)) == found


def test_imports_of_functions_rooms_and_names_are_followed(tmp_path):
    texts = {
        "one.py": "import json\nfrom valley import a\ndef f():\n    from valley.room import b, WORD\n",
        "two.py": "import valley.room.c\n",
        "valley/__init__.py": "", "valley/a.py": "import one\n", "valley/d.py": "", "valley/e.py": "",
        "valley/room/__init__.py": "from . import c\n", "valley/room/b.py": "", "valley/room/c.py": "from ..d import x\n",
    }  # fmt: skip
    for file, text in texts.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    room = ["valley/__init__.py", "valley/a.py", "valley/d.py", "valley/room/__init__.py", "valley/room/b.py", "valley/room/c.py"]  # fmt: skip
    assert sources.files("one", tmp_path) == room
    assert sources.files("two", tmp_path) == [file for file in room if file[-4:] not in ("a.py", "b.py")]


def test_nothing_is_imported_in_a_way_that_cannot_be_read():
    for path in [*MODULES, *[path for path in ALL_SCRIPTS if path.stem not in ("warm", "doctor")]]:
        assert "importlib.import_module" not in path.read_text(), name(path)


# what is declared in several places

SCHEMA = yaml.safe_load(check.SCHEMA.read_text())
# Of a section: what becomes no flag of the script, and where it goes instead.
ELSEWHERE = {
    "sft": {"recipes": "runs", "pool": "a file", "protocol": "rules", "cooldown": "sft.py"},
    "rl": {"recipes": "runs", "sets": "files", "problems": "a file", "checkpoints": "cells", "gpus": "launch.py"},
    "generate": {"one_start": "rules"},
}  # fmt: skip
TABLES = {"sft": flags.SFT, "rl": flags.RL, "generate": flags.SAMPLING}


def section(key: str) -> list[str]:
    """The lines of config.yaml that belong to one of its sections."""
    text = (REPOSITORY / "config.yaml").read_text()
    return re.search(rf"^{key}:.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)[0].splitlines()


@pytest.mark.parametrize("key", TABLES)
def test_every_setting_has_its_bound_its_flag_and_its_reason(key):
    bounds = set(SCHEMA["properties"][key]["properties"])
    assert bounds - ELSEWHERE[key].keys() == set(TABLES[key])
    assert ELSEWHERE[key].keys() <= bounds
    comments = " ".join(line.split("#", 1)[1] for line in section(key) if "#" in line)
    for setting in bounds - {"recipes", "sets"}:
        lines = [line for line in section(key) if re.match(rf"  {setting}:", line)]
        told = all("#" in line for line in lines) if lines else re.search(rf"\b{setting}\b", comments)
        assert told, f"config.yaml: {key}.{setting} has no reason beside it"


def test_names_have_one_pattern_in_the_schema_and_in_paths():
    for wanted, pattern in {"model_name": grid.MODEL, "task_name": grid.TASK, "size_name": grid.SIZE}.items():
        assert SCHEMA["$defs"][wanted]["pattern"] == f"^{pattern}$"
    assert grid.SIZE == grid.RECIPE


def test_every_script_can_be_asked_what_it_does():
    for path in ALL_SCRIPTS:
        assert ast.get_docstring(ast.parse(path.read_text())), name(path)


def test_a_grader_that_is_registered_reaches_the_claims_the_scores_and_the_summary(monkeypatch):
    schema = yaml.safe_load((REPOSITORY / "workflow/schemas/claims.schema.yaml").read_text())
    assert (
        re.search(r"'grader': \{'enum': \[([^]]*)\]", str(schema)).group(1)
        == str(list(grading.GRADERS))[1:-1]
    )
    assert {*grading.GRADERS.values()} == {"correct", *measures.ACCURACIES.values()}
    monkeypatch.setitem(measures.ACCURACIES, "accuracy_new", "correct_new")
    numbers = (
        "accuracy",
        "problems_low",
        "problems_high",
        "length",
        "boxed",
        "reflection",
        "share truncated",
        "share looping",
    )
    row = {
        "model": "S",
        "run": "base",
        "seed": 0,
        "task": "headline",
        "stage": "base",
        "recipe": "protocol",
        "step": None,
    }
    row |= {"examples": 0} | dict.fromkeys([*numbers, *measures.ACCURACIES], 0.5)
    assert summary.summary(pandas.DataFrame([row]), 0.95).accuracy_new.tolist() == [0.5]
    named = [column for column in grading.GRADERS.values() if column != "correct"]
    for path in ("page.py", "cell_pages.py", "valley/analysis/summary.py", "valley/analysis/measures.py"):
        text = (SCRIPTS / path).read_text()
        assert [c for c in [*named, *measures.ACCURACIES] if f'"{c}"' in text] == [], path
