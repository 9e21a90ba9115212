"""The shape of the source: who may import whom, no circles, files of a readable size, packages without logic.

The rows are those of docs and CONTRIBUTING: a file imports only from rows above its own, and within its own folder.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hyperfocal"
ROWS = (
    ("errors", "interrupts"),
    ("distributed", "parts", "private"),
    ("config", "labels", "counted_labels", "sequences", "rules", "storage", "machine"),
    ("losses", "metrics", "data", "offsets"),
    ("models", "training", "thresholds"),
    ("grid", "serve"),
    ("report",),
    ("recommend", "classify"),
    ("export",),
    ("cli",),
)
ROW = {name: number for number, names in enumerate(ROWS, start=1) for name in names}
WITHIN_A_ROW = {("sequences", "labels"), ("counted_labels", "labels")}  # Sequences.as_labels, and a subclass
JOBS = ROW["recommend"]
MOST_LINES = 400  # of a file
QUESTION_WORDS = ("What", "How", "Which", "Who", "Where")  # no docstring of a module begins with one
Module = tuple[str, ...]  # ("losses", "fused"); () is the package hyperfocal itself


def violations(root: Path) -> list[str]:
    """Return a line for each import under `root`, the folder of the package, that breaks the rule of the rows."""
    lines = []
    for path in sources(root):
        place = path.relative_to(root)
        if _unit(place) not in ROW and str(place) not in ("__init__.py", "__main__.py"):
            lines.append(f"{place}: belongs to no row")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines += [f"{place}:{line}: {problem}" for line, problem in _problems(tree, place, root)]
    return lines


def sources(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def _problems(tree: ast.Module, place: Path, root: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for module in imported(node, place, root):
            problem = _problem(place, module)
            if problem:
                yield node.lineno, problem
            elif str(place) == "__init__.py" and ROW[module[0]] == JOBS and node in tree.body:
                yield node.lineno, f"imports {'.'.join(module)} at once; import it inside a function"


def _problem(place: Path, module: Module) -> str:
    """Return what is wrong with the file at `place` importing `module`, or ""."""
    if not module:
        return "imports the package hyperfocal itself"
    name, unit = ".".join(module), _unit(place)
    if module[0] not in ROW:
        return f"imports {name}, which belongs to no row"
    if str(place) == "__main__.py":
        return "" if module[0] == "cli" else f"imports {name}; __main__ may import only cli"
    if str(place) == "__init__.py":
        return "" if ROW[module[0]] <= JOBS else f"imports {name} from row {ROW[module[0]]}"
    if module[0] == unit and len(place.parts) > 1:
        return "" if len(module) > 1 else f"imports its own package {name}, not the sibling file"
    if ROW[module[0]] >= ROW[unit] and (unit, name) not in WITHIN_A_ROW:
        return f"row {ROW[unit]} imports {name} from row {ROW[module[0]]}"
    return ""


def imported(node: ast.AST, place: Path, root: Path) -> Iterator[Module]:
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


def circles(root: Path) -> list[list[str]]:
    """Return every set of files that import each other in a circle; imports for type checkers count."""
    graph = {_module(path, root): _imports_of(path, root) for path in sources(root)}
    reach: dict[Module, set[Module]] = {}
    for module in graph:
        found, ahead = set(), list(graph[module])
        while ahead:
            one = ahead.pop()
            if one not in found:
                found.add(one)
                ahead += graph.get(one, ())
        reach[module] = found
    circular = {frozenset(other for other in reach[one] if one in reach.get(other, ())) for one in reach}
    return sorted(sorted(".".join(module) for module in circle) for circle in circular if circle)


def _module(path: Path, root: Path) -> Module:
    parts = path.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _imports_of(path: Path, root: Path) -> set[Module]:
    place, tree = path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))
    found = {module for node in ast.walk(tree) for module in imported(node, place, root)}
    return found - {_module(path, root)}


def is_logic(node: ast.stmt) -> bool:
    """Return whether a statement of a package's `__init__` does more than import and name what it imports."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return False
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not (isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == ["__all__"])


class TestSource:
    def test_no_import_goes_up(self):
        assert violations(SOURCE) == []

    def test_the_scan_sees_the_imports_of_the_source(self):
        place = Path("losses/separable.py")
        tree = ast.parse((SOURCE / place).read_text(encoding="utf-8"))
        found = {module for node in ast.walk(tree) for module in imported(node, place, SOURCE)}
        assert {("labels",), ("losses", "torch_walks"), ("losses", "base")} <= found

    def test_no_files_import_each_other_in_a_circle(self):
        assert circles(SOURCE) == []

    def test_no_file_is_too_long(self):
        lengths = {str(path.relative_to(SOURCE)): path.read_text("utf-8").count("\n") for path in sources(SOURCE)}
        assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}

    def test_packages_hold_no_logic(self):
        """The package itself is the exception: it imports its classes when they are first asked for."""
        packages = sorted(set(SOURCE.rglob("__init__.py")) - {SOURCE / "__init__.py"})
        logic = [
            f"{path.relative_to(SOURCE)}:{node.lineno}"
            for path in packages
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if is_logic(node)
        ]
        assert logic == []

    def test_no_module_begins_with_a_question_word(self):
        first = {
            str(path.relative_to(SOURCE)): (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split(" ")[0]
            for path in sources(SOURCE)
        }
        assert [name for name, word in first.items() if word in QUESTION_WORDS] == []
        assert [name for name, word in first.items() if not word] == []

    def test_the_wheel_is_typed(self):
        """A wheel holds every file of the package, so `py.typed` too, as long as nothing excludes it."""
        build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
        assert build == {"targets": {"wheel": {"packages": ["src/hyperfocal"]}}}
        assert (SOURCE / "py.typed").is_file()


class TestContributing:
    """The table of CONTRIBUTING that says where a new X goes."""

    TABLE = re.findall(r"^\|.*\|$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    PATHS = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", "\n".join(TABLE))

    def test_every_path_exists(self):
        assert len(self.PATHS) > 30
        assert [path for path in self.PATHS if not ((SOURCE / path).exists() or (ROOT / path).exists())] == []

    def test_every_registry_is_in_its_file(self):
        """A cell names a registry before its file ("`KINDS` in `file.py`"), or after it ("`KINDS` there")."""
        for row in self.TABLE:
            for names, place in re.findall(r"((?:`[A-Z_]+`(?: and )?)+) (?:in (`[\w/.]+`)|there)", row):
                first = place.strip("`") or re.findall(r"`([\w/]+\.py)`", row)[0]
                for name in re.findall(r"`([A-Z_]+)`", names):
                    assert re.search(rf"^{name}\b", (SOURCE / first).read_text("utf-8"), re.MULTILINE), (name, first)


class TestHouse:
    """The map of docs/house.md."""

    MAP = re.findall(r"^ {4}.*$", (ROOT / "docs" / "house.md").read_text("utf-8"), re.MULTILINE)
    FILE = re.compile(r"\b\w+\.(?:py|c)\b")

    def named(self) -> list[Path]:
        """Return the paths that the map names; a file is in the folder that its entry begins with."""
        paths, folder = [], SOURCE
        for line in self.MAP:
            entry = re.match(r" {6}(\S+/)|( {6}\S)", line)  # a folder of the package, or files directly in it
            if entry:
                folder = SOURCE / (entry[1] or "")
                paths.append(folder)
            elif re.match(r" {4}\S", line):
                folder = ROOT
                paths += [ROOT / name for name in re.findall(r"\b[\w/]+/", line.partition("(")[0])]
            paths += [folder / name for name in self.FILE.findall(line)]
        return paths

    def test_every_named_file_exists(self):
        paths = self.named()
        assert len(paths) > 60
        assert [str(path) for path in paths if not path.exists()] == []

    def test_every_folder_of_the_source_is_on_the_map(self):
        folders = {path.parent for path in SOURCE.glob("*/__init__.py")}
        assert folders - {*self.named()} == set()


@pytest.fixture
def package(tmp_path):
    """Write a small package that obeys, with one file replaced or added, and return its folder."""

    def write(place: str, code: str) -> Path:
        obeying = {
            "__init__.py": "def run():\n    from hyperfocal.recommend import job\n    return job\n",
            "__main__.py": "from hyperfocal.cli import main\n",
            "errors.py": "import math\n",
            "labels.py": "from hyperfocal.errors import DataError\n",
            "config.py": "",
            "machine.py": "",
            "losses/__init__.py": "from hyperfocal.losses.focal import Focal\n",
            "losses/walk.py": "from hyperfocal.labels import SparseLabels\n",
            "losses/focal.py": "from hyperfocal.losses.walk import walk\nfrom .walk import walk as again\n",
            "data/logs.py": "import hyperfocal.labels\n",
            "training.py": "from hyperfocal.losses import Focal\n",
            "recommend/job.py": "from hyperfocal import training\nfrom hyperfocal.data import logs\n",
            "export/files.py": "from hyperfocal.recommend.job import job\n",
            "cli.py": "def main():\n    from hyperfocal.export import files\n",
        }
        for name, text in (obeying | {place: code}).items():
            path = tmp_path / "hyperfocal" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "hyperfocal"

    return write


def test_an_obeying_package_has_no_violation(package):
    obeying = package("machine.py", "import torch\nfrom pathlib import Path\n")
    assert violations(obeying) == []
    assert circles(obeying) == []


@pytest.mark.parametrize(
    ("place", "code", "problem"),
    [
        ("errors.py", "import hyperfocal.cli", "errors.py:1: row 1 imports cli from row 10"),
        (
            "labels.py",
            "from hyperfocal.config.recipes import resolve",
            "labels.py:1: row 3 imports config.recipes from row 3",
        ),
        ("labels.py", "import hyperfocal.sequences", "labels.py:1: row 3 imports sequences from row 3"),
        ("labels.py", "from . import config", "labels.py:1: row 3 imports config from row 3"),
        ("labels.py", "from .config import resolve", "labels.py:1: row 3 imports config from row 3"),
        ("machine.py", "\nfrom hyperfocal import labels", "machine.py:2: row 3 imports labels from row 3"),
        (
            "training.py",
            "def f():\n    import hyperfocal.recommend.job",
            "training.py:2: row 5 imports recommend.job from row 8",
        ),
        (
            "data/logs.py",
            "from hyperfocal.losses.focal import Focal",
            "data/logs.py:1: row 4 imports losses.focal from row 4",
        ),
        ("data/logs.py", "from ..training import fit", "data/logs.py:1: row 4 imports training from row 5"),
        (
            "recommend/job.py",
            "import hyperfocal.classify.job",
            "recommend/job.py:1: row 8 imports classify.job from row 8",
        ),
        (
            "losses/walk.py",
            "from hyperfocal.losses import Focal",
            "losses/walk.py:1: imports its own package losses, not the sibling file",
        ),
        (
            "losses/walk.py",
            "from . import Focal",
            "losses/walk.py:1: imports its own package losses, not the sibling file",
        ),
        ("cli.py", "from hyperfocal import version", "cli.py:1: imports the package hyperfocal itself"),
        ("cli.py", "import hyperfocal", "cli.py:1: imports the package hyperfocal itself"),
        ("cli.py", "from hyperfocal.extra import x", "cli.py:1: imports extra, which belongs to no row"),
        ("extra.py", "", "extra.py: belongs to no row"),
        ("utils/files.py", "", "utils/files.py: belongs to no row"),
        ("__init__.py", "from hyperfocal.cli import main", "__init__.py:1: imports cli from row 10"),
        (
            "__init__.py",
            "from hyperfocal.recommend import job",
            "__init__.py:1: imports recommend.job at once; import it inside a function",
        ),
        (
            "__main__.py",
            "from hyperfocal import machine",
            "__main__.py:1: imports machine; __main__ may import only cli",
        ),
    ],
)
def test_a_violation_is_caught(package, place, code, problem):
    assert violations(package(place, code)) == [problem]


@pytest.mark.parametrize(
    "code",
    [
        "from hyperfocal.losses.focal import Focal",
        "def f():\n    from hyperfocal.losses import focal",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .focal import Focal",
    ],
)
def test_a_circle_is_caught(package, code):
    assert circles(package("losses/walk.py", code)) == [["losses.focal", "losses.walk"]]


@pytest.mark.parametrize(
    ("code", "logic"),
    [
        ('"""A docstring."""', False),
        ("from a import b", False),
        ('__all__ = ["b"]', False),
        ("LIMIT = 3", True),
        ("def f(): ...", True),
        ("print()", True),
    ],
)
def test_logic_in_a_package_is_caught(code, logic):
    assert is_logic(ast.parse(code).body[0]) is logic
