"""Train one small network with four losses on long-tailed labels, in a training loop of your own.

    python examples/own_training_loop.py

hyperfocal gives the loss, the label weights and the first bias; the data, network, loop and metric are plain torch.
It ends in some ten seconds on a CPU and prints the macro average precision of each loss. The data is made up, and
the order depends on the budget: with --epochs 5 focal and DB, whose easy negatives soon stop teaching, are far behind.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, DistributionBalancedLoss, FocalLoss, SoftmaxLoss, capped_weights, frequency_bias

NUM_LABELS, INPUTS, WIDTH = 300, 64, 128
TRAIN, TEST, BATCH = 4_000, 4_000, 256


def make_data(generator: torch.Generator) -> tuple[Tensor, SparseLabels]:
    """Return inputs (N, INPUTS) and 1 to 5 labels a row, N = TRAIN + TEST.

    Label l is drawn in proportion to 1 / (l + 10): the most frequent about 30 times as often as the rarest. Each
    label has a prototype; an input is the sum of the prototypes of its labels, squashed, plus noise.
    """
    size = TRAIN + TEST
    frequency = 1 / (torch.arange(NUM_LABELS) + 10.0)
    drawn = torch.multinomial(frequency.expand(size, -1), 5, generator=generator)
    lengths = torch.randint(1, 6, (size, 1), generator=generator)
    labels = SparseLabels.from_padded(drawn.where(torch.arange(5) < lengths, -1), num_labels=NUM_LABELS)
    prototypes = torch.randn(NUM_LABELS, INPUTS, generator=generator)
    noise = torch.randn(size, INPUTS, generator=generator)
    return torch.tanh(labels.to_dense() @ prototypes / 2) + 0.3 * noise, labels


class Network(nn.Module):
    """An encoder, and the weight and bias of the last layer, which the loss applies itself."""

    def __init__(self, first_bias: Tensor) -> None:
        """Start each label at its own frequency: sigmoid(bias) is right before the first step."""
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.weight = nn.Parameter(0.01 * torch.randn(len(first_bias), WIDTH))
        self.bias = nn.Parameter(first_bias.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, L), to predict with. Training never builds them."""
        return nn.functional.linear(self.encoder(inputs), self.weight, self.bias)


def train(network: Network, loss: nn.Module, inputs: Tensor, labels: SparseLabels, epochs: int) -> None:
    """Train the network in place: the loop that you have already, and one line that is ours."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.01)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(BATCH):
            hidden = network.encoder(inputs[rows])
            value = loss(hidden, network.weight, network.bias, labels.select(rows))  # <- this one
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def average_precision(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the average precision of each label, (L,), NaN for a label that no example has.

    Examples are ranked by the label's score: the mean over its examples of hits so far / rank.
    """
    hits = truth.gather(0, scores.argsort(0, descending=True))
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)[:, None]
    return (precision * hits).sum(0) / hits.sum(0)


def losses(counts: Tensor) -> dict[str, Callable[[], nn.Module]]:
    """Return the losses to compare; counts are the training examples of each label, (L,)."""
    return {
        "BCE": lambda: BCELoss(),
        "focal": lambda: FocalLoss(gamma=2.0, positive_weight=capped_weights(counts, scheme="inverse", cap=7.0)),
        "DB": lambda: DistributionBalancedLoss(counts, num_examples=TRAIN),
        "softmax": lambda: SoftmaxLoss(),
    }


def main() -> None:
    """Train with each loss, from the same start on the same batches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="of data, start and batches")
    options = parser.parse_args()

    inputs, labels = make_data(torch.Generator().manual_seed(options.seed))
    train_labels, test_labels = labels.select(torch.arange(TRAIN)), labels.select(torch.arange(TRAIN, TRAIN + TEST))
    truth, counts = test_labels.to_dense(), train_labels.counts()
    thirds = counts.argsort(descending=True).chunk(3)
    print(f"{NUM_LABELS} labels with {int(counts.max())} to {int(counts.min())} of {TRAIN:,} training examples")
    print(f"{'macro AP':<8}{'all':>8}{'head':>8}{'medium':>8}{'tail':>8}")
    for name, build in losses(counts).items():
        torch.manual_seed(options.seed)
        network = Network(frequency_bias(counts, num_examples=TRAIN))
        train(network, build(), inputs[:TRAIN], train_labels, options.epochs)
        with torch.no_grad():
            logits = network(inputs[TRAIN:])
        scores = logits.log_softmax(1) if name == "softmax" else logits  # logits of a softmax lack a constant a row
        found = average_precision(scores, truth)
        print(f"{name:<8}" + "".join(f"{float(found[part].nanmean()):8.3f}" for part in (slice(None), *thirds)))


if __name__ == "__main__":
    main()
