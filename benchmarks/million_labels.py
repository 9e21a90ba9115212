"""A million labels on two cores: a network of items trained end to end through a fused loss, and its best ten of all.

    python benchmarks/million_labels.py                                    200 steps, about five minutes
    python benchmarks/million_labels.py --labels 20000 --width 32 --steps 50   the same, small

Bytes at L = 1,000,000 labels, D = 128, float32, counted before they were measured; item vectors are output layer too:

    vectors, in and out             4 L D      512 MB
    their gradient by the loss      4 L D      512 MB
    that by the embedding           4 L D      512 MB   each is dense
    the sum of the two              4 L D      512 MB
    biases, their gradient, state   16 L        16 MB   row-wise Adagrad: one number a row; Adam: 8 L D = 1,024 MB
    a chunk of logits               1.5 MiB             of B x L, which would be 4 B L = 512 MB
    evaluation, 16 users a block    20 L x 16  320 MB   once the gradients are gone
    Python and torch, and its pool            about 400 MB
                                              about 2.5 GB of the 3 GB allowed; 2.57 measured

The clicks are made up: a user of one of TOPICS topics clicks items of that topic, none twice, each with a chance that
falls as 1 / rank among those that are left. Held out is the last click of 1,000 other users.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from hyperfocal.config.recommend import DataSettings, LossSettings, ModelSettings, RankingTrainSettings
from hyperfocal.config.recommend import RecommendSettings as Settings
from hyperfocal.data.examples import Windows, cut_windows
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import set_threads
from hyperfocal.metrics.ranking import rank_items, score_ranking
from hyperfocal.models.baselines import fit_baseline
from hyperfocal.models.sequence_networks import Network, network_scorer
from hyperfocal.recommend.network import make_loss, make_network
from hyperfocal.sequences import Sequences
from hyperfocal.training.optimizers import make_optimizer

TOPICS = 50
HISTORY = 8  # items that a user's targets follow
TESTED = 1_000  # users

Parts = dict[str, float]


def make_clicks(users: int, labels: int, *, seed: int) -> Tensor:
    """Return (users, HISTORY + 1) items, oldest first.

    Draws without replacement, a topic's users at once, as an exponential race: the first of T(rank) ~ Exp(1 / rank).
    """
    rng = np.random.default_rng(seed)
    topics = np.minimum(rng.exponential(TOPICS / 4, users).astype(np.int64), TOPICS - 1)
    size = labels // TOPICS
    names = np.random.default_rng(0).permutation(labels)  # numbers tell nothing; the same for every seed
    clicks = np.empty((users, HISTORY + 1), dtype=np.int64)
    for user, topic in enumerate(topics):
        arrivals = rng.exponential(size=size) * np.arange(1, size + 1)
        first = np.argpartition(arrivals, HISTORY)[: HISTORY + 1]
        clicks[user] = names[topic * size + first[np.argsort(arrivals[first])]]
    return torch.from_numpy(clicks)


def as_sequences(clicks: Tensor, labels: int) -> Sequences:
    offsets = torch.arange(len(clicks) + 1) * clicks.shape[1]
    return Sequences(clicks.flatten(), offsets, labels)


def train(
    network: Network, loss: nn.Module, windows: Windows, settings: Settings, steps: int
) -> tuple[list[float], Parts]:
    """Take the steps; return the loss of each, and the seconds of each part of all of them."""
    optimizer = make_optimizer(network.parameters(), settings.train)
    seconds: Parts = defaultdict(float)
    losses = []
    for index in torch.arange(len(windows)).split(len(windows) // steps)[:steps]:
        optimizer.zero_grad()
        with timed(seconds, "network"):
            items, positions, labels = windows.batch(index)
            weight, bias = network.output()
            hidden = network(items, weight).flatten(0, 1)[positions]
        with timed(seconds, "loss and its gradients"):
            value = loss(hidden, weight, bias, labels)
        with timed(seconds, "backward"):
            value.backward()
        with timed(seconds, "optimizer"):
            optimizer.step()
        losses.append(value.item())
    optimizer.zero_grad()
    return losses, seconds


@contextmanager
def timed(seconds: Parts, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - started


@torch.inference_mode()
def recall_at_10(network: Network, train_clicks: Sequences, tested: Tensor) -> dict[str, float]:
    """Return the share of the tested users whose last click is among the best ten, by the network and by popularity."""
    histories = as_sequences(tested[:, :-1], train_clicks.num_items)
    truth = SparseLabels.from_padded(tested[:, -1:], num_labels=train_clicks.num_items)
    scorers = {
        "network": network_scorer(network.eval(), HISTORY),
        "popularity": fit_baseline("popularity", train_clicks).scores,
    }
    ranked = {name: rank_items(score, histories, 10)[0] for name, score in scorers.items()}
    return {name: float(score_ranking(best, truth, ["recall@10"])["recall@10"].mean()) for name, best in ranked.items()}


def peak_gb() -> float:
    """Return the largest resident memory of this process so far, in 10^9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def settings_of(arguments: argparse.Namespace) -> Settings:
    return Settings(
        data=DataSettings(history=HISTORY),
        model=ModelSettings(name="mean", embedding_width=arguments.width),
        loss=LossSettings(name=arguments.loss, prior=1 / arguments.labels, alpha="none", gamma=2.0),
        train=RankingTrainSettings(optimizer=arguments.optimizer, learning_rate=arguments.rate),
    )


def main() -> None:
    """Generate, train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128, help="D")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=128, help="rows of the loss, 8 a user")
    parser.add_argument("--loss", choices=("softmax", "focal", "bce"), default="softmax")
    parser.add_argument("--optimizer", choices=("rowwise_adagrad", "adam", "sgd"), default="rowwise_adagrad")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate")
    arguments = parser.parse_args()
    labels, steps, users = arguments.labels, arguments.steps, max(arguments.batch // HISTORY, 1)
    threads, settings = set_threads(0), settings_of(arguments)
    clicks = make_clicks(steps * users + TESTED, labels, seed=0)
    train_clicks, tested = as_sequences(clicks[TESTED:], labels), clicks[:TESTED]
    windows = cut_windows(train_clicks, history=HISTORY)
    network, loss = make_network(settings, labels), make_loss(settings.loss, torch.ones(labels))
    losses, seconds = train(network, loss, windows, settings, steps)
    trained, whole = peak_gb(), sum(seconds.values())
    how = f"{users * HISTORY} rows a step, {arguments.loss}, {arguments.optimizer}"
    print(f"{labels:,} labels, D {arguments.width}, {how}")
    print(f"{steps} steps in {whole:.1f} s, {steps / whole:.2f} a second, {threads} threads; a step:")
    for name, spent in seconds.items():
        print(f"  {name:24} {1000 * spent / steps:8.1f} ms")
    tenth = max(steps // 10, 1)
    first, last = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
    print(f"loss, mean of {tenth} steps: {first:.4f} at the start, {last:.4f} at the end")
    started = time.perf_counter()
    found = recall_at_10(network, train_clicks, tested)
    print(
        f"recall@10 of {TESTED:,} users: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()), end=""
    )
    print(f"; {time.perf_counter() - started:.1f} s for both")
    print(f"peak memory: {trained:.2f} GB in training, {peak_gb():.2f} GB with evaluation")


if __name__ == "__main__":
    main()
