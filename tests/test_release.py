"""`make audit` and `make sbom`, without the network that the audit needs."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
CLEAN = {"dependencies": [{"name": "a", "version": "1", "vulns": []}]}
SKIPPED = {"dependencies": [{"name": "a", "skip_reason": "not found"}]}


def pins():
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_dependency_is_pinned():
    assert len(pins()) > 50
    assert not [line for line in pins() if not re.fullmatch(r"[\w.-]+==[\w.!+-]+", line)]


def test_the_tools_of_a_release_are_no_dependency():
    for file in (CONSTRAINTS, ROOT / "pyproject.toml"):
        text = file.read_text(encoding="utf-8")
        assert "pip-audit" not in text
        assert "cyclonedx" not in text


def audit(folder, found, code):
    """Run `make audit` in a copy of what it reads, with a pip-audit that finds so and ends so; return it, ended."""
    tools = folder / "tools" / "bin"
    tools.mkdir(parents=True)
    (tools.parent / "ready").touch()
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    written = "" if found is None else f"cat > dist/audit.json <<'END'\n{json.dumps(found)}\nEND\n"
    (tools / "pip-audit").write_text(f"#!/bin/sh\n{written}exit {code}\n")
    (tools / "pip-audit").chmod(0o755)
    command = ["make", "audit", f"AUDIT={tools.parent}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"MAKEFLAGS": ""})


@pytest.mark.parametrize(("found", "code"), [(SKIPPED, 0), (None, 1), (None, 0)])
def test_an_audit_without_data_does_not_pass(tmp_path, found, code):
    ended = audit(tmp_path, found, code)
    assert ended.returncode != 0
    assert "NOT AUDITED" in ended.stdout


@pytest.mark.parametrize("code", [0, 1])
def test_an_audit_ends_as_its_tool_does(tmp_path, code):
    ended = audit(tmp_path, CLEAN, code)
    assert (ended.returncode != 0) == code
    assert "NOT AUDITED" not in ended.stdout
