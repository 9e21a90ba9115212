import pytest

from packing import pack


@pytest.fixture
def put(tmp_path):
    """Write text or bytes to a file, packed where the name says so, and return its path."""

    def write(name: str, content: str | bytes):
        raw = content if isinstance(content, bytes) else content.encode()
        path = tmp_path / name
        path.write_bytes(pack(name, raw))
        return path

    return write
