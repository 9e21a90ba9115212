"""The network of the job `recommend`: made, trained through a fused loss, and turned into a scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from hyperfocal.config.recommend import CAUSAL, LossSettings, RecommendSettings
from hyperfocal.data.examples import Examples, Windows, batches_by_length
from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import (
    AsymmetricLoss,
    BCELoss,
    FocalLoss,
    GBCELoss,
    SampledSoftmaxLoss,
    SeparableLoss,
    SoftmaxLoss,
    capped_weights,
    prior_bias,
)
from hyperfocal.losses.options import divisor
from hyperfocal.losses.sampled import SampledLoss
from hyperfocal.machine import training_device
from hyperfocal.metrics.ranking import Scorer, rank_items, score_ranking
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.sequence_networks import CausalNetwork, ConcatMLP, Network, network_scorer
from hyperfocal.recommend.prepare import Prepared
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.run import checkpoint_keeper, restore
from hyperfocal.training.trainer import Job, Portion, Progress, Trainer, seed_process


class Weights(TypedDict, total=False):
    """What every loss is given."""

    reduction: str
    positive_weight: Tensor


def _focal(settings: LossSettings, counts: Tensor, options: Weights) -> FocalLoss:
    return FocalLoss(settings.gamma, None if settings.alpha == "none" else settings.alpha, **options)


def _softmax(settings: LossSettings, counts: Tensor, options: Weights) -> SoftmaxLoss:
    if settings.tau == 0:
        return SoftmaxLoss(**options)
    return SoftmaxLoss(log_prior=((counts + 1) / (counts + 1).sum()).log(), tau=settings.tau, **options)


def _negatives(settings: LossSettings, counts: Tensor) -> int:
    return min(settings.negatives, len(counts))


Loss = SeparableLoss | SoftmaxLoss | SampledLoss
LOSSES: dict[str, Callable[[LossSettings, Tensor, Weights], Loss]] = {
    "bce": lambda settings, counts, options: BCELoss(**options),
    "focal": _focal,
    "asymmetric": lambda settings, counts, options: AsymmetricLoss(gamma_negative=settings.gamma, **options),
    "softmax": _softmax,
    "gbce": lambda settings, counts, options: GBCELoss(_negatives(settings, counts), shared_draws=True, **options),
    "sampled_softmax": lambda settings, counts, options: SampledSoftmaxLoss(
        _negatives(settings, counts), shared_draws=True, **options
    ),
}


def make_loss(settings: LossSettings, counts: Tensor) -> Loss:
    """Return the loss that the settings name: called with (hidden, weight, bias, labels).

    Args:
        settings: which loss, and how much the positives of rare items weigh.
        counts: (L,) training events of each item.
    """
    options: Weights = {"reduction": settings.reduction}
    if settings.cap != "off":
        cap = None if settings.cap == "none" else settings.cap
        options["positive_weight"] = capped_weights(counts, settings.weights, cap=cap)
    return LOSSES[settings.name](settings, counts, options)


def make_network(settings: RecommendSettings, num_items: int, features: ItemFeatures | None = None) -> Network:
    """Return the untrained network, its weights drawn by the seed.

    Raises:
        ConfigError: the width is no multiple of the heads; features, but the network cannot read them.
    """
    model = settings.model
    if model.name == "transformer" and model.embedding_width % (2 * model.heads):
        raise ConfigError(
            f"model.embedding_width = {model.embedding_width} is not allowed with model.heads = {model.heads}. "
            f"Expected a multiple of {2 * model.heads}, twice the heads"
        )
    history, bias = settings.data.history, prior_bias(settings.loss.prior)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if model.name in CAUSAL:
            return CausalNetwork(num_items, history, model, bias=bias, features=features, drop=settings.items.drop)
        return ConcatMLP(num_items, history, model, bias=bias)


def widened_network(network: Network, settings: RecommendSettings, data: Prepared) -> Network:
    """Return a network over the items of `data`, the first of which are those of `network`, with what that has learnt.

    New items start as those of an untrained network, their biases at the mean of the others.
    """
    found, before = make_network(settings, len(data.vocabulary), data.features), network.state_dict()
    rows = len(before["bias"])
    with torch.no_grad():
        found.bias.fill_(float(before["bias"].mean()))
        for name, tensor in found.state_dict().items():
            if tensor.shape == before[name].shape:
                tensor.copy_(before[name])
            else:
                tensor[:rows] = before[name][:rows]
    return found.eval()


def train_network(
    data: Prepared,
    settings: RecommendSettings,
    run: RunFolder | None,
    *,
    resume: bool,
    watch: Callable[[Progress, int], None],
    network: Network | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a network, None a new one, that of the settings; return it with its best weights, and a row an epoch.

    It learns on the device of the settings, and comes back on the CPU.

    Raises:
        ConfigError: there is no such device.
        RunError: the checkpoint to resume from is damaged.
        TrainingError: the loss is no longer a number; another one of several processes is gone.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    device = training_device(settings.train.device)
    network = (network or make_network(settings, len(data.vocabulary), data.features)).to(device)
    loss = make_loss(settings.loss, torch.bincount(data.train.items, minlength=len(data.vocabulary))).to(device)
    scorer = network_scorer(network, settings.data.history)

    def step_loss(index: Tensor) -> Portion:
        batch = read_batch(network, data.examples, index)
        return Portion(loss(*batch), divisor(batch[-1], loss.options))

    def validate() -> dict[str, float]:
        return mean_scores(scorer, data, [settings.train.metric])

    job = Job(
        network,
        step_loss,
        len(data.examples),
        validate,
        settings.train,
        settings.seed,
        batches=_batches(data.examples, settings.train.batch_size, settings.seed),
        minutes=settings.train.minutes,
    )
    trainer = Trainer(job, save=checkpoint_keeper(run), watch=watch)
    with torch.random.fork_rng(devices=[device] if device == "cuda" else []):
        seed_process(settings.seed + 1)
        if resume:
            restore(trainer, run)
        if not trainer.run():
            raise KeyboardInterrupt
    return network.cpu().eval(), trainer.progress.history


def read_batch(
    network: Network, examples: Examples | Windows, index: Tensor
) -> tuple[Tensor, Tensor, Tensor, SparseLabels]:
    """Return what the losses take: (P, D) hidden vectors, (L, D) weight, (L,) bias, and P rows of targets.

    P is one an example, or one a position of the windows.
    """
    weight, bias = network.output()
    device = bias.device
    if isinstance(network, CausalNetwork):
        assert isinstance(examples, Windows)
        items, positions, labels = examples.batch(index)
        hidden = network(items.to(device), weight).flatten(0, 1)[positions.to(device)]
        return hidden, weight, bias, labels.to(device)
    assert isinstance(examples, Examples)
    histories, labels = examples.batch(index)
    return network(histories.to(device)), weight, bias, labels.to(device)


def _batches(
    examples: Examples | Windows, batch_size: int, seed: int
) -> Callable[[torch.Generator], Sequence[Tensor]] | None:
    if not isinstance(examples, Windows):
        return None
    lengths = examples.lengths
    return lambda generator: batches_by_length(lengths, batch_size, generator, seed=seed)


def mean_scores(scorer: Scorer, data: Prepared, names: list[str]) -> dict[str, float]:
    """Return the mean of each metric over the validation users."""
    depth = max(int(name.partition("@")[2]) for name in names)
    ranked, _ = rank_items(scorer, data.valid.histories, depth)
    return {name: float(values.mean()) for name, values in score_ranking(ranked, data.valid.truth, names).items()}
