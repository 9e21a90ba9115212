"""A file imports only from rows above its own; within a row only the sibling files of its own folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hyperfocal"
ROWS = (
    ("errors",),
    ("config", "labels", "sequences", "distributed"),
    ("losses", "metrics", "data", "models", "optim"),
    ("train", "machine", "runs", "thresholds", "cache"),
    ("tasks",),
    ("grid", "report", "serve"),
    ("demo",),
    ("cli",),
)
ROW = {name: number for number, names in enumerate(ROWS, start=1) for name in names}
WITHIN_A_ROW = {("sequences", "labels")}  # the one exception: Sequences.as_labels
TASKS = ROW["tasks"]
Module = tuple[str, ...]  # ("losses", "chunked"); () is the package hyperfocal itself


def violations(root: Path) -> list[str]:
    """Return a line for each import under `root`, the folder of the package, that breaks the rule."""
    lines = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if _unit(place) not in ROW and str(place) not in ("__init__.py", "__main__.py"):
            lines.append(f"{place}: stands in no row")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines += [f"{place}:{line}: {problem}" for line, problem in _problems(tree, place, root)]
    return lines


def _problems(tree: ast.Module, place: Path, root: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for module in _imported(node, place, root):
            problem = _problem(place, module)
            if problem:
                yield node.lineno, problem
            elif str(place) == "__init__.py" and ROW[module[0]] == TASKS and node in tree.body:
                yield node.lineno, f"imports {'.'.join(module)} at once; import it inside a function"


def _problem(place: Path, module: Module) -> str:
    """Return what is wrong with the file at `place` importing `module`, or ""."""
    if not module:
        return "imports the package hyperfocal itself"
    name, unit = ".".join(module), _unit(place)
    if module[0] not in ROW:
        return f"imports {name}, which stands in no row"
    if str(place) == "__main__.py":
        return "" if module[0] == "cli" else f"imports {name}; __main__ may import only cli"
    if str(place) == "__init__.py":
        return "" if ROW[module[0]] <= TASKS else f"imports {name} from row {ROW[module[0]]}"
    if module[0] == unit and len(place.parts) > 1:
        return "" if len(module) > 1 else f"imports its own package {name}, not the sibling file"
    if ROW[module[0]] >= ROW[unit] and (unit, name) not in WITHIN_A_ROW:
        return f"row {ROW[unit]} imports {name} from row {ROW[module[0]]}"
    return ""


def _imported(node: ast.AST, place: Path, root: Path) -> Iterator[Module]:
    """Yield the modules of this project that one statement imports."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top, *rest = alias.name.split(".")
            if top == "hyperfocal":
                yield tuple(rest)
    elif isinstance(node, ast.ImportFrom):
        named = tuple((node.module or "").split(".")) if node.module else ()
        if node.level:
            base = place.parts[: len(place.parts) - node.level] + named
        elif named[0] == "hyperfocal":
            base = named[1:]
        else:
            return
        for alias in node.names:
            inner = (*base, alias.name)
            yield inner if _is_module(root.joinpath(*inner)) else base


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").exists() or path.is_dir()


def _unit(place: Path) -> str:
    """Return the name that has a row: the folder, or the file directly in the package."""
    return place.parts[0].removesuffix(".py")


def test_the_source_obeys():
    assert violations(SOURCE) == []


def test_the_scan_sees_the_imports_of_the_source():
    place = Path("losses/separable.py")
    tree = ast.parse((SOURCE / place).read_text(encoding="utf-8"))
    found = {module for node in ast.walk(tree) for module in _imported(node, place, SOURCE)}
    assert {("errors",), ("labels",), ("losses", "chunked"), ("losses", "reference")} <= found


@pytest.fixture
def package(tmp_path):
    """Write a small package that obeys, with one file replaced or added, and return its folder."""

    def write(place: str, code: str) -> Path:
        obeying = {
            "__init__.py": "def run():\n    from hyperfocal.tasks import job\n    return job\n",
            "__main__.py": "from hyperfocal.cli import main\n",
            "errors.py": "import math\n",
            "labels.py": "from hyperfocal.errors import DataError\n",
            "config.py": "",
            "losses/__init__.py": "from hyperfocal.losses.focal import Focal\n",
            "losses/chunked.py": "from hyperfocal.labels import SparseLabels\n",
            "losses/focal.py": "from hyperfocal.losses.chunked import walk\nfrom .chunked import walk as again\n",
            "data/tables.py": "import hyperfocal.labels\n",
            "train.py": "from hyperfocal.losses import Focal\n",
            "runs.py": "",
            "tasks/job.py": "from hyperfocal import train\nfrom hyperfocal.data import tables\n",
            "serve/http.py": "from hyperfocal.tasks.job import job\n",
            "cli.py": "def main():\n    from hyperfocal.serve import http\n",
        }
        for name, text in (obeying | {place: code}).items():
            path = tmp_path / "hyperfocal" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "hyperfocal"

    return write


def test_an_obeying_package_has_no_violation(package):
    assert violations(package("runs.py", "import torch\nfrom pathlib import Path\n")) == []


@pytest.mark.parametrize(
    ("place", "code", "problem"),
    [
        ("errors.py", "import hyperfocal.cli", "errors.py:1: row 1 imports cli from row 8"),
        (
            "labels.py",
            "from hyperfocal.config.recipes import resolve",
            "labels.py:1: row 2 imports config.recipes from row 2",
        ),
        ("labels.py", "import hyperfocal.sequences", "labels.py:1: row 2 imports sequences from row 2"),
        ("labels.py", "from . import config", "labels.py:1: row 2 imports config from row 2"),
        ("labels.py", "from .config import resolve", "labels.py:1: row 2 imports config from row 2"),
        ("train.py", "\nfrom hyperfocal import runs", "train.py:2: row 4 imports runs from row 4"),
        ("train.py", "def f():\n    import hyperfocal.tasks.job", "train.py:2: row 4 imports tasks.job from row 5"),
        (
            "data/tables.py",
            "from hyperfocal.losses.focal import Focal",
            "data/tables.py:1: row 3 imports losses.focal from row 3",
        ),
        ("data/tables.py", "from ..train import fit", "data/tables.py:1: row 3 imports train from row 4"),
        (
            "losses/chunked.py",
            "from hyperfocal.losses import Focal",
            "losses/chunked.py:1: imports its own package losses, not the sibling file",
        ),
        (
            "losses/chunked.py",
            "from . import Focal",
            "losses/chunked.py:1: imports its own package losses, not the sibling file",
        ),
        ("cli.py", "from hyperfocal import version", "cli.py:1: imports the package hyperfocal itself"),
        ("cli.py", "import hyperfocal", "cli.py:1: imports the package hyperfocal itself"),
        ("cli.py", "from hyperfocal.extra import x", "cli.py:1: imports extra, which stands in no row"),
        ("extra.py", "", "extra.py: stands in no row"),
        ("utils/files.py", "", "utils/files.py: stands in no row"),
        ("__init__.py", "from hyperfocal.cli import main", "__init__.py:1: imports cli from row 8"),
        (
            "__init__.py",
            "from hyperfocal.tasks import job",
            "__init__.py:1: imports tasks.job at once; import it inside a function",
        ),
        ("__main__.py", "from hyperfocal import train", "__main__.py:1: imports train; __main__ may import only cli"),
    ],
)
def test_a_violation_is_caught(package, place, code, problem):
    assert violations(package(place, code)) == [problem]
