"""The head of a classifier: its loss, its first weights, its scores, its training."""

import math

import msgspec
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from hyperfocal.classify.head import (
    BLOCK,
    LOSSES,
    VALIDATION,
    head_loss,
    make_head,
    make_loss,
    restore_head,
    score_documents,
    train_head,
)
from hyperfocal.classify.training import Inputs, refit_head
from hyperfocal.config.classify import ClassifySettings, HeadSettings, TextLossSettings
from hyperfocal.config.recipes import resolve
from hyperfocal.errors import RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import frequency_bias
from hyperfocal.models.text_features import TextFeatures
from hyperfocal.models.text_head import Features, SparseRows
from hyperfocal.storage.run_folder import CHECKPOINT, RunFolder
from hyperfocal.training.watch import SILENT

SETTINGS = ClassifySettings()
COUNTS = torch.tensor([50, 20, 5])
TRUTH = SparseLabels.from_lists([[0], [1, 2], [], [0, 1], [2]], num_labels=3)


def dense_rows(number, width=4, seed=0):
    return Features(None, torch.randn(number, width, generator=torch.Generator().manual_seed(seed)))


def sparse_rows(dense):
    """Return a (B, V) tensor as sparse rows."""
    rows, columns = dense.nonzero().unbind(1)
    indptr = torch.searchsorted(rows, torch.arange(len(dense) + 1))
    return SparseRows(indptr, columns, dense[rows, columns])


class TestLoss:
    logits = torch.tensor([[0.5, -1.0, 2.0], [-3.0, 0.0, 1.0]])
    labels = SparseLabels.from_lists([[0], [1, 2]], num_labels=3)

    def value(self, **settings):
        return make_loss(TextLossSettings(**settings), COUNTS, 100).from_logits(self.logits, self.labels).item()

    def written_out(self, term):
        """Return the sum of term(probability of what is true, whether it is a positive, label) over pairs / 2."""
        pairs = [(0, 0, 1), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 1, 1), (1, 2, 1)]
        total = 0.0
        for row, label, positive in pairs:
            chance = 1 / (1 + math.exp(-self.logits[row, label].item()))
            total += term(chance if positive else 1 - chance, positive, label)
        return total / 2

    def test_bce(self):
        assert self.value() == pytest.approx(self.written_out(lambda p, *_: -math.log(p)), rel=1e-6)

    def test_focal_with_gamma_and_alpha(self):
        expected = self.written_out(lambda p, pos, _: -(0.3 if pos else 0.7) * (1 - p) ** 3 * math.log(p))
        assert self.value(name="focal", gamma=3, alpha=0.3) == pytest.approx(expected, rel=1e-6)

    def test_a_cap_weighs_the_positives(self):
        """Inverse weights are 100 / (3 * count) = 0.67, 1.67, 6.67, at most 5 and at least 1."""
        options = make_loss(TextLossSettings(cap=5), COUNTS, 100).positive_weight
        expected = self.written_out(lambda p, pos, label: -(options[label].item() if pos else 1) * math.log(p))
        assert self.value(cap=5) == pytest.approx(expected, rel=1e-6)
        assert options[2] == 5
        assert options[0] < options[1] < 5
        assert make_loss(TextLossSettings(cap="none"), COUNTS, 100).positive_weight[2] > 5

    @pytest.mark.parametrize("name", LOSSES)
    def test_each_name_is_a_loss_of_its_own_that_gradients_go_through(self, name):
        logits = self.logits.clone().requires_grad_()
        make_loss(TextLossSettings(name=name, cap=6), COUNTS, 100).from_logits(logits, self.labels).backward()
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().sum() > 0
        others = [self.value(name=other) for other in LOSSES if other != name]
        assert all(abs(self.value(name=name) - other) > 1e-6 for other in others)

    def test_the_settings_know_every_loss(self):
        assert set(LOSSES) == set(msgspec.inspect.type_info(TextLossSettings).fields[0].type.values)


class TestHead:
    def test_the_seed_draws_the_weights_and_leaves_the_callers_numbers_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        heads = [make_head(ClassifySettings(seed=seed), 0, 4, torch.zeros(3)) for seed in (1, 1, 2)]
        assert torch.equal(torch.rand(3), expected)
        assert torch.equal(heads[0].weight, heads[1].weight)
        assert not torch.equal(heads[0].weight, heads[2].weight)

    @pytest.mark.parametrize("name", ["mlp", "linear"])
    @pytest.mark.parametrize(("num_sparse", "num_dense"), [(5, 0), (0, 4), (5, 4)])
    def test_restored_from_its_tensors(self, name, num_sparse, num_dense):
        settings = ClassifySettings(head=HeadSettings(name=name, width=7))
        head = make_head(settings, num_sparse, num_dense, torch.arange(3.0))
        restored = restore_head(settings, head.state_dict(), 3)
        assert not restored.training
        assert head.state_dict().keys() == restored.state_dict().keys()
        assert all(torch.equal(value, restored.state_dict()[key]) for key, value in head.state_dict().items())

    def test_tensors_of_another_number_of_labels(self):
        head = make_head(SETTINGS, 5, 4, torch.zeros(3))
        with pytest.raises(RuntimeError, match="size mismatch"):
            restore_head(SETTINGS, head.state_dict(), 4)

    @pytest.mark.parametrize("number", [0, 1, BLOCK, BLOCK + 1])
    def test_scores_in_blocks_are_those_of_all_at_once(self, number):
        head = make_head(SETTINGS, 0, 4, torch.arange(3.0))
        features = dense_rows(number)
        scores = score_documents(head, features)
        assert scores.shape == (number, 3)
        torch.testing.assert_close(scores, head(features).detach())

    def test_the_fused_loss_is_the_loss_of_the_logits(self):
        loss, features = make_loss(SETTINGS.loss, COUNTS, 100), dense_rows(5)
        head = make_head(SETTINGS, 0, 4, torch.arange(3.0)).eval()
        fused = head_loss(head, loss, features, TRUTH)
        torch.testing.assert_close(fused, loss.from_logits(head(features), TRUTH))

    def test_with_a_wide_part_too(self):
        dense = dense_rows(5).dense
        features = Features(sparse_rows(torch.eye(5)), dense)
        head = make_head(SETTINGS, 5, 4, torch.zeros(3)).eval()
        head_loss(head, make_loss(SETTINGS.loss, COUNTS, 100), features, TRUTH).backward()
        assert head.wide.grad.is_sparse
        expected = (
            head(features).sigmoid() - TRUTH.to_dense()
        ).detach() / 5  # of BCE over the batch, one document a row
        torch.testing.assert_close(head.wide.grad.to_dense(), expected)


class TestValidation:
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.5, 2.0, 1.0], [0.1, 0.2, 0.3], [1.0, 2.5, 0.4], [0.0, 0.6, 0.5]])

    def test_against_scikit_learn(self):
        truth, scores = TRUTH.to_dense(torch.int64).numpy(), self.scores.numpy()
        some = truth.any(1)
        expected = {
            "macro_ap": average_precision_score(truth, scores, average="macro"),
            "micro_ap": average_precision_score(truth, scores, average="micro"),
            "ndcg@5": ndcg_score(truth[some], scores[some], k=5),
            "precision@1": np.mean([row[best] for row, best in zip(truth[some], scores[some].argmax(1), strict=True)]),
        }
        assert expected.keys() == VALIDATION.keys()
        for name, value in expected.items():
            assert VALIDATION[name](self.scores, TRUTH) == pytest.approx(value), name


class TestTraining:
    def trained(self, run=None, watch=SILENT, **options):
        """Train on 60 documents, of which each label has its own direction."""
        rng = torch.Generator().manual_seed(0)
        hits = torch.rand(60, 3, generator=rng) < torch.tensor([0.5, 0.3, 0.1])
        labels = SparseLabels.from_dense(hits)
        features = Features(None, hits.float() @ torch.eye(3, 4) + 0.1 * torch.randn(60, 4, generator=rng))
        asked = {"train.epochs": 30, "train.batch_size": 16, "train.learning_rate": 0.01, "head.width": 8}
        settings = resolve(ClassifySettings, None, asked)
        return train_head((features, labels), (features, labels), 0, settings, run, watch=watch, **options), labels

    def test_it_learns_and_the_bias_starts_at_the_prior(self):
        (head, history), labels = self.trained()
        assert history[-1]["macro_ap"] > 0.9
        assert [row["epoch"] for row in history] == list(range(1, 31))
        assert history[-1]["loss"] < history[0]["loss"]
        start = frequency_bias(labels.counts(), 60)
        assert start[0] > start[1] > start[2]
        assert (head.bias - start).abs().max() < 1

    def test_a_damaged_checkpoint_is_named(self, tmp_path):
        run = RunFolder(tmp_path / "run")
        self.trained(run)
        tensors, state = run.read_tensors(CHECKPOINT)
        run.write_tensors(CHECKPOINT, tensors | {"model.bias": torch.zeros(2)}, state=state)
        with pytest.raises(RunError, match=r"last\.safetensors is damaged"):
            self.trained(run, resume=True)
        (run.path / CHECKPOINT).write_bytes(b"")
        with pytest.raises(RunError, match=r"last\.safetensors is damaged"):
            self.trained(run, resume=True)

    def test_resumed_after_the_end_it_is_as_it_was(self, tmp_path):
        run = RunFolder(tmp_path / "run")
        (head, history), _ = self.trained(run)
        (again, same), _ = self.trained(run, resume=True)
        assert same == history
        assert all(torch.equal(head.state_dict()[key], value) for key, value in again.state_dict().items())


def test_a_refit_trains_on_everything_and_takes_the_last_weights():
    features = Features(None, torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    labels = SparseLabels.from_lists([[row % 3] for row in range(12)], num_labels=3)
    train, valid = torch.arange(8), torch.arange(8, 12)
    settings = resolve(ClassifySettings, overrides={"head.name": "linear", "train.epochs": 3, "train.batch_size": 4})
    parts = [(features.select(rows), labels.select(rows)) for rows in (train, valid)]
    inputs = Inputs(TextFeatures(settings.features, None, None), *parts)
    head = refit_head(inputs, settings, epochs=3)
    alone, history = train_head((features, labels), None, 0, settings)
    assert torch.equal(head.weight, alone.weight)
    assert [sorted(row) for row in history] == [["epoch", "loss", "train_seconds", "valid_seconds"]] * 3
