"""A fit on prepared data: train the model, choose its blend, compare it with the baselines, write the run folder."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.distributed import refuse_different
from hyperfocal.models.baselines import check_size
from hyperfocal.recommend.compare import score_validation
from hyperfocal.recommend.files import write_fit
from hyperfocal.recommend.memory import check_network_memory
from hyperfocal.recommend.network import train
from hyperfocal.recommend.prepare import Prepared
from hyperfocal.recommend.ranker import Fit, choose_blend
from hyperfocal.sequences import Sequences
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.memory import begun
from hyperfocal.training.run import begin_run, data_facts
from hyperfocal.training.watch import SILENT, Watch


def fit_ranker(
    data: Prepared,
    settings: RecommendSettings,
    run: RunFolder | None,
    resume: bool = False,
    watch: Watch = SILENT,
) -> Fit:
    """Train, blend and compare; write the run folder, if there is one."""
    check_size(settings.model.name, len(data.vocabulary))
    began, fingerprint = perf_counter(), data.fingerprint()
    refuse_different("data", fingerprint)
    check_network_memory(data, settings)
    if run is not None:
        begin_run(run, settings, fingerprint, facts=data_facts(data.plan, data.counts, data.logs), resume=resume)
    with begun(run):
        ranker, history = train(data, settings, run, resume=resume, watch=watch)
    ranker = choose_blend(ranker, data.valid)
    metrics, evidence = score_validation(ranker, data, began=began)
    ranker = replace(ranker, best=metrics["model"] if ranker.chooses else "")
    events = Sequences.empty(len(data.vocabulary)) if data.streamed else data.train
    fit = Fit(ranker, data.users, events, fingerprint, metrics, history, evidence, data.logs)
    if run is not None:
        write_fit(run, fit)
    return fit
