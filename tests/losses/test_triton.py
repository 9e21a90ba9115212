"""The Triton kernels against plain torch and float64 maths.

Without a GPU they run in Triton's interpreter, on CPU: the same arithmetic, but without Triton's compiler.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import FocalLoss, SoftmaxLoss, triton
from hyperfocal.losses.focal import focal_with_slope
from hyperfocal.losses.options import REDUCTIONS
from loss_cases import LOSSES, SHAPES, dense, far_and_near, fused, make, penalised, prior, value_and_gradients

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
DEVICE = torch.device("cuda" if CUDA else "cpu")
MISSING = triton.unavailable(DEVICE)
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
COVERED = {name: build for name, build in LOSSES.items() if name.startswith(("bce", "focal", "softmax"))}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

needs_triton = pytest.mark.skipif(bool(MISSING), reason=f"no Triton kernel ran: {MISSING}")
needs_gpu = pytest.mark.skipif(not CUDA, reason="no GPU: no compiled Triton kernel ran")
every_covered_loss = pytest.mark.parametrize("build", COVERED.values(), ids=COVERED)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def moved(tensors, dtype=torch.float32):
    """Return leaves that need a gradient, on the device of the kernels."""
    return [tensor.detach().to(DEVICE, dtype).requires_grad_() for tensor in tensors]


def in_triton_and_in_torch(build, tensors, *sparse):
    """Return value and gradients, and those of the chunked backend."""
    losses = [build(backend=backend).to(DEVICE) for backend in ("triton", "chunked")]
    return [value_and_gradients(fused, loss, *tensors, *sparse) for loss in losses]


def random_case(batch, num_labels, width, *, positives=3, masked=2):
    """Return inputs for the kernels, with positives and masked pairs anywhere."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator) for size in ((batch, width), (num_labels, width), (num_labels,))]
    sparse = [
        SparseLabels.from_lists(
            torch.randint(num_labels, (batch, count), generator=generator).tolist(), num_labels=num_labels
        )
        for count in (positives, masked)
    ]
    return tensors, *sparse


def assert_as_near_as_dense_maths(walked, loss, tensors, labels, mask):
    """Assert that no error against the float64 truth exceeds that of dense maths by more than rounding."""
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    truth = value_and_gradients(dense, loss, *exact, labels, mask)
    eager = value_and_gradients(dense, loss, *tensors, labels, mask)
    dtype = tensors[0].dtype
    for got, plain, true in zip(walked, eager, truth, strict=True):
        rounding = (4 if dtype == torch.float32 else 1) * torch.finfo(dtype).eps * true.abs().max()
        assert (got - true).abs().max() <= (plain - true).abs().max() + rounding


@needs_triton
class TestKernels:
    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_focal_terms_are_as_exact_as_float32_can_be(self, gamma):
        logits = torch.cat([torch.linspace(-80, 80, 4001), torch.linspace(-1, 1, 503)])[None]
        slope = logits.clone().to(DEVICE)
        sums = triton.for_tiles(slope)
        triton.over_tiles("focal_dense", slope, slope, sums, logits.shape[1], 0.75, gamma=gamma)
        value, exact = focal_with_slope(logits.double(), gamma)
        near = torch.finfo(torch.float32).eps * (64 + 32 * gamma)  # exp of 80 itself is off by 40 eps on a GPU
        torch.testing.assert_close(slope.cpu().double(), 0.75 * exact, rtol=near, atol=1e-36)
        torch.testing.assert_close(sums.sum().cpu().double(), 0.75 * value.sum(), rtol=near, atol=0)

    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_what_is_not_a_number_stays_so_and_minus_infinity_counts_nothing(self, gamma):
        logits = torch.zeros(2, 20, device=DEVICE)
        logits[0, 3], logits[1, 19] = -torch.inf, torch.nan
        sums = triton.for_tiles(logits)
        triton.over_tiles("focal_dense", logits, logits, sums, 20, 1.0, gamma=gamma)
        assert sums.isnan().flatten().tolist() == [False, True]
        assert logits.isnan().nonzero().tolist() == [[1, 19]]
        assert logits[0, 3] == 0
        assert sums[0, 0].item() == pytest.approx(19 * 0.5**gamma * 0.6931472, rel=1e-6)

    @pytest.mark.parametrize(("batch", "columns"), [(1, 1), (31, 127), (32, 128), (70, 300), (0, 5)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_column_sums(self, batch, columns, dtype):
        slopes, scale = torch.randn(batch, columns).to(DEVICE, dtype), torch.rand(batch).to(DEVICE)
        sums = torch.full((columns,), torch.nan, device=DEVICE)
        triton.over_columns("column_sums", slopes, scale, sums)
        torch.testing.assert_close(sums.double(), scale.double() @ slopes.double(), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("kernel", ["take_pairs", "put_pairs", "hide_pairs"])
    def test_pairs_of_a_chunk_and_no_others(self, kernel):
        """2 rows, 10 labels, the chunk of labels 4 to 8: 3 of 6 pairs are in it."""
        pairs = SparseLabels.from_lists([[0, 4, 9], [3, 6, 8]], num_labels=10).to(DEVICE)
        chunk = torch.arange(10.0, device=DEVICE).view(2, 5)
        numbers = torch.arange(100.0, 106, device=DEVICE)
        triton.over_pairs(kernel, chunk, pairs.rows, pairs, 4, *([] if kernel == "hide_pairs" else [numbers]))
        inf = -torch.inf
        expected = {"take_pairs": [0, 7, 9], "put_pairs": [101, 104, 105], "hide_pairs": [inf, inf, inf]}[kernel]
        if kernel == "take_pairs":
            assert numbers.tolist() == [100, 0, 102, 103, 7, 9]
        assert [chunk[0, 0].item(), chunk[1, 2].item(), chunk[1, 4].item()] == expected
        assert chunk[[0, 0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 0, 1, 3]].tolist() == [1, 2, 3, 4, 5, 6, 8]


@needs_triton
class TestLosses:
    @every_covered_loss
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_second_derivatives_are_those_of_dense_maths(self, build, reduction):
        """The kernels give the gradients of the penalty, plain torch their derivatives."""
        *tensors, labels, mask = make("odd")
        sparse = (labels.to(DEVICE), mask.to(DEVICE))
        loss = build(13, backend="triton", reduction=reduction, chunk_labels=4).to(DEVICE)
        got = penalised(fused, loss, *moved(tensors), *sparse)
        expected = penalised(dense, loss, *moved(tensors, torch.float64), *sparse)
        for one, exact in zip(got, expected, strict=True):
            assert (one - exact).norm() <= 1e-4 * exact.norm()

    @every_covered_loss
    @pytest.mark.parametrize("shape", SHAPES)
    def test_value_and_gradients_equal_the_chunked_backend(self, build, shape):
        *tensors, labels, mask = make(shape)
        tensors = moved(tensors)
        for masked in (None, mask):
            results = in_triton_and_in_torch(
                lambda **how: build(SHAPES[shape][1], chunk_labels=7, **how), tensors, labels, masked
            )
            torch.testing.assert_close(*results, rtol=2e-5, atol=2e-5)

    @every_covered_loss
    @every_dtype
    def test_as_near_to_the_float64_truth_as_dense_maths(self, build, dtype):
        *tensors, labels, mask = make("aligned", dtype=dtype)
        loss, tensors = build(16, chunk_labels=4, backend="triton").to(DEVICE), moved(tensors, dtype)
        walked = value_and_gradients(fused, loss, *tensors, labels, mask)
        assert_as_near_as_dense_maths(walked, loss, tensors, labels, mask)

    @every_dtype
    @pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 3, 5])
    def test_every_gamma_is_finite_at_every_logit(self, gamma, dtype):
        hidden, weight, bias, labels = far_and_near(dtype)
        rows = torch.arange(0, 201, 20)  # logits -100, -80, .., 100
        tensors, labels = moved((hidden[rows], weight, bias), dtype), labels.select(rows)
        for kind in (FocalLoss, SoftmaxLoss):
            loss = kind(gamma=gamma, backend="triton", chunk_labels=24, reduction="mean")
            for part in value_and_gradients(fused, loss, *tensors, labels):
                assert part.isfinite().all()

    @pytest.mark.parametrize("gamma", GAMMAS)
    @pytest.mark.parametrize("kind", [FocalLoss, SoftmaxLoss])
    def test_more_labels_than_a_tile_and_more_pairs_than_a_program(self, kind, gamma):
        tensors, *sparse = random_case(3, 2100, 4, positives=180, masked=200)
        options = {"gamma": gamma, "positive_weight": 1 + torch.arange(2100) % 3, "reduction": "mean"}
        tensors = moved(tensors)
        results = in_triton_and_in_torch(lambda **how: kind(chunk_labels=1500, **options, **how), tensors, *sparse)
        torch.testing.assert_close(*results, rtol=2e-5, atol=1e-6)

    @pytest.mark.parametrize("needed", [0, 1, 2, None], ids=["hidden", "weight", "bias", "none"])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_every_reduction_and_only_the_gradients_that_are_needed(self, reduction, needed):
        *tensors, labels, mask = make("odd")
        tensors = [tensor.requires_grad_(number == needed) for number, tensor in enumerate(moved(tensors))]
        for kind in (FocalLoss, SoftmaxLoss):
            losses = [
                kind(chunk_labels=4, reduction=reduction, ignore_empty=True, backend=backend)
                for backend in ("triton", "chunked")
            ]
            if needed is None:
                torch.testing.assert_close(*(loss(*tensors, labels, mask) for loss in losses), rtol=2e-5, atol=2e-5)
            else:
                results = [value_and_gradients(fused, loss, *tensors, labels, mask) for loss in losses]
                torch.testing.assert_close(*results, rtol=2e-5, atol=2e-5)

    def test_no_input_is_modified_and_twice_gives_the_same(self):
        *tensors, labels, mask = make("odd")
        tensors, loss = moved(tensors), FocalLoss(2, positive_weight=torch.ones(13), backend="triton").to(DEVICE)
        kept = (*tensors, labels.indptr, labels.indices, mask.indptr, mask.indices)
        before = [tensor.detach().clone() for tensor in kept]
        first, second = (value_and_gradients(fused, loss, *tensors, labels, mask) for _ in range(2))
        assert all(map(torch.equal, first, second))
        assert all(map(torch.equal, before, kept))

    def test_float64_is_the_chunked_walk(self):
        inputs = make("odd")
        tensors = moved(inputs[:3], torch.float64)
        results = in_triton_and_in_torch(lambda **how: FocalLoss(2, **how), tensors, *inputs[3:])
        assert all(map(torch.equal, *results))


@needs_triton
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_labels_mask_options_and_chunk(data):
    limits = ((1, 4), (1, 12), (1, 13))
    batch, num_labels, chunk = (data.draw(st.integers(low, high)) for low, high in limits)
    row = st.lists(st.integers(0, num_labels - 1), max_size=num_labels)
    rows = st.lists(row, min_size=batch, max_size=batch)
    sparse = [SparseLabels.from_lists(data.draw(rows), num_labels=num_labels) for _ in ("labels", "mask")]
    tensors = moved(random_case(batch, num_labels, 3)[0])
    tensors[2] = tensors[2] if data.draw(st.booleans()) else None
    weighted = data.draw(st.booleans())
    options = {"chunk_labels": chunk, "positive_weight": torch.arange(1.0, num_labels + 1) if weighted else None}
    kinds = (
        lambda **how: FocalLoss(data_gamma, 0.25, **options, **how),
        lambda **how: SoftmaxLoss(
            gamma=data_gamma, temperature=0.7, label_smoothing=smoothing, log_prior=prior(num_labels), **options, **how
        ),
    )
    data_gamma, smoothing = data.draw(st.sampled_from(GAMMAS)), data.draw(st.sampled_from([0.0, 0.2]))
    for kind in kinds:
        torch.testing.assert_close(*in_triton_and_in_torch(kind, tensors, *sparse), rtol=5e-5, atol=5e-5)


@needs_gpu
class TestOnAGpu:
    """Checks that the interpreter cannot make: the kernels compile, and save memory."""

    @pytest.mark.parametrize("build", LOSSES.values(), ids=LOSSES)
    @every_dtype
    def test_every_loss_joins_the_conformance_suite(self, build, dtype):
        """By the automatic backend, over every shape."""
        for shape, (batch, num_labels, width, *_) in SHAPES.items():
            *tensors, labels, mask = make(shape)
            loss, tensors = build(num_labels, chunk_labels=4).to(DEVICE), moved(tensors, dtype)
            walked = value_and_gradients(fused, loss, *tensors, labels, mask)
            if batch and width:
                assert_as_near_as_dense_maths(walked, loss, tensors, labels, mask)

    @every_covered_loss
    @pytest.mark.parametrize(("batch", "num_labels"), [(64, 4096), (61, 5501), (1, 100_003)])
    @every_dtype
    def test_larger_shapes(self, build, batch, num_labels, dtype):
        tensors, *sparse = random_case(batch, num_labels, 32)
        tensors = moved([tensor * 0.3 for tensor in tensors], dtype)
        results = in_triton_and_in_torch(lambda **how: build(num_labels, **how), tensors, *sparse)
        near = 1e-4 if dtype == torch.float32 else 0.02
        for got, expected in zip(*results, strict=True):
            assert (got - expected).abs().max() <= near * expected.abs().max()

    def test_the_logits_never_exist_as_a_whole(self):
        tensors, *sparse = random_case(512, 200_000, 16)
        tensors = moved(tensors, torch.bfloat16)
        loss = FocalLoss(2, chunk_labels=2048)
        loss(*tensors, *sparse).backward()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss(*tensors, *sparse).backward()
        assert torch.cuda.max_memory_allocated() - before < 512 * 200_000 * 2 / 4
