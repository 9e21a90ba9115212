"""The network learns on the device that the settings name, and comes back on the CPU."""

import polars as pl
import pytest
import torch

from hyperfocal.errors import ConfigError
from hyperfocal.recommend.recommender import Recommender

LOG = pl.DataFrame(
    {"user": [f"u{n // 6}" for n in range(240)], "item": [f"i{(n // 6 * 5 + n % 6) % 30}" for n in range(240)]}
)
ITEMS = pl.DataFrame({"item": [f"i{n}" for n in range(30)], "kind": [f"k{n % 4}" for n in range(30)]})
SMALL = {"model.embedding_width": 16, "train.epochs": 3, "train.warmup_steps": 0, "train.batch_size": 16}


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="torch sees no CUDA device here"):
        Recommender(settings={**SMALL, "train.device": "cuda"}).fit(LOG)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model", ["transformer", "gru", "mean", "concat_mlp"])
def test_learns_on_a_gpu_what_it_learns_on_the_cpu(model, tmp_path):
    settings = SMALL | {"model.dropout": 0.0, "data.history": 3, "items.drop": 0.0}
    settings |= {"train.optimizer": "sgd", "train.learning_rate": 0.1}  # Adam makes steps of rounding errors
    items = None if model == "concat_mlp" else ITEMS
    fitted = {
        device: Recommender(model=model, settings={**settings, "train.device": device}).fit(
            LOG, items=items, out=tmp_path / device
        )
        for device in ("cpu", "cuda")
    }
    weights = [fitted[device].model_.state_dict() for device in ("cpu", "cuda")]
    for name, tensor in weights[0].items():
        assert weights[1][name].device.type == "cpu"
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=1e-3)
    history = [[f"i{n}" for n in range(3)]]
    loaded = Recommender.load(tmp_path / "cuda")
    assert loaded.recommend(history, k=3) == fitted["cuda"].recommend(history, k=3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("loss", ["focal", "bce", "asymmetric", "gbce", "sampled_softmax"])
def test_every_loss_learns_on_a_gpu(loss):
    settings = {**SMALL, "loss.name": loss, "loss.cap": 5, "train.device": "cuda", "model.blend": True}
    fitted = Recommender(settings=settings).fit(LOG, items=ITEMS)
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"]
