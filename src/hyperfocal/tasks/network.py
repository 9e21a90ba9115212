"""The network of the job `recommend`: made, trained through a fused loss, and turned into a scorer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyperfocal.config.recommend import LossSettings, RecommendSettings
from hyperfocal.losses import BCELoss, FocalLoss, SeparableLoss, prior_bias
from hyperfocal.metrics.ranking import Scorer, rank_items, score_ranking
from hyperfocal.models.sequence import ConcatMLP
from hyperfocal.runs import CHECKPOINT, RunFolder
from hyperfocal.tasks.preparation import Prepared
from hyperfocal.train import Checkpoint, Job, Progress, Trainer


def make_loss(settings: LossSettings) -> SeparableLoss:
    """Return the loss that the settings name."""
    if settings.name == "bce":
        return BCELoss(reduction=settings.reduction)
    alpha = None if settings.alpha == "none" else settings.alpha
    return FocalLoss(settings.gamma, alpha, reduction=settings.reduction)


def make_network(settings: RecommendSettings, num_items: int) -> ConcatMLP:
    """Return the untrained network, its weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return ConcatMLP(num_items, settings.data.history, settings.model, bias=prior_bias(settings.loss.prior))


def network_scorer(network: ConcatMLP, history: int) -> Scorer:
    """Return the function from histories to (U, L) scores."""
    return lambda histories: network.scores(histories.last(history))


def train_network(
    data: Prepared,
    settings: RecommendSettings,
    run: RunFolder | None,
    *,
    resume: bool,
    watch: Callable[[Progress, int], None],
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train the network the settings name; return it with its best weights, and a row an epoch.

    Raises:
        RunError: the checkpoint to resume from is damaged.
        TrainingError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    network = make_network(settings, len(data.vocabulary))
    loss = make_loss(settings.loss)
    scorer = network_scorer(network, settings.data.history)

    def step_loss(index: Tensor) -> Tensor:
        histories, labels = data.examples.batch(index)
        value: Tensor = loss(network(histories), network.weight, network.bias, labels)
        return value

    def validate() -> dict[str, float]:
        return mean_scores(scorer, data, [settings.train.metric])

    job = Job(network, step_loss, len(data.examples), validate, settings.train, settings.seed)
    trainer = Trainer(job, save=_keeper(run), watch=watch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed + 1)  # of dropout
        if resume and run is not None and run.has(CHECKPOINT):
            trainer.restore(Checkpoint(*run.read_tensors(CHECKPOINT)))
        if not trainer.run():
            raise KeyboardInterrupt
    network.eval()
    return network, trainer.progress.history


def mean_scores(scorer: Scorer, data: Prepared, names: list[str]) -> dict[str, float]:
    """Return the mean of each metric over the validation users."""
    depth = max(int(name.partition("@")[2]) for name in names)
    ranked, _ = rank_items(scorer, data.valid.histories, depth)
    return {name: float(values.mean()) for name, values in score_ranking(ranked, data.valid.truth, names).items()}


def _keeper(run: RunFolder | None) -> Callable[[Checkpoint], None]:
    if run is None:
        return lambda checkpoint: None
    return lambda checkpoint: run.write_tensors(CHECKPOINT, checkpoint.tensors, state=checkpoint.state)
