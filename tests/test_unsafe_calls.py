"""Nothing in the package can run code that stands in a file, or write outside a folder by unpacking an archive."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperfocal

PACKAGE = Path(hyperfocal.__file__).parent
BETWEEN_PROCESSES = PACKAGE / "grid" / "packing.py"  # what it unpickles comes from a Ray cluster, which does so itself
SOURCES = sorted(set(PACKAGE.rglob("*.py")) - {BETWEEN_PROCESSES})
UNPICKLE = "unpickles: whoever writes the file runs code here. Keep tensors as safetensors, all else as JSON"
UNPACK = "unpacks an archive, whose names may lead outside the folder. Keep one file, or a folder"
RUN = "runs text as code. Write a function"
MODULES = {
    **dict.fromkeys(["pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"], UNPICKLE),
    **dict.fromkeys(["tarfile", "zipfile", "py7zr", "rarfile"], UNPACK),
}
CALLS = {"unpack_archive": UNPACK, "extractall": UNPACK, "read_pickle": UNPICKLE, "eval": RUN, "exec": RUN}
LOADS = {("torch", "load"): UNPICKLE, ("yaml", "load"): UNPICKLE, ("joblib", "load"): UNPICKLE}


def unsafe(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line of each unsafe import or call, and why it is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from ((node.lineno, MODULES[name.split(".")[0]]) for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from ((node.lineno, why) for why in called(node))


def called(node: ast.Call) -> Iterator[str]:
    owner, name = "", ""
    if isinstance(node.func, ast.Attribute):
        name, owner = node.func.attr, getattr(node.func.value, "id", "")
    elif isinstance(node.func, ast.Name):
        name = node.func.id
    given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    if name in CALLS and (isinstance(node.func, ast.Name) or CALLS[name] is not RUN):  # model.eval() runs no text
        yield CALLS[name]
    if (owner, name) in LOADS:
        yield LOADS[owner, name]
    if (owner, name) in (("np", "load"), ("numpy", "load")) and given.get("allow_pickle", True) is not False:
        yield f"{UNPICKLE}, or say allow_pickle=False"
    if given.get("allow_pickle") is True or given.get("trust_remote_code") is True:
        yield UNPICKLE


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_package_does_nothing_unsafe(path):
    found = [f"{path}:{line} {why}" for line, why in unsafe(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import zipfile as z", "from tarfile import open",
        "torch.load(path)", "shutil.unpack_archive(path)", "archive.extractall(folder)", "np.load(path)",
        "np.load(path, allow_pickle=True)", "joblib.load(path)", "pd.read_pickle(path)", "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_what_is_unsafe_is_found(line):
    assert list(unsafe(line))


@pytest.mark.parametrize(
    "line", ["model.eval()", "np.load(path, allow_pickle=False)", "json.load(file)", "safe_open(path)"]
)
def test_what_is_safe_is_not(line):
    assert not list(unsafe(line))
