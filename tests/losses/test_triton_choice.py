"""The choice of the Triton kernels, the errors if they are not available, and their compilation."""

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from hyperfocal.errors import ConfigError
from hyperfocal.losses import AsymmetricLoss, BCELoss, FocalLoss, SoftmaxLoss, triton, walk
from loss_cases import make

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: no kernel compiled")


class TestChoice:
    GPU = torch.device("cuda")

    @pytest.fixture(autouse=True)
    def empty_log(self, monkeypatch):
        monkeypatch.setattr(walk, "_logged", set())
        monkeypatch.setattr(triton, "unavailable", triton.unavailable.__wrapped__)

    def test_auto_takes_it_on_a_gpu_where_it_can(self, monkeypatch, caplog):
        monkeypatch.setattr(triton, "unavailable", lambda device: "")
        losses = (BCELoss(), FocalLoss(), SoftmaxLoss(), AsymmetricLoss())
        with caplog.at_level(logging.INFO, logger="hyperfocal"):
            chosen = [loss.choose_backend(self.GPU) for loss in (*losses, *losses)]
        assert chosen[:4] == ["triton", "triton", "triton", "chunked"]
        assert caplog.text.count("backend triton on cuda for FocalLoss (auto: Triton kernels)") == 1
        assert "no Triton kernels: it covers BCELoss, FocalLoss and SoftmaxLoss, not AsymmetricLoss" in caplog.text

    def test_auto_never_takes_it_on_cpu(self, monkeypatch):
        monkeypatch.setattr(triton, "unavailable", lambda device: "")
        chosen = {loss.choose_backend(torch.device("cpu")) for loss in (FocalLoss(), SoftmaxLoss())}
        assert "triton" not in chosen

    def test_where_it_is_not_installed(self, monkeypatch, caplog):
        monkeypatch.setattr(triton, "find_spec", lambda name: None)
        with caplog.at_level(logging.INFO, logger="hyperfocal"):
            assert FocalLoss().choose_backend(self.GPU) == "chunked"
        assert "no Triton kernels: triton is not installed" in caplog.text
        with pytest.raises(ConfigError, match="pip install triton"):
            FocalLoss(backend="triton")(*make("odd")[:4])

    def test_where_a_kernel_cannot_run(self, monkeypatch):
        def fail(device):
            raise RuntimeError("Failed to find C compiler.\nPlease specify one")

        monkeypatch.setattr(triton, "find_spec", lambda name: name)
        monkeypatch.setattr(triton, "_trial", fail)
        assert triton.unavailable(self.GPU) == "it cannot run here: RuntimeError: Failed to find C compiler."

    def test_on_cpu_only_in_the_interpreter(self, monkeypatch):
        monkeypatch.setattr(triton, "find_spec", lambda name: name)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        for loss in (FocalLoss(backend="triton"), SoftmaxLoss(backend="triton")):
            with pytest.raises(ConfigError, match="set TRITON_INTERPRET=1"):
                loss(*make("odd")[:4])

    def test_other_devices_and_losses(self, monkeypatch):
        monkeypatch.setattr(triton, "find_spec", lambda name: name)
        assert triton.unavailable(torch.device("mps")) == "it runs on cuda, not mps"
        with pytest.raises(ConfigError, match="it covers BCELoss, FocalLoss and SoftmaxLoss, not AsymmetricLoss"):
            AsymmetricLoss(backend="triton")(*make("odd")[:4])


@needs_triton
def test_on_cpu_a_loss_is_computed_without_importing_triton():
    code = (
        "import sys, torch\nfrom hyperfocal.losses import FocalLoss\nfrom hyperfocal.labels import SparseLabels\n"
        "FocalLoss()(torch.ones(1, 2), torch.ones(3, 2), None, SparseLabels.from_lists([[1]], num_labels=3))\n"
        "assert 'triton' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@needs_triton
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_every_kernel_compiles_for_a_gpu(tmp_path, capability):
    """This needs no GPU, but a process in which Triton does not interpret."""
    script = Path(__file__).with_name("compile_triton.py")
    environment = {"PYTHONPATH": ":".join(sys.path), "TRITON_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, str(script), str(capability)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == 72  # 24 variants of 8 kernels, for 3 dtypes
