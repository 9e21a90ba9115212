"""The original challenge's training step, row by row, beside ours; and how long its recipe takes at true scale.

    python benchmarks/train_step.py              the step, and 6 epochs at true scale
    python benchmarks/train_step.py --epochs 300 the whole recipe

Both steps are the same mathematics: 256 users, 10 embeddings of width 50 concatenated, layers of 100 and
50, 5,501 outputs, focal loss (alpha 0.25, gamma 2) over its number of positives, SGD with momentum. Their
losses are compared before they are timed. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from hyperfocal.config.recipes import resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.synthetic_logs import make_challenges, write_challenges
from hyperfocal.labels import SparseLabels
from hyperfocal.recommend.network import make_loss, make_network
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.training.optimizers import make_optimizer

RECIPE = Path(__file__).parents[1] / "recipes" / "challenge_original.toml"
ITEMS, BATCH, HISTORY, NEXT = 5_501, 256, 10, 3
ROUNDS = 30


class RowByRow(nn.Module):
    """The mistake: every row of a batch calls the embedding by itself."""

    def __init__(self, embedding: nn.Embedding, layers: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.embedding, self.layers = embedding, layers
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, histories: Tensor) -> Tensor:
        """Return (B, L) logits."""
        rows = [self.embedding(row).flatten() for row in histories]
        return functional.linear(self.layers(torch.stack(rows)), self.weight, self.bias)


def row_by_row_step() -> Callable[[Tensor, Tensor], float]:
    """Return the step as the original program writes it: dense targets, focal loss in several passes."""
    network = make_network(resolve(RecommendSettings, RECIPE), ITEMS)
    model = RowByRow(network.embedding, network.layers, network.weight.detach(), network.bias.detach())
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def step(histories: Tensor, following: Tensor) -> float:
        target = torch.zeros(len(histories), ITEMS)
        for row, items in enumerate(following):
            for item in items:
                target[row, item] = 1
        optimizer.zero_grad()
        p = torch.sigmoid(model(histories))
        cross_entropy = functional.binary_cross_entropy(p, target, reduction="none")
        p_right = p * target + (1 - p) * (1 - target)
        alpha = 0.25 * target + 0.75 * (1 - target)
        loss = (alpha * (1 - p_right) ** 2 * cross_entropy).sum() / target.sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step() -> Callable[[Tensor, Tensor], float]:
    """Return the step as `recommend fit` takes it."""
    settings = resolve(RecommendSettings, RECIPE)
    model, loss = make_network(settings, ITEMS), make_loss(settings.loss, torch.ones(ITEMS))
    optimizer = make_optimizer(model.parameters(), settings.train)

    def step(histories: Tensor, following: Tensor) -> float:
        labels = SparseLabels.from_padded(following, num_labels=ITEMS)
        optimizer.zero_grad()
        value = loss(model(histories), model.weight, model.bias, labels)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def compare_steps() -> None:
    """Time both steps in turns, and print medians and their ratio."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(BATCH, ITEMS, generator=generator).topk(HISTORY + NEXT).indices
    histories, following = rows[:, :HISTORY], rows[:, HISTORY:]
    steps = {"row by row": row_by_row_step(), "ours": our_step()}
    losses = {name: [step(histories, following) for _ in range(3)] for name, step in steps.items()}  # warm-up
    torch.testing.assert_close(losses["ours"], losses["row by row"], rtol=1e-4, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            started = time.perf_counter()
            step(histories, following)
            times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"A training step of {BATCH} at {ITEMS:,} items, {torch.get_num_threads()} threads, {ROUNDS} rounds:")
    for name, median in medians.items():
        print(f"  {name:12} {median:7.1f} ms  ({min(times[name]):.1f} to {max(times[name]):.1f})")
    print(f"  ratio        {medians['row by row'] / medians['ours']:7.1f}")


def time_recipe(epochs: int) -> None:
    """Train the recipe at true scale for some epochs, and print where the time goes."""
    started = time.perf_counter()
    data = make_challenges(69_632, 5_606, test_fraction=100 / 69_632)
    print(f"\nMaking 69,532 users x 13 over 5,606 challenges: {time.perf_counter() - started:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        write_challenges(data, Path(folder))
        started = time.perf_counter()
        recommender = Recommender(RECIPE, settings={"train.epochs": epochs})
        recommender.fit(Path(folder) / "train.csv", out=Path(folder) / "run")
        wall = time.perf_counter() - started
    rows = recommender.history_
    training, validating = (sum(row[name] for row in rows) for name in ("train_seconds", "valid_seconds"))
    counts = recommender.metrics_["data"]
    steps = -(-counts["examples"] // 256)
    around = wall - training - validating
    an_epoch = (training + validating) / len(rows)
    print(f"The recipe, {counts['users']:,} training users, {steps} steps an epoch, {epochs} epochs: {wall:.1f} s")
    print(f"  training steps    {training:7.1f} s  {1000 * training / len(rows) / steps:.1f} ms a step")
    print(f"  validation        {validating:7.1f} s  {validating / len(rows):.2f} s an epoch")
    print(f"  reading, baselines, final scores, saving  {around:.1f} s, once")
    print(f"  {60 / an_epoch:.0f} epochs a minute; 300 epochs: {(300 * an_epoch + around) / 60:.1f} minutes,")
    share = (300 * validating / len(rows) + around) / (300 * an_epoch + around)
    print(f"  of which everything but the training steps is {share:.1%}")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="epochs at true scale, default 6; 0 leaves that part out")
    epochs = parser.parse_args().epochs
    compare_steps()
    if epochs:
        time_recipe(epochs)


if __name__ == "__main__":
    main()
