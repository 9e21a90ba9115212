"""Train a network whose labels are dealt out over several processes: each holds its rows of the last layer alone.

    torchrun --nproc-per-node 2 examples/sharded_labels.py
    python examples/sharded_labels.py                          # the same in one process, with the same result

For catalogues whose last layer, its gradient and its optimizer do not fit one device. The encoder is small and is
everywhere: each process encodes its part of the batch, all exchange the hidden vectors, (B, D), and walk over their own
labels. The data is made up; it ends in some ten seconds on a CPU.
"""

import argparse

import torch
from torch import Tensor, nn

from hyperfocal.distributed import gather_rows, is_first, processes, rank, sum_gradients, world_size
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import FocalLoss, ShardedLoss, prior_bias
from hyperfocal.metrics.ranking import sharded_top_k

NUM_LABELS, INPUTS, WIDTH = 3_001, 32, 64
TRAIN, TEST, BATCH = 8_000, 1_000, 256


def make_data(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs (N, INPUTS), and the label of each, (N,): an input is its label's prototype plus noise."""
    labels = torch.randint(NUM_LABELS, (TRAIN + TEST,), generator=generator) // torch.randint(
        1, 40, (TRAIN + TEST,), generator=generator
    )  # low numbers are frequent
    prototypes = torch.randn(NUM_LABELS, INPUTS, generator=generator)
    return prototypes[labels] + 0.3 * torch.randn(TRAIN + TEST, INPUTS, generator=generator), labels


class Network(nn.Module):
    """An encoder, the same in every process, and the rows of the last layer that are this process's."""

    def __init__(self, part: slice) -> None:
        """Draw the whole last layer, so that the start does not depend on the number of processes, and keep a part."""
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.weight = nn.Parameter(0.01 * torch.randn(NUM_LABELS, WIDTH)[part].clone())
        self.bias = nn.Parameter(torch.full((part.stop - part.start,), prior_bias(0.001)))


def train(network: Network, loss: ShardedLoss, inputs: Tensor, labels: SparseLabels, epochs: int) -> float:
    """Train in place; every process takes the same batches. Return the mean loss of the last epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(inputs), generator=generator).split(BATCH):
            own = rows.tensor_split(world_size())[rank()]
            hidden = gather_rows(network.encoder(inputs[own]))  # (B, WIDTH), the same in every process
            value = loss(hidden, network.weight, network.bias, labels.select(rows))
            optimizer.zero_grad()
            value.backward()
            sum_gradients(network.encoder.parameters())  # each process has that of its own examples
            optimizer.step()
            losses.append(value.detach())
    return float(torch.stack(losses).mean())


def precision(network: Network, part: slice, inputs: Tensor, labels: Tensor) -> float:
    """Return how often the best of all labels is the right one."""
    with torch.inference_mode():
        scores = torch.addmm(network.bias, network.encoder(inputs), network.weight.T)  # (N, labels of this process)
        _, best = sharded_top_k(scores, 1, first=part.start, num_labels=NUM_LABELS)
    return float((best[:, 0] == labels).float().mean())


def main() -> None:
    """Train, and print in the first process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training data")
    options = parser.parse_args()

    with processes():
        inputs, labels = make_data(torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        loss = ShardedLoss(FocalLoss(gamma=1.0), NUM_LABELS)
        network = Network(loss.part)
        right = SparseLabels.from_padded(labels[:TRAIN, None], num_labels=NUM_LABELS)
        last = train(network, loss, inputs[:TRAIN], right, options.epochs)
        found = precision(network, loss.part, inputs[TRAIN:], labels[TRAIN:])
        if is_first():
            print(f"{world_size()} processes of about {len(network.weight):,} labels each")
            print(f"loss {last:.4f}, precision@1 {found:.3f}")


if __name__ == "__main__":
    main()
