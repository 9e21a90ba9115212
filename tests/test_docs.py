"""What README and recipes say works: every Python block runs, every recipe is valid, every linked file exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperfocal.cli import main
from hyperfocal.config import resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, tmp_path):
    result = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_resolve(recipe):
    assert resolve(recipe).seed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_files_exist(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_options_exist(page):
    """Every option of a `hyperfocal` line in the page is one that the command's --help shows."""
    lines = re.findall(r"^    (hyperfocal .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for line in lines:
        words = line.partition("#")[0].split()[1:]
        command = [word for word in words[:2] if word.isalpha() and word.islower()]
        shown = CliRunner().invoke(main, [*command, "--help"]).output
        assert [word for word in words if word.startswith("--") and word not in shown] == []
