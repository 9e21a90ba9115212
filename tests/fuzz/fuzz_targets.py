"""What is fuzzed: name -> where its inputs come from, and what reads one.

A target is made from a folder with a small run of each job, a grid and files to read; what it reads lies in a folder of
its own, and is put back before the next input.
"""

import asyncio
import atexit
import shutil
from asyncio import Runner
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import httpx
import polars as pl
from fuzz_damage import (
    as_json,
    damaged_bytes,
    damaged_json,
    damaged_json_file,
    damaged_json_lines,
    damaged_table,
    damaged_tensors,
    damaged_toml,
    packed,
)
from hypothesis import strategies as st
from polars.testing.parametric import column, dataframes

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.cli.report import write_report, write_run_report
from hyperfocal.cli.serve import engine_by_name
from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.config.recipes import parse_override, resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data import stored_documents as stream_documents
from hyperfocal.data.blocks import read_blocks, whole_users
from hyperfocal.data.documents import as_documents, documents_from_frame
from hyperfocal.data.extreme import read_extreme
from hyperfocal.data.item_table import encode_items, fit_columns, read_items
from hyperfocal.data.logs import as_log, log_from_frame, row_users
from hyperfocal.data.taxonomy import read_taxonomy
from hyperfocal.data.text_lines import TEXT_READERS
from hyperfocal.errors import HyperfocalError
from hyperfocal.grid.axes import read_grid_recipe
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.serve.app import create_app
from hyperfocal.serve.live import Live, load_predictor
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.weights import verify_run

Damage = Callable[[bytes], st.SearchStrategy[bytes]]


@dataclass
class Target:
    """Where inputs come from, and what reads one; it may end in an error of ours, and in no other."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], Any]


def _file(name: str, inputs: Damage, read: Callable[[Path], Any], material: Path) -> Target:
    """Return a target that reads one file; every second input is packed."""
    whole, place = (material / name).read_bytes(), material / "read"
    place.mkdir(exist_ok=True)
    plain = inputs(whole)
    contents = st.one_of(plain, packed(plain).map(Packed)) if name != "log.parquet" else plain

    def read_content(content: bytes) -> None:
        path = place / (f"{name}.gz" if isinstance(content, Packed) else name)
        path.write_bytes(content)
        read(path)

    return Target(contents, read_content)


class Packed(bytes):
    """The content of a .gz, which is read by what it is."""


def _log(path: Path) -> None:
    as_log(path)
    settings = RecommendSettings().data
    for block in whole_users(read_blocks(path, 5), lambda frame, file: row_users(frame, settings, file)):
        log_from_frame(block.frame, settings, block.file)


def _texts(path: Path) -> None:
    as_documents(path)
    for block in read_blocks(path, 5, readers=TEXT_READERS, row="document"):
        documents_from_frame(block.frame, file=block.file, need="texts")
    expected = as_documents(path)
    with TemporaryDirectory() as work, patch.object(stream_documents, "BLOCK_ROWS", 5):
        found = stream_documents.stored_documents(
            stream_documents.stream_documents(path, TextDataSettings(), Path(work))
        )
        assert found.all_texts().to_list() == expected.texts.to_list()
        assert found.labels.to_list() == expected.labels.to_list()
        assert found.counts() == expected.counts()


def _items(path: Path) -> None:
    table = read_items(path)
    columns, _ = fit_columns(table, table.frame.columns, table.ids.head(20))
    encode_items(columns, table, table.ids)


def _frames(names: list[str], read: Callable[[Path], Any], material: Path) -> Target:
    """Return a target that reads Parquet files whose columns are of any type."""
    excluded = [pl.Object, pl.Categorical, pl.Enum]  # Parquet has none of the first, and the others make little new
    plain = [pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.Date, pl.Datetime, pl.Decimal, pl.List(pl.String)]
    columns = [column(name) for name in names]
    typed = dataframes(columns, max_size=8, allow_null=True, excluded_dtypes=excluded)
    frames = st.one_of(typed, dataframes(columns, max_size=8, allow_null=True, allowed_dtypes=plain))
    path = material / "read" / "typed.parquet"
    path.parent.mkdir(exist_ok=True)

    def read_frame(frame: pl.DataFrame) -> None:
        frame.write_parquet(path)
        read(path)

    return Target(frames, read_frame)


def _recipe(material: Path) -> Target:
    path = material / "read.toml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        for kind in (RecommendSettings, ClassifySettings):
            for step in (resolve, read_grid_recipe):
                try:
                    step(kind, path) if step is resolve else step(path, None, kind)
                except HyperfocalError:
                    continue

    recipes = [(material / name).read_bytes() for name in ("recommend.toml", "classify.toml", "grid.toml")]
    return Target(st.one_of(*map(damaged_toml, recipes)), read)


def _override(material: Path) -> Target:
    keys = [
        "train.epochs",
        "model.hidden_widths",
        "loss.cap",
        "seed",
        "data.user",
        "train",
        "train.epochs.a",
        "",
        "a",
        ".",
    ]
    values = st.one_of(
        st.text(max_size=9), damaged_bytes(b"[1, 2]").map(lambda raw: raw.decode("utf-8", "surrogateescape"))
    )
    texts = st.builds(
        lambda key, sign, value: key + sign + value, st.sampled_from(keys), st.sampled_from(["=", " = ", ""]), values
    )
    return Target(texts, lambda text: resolve(RecommendSettings, None, dict([parse_override(text)])))


DAMAGES: dict[str, Damage] = {
    ".json": damaged_json_file,
    ".jsonl": damaged_json_lines,
    ".toml": damaged_toml,
    ".csv": damaged_table,
    ".safetensors": damaged_tensors,
}


def _folder(name: str, read: Callable[[Path], Any], material: Path) -> Target:
    """Return a target that reads a folder of which a file or two are damaged or missing."""
    whole, place = material / name, material / f"damaged_{name}"
    shutil.copytree(whole, place)
    files = {path.relative_to(whole): path.read_bytes() for path in sorted(whole.rglob("*")) if path.is_file()}
    files = {path: content for path, content in files.items() if path.suffix not in (".html", ".md")}

    def damage(path: Path) -> st.SearchStrategy[tuple[Path, bytes | None]]:
        content = files[path]
        found = DAMAGES.get(path.suffix, damaged_bytes)(content) if content else st.binary(max_size=8)
        return st.tuples(st.just(path), st.one_of(found, found, found, found, st.none()))

    def read_damaged(damages: list[tuple[Path, bytes | None]]) -> None:
        for path, content in damages:
            (place / path).unlink(missing_ok=True)
            if content is not None:
                (place / path).write_bytes(content)
        try:
            read(place)
        finally:
            for path, _ in damages:
                (place / path).write_bytes(files[path])

    one = st.one_of(*map(damage, files))
    return Target(st.lists(one, min_size=1, max_size=2), read_damaged)


def _recommend(folder: Path) -> None:
    Recommender.load(folder).recommend([["b", "c"], []], k=2)


def _classify(folder: Path) -> None:
    MultiLabelClassifier.load(folder).predict(["a text about sport", ""])


def _grid(folder: Path) -> None:
    try:
        write_report(folder, folder / "out.html")
    finally:  # a damaged store is put aside
        for aside in folder.glob("grid.sqlite.*"):
            aside.unlink()


def _served(folder: Path) -> None:
    load_predictor(folder, engine_by_name("torch"))


def _verified(folder: Path) -> None:
    verify_run(RunFolder.open(folder))
    RunFolder.open(folder).read_checkpoint()


class Service:
    """A service in this process, asked without a socket."""

    def __init__(self, run: Path) -> None:
        self.runner = Runner()
        atexit.register(lambda: self.runner.close())  # ends the life of the app; keeps `self.life` until then
        self.app = create_app(Live(run, engine_by_name("torch")))
        self.runner.run(self._start())
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")

    async def _start(self) -> None:
        """Begin the life of the app, which ends with the process."""
        began: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        messages = iter([{"type": "lifespan.startup"}])

        async def receive() -> Any:
            return next(messages, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if not began.done():
                began.set_result(message)

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.life = asyncio.ensure_future(self.app(scope, receive, send))
        assert (await began)["type"] == "lifespan.startup.complete"

    def ask(self, asked: tuple[str, str, str, bytes]) -> None:
        """Send a request; its answer is one of the documented kinds, and says why it is a refusal."""
        method, path, kind, body = asked
        answer = self.runner.run(
            self.client.request(method, f"http://localhost{path}", content=body, headers={"content-type": kind})
        )
        assert answer.status_code < 500, (answer.status_code, answer.text)
        if answer.status_code == 422 or answer.status_code == 400:
            assert answer.json()["error"]["message"]


def _bodies(run: str, path: str, body: Any, material: Path) -> Target:
    bodies = st.one_of(damaged_json(body).map(as_json), damaged_bytes(as_json(body)))
    asked = st.tuples(st.just("POST"), st.just(path), st.just("application/json"), bodies)
    return Target(asked, Service(material / run).ask)


def _requests(material: Path) -> Target:
    parts = [
        "/",
        "v1",
        "/v1/",
        "recommend",
        "model",
        "?names=1",
        "&limit=",
        "?search=",
        "..",
        "%2e%2e",
        "%00",
        "page",
        "9" * 99,
        "é",
    ]
    paths = st.lists(st.sampled_from(parts), max_size=6).map(lambda parts: "/" + "".join(parts))
    methods = st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "BREW"])
    kinds = st.sampled_from(["application/json", "text/plain", "application/json; charset=\x01", ""])
    return Target(st.tuples(methods, paths, kinds, st.binary(max_size=9)), Service(material / "recommend").ask)


RECOMMEND_BODY = {
    "histories": [["a", "b"], []],
    "k": 3,
    "exclude": ["c"],
    "new_items": [{"item": "new", "topic": "x", "size": 2}],
}
CLASSIFY_BODY = {"texts": ["sport and food", ""], "threshold": "half", "top": 3, "explain": True}
TARGETS: dict[str, Callable[[Path], Target]] = {
    "log.csv": partial(_file, "log.csv", damaged_table, _log),
    "log.tsv": partial(_file, "log.tsv", partial(damaged_table, separator=b"\t"), _log),
    "log.jsonl": partial(_file, "log.jsonl", damaged_json_lines, _log),
    "log.txt": partial(_file, "log.txt", partial(damaged_table, separator=b" "), _log),
    "log.parquet": partial(_file, "log.parquet", damaged_bytes, _log),
    "log.dat": partial(_file, "log.dat", partial(damaged_table, separator=b"::"), _log),
    "log.inter": partial(_file, "log.inter", partial(damaged_table, separator=b"\t"), _log),
    "log of any types": partial(_frames, ["user", "item", "order"], _log),
    "texts.csv": partial(_file, "texts.csv", damaged_table, _texts),
    "texts.jsonl": partial(_file, "texts.jsonl", damaged_json_lines, _texts),
    "texts.txt": partial(_file, "texts.txt", partial(damaged_table, separator=b" "), _texts),
    "fields.txt": partial(_file, "fields.txt", partial(damaged_table, separator=b"\t"), _texts),
    "features.txt": partial(_file, "features.txt", partial(damaged_table, separator=b" "), read_extreme),
    "texts of any types": partial(_frames, ["id", "text", "labels"], _texts),
    "items.csv": partial(_file, "items.csv", damaged_table, _items),
    "items of any types": partial(_frames, ["item", "a", "b"], _items),
    "tree.tsv": partial(_file, "tree.tsv", partial(damaged_table, separator=b"\t"), read_taxonomy),
    "recipe": _recipe,
    "--set": _override,
    "run of recommend": partial(_folder, "recommend", _recommend),
    "run of classify": partial(_folder, "classify", _classify),
    "run that is served": partial(_folder, "recommend_served", _served),
    "run that is verified": partial(_folder, "recommend_verified", _verified),
    "report of recommend": partial(_folder, "recommend_report", write_run_report),
    "report of classify": partial(_folder, "classify_report", write_run_report),
    "grid": partial(_folder, "grid", _grid),
    "/v1/recommend": partial(_bodies, "recommend", "/v1/recommend", RECOMMEND_BODY),
    "/v1/classify": partial(_bodies, "classify", "/v1/classify", CLASSIFY_BODY),
    "requests": _requests,
}
DRAWN = {
    "report of recommend",
    "report of classify",
    "grid",
}  # draw charts, and get a tenth of the inputs of the others
