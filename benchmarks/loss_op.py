"""Forward and backward of a loss with the last linear layer: ours beside what others compute.

    python benchmarks/loss_op.py                     all sizes
    python benchmarks/loss_op.py --labels 5501       one catalogue
    python benchmarks/loss_op.py --device cuda --batch 1024 --labels 131072 --width 256 --dtype bfloat16

Contestants take turns in one process; times are medians. Memory is the peak above the parameters and their
gradients, each in a process of its own. Dense targets are built before the clock starts. Run it with
nothing else running.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, FocalLoss, SoftmaxLoss

POSITIVES = 3  # a row
LONG = 500_000  # labels from which a step takes seconds
ALPHA, GAMMA = 0.25, 2.0

Step = Callable[[], object]


def floor(hidden: Tensor, weight: Tensor, bias: Tensor, positives: Tensor) -> Step:
    """Return the three bare matrix products that any such loss needs."""
    hidden, weight = hidden.detach(), weight.detach()
    grad_weight = torch.empty_like(weight)

    def step() -> None:
        logits = hidden @ weight.T
        logits @ weight
        torch.mm(logits.T, hidden, out=grad_weight)

    return step


def dense(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Step]:
    """Return the contestant that computes all logits and a loss of (logits, dense targets)."""

    def make(hidden: Tensor, weight: Tensor, bias: Tensor, positives: Tensor) -> Step:
        targets = torch.zeros(len(hidden), len(weight), device=hidden.device, dtype=hidden.dtype)
        targets.scatter_(1, positives, 1)
        return _clearing(
            lambda: loss(functional.linear(hidden, weight, bias), targets).backward(), hidden, weight, bias
        )

    return make


def torchvision_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss as torchvision.ops.sigmoid_focal_loss computes it, over the number of positives."""
    p = torch.sigmoid(logits)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_right = p * targets + (1 - p) * (1 - targets)
    loss = cross_entropy * ((1 - p_right) ** GAMMA)
    return ((ALPHA * targets + (1 - ALPHA) * (1 - targets)) * loss).sum() / targets.sum()


def original_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss as the original challenge writes it: in p, clamped, two terms with logarithms."""
    p = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    positive = -ALPHA * targets * (1 - p) ** GAMMA * torch.log(p)
    negative = -(1 - ALPHA) * (1 - targets) * p**GAMMA * torch.log(1 - p)
    return (positive + negative).sum() / targets.sum()


def dense_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy over the number of positives."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / targets.sum()


def dense_softmax(hidden: Tensor, weight: Tensor, bias: Tensor, positives: Tensor) -> Step:
    """Return cross-entropy with one class a row, the first positive."""
    classes = positives[:, 0].clone()
    return _clearing(
        lambda: functional.cross_entropy(functional.linear(hidden, weight, bias), classes).backward(),
        hidden, weight, bias,
    )  # fmt: skip


def ours(loss: torch.nn.Module) -> Callable[..., Step]:
    """Return the contestant that calls one of our losses, fused."""

    def make(hidden: Tensor, weight: Tensor, bias: Tensor, positives: Tensor) -> Step:
        labels = SparseLabels.from_padded(positives, num_labels=len(weight))
        return _clearing(lambda: loss(hidden, weight, bias, labels).backward(), hidden, weight, bias)

    return make


def _clearing(step: Step, *tensors: Tensor) -> Step:
    def cleared() -> None:
        for tensor in tensors:
            tensor.grad = None
        step()

    return cleared


FOCAL = {"gamma": GAMMA, "alpha": ALPHA}
CONTESTANTS: dict[str, tuple[Callable[..., Step], int]] = {  # and how many B x L numbers it holds
    "bare matrix products": (floor, 1),
    "ours, focal": (ours(FocalLoss(**FOCAL)), 0),
    "ours, focal, plain torch": (ours(FocalLoss(**FOCAL, backend="chunked")), 0),
    "ours, BCE": (ours(BCELoss()), 0),
    "ours, softmax": (ours(SoftmaxLoss()), 0),
    "dense softmax": (dense_softmax, 3),
    "dense BCE": (dense(dense_bce), 5),
    "torchvision's focal": (dense(torchvision_focal), 12),
    "original focal": (dense(original_focal), 14),
}


def prepare(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden, weight and bias with gradients, and the positives, (B, 3)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(args.batch, args.width, generator=generator)
    weight = torch.randn(args.labels, args.width, generator=generator).mul_(0.05)
    positives = torch.randint(args.labels, (args.batch, POSITIVES), generator=generator).to(args.device)
    dtype = getattr(torch, args.dtype)
    hidden, weight = (tensor.to(args.device, dtype).requires_grad_() for tensor in (hidden, weight))
    bias = torch.full((args.labels,), -4.6, device=args.device, dtype=dtype, requires_grad=True)
    return hidden, weight, bias, positives


def time_in_turns(names: list[str], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return milliseconds of every step of every contestant, who take turns: a noisy moment hits all alike."""
    tensors = prepare(args)
    rounds = max(3, min(80, 1_000_000 // args.labels))
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            step = CONTESTANTS[name][0](*tensors)  # dense targets live for two steps only
            if args.labels < LONG or args.device == "cuda":
                _timed(step, args.device)  # warms the caches
            times[name].append(_timed(step, args.device))
    return {name: found[len(found) // 10 :] for name, found in times.items()}


def _timed(step: Step, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


def measure_memory(name: str, args: argparse.Namespace) -> int:
    """Return the peak bytes of a step above the parameters and their gradients, in this process."""
    hidden, weight, bias, positives = prepare(args)
    step = CONTESTANTS[name][0](hidden, weight, bias, positives)
    for tensor in (hidden, weight, bias):
        tensor.grad = torch.zeros_like(tensor)
        tensor.grad += 1  # now it is really there
    before = _memory(args.device, reset=True)
    step()
    return _memory(args.device) - before


def _memory(device: str, *, reset: bool = False) -> int:
    """Return the peak memory of this process since the last reset."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def compare(args: argparse.Namespace) -> None:
    """Print the table of one size."""
    print(
        f"\nB {args.batch}, L {args.labels:,}, D {args.width}, {args.dtype} on {args.device}, "
        f"{POSITIVES} positives a row"
    )
    fits = [name for name, (_, dense) in CONTESTANTS.items() if _fits(dense, args)]
    found = time_in_turns(fits, args)
    times = {name: statistics.median(values) for name, values in found.items()}
    base, vision = times["bare matrix products"], times.get("torchvision's focal")
    print(f"{'':26}{'ms':>9}  {'over floor':>10}  {'torchvision/':>12}  {'extra memory':>12}")
    for name in CONTESTANTS:
        if name not in times:
            print(f"{name:26}  does not fit: {_bytes(CONTESTANTS[name][1], args) / 1e9:.0f} GB")
            continue
        memory = _memory_in_own_process(name, args) / 1e6
        ratio = f"{vision / times[name]:12.2f}" if vision else f"{'-':>12}"
        print(f"{name:26}{times[name]:9.1f}  {times[name] / base:10.2f}  {ratio}  {memory:9,.0f} MB", flush=True)


def _fits(dense: int, args: argparse.Namespace) -> bool:
    if args.device == "cuda":
        return _bytes(dense, args) < 0.8 * torch.cuda.get_device_properties(0).total_memory
    free = next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    return _bytes(dense, args) < 0.8 * 1024 * int(free)


def _bytes(dense: int, args: argparse.Namespace) -> int:
    size = 4 if args.dtype == "float32" else 2
    return size * (dense * args.batch * args.labels + 2 * args.labels * args.width)


def _memory_in_own_process(name: str, args: argparse.Namespace) -> int:
    options = {key: str(value) for key, value in vars(args).items() if key != "contestant"}
    command = [sys.executable, __file__, "--contestant", name]
    command += [word for key, value in options.items() for word in (f"--{key}", value)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _sizes(args: argparse.Namespace) -> Iterator[argparse.Namespace]:
    known = ((5_501, 50), (5_501, 128), (100_000, 128), (1_000_000, 128))
    asked = [size for size in known if (args.labels or size[0]) == size[0] and (args.width or size[1]) == size[1]]
    for labels, width in asked or [(args.labels or 100_000, args.width or 128)]:
        yield argparse.Namespace(**{**vars(args), "labels": labels, "width": width})


def main() -> None:
    """Run one contestant, one size or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--labels", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        print(measure_memory(args.contestant, args))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for size in _sizes(args):
        compare(size)


if __name__ == "__main__":
    main()
