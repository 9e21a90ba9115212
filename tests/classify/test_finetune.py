"""An encoder that learns: a tiny BERT made here, trained end to end, kept and found again."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.finetune import embed, encode
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.machine import training_device
from hyperfocal.models.sentence_encoder import load_encoder
from watch_cases import on_step

WORDS = ["red", "white", "dark", "wine", "beer", "car"]
# A text has the label of the word it begins with: the order decides, and a bag of words cannot know.
TEXTS = [f"{first} {second}" for first in WORDS for second in WORDS if first != second] * 3
LABELS = [[text.split()[0]] for text in TEXTS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return the folder of an untrained BERT of two layers with a vocabulary of a few words."""
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("tiny")
    (plain / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=5 + len(WORDS), **sizes)).save_pretrained(plain)
    SentenceTransformer(str(plain), device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def settings(tiny):
    return {
        "features.kind": "encoder", "features.encoder": str(tiny), "features.finetune": True, "train.threads": 1,
        "train.epochs": 10, "train.batch_size": 16, "train.learning_rate": 0.003, "train.encoder_learning_rate": 0.003,
        "head.name": "linear", "train.checkpoint_seconds": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def fitted(settings, tmp_path_factory):
    """Return a fitted classifier and its run folder."""
    out = tmp_path_factory.mktemp("run") / "run"
    return MultiLabelClassifier(settings=settings).fit(TEXTS, LABELS, valid=(TEXTS, LABELS), out=out), out


class TestCounting:
    """One epoch at a tiny rate has nearly the loss of the initial bias, which shows whether pairs count."""

    MATRIX = np.array([[name in row for name in WORDS] for row in LABELS], dtype=float)

    def loss(self, settings, labels, weights=None):
        fitted = MultiLabelClassifier(settings=settings | {"train.epochs": 1, "train.encoder_learning_rate": 1e-5})
        texts = (TEXTS * 2)[: len(labels)]
        return fitted.fit(texts, labels, weights, valid=(TEXTS, self.MATRIX)).history_[0]["loss"]

    def test_unknown_labels_reach_the_loss(self, settings):
        """No document is known to be without a label, so that each gets it; with negatives the loss would be 20."""
        assert self.loss(settings, np.where(self.MATRIX == 1, 1, np.nan)) < 0.5

    def test_weights_reach_the_loss(self, settings):
        """The bias follows the heavy half, whose loss is ln 6 + 5 ln 6/5 = 2.7; that of the light half is above 9."""
        both = np.concatenate([self.MATRIX, 1 - self.MATRIX])
        assert self.loss(settings, both, [1] * len(TEXTS) + [1e-6] * len(TEXTS)) < 3


class TestVectors:
    def test_they_are_what_sentence_transformers_gives_scaled(self, tiny):
        from sentence_transformers import SentenceTransformer

        texts = ["red wine", "car", "white beer dark wine car"]
        raw = SentenceTransformer(str(tiny), local_files_only=True, device="cpu").encode(texts)
        expected = raw / np.sqrt((raw**2).mean(1, keepdims=True))
        encoder = load_encoder(str(tiny))
        np.testing.assert_allclose(encode(encoder, pl.Series(texts), batch=2).numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(embed(encoder.eval(), texts).detach().numpy(), expected, atol=1e-5)

    def test_no_texts(self, tiny):
        assert encode(load_encoder(str(tiny)), pl.Series([], dtype=pl.String), batch=2).shape == (0, 32)

    def test_gradients_reach_every_layer(self, tiny):
        encoder = load_encoder(str(tiny))
        embed(encoder, ["red wine", "car"])[:, 0].sum().backward()
        layers = [name for name, part in encoder.named_parameters() if part.grad is not None and part.grad.any()]
        for part in ("word_embeddings", "layer.0.attention", "layer.1.output"):
            assert any(part in name for name in layers), part


class TestLearning:
    def test_an_update_is_refused(self, fitted):
        with pytest.raises(RunError, match="the encoder of this run was fine-tuned, and an update trains only a head"):
            fitted[0].update(["a text"], [["a label"]])

    def test_it_learns_where_it_was_put_and_is_asked_there(self, fitted):
        assert fitted[0].encoder_.device.type == training_device()
        assert MultiLabelClassifier.load(fitted[1]).encoder_.device.type == training_device()

    def test_the_encoder_learns_what_words_alone_cannot_tell(self, fitted):
        classifier = fitted[0]
        assert classifier.metrics_["values"]["precision@1"] == 1
        assert classifier.classes_[classifier.decision_function(TEXTS).argmax(1)].tolist() == [x for (x,) in LABELS]
        assert classifier.history_[-1]["loss"] < classifier.history_[0]["loss"]

    def test_its_own_learning_rate_decides_how_far_it_moves(self, tiny, settings, fitted):
        start = load_encoder(str(tiny)).state_dict()
        still = MultiLabelClassifier(settings=settings | {"train.encoder_learning_rate": 1e-30})
        still.fit(TEXTS, LABELS, valid=(TEXTS, LABELS))
        assert still.metrics_["values"]["precision@1"] < 0.8  # the head alone
        moved = [
            max((part - start[name]).abs().max().item() for name, part in classifier.encoder_.state_dict().items())
            for classifier in (still, fitted[0])
        ]
        assert moved[0] < 1e-20
        assert moved[1] > 0.01

    def test_the_head_may_have_a_hidden_layer_and_any_loss(self, settings):
        others = {"head.name": "mlp", "head.width": 16, "loss.name": "balanced", "loss.cap": 6, "train.epochs": 1}
        classifier = MultiLabelClassifier(settings=settings | others).fit(TEXTS, LABELS)
        assert classifier.head_.weight.shape == (6, 16)
        assert np.isfinite(classifier.metrics_["values"]["macro_ap"])

    @pytest.mark.parametrize("kind", ["auto", "ngrams", "both"])
    def test_only_an_encoder_alone(self, settings, kind):
        with pytest.raises(ConfigError, match=r"'features\.kind': 'encoder'"):
            MultiLabelClassifier(features=kind, settings={"features.finetune": True}).fit(TEXTS, LABELS)

    def test_an_encoder_that_is_not_there_costs_no_run(self, settings, fitted, tmp_path):
        fitted[0].save(tmp_path / "run")
        classifier = MultiLabelClassifier(settings=settings | {"features.encoder": "nobody/nothing"})
        with pytest.raises(ConfigError, match="nobody/nothing cannot be loaded"):
            classifier.fit(TEXTS, LABELS, out=tmp_path / "run", overwrite=True)
        MultiLabelClassifier.load(tmp_path / "run")

    def test_the_encoder_it_came_from_is_not_touched(self, tiny, fitted):
        assert fitted[0].features_.encoder.location == str(tiny)
        assert (
            fitted[0].features_.encoder.checksum
            == type(fitted[0].features_.text).fit(pl.Series(TEXTS), fitted[0].settings_.features).encoder.checksum
        )


class TestKeeping:
    def test_in_a_new_process_it_predicts_the_same(self, fitted, tmp_path):
        """And so does one of n-grams."""
        plain = MultiLabelClassifier(features="ngrams", settings={"train.epochs": 1})
        plain.fit(TEXTS, LABELS, out=tmp_path / "run")
        code = "import sys, json; from hyperfocal.classify.classifier import MultiLabelClassifier as M; "
        code += "texts = json.loads(sys.argv[1]); "
        code += "print(json.dumps([M.load(run).decision_function(texts).tolist() for run in sys.argv[2:]]))"
        command = [sys.executable, "-W", "error", "-c", code, json.dumps(TEXTS[:8]), fitted[1], tmp_path / "run"]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert found == [part.decision_function(TEXTS[:8]).tolist() for part in (fitted[0], plain)]

    def test_the_run_needs_no_other_encoder(self, fitted, settings, tmp_path, monkeypatch):
        fitted[0].save(tmp_path / "run")
        text = (tmp_path / "run" / "config.toml").read_text()
        (tmp_path / "run" / "config.toml").write_text(text.replace(settings["features.encoder"], "gone"))
        loaded = MultiLabelClassifier.load(tmp_path / "run")
        assert np.array_equal(loaded.decision_function(TEXTS[:6]), fitted[0].decision_function(TEXTS[:6]))
        assert {path.suffix for path in (tmp_path / "run" / "encoder").iterdir()} <= {".json", ".safetensors", ""}

    @pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
    def test_a_damaged_encoder_is_named(self, fitted, tiny, tmp_path, damage):
        fitted[0].save(tmp_path / "run")
        file = tmp_path / "run" / "encoder" / "model.safetensors"
        whole = file.read_bytes()
        file.unlink()
        if damage != "missing":
            file.write_bytes(whole[:1000] if damage == "truncated" else (tiny / "model.safetensors").read_bytes())
        with pytest.raises(RunError, match="encoder/ is missing or damaged"):
            MultiLabelClassifier.load(tmp_path / "run")

    def test_a_new_run_removes_the_old_encoder(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "run")
        plain = MultiLabelClassifier(features="ngrams", settings={"train.epochs": 1})
        plain.fit(TEXTS, LABELS, out=tmp_path / "run", overwrite=True)
        assert not (tmp_path / "run" / "encoder").exists()

    @pytest.mark.parametrize("at", [1, 2])  # after the last step of an epoch, after its end
    def test_resumed_it_ends_with_the_same_bytes(self, fitted, settings, tmp_path, at):
        looks = iter(range(1, 1000))

        def stop(progress, steps):
            if next(looks) == at:
                os.kill(os.getpid(), signal.SIGINT)

        data = {"valid": (TEXTS, LABELS), "out": tmp_path / "run"}
        with pytest.raises(KeyboardInterrupt):
            MultiLabelClassifier(settings=settings).fit(TEXTS, LABELS, **data, watch=on_step(stop))
        MultiLabelClassifier().fit(TEXTS, LABELS, **data, resume=True)
        for name in ("model.safetensors", "encoder/model.safetensors", "metrics.json", "thresholds.json"):
            assert (tmp_path / "run" / name).read_bytes() == (fitted[1] / name).read_bytes(), name


def test_the_names_of_labels_count_and_give_no_similarity(settings, tmp_path):
    """Its vectors move, so that only the words of the names are looked for."""
    out = tmp_path / "run"
    quick = settings | {"train.epochs": 1, "train.learning_rate": 1e-9, "train.encoder_learning_rate": 1e-9}
    classifier = MultiLabelClassifier(settings=quick).fit(TEXTS, LABELS, valid=(TEXTS, LABELS), out=out)
    opinions = classifier.metrics_["opinions"]
    assert opinions["accepted"]
    assert opinions["weights"].keys() == {"text", "first_line"}
    scores = MultiLabelClassifier.load(out).decision_function(TEXTS[:6])
    np.testing.assert_allclose(scores, classifier.decision_function(TEXTS[:6]), atol=1e-5)
