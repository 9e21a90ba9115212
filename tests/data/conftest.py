import gzip

import pytest


@pytest.fixture
def put(tmp_path):
    """Write text or bytes to a file, packed where the name says so, and return its path."""

    def write(name: str, content: str | bytes):
        raw = content if isinstance(content, bytes) else content.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write
