"""The compiled pass against float64 maths, and the choice of the backend if it is not available."""

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import AsymmetricLoss, FocalLoss, SoftmaxLoss, native, walk
from hyperfocal.losses.focal import focal_with_slope
from hyperfocal.losses.terms import FocalTerms
from loss_cases import make
from user_cases import OTHER, give, needs_root

GAMMAS = (0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0)

needs_compiler = pytest.mark.skipif(bool(native.unavailable()), reason=native.unavailable() or "available")


def nothing(batch):
    """Return labels without a positive."""
    return SparseLabels.from_lists([[]] * batch, num_labels=30_000)


@needs_compiler
class TestPass:
    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_as_exact_as_float32_can_be(self, gamma):
        logits = torch.cat([torch.linspace(-100, 100, 20_001), torch.linspace(-1, 1, 2_003)])[None]
        slope = logits.clone()
        rows = native.focal_pass_(slope, torch.zeros(30_000), FocalTerms(gamma, 0.75), 0, nothing(1))
        value, exact = focal_with_slope(logits.double(), gamma)
        near = torch.finfo(torch.float32).eps * (16 + 8 * gamma)
        torch.testing.assert_close(slope.double(), 0.75 * exact, rtol=near, atol=1e-36)
        torch.testing.assert_close(rows.double(), 0.75 * value.sum(1), rtol=near, atol=0)

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 5), st.integers(0, 70), st.sampled_from(GAMMAS))
    def test_any_shape(self, batch, length, gamma):
        logits = torch.randn(batch, length, generator=torch.Generator().manual_seed(0))
        slope = logits.clone()
        rows = native.focal_pass_(slope, torch.zeros(30_000), FocalTerms(gamma), 0, nothing(batch))
        value, exact = focal_with_slope(logits.double(), gamma)
        torch.testing.assert_close(slope.double(), exact, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(rows.double(), value.sum(1), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("gamma", GAMMAS)
    @pytest.mark.parametrize("place", [0, 15, 16, 19])
    def test_nan_stays_nan(self, gamma, place):
        logits = torch.zeros(2, 20)
        logits[1, place] = torch.nan
        rows = native.focal_pass_(logits, torch.zeros(30_000), FocalTerms(gamma), 0, nothing(2))
        assert rows.isnan().tolist() == [False, True]
        assert logits.isnan().nonzero().tolist() == [[1, place]]

    def test_infinite_logits(self):
        logits = torch.tensor([[-torch.inf, 0.0], [torch.inf, 0.0]])
        rows = native.focal_pass_(logits, torch.zeros(30_000), FocalTerms(0.0), 0, nothing(2))
        assert rows.isinf().tolist() == [False, True]
        assert logits[0, 0].item() == pytest.approx(0, abs=1e-37)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_the_number_of_threads_changes_no_bit(self, threads):
        logits = torch.randn(300, 500, generator=torch.Generator().manual_seed(0))
        before = torch.get_num_threads()
        results = []
        try:
            for count in (1, threads):
                torch.set_num_threads(count)
                slope = logits.clone()
                results.append(
                    (native.focal_pass_(slope, torch.zeros(30_000), FocalTerms(2.0), 0, nothing(300)), slope)
                )
        finally:
            torch.set_num_threads(before)
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@needs_compiler
@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(1, 4), st.integers(1, 60), st.integers(1, 60), st.sampled_from(GAMMAS), st.booleans())
def test_positives_masks_and_weights_anywhere(data, batch, num_labels, chunk, gamma, weighted):
    """Compared with the same loss in plain torch, over any split into chunks."""
    row = st.lists(st.integers(0, num_labels - 1), max_size=num_labels)
    rows = st.lists(row, min_size=batch, max_size=batch)
    labels, mask = (SparseLabels.from_lists(data.draw(rows), num_labels=num_labels) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 3, generator=generator).requires_grad_() for size in (batch, num_labels))
    bias = torch.randn(num_labels, generator=generator) if data.draw(st.booleans()) else None
    options = {"positive_weight": torch.arange(1.0, num_labels + 1) if weighted else None, "chunk_labels": chunk}
    results = []
    for backend in ("native", "chunked"):
        loss = FocalLoss(gamma, 0.25, backend=backend, reduction="sum", **options)
        value = loss(hidden, weight, bias, labels, mask)
        results.append([value.detach(), *torch.autograd.grad(value, (hidden, weight))])
    torch.testing.assert_close(*results, rtol=2e-5, atol=2e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_weights_of_another_dtype(dtype):
    """A model that is cast takes the buffers of its loss along."""
    hidden, weight, bias, labels, _ = make("odd", dtype=torch.float32)
    weights = torch.linspace(1, 5, 13).to(dtype)
    cast = FocalLoss(positive_weight=weights, backend="native").to(dtype)
    plain = FocalLoss(positive_weight=weights.float(), backend="chunked")
    torch.testing.assert_close(cast(hidden, weight, bias, labels), plain(hidden, weight, bias, labels))


@needs_compiler
def test_ids_that_do_not_ascend_stay_inside_the_chunk():
    """The constructor of SparseLabels checks nothing."""
    labels = SparseLabels(torch.tensor([0, 3]), torch.tensor([20, 25, 1]), 40)
    loss = FocalLoss(backend="native", chunk_labels=16)
    assert loss(torch.ones(1, 2), torch.ones(40, 2), None, labels).isfinite()


class TestChoice:
    CPU = torch.device("cpu")

    @pytest.fixture(autouse=True)
    def empty_log(self, monkeypatch):
        monkeypatch.setattr(walk, "_logged", set())

    @needs_compiler
    def test_auto_takes_it_where_it_can(self, caplog):
        with caplog.at_level(logging.INFO, logger="hyperfocal"):
            chosen = [loss.choose_backend(self.CPU) for loss in (FocalLoss(), AsymmetricLoss(), SoftmaxLoss())]
        assert chosen == ["native", "chunked", "chunked"]
        assert "it covers BCELoss and FocalLoss, not AsymmetricLoss" in caplog.text
        assert FocalLoss().choose_backend(torch.device("meta")) == "chunked"

    def test_a_subclass_with_another_negative_term_is_not_covered(self):
        class Doubled(FocalLoss):
            def negative(self, logits):
                return 2 * super().negative(logits)

        assert Doubled().choose_backend(self.CPU) == "chunked"

    def test_asking_for_an_unavailable_backend_is_an_error(self):
        with pytest.raises(ConfigError, match="it covers BCELoss and FocalLoss, not AsymmetricLoss"):
            AsymmetricLoss(backend="native")(*make("odd")[:4])

    @pytest.mark.parametrize(
        ("variables", "reason"),
        [
            ({"HYPERFOCAL_NATIVE": "0"}, "HYPERFOCAL_NATIVE=0"),
            ({"PATH": "/nowhere", "CC": ""}, "no C compiler is installed"),
            ({"CC": "false"}, "cannot be built"),
        ],
    )
    def test_without_a_compiler_it_is_plain_torch(self, tmp_path, variables, reason):
        """In a separate process, with an empty cache folder."""
        code = (
            "import torch\nfrom hyperfocal.losses import FocalLoss, native\n"
            "from hyperfocal.labels import SparseLabels\n"
            "labels = SparseLabels.from_lists([[1]], num_labels=3)\n"
            "print(FocalLoss()(torch.ones(1, 2), torch.ones(3, 2), None, labels).item(), native.unavailable())"
        )
        environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **variables}
        environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert reason in result.stdout
        assert float(result.stdout.split()[0]) == pytest.approx(3.3019, rel=1e-3)


PLANT = """
original = native._build
def real(command):
    source = Path(os.environ["HYPERFOCAL_CACHE"]).with_name("planted.c")
    source.write_text(native.SOURCE.read_text() + r'''
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void planted(void)
{ fclose(fopen(getenv("MARK"), "w")); puts("planted"); fflush(stdout); }
''')
    native.SOURCE = source
    return original(command)
"""


@needs_compiler
class TestCache:
    """The library is loaded from a private cache if it is whole, and else built again."""

    CODE = """
import logging, os, sys
from pathlib import Path
logging.basicConfig(format="%(message)s", stream=sys.stdout)
import torch
from hyperfocal.losses import native
from hyperfocal.losses.terms import FocalTerms
from hyperfocal.labels import SparseLabels
real = native._build
native._build = lambda command: print("built") or real(command)
assert not native.unavailable(), native.unavailable()
arguments = torch.zeros(2), FocalTerms(0.0), 0, SparseLabels.from_lists([[]], num_labels=2)
print(round(native.focal_pass_(torch.zeros(1, 2), *arguments).item(), 4))
"""

    def used(self, folder, code=CODE, **variables) -> list[str]:
        """Use the library in a process with the cache `folder`; return the lines that it printed."""
        (folder.parent / "tmp").mkdir(exist_ok=True)
        path = "/usr/local/bin:/usr/bin:/bin"
        environment = {"HYPERFOCAL_CACHE": str(folder), "PATH": path, "TMPDIR": str(folder.parent / "tmp"), **variables}
        environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    def test_it_is_built_once(self, tmp_path):
        assert self.used(tmp_path / "cache") == ["built", "1.3863"]  # 2 ln 2
        assert self.used(tmp_path / "cache") == ["1.3863"]
        assert list((tmp_path / "tmp").glob("hyperfocal*")) == []

    def test_a_library_that_is_cut_or_altered_is_built_again(self, tmp_path):
        """A mapped library that is cut ends its process with SIGBUS."""
        again = """
[library] = Path(os.environ["HYPERFOCAL_CACHE"]).rglob("*.npy")
for share in (0.0, 0.5, 0.999):
    for cut in (True, False):
        content = bytearray(library.read_bytes())
        place = int(share * len(content))
        content[place] ^= 1
        library.write_bytes(content[:place] if cut else content)
        native._library.cache_clear()
        print(native.focal_pass_(torch.zeros(1, 2), *arguments).item() > 1.38)
"""
        lines = self.used(tmp_path / "cache", self.CODE + again)
        assert [line for line in lines if "is damaged" not in line] == ["built", "1.3863", *["built", "True"] * 6]
        assert len([line for line in lines if "is damaged and made again" in line]) == 6

    @needs_root
    @pytest.mark.parametrize("planted", ["library", "entry", "cache"])
    def test_a_library_of_another_user_is_not_loaded(self, tmp_path, planted):
        """With a whole entry: whoever can write the library can write its checksum, too."""
        cache = tmp_path / "cache"
        assert "planted" in self.used(
            cache, self.CODE.replace("real = native._build", PLANT), MARK=str(tmp_path / "first")
        )
        assert (tmp_path / "first").exists()  # the planted code runs if it belongs to this user
        [library] = cache.rglob("*.npy")
        give({"library": library, "entry": library.parent, "cache": cache}[planted])
        lines = self.used(cache, MARK=str(tmp_path / "ran"))
        assert f"belongs to another user, uid {OTHER}" in lines[0]
        assert lines[1:] == ["built", "1.3863"]
        assert not (tmp_path / "ran").exists()

    def test_many_build_at_once(self, tmp_path):
        with ThreadPoolExecutor(3) as pool:
            outputs = list(pool.map(lambda _: self.used(tmp_path / "cache"), range(3)))
        assert {lines[-1] for lines in outputs} == {"1.3863"}
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_a_process_that_is_killed_while_it_compiles_leaves_nothing_that_stays(self, tmp_path):
        compiler = tmp_path / "slow-cc"
        compiler.write_text(
            '#!/bin/sh\ncase "$*" in *shared*) touch "$TMPDIR/part.s" "$STARTED"; exec sleep 600;; esac\n'
        )
        compiler.chmod(0o755)
        (tmp_path / "tmp").mkdir()
        variables = {"HYPERFOCAL_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
        variables |= {
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "CC": str(compiler),
            "STARTED": str(tmp_path / "started"),
            "PATH": "/usr/bin:/bin",
        }
        process = subprocess.Popen([sys.executable, "-c", self.CODE], env=variables, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
        [left] = (tmp_path / "tmp").glob("hyperfocal-work-*")
        assert (left / "part.s").exists()
        assert self.used(tmp_path / "cache") == ["built", "1.3863"]
        assert list((tmp_path / "tmp").glob("hyperfocal*")) == []

    def test_where_nothing_can_be_loaded_from_memory(self, tmp_path):
        """As in a process that was root once, and has no path of its open files: see proc(5)."""
        refuse = "def refuse(*_):\n    raise OSError(1)\nos.memfd_create = refuse\nreal = native._build"
        assert self.used(tmp_path / "cache", self.CODE.replace("real = native._build", refuse)) == ["built", "1.3863"]
