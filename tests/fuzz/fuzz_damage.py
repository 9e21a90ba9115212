"""Ways to damage a valid file, as strategies of hypothesis: bytes, cells, values of JSON and TOML, tensors."""

import copy
import gzip
import json
import struct

from hypothesis import strategies as st

from packing import PACK

TOKENS = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\n\n", b"\t", b'"', b"'", b",", b";",
    b"|", b"\\", b"\x1b[2J", b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"NaN", b"nan", b"-inf", b"1e999",
    b"-1", b"0", b"9" * 30, b"9" * 5_000, b"1.5", b"null", b"true", b"{}", b"[]", b"[" * 3_000, b'{"a":' * 3_000,
    b"\\ud800", b"=", b"#", b"[[a]]", b"__label__", b"__label__ ", b"2024-13-45", b"0000-00-00T00:00:00Z", b"user",
    b"item", b"A" * 20_000, b"::", b":", b":1 ", b":token",
]  # fmt: skip
TEXTS = [
    "",
    " ",
    "\x00",
    "\ufeff",
    "\ud800",
    "\u202e",
    "a\nb",
    "a,b",
    '"',
    "nan",
    "-1",
    "1e999",
    "a" * 5_000,
    "user",
    "item",
]
NUMBERS = [0, -1, 1, 2, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]
HUGE = "<huge>"  # stands for a number of 5,000 digits, which Python reads nowhere
VALUES = [HUGE, None, True, False, [], {}, [[]], [None], [1], ["a"], {"a": 1}, {"": None}, *TEXTS, *NUMBERS]
DELETE, TWICE, WRAP = "delete", "twice", "wrap"
places = st.integers(0, 2**16)


def damaged_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return the bytes with up to four of: a span overwritten, left out, doubled; the rest cut off."""
    change = st.tuples(
        st.sampled_from(["write", "insert", "drop", "double", "cut", "flip"]),
        places,
        st.sampled_from([1, 2, 4, 8, 64, 512]),
        st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8)),
    )
    return st.lists(change, max_size=4).map(lambda changes: _changed(whole, changes))


def _changed(content: bytes, changes: list) -> bytes:
    for kind, place, size, token in changes:
        at = place % (len(content) + 1)
        span = content[at : at + size]
        between = {
            "write": token, "insert": token + span, "drop": b"", "double": span * 2, "cut": b"",
            "flip": bytes(byte ^ (1 << place % 8) for byte in span),
        }[kind]  # fmt: skip
        content = content[:at] + between + (b"" if kind == "cut" else content[at + size :])
    return content


def packed(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return the contents packed or in UTF-16, of which every second is damaged outside too."""
    ways = st.sampled_from([lambda raw: gzip.compress(raw, 1, mtime=0), PACK[".bz2"], PACK[".zst"], _as_utf_16])
    return st.builds(lambda raw, way: way(raw), content, ways).flatmap(
        lambda raw: st.one_of(st.just(raw), damaged_bytes(raw))
    )


def _as_utf_16(raw: bytes) -> bytes:
    return raw.decode("utf-8", "replace").encode("utf-16")


def damaged_json(value) -> st.SearchStrategy:
    """Return the value with up to three places in it changed, left out, doubled or put into a list."""
    change = st.tuples(
        st.lists(st.integers(0, 40), max_size=4),
        st.one_of(st.sampled_from([DELETE, TWICE, WRAP]), st.sampled_from(VALUES)),
    )
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _replaced(value, changes))


def _replaced(value, changes: list):
    root = [copy.deepcopy(value)]
    for path, new in changes:
        holder, key = root, 0
        for step in path:
            inside = holder[key]
            if not isinstance(inside, dict | list) or not inside:
                break
            holder, key = inside, list(inside)[step % len(inside)] if isinstance(inside, dict) else step % len(inside)
        if new is DELETE and holder is not root:
            del holder[key]
        elif new is TWICE and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif new is WRAP:
            holder[key] = [holder[key]]
        elif new not in (DELETE, TWICE):
            holder[key] = copy.deepcopy(new)
        if not root:
            root = [None]
    return root[0]


def as_json(value) -> bytes:
    """Return a value as JSON, as Python writes it: with NaN, half surrogates and numbers of 5,000 digits."""
    return json.dumps(value).replace(f'"{HUGE}"', "9" * 5_000).encode()


def damaged_json_file(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a file of JSON, damaged as a value or as bytes."""
    return st.one_of(damaged_json(json.loads(whole)).map(as_json), damaged_bytes(whole))


def damaged_json_lines(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return JSON lines, damaged as values or as bytes."""
    rows = [json.loads(line) for line in whole.splitlines()]
    written = damaged_json(rows).map(
        lambda rows: b"".join(as_json(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
    )
    return st.one_of(written, damaged_bytes(whole))


def damaged_table(whole: bytes, separator: bytes = b",") -> st.SearchStrategy[bytes]:
    """Return a table in text, with cells changed, left out or doubled, or damaged as bytes."""
    lines = [line.split(separator) for line in whole.splitlines()]
    change = st.tuples(places, places, st.sampled_from(TOKENS))

    def written(changes: list) -> bytes:
        rows = [list(row) for row in lines]
        for line, column, token in changes:
            row = rows[line % len(rows)]
            at = column % (len(row) + 1)
            row[at : at + 1 + line // 2**15] = [token]  # one cell, or two become one
        return b"\n".join(separator.join(row) for row in rows) + b"\n"

    return st.one_of(st.lists(change, max_size=4).map(written), damaged_bytes(whole))


def damaged_toml(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return settings in TOML, with values and names of lines changed, or damaged as bytes."""
    lines = whole.splitlines()
    values = [token for token in TOKENS if b"\n" not in token]
    values += [b"[1, 2]", b'""', b'"\\ud800"', b"2147483647", b"1e308", b"2024-01-01", b"{a = 1}", b"1" * 4_400]
    change = st.tuples(places, st.booleans(), st.sampled_from(values))

    def written(changes: list) -> bytes:
        found = list(lines)
        for line, named, value in changes:
            name, _, old = found[line % len(found)].partition(b"=")
            found[line % len(found)] = value + b" =" + old if named else name + b"= " + value
        return b"\n".join(found)

    return st.one_of(st.lists(change, min_size=1, max_size=3).map(written), damaged_bytes(whole))


def damaged_tensors(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a safetensors file with another header, without its checksum, or damaged as bytes."""
    (size,) = struct.unpack("<Q", whole[:8])
    header, content = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    bare = {key: value for key, value in header.items() if key != "__metadata__"}
    sizes = st.sampled_from([None, None, None, 0, 2**63, 10**9])

    def written(header, size: int | None) -> bytes:
        raw = as_json(header)
        return struct.pack("<Q", len(raw) if size is None else size) + raw + content

    headers = st.one_of(damaged_json(header), damaged_json(bare))
    rest = damaged_bytes(content).map(lambda raw: written(bare, None)[: -len(content) or None] + raw[: len(content)])
    return st.one_of(st.builds(written, headers, sizes), rest, damaged_bytes(whole))
