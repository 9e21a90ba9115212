"""Train the job's model: make the network and its fused loss, run the trainer, fit the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor

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
    SoftmaxLoss,
    capped_weights,
    prior_bias,
)
from hyperfocal.losses.base import FusedLoss
from hyperfocal.losses.options import divisor
from hyperfocal.machine import training_device
from hyperfocal.metrics.ranking import rank_items, score_ranking
from hyperfocal.models.baselines import KINDS, Baseline, default_baselines, fit_baseline
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.sequence_networks import CausalNetwork, ConcatMLP, Network, network_scorer
from hyperfocal.recommend.prepare import Prepared
from hyperfocal.recommend.ranker import Ranker
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.run import train_job
from hyperfocal.training.trainer import Job, Portion
from hyperfocal.training.watch import SILENT, Watch


def train(
    data: Prepared,
    settings: RecommendSettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = SILENT,
    network: Network | None = None,
) -> tuple[Ranker, list[dict[str, float]]]:
    """Fit the baselines and train the model of the settings; return the ranker, and a row per epoch.

    Arguments and errors as in `train_network`; the history of a baseline is empty.
    """
    name, num_items = settings.model.name, len(data.vocabulary)
    fitted = (*default_baselines(num_items, streamed=data.streamed), name)
    baselines = {each: fit_baseline(each, data.train) for each in KINDS if each in fitted}
    if name in KINDS:
        model: Network | Baseline = baselines[name]
        history: list[dict[str, float]] = []
    else:
        model, history = train_network(data, settings, run, resume=resume, watch=watch, network=network)
    ranker = Ranker(
        settings,
        data.vocabulary,
        model,
        baselines,
        data.features,
        list(data.columns),
        streamed=data.streamed,
        plan=data.plan,
        table=data.table,
    )
    return ranker, history


def train_network(
    data: Prepared,
    settings: RecommendSettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = SILENT,
    network: Network | None = None,
) -> tuple[Network, list[dict[str, float]]]:
    """Train a network; return it on the CPU with its best weights, and a row per epoch.

    Args:
        data: examples to learn from, and users to validate on.
        settings: of network, loss and training, the device included.
        run: folder for checkpoints. None: no checkpoints.
        resume: whether to continue from the newest checkpoint of the run.
        watch: its `stepped` is called during training.
        network: to continue from. None: a new one.

    Raises:
        ConfigError: the device does not exist.
        RunError: the checkpoint to resume from is damaged.
        TrainingError: the loss is no longer a number; in training with several processes, another one is gone.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    device = training_device(settings.train.device)
    network = (network or make_network(settings, len(data.vocabulary), data.features)).to(device)
    history = train_job(_training_job(network, data, settings, device), run, resume=resume, watch=watch)
    return network.cpu(), history


def _training_job(network: Network, data: Prepared, settings: RecommendSettings, device: str) -> Job:
    """Return what the trainer runs: the loss of a batch, the validation, the order of the examples."""
    loss = make_loss(settings.loss, torch.bincount(data.train.items, minlength=len(data.vocabulary))).to(device)
    scorer, metric = network_scorer(network, settings.data.history), settings.train.metric

    def step_loss(index: Tensor) -> Portion:
        batch = read_batch(network, data.examples, index)
        return Portion(loss(*batch), divisor(batch[-1], loss.options))

    def validate() -> dict[str, float]:
        items, _ = rank_items(scorer, data.valid.histories, int(metric.partition("@")[2]))
        return {metric: float(score_ranking(items, data.valid.truth, [metric])[metric].mean())}

    def batches(generator: torch.Generator) -> Sequence[Tensor]:
        assert isinstance(data.examples, Windows)
        return batches_by_length(data.examples.lengths, settings.train.batch_size, generator, seed=settings.seed)

    return Job(
        network,
        step_loss,
        len(data.examples),
        validate,
        settings.train,
        settings.seed,
        batches=batches if isinstance(data.examples, Windows) else None,
        minutes=settings.train.minutes,
    )


def make_network(settings: RecommendSettings, num_items: int, features: ItemFeatures | None = None) -> Network:
    """Return the untrained network, its weights drawn by the seed.

    Raises:
        ConfigError: the width is not a multiple of twice the heads.
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
    """Return a network over the items of `data`, the first of which are the items of `network`, with its weights.

    New items start with the vectors of an untrained network, their biases at the mean of the others.
    """
    wider, trained = make_network(settings, len(data.vocabulary), data.features), network.state_dict()
    rows = len(trained["bias"])
    with torch.no_grad():
        wider.bias.fill_(float(trained["bias"].mean()))
        for name, tensor in wider.state_dict().items():
            if tensor.shape == trained[name].shape:
                tensor.copy_(trained[name])
            else:
                tensor[:rows] = trained[name][:rows]
    return wider.eval()


class Weights(TypedDict, total=False):
    """The options that every loss takes here."""

    reduction: str
    positive_weight: Tensor


def make_loss(settings: LossSettings, counts: Tensor) -> FusedLoss:
    """Return the loss that the settings name: called with (hidden, weight, bias, labels).

    Args:
        settings: name and slopes of the loss, and the weights of the positives.
        counts: (L,) training events of each item.
    """
    options: Weights = {"reduction": settings.reduction}
    if settings.cap != "off":
        cap = None if settings.cap == "none" else settings.cap
        options["positive_weight"] = capped_weights(counts, settings.weights, cap=cap)
    return LOSSES[settings.name](settings, counts, options)


def _focal(settings: LossSettings, counts: Tensor, options: Weights) -> FocalLoss:
    return FocalLoss(settings.gamma, None if settings.alpha == "none" else settings.alpha, **options)


def _softmax(settings: LossSettings, counts: Tensor, options: Weights) -> SoftmaxLoss:
    if settings.tau == 0:
        return SoftmaxLoss(**options)
    return SoftmaxLoss(log_prior=((counts + 1) / (counts + 1).sum()).log(), tau=settings.tau, **options)


LOSSES: dict[str, Callable[[LossSettings, Tensor, Weights], FusedLoss]] = {
    "bce": lambda settings, counts, options: BCELoss(**options),
    "focal": _focal,
    "asymmetric": lambda settings, counts, options: AsymmetricLoss(gamma_negative=settings.gamma, **options),
    "softmax": _softmax,
    "gbce": lambda settings, counts, options: GBCELoss(
        min(settings.negatives, len(counts)), shared_draws=True, **options
    ),
    "sampled_softmax": lambda settings, counts, options: SampledSoftmaxLoss(
        min(settings.negatives, len(counts)), shared_draws=True, **options
    ),
}


def read_batch(
    network: Network, examples: Examples | Windows, index: Tensor
) -> tuple[Tensor, Tensor, Tensor, SparseLabels]:
    """Return the arguments of the losses: (P, D) hidden vectors, (L, D) weight, (L,) bias, and P rows of targets.

    P is the number of examples, or the number of positions in the windows.
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
