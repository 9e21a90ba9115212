"""What README and recipes say works: every Python block runs, every recipe is valid, every linked file exists.

A block that opens with ```python needs=NAME,NAME is skipped where one of these packages is not installed.
"""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperfocal import MultiLabelClassifier, Recommender
from hyperfocal.cli import main
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.files import KINDS
from hyperfocal.data.log_columns import KNOWN_NAMES
from hyperfocal.data.text_columns import KNOWN_LABELS, KNOWN_TEXTS
from hyperfocal.grid.axes import expand, read_grid_recipe
from warm_python import warm_python

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python(?: needs=(\S+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def missing(needs):
    """Return the packages of a comma-separated list that cannot be imported."""
    return [name for name in needs.split(",") if name and find_spec(name) is None]


BLOCKS = [
    pytest.param(
        block,
        id=f"{page.stem}-{number}",
        marks=pytest.mark.skipif(bool(missing(needs)), reason=f"not installed: {', '.join(missing(needs))}"),
    )
    for page in PAGES
    for number, (needs, block) in enumerate(FENCE.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_python_fence_is_one_that_runs(page):
    text = page.read_text(encoding="utf-8")
    assert len(FENCE.findall(text)) == text.count("```python")


@pytest.fixture(scope="module")
def run_python():
    with warm_python() as run:
        yield run


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, run_python, tmp_path):
    result = run_python(block, tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_block_that_fails_is_seen(run_python, tmp_path):
    """Blocks know nothing of each other, and an error of one is its exit code."""
    assert run_python("import hyperfocal, pathlib; name = 1; pathlib.Path('a').touch()", tmp_path) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert run_python("import sys; print(sorted({'name', 'hyperfocal'} & {*globals(), *sys.modules}))", tmp_path) == (
        0,
        "[]\n",
        "",
    )
    failed = run_python("name", tmp_path)
    assert failed.returncode == 1
    assert "NameError" in failed.stderr
    assert run_python("import time; time.sleep(60)", tmp_path, timeout=1).returncode < 0


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_resolve(recipe):
    sections = tomllib.loads(recipe.read_text(encoding="utf-8"))
    texts = sections.keys() & {"features", "head", "decide"} or "caps" in sections.get("grid", {})
    texts = texts or "scaling" in sections.get("data", {})
    kind = ClassifySettings if texts else RecommendSettings
    if "grid" in sections:
        found = read_grid_recipe(recipe, kind=kind)
        assert expand(found.base, found.axes, found.seeds)
    else:
        assert resolve(kind, recipe).seed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not leads_somewhere(page, link)] == []


def leads_somewhere(page, link):
    """Return whether the file of a link exists and, if the link names a heading, has it."""
    name, _, heading = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not heading or heading in anchors(target.read_text(encoding="utf-8")))


def anchors(text):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_a_link_to_no_heading_is_seen():
    assert leads_somewhere(ROOT / "docs" / "limits.md", "results.md#new-items")
    assert not leads_somewhere(ROOT / "docs" / "limits.md", "results.md#old-items")
    assert not leads_somewhere(ROOT / "docs" / "limits.md", "outcomes.md")


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


class TestDataPage:
    """The page that says how data are read names what the code knows."""

    PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("row", "names"),
        [
            ("user", KNOWN_NAMES["user"]),
            ("item", KNOWN_NAMES["item"]),
            ("order: a position or a time", KNOWN_NAMES["order"]),
            ("text, one or more columns", sum(KNOWN_TEXTS, ())),
            ("labels", KNOWN_LABELS),
        ],
    )
    def test_known_names(self, row, names):
        cells = re.search(rf"^\| {row} \|[^|]*\|([^|]*)\|", self.PAGE, re.MULTILINE)
        assert re.findall(r"`(\w+)`", cells[1]) == list(names)

    def test_every_ending_of_a_file(self):
        endings = re.findall(r"`(\.\w+)`", self.PAGE.partition("## File formats")[2].partition("- **")[0])
        assert set(endings) >= set(KINDS)

    @pytest.mark.parametrize("estimator", [Recommender, MultiLabelClassifier])
    def test_parameters(self, estimator):
        named = re.findall(rf"`{estimator.__name__}\((\w+)=\)`", self.PAGE)
        assert len(named) > 2
        assert set(named) <= estimator().get_params().keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_options_exist(page):
    """Every option of a `hyperfocal` line in the page is one that the command's --help shows."""
    lines = re.findall(r"^    (hyperfocal .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for line in lines:
        words = line.partition("#")[0].split()[1:]
        command = [word for word in words[:2] if word.isalpha() and word.islower()]
        shown = CliRunner().invoke(main, [*command, "--help"]).output
        assert [word for word in words if word.startswith("--") and word not in shown] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "NOTES.md"], ids=lambda page: page.stem)
def test_no_number_is_left_to_fill_in(page):
    assert re.findall(r"@[A-Z0-9]+@", page.read_text(encoding="utf-8")) == []
