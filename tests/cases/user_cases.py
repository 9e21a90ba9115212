"""Another user, for tests that run as root."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OTHER = 54321  # a user without a name, a home and a group
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def another_user(user: int = OTHER) -> Iterator[None]:
    """Be another user, without the groups of root."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextmanager
def public_folder() -> Iterator[Path]:
    """Yield a new folder that every user can read and nobody else can write; pytest's folders are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def give(path: Path, user: int = OTHER) -> Path:
    """Make another user the owner of a file, or of a folder with everything in it."""
    for each in (path, *path.rglob("*")):
        os.chown(each, user, user, follow_symlinks=False)
    return path
