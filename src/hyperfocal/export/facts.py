"""Settings, weights and n-grams of a run as an exported folder stores them."""

from __future__ import annotations

from typing import Any

import msgspec
from numpy.typing import NDArray

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.opinions import SIMILARITY
from hyperfocal.models.baselines import POPULARITY_WEIGHT, Baseline
from hyperfocal.models.sequence_networks import CausalNetwork
from hyperfocal.recommend.blend import NETWORK
from hyperfocal.recommend.ranker import BLEND, PARTNER
from hyperfocal.recommend.recommender import Recommender

Arrays = dict[str, NDArray[Any]]


def ranking_settings(recommender: Recommender) -> dict[str, Any]:
    """Return the content of settings.json for a recommender that ranks as the run does.

    `parts` are the weights of a blend in logarithms, by name, with the window and the decay of each model of counts;
    {}: the run ranks by one model, or by the linear blend of a run of an earlier version.
    """
    ranker, linear = recommender.ranker_, linear_settings(recommender)
    if ranker.name in ranker.baselines and not isinstance(ranker.model, Baseline):
        kind: dict[str, Any] = ranker.baselines[ranker.name].kind._asdict()
        return linear | kind | {"blend": False, "weight": 1.0, "fixed": False, "counts": ranker.name}
    if ranker.name != BLEND or ranker.blend is None:
        return linear
    parts = {
        name: {"weight": weight} | ({} if name == NETWORK else ranker.baselines[name].kind._asdict())
        for name, weight in ranker.blend.weights.items()
    }
    return linear | {"weight": 0.0 if NETWORK in parts else 1.0, "parts": parts}


def linear_settings(recommender: Recommender) -> dict[str, Any]:
    """Return the same for plain weights, which have the linear blend."""
    settings, model = recommender.settings_, recommender.model_
    counts = isinstance(model, Baseline)
    blend = bool(settings.model.blend) and recommender.ranker_.name != settings.model.name and not counts
    counted = model if counts else recommender.baselines_[PARTNER]
    weight = 1.0 if counts else recommender.blend_weight_ if blend else 0.0
    return {
        "job": "recommend",
        "model": settings.model.name,
        "history": settings.data.history,
        "fixed": not counts and not isinstance(model, CausalNetwork),
        "next": settings.data.next,
        "blend": blend,
        "weight": weight,
        "parts": {},
        "window": counted.kind.window,
        "decay": counted.kind.decay,
        "run": msgspec.to_builtins(settings),
    }


def label_settings(classifier: MultiLabelClassifier, encoder: str) -> dict[str, Any]:
    """Return the content of settings.json for a classifier; `encoder`: "exported" or "apart", if the run has one."""
    settings, names = classifier.settings_, classifier.vocabulary_.names
    has_encoder, parents = classifier.features_.encoder is not None, dict[str, list[str]]()
    if classifier.taxonomy_ is not None and settings.data.consistent:
        known = set(names)
        parents = {name: [up for up in classifier.taxonomy_.ancestors(name) if up in known] for name in names}
    return {
        "job": "classify",
        "ngrams": classifier.features_.ngrams is not None,
        "encoder": encoder if has_encoder else "none",
        "encoder_name": settings.features.encoder or "the sentence encoder that was installed" if has_encoder else "",
        "parents": {name: above for name, above in parents.items() if above},
        "opinions": list(classifier.fit_.model.combination.weights),
        "run": msgspec.to_builtins(settings),
    }


def ranking_weights(recommender: Recommender) -> Arrays:
    """Return the weights of a recommender by name; features of items are added into the item vectors."""
    model = recommender.model_
    if isinstance(model, Baseline):
        return counted_arrays(model)
    if isinstance(model, CausalNetwork):
        baked = model.with_items()
        vectors, biases = baked.output()
        arrays: Arrays = {"items": vectors.detach().numpy(), "bias": biases.detach().numpy()}
        arrays |= {f"encoder.{name}": tensor.numpy() for name, tensor in baked.encoder.state_dict().items()}
    else:
        arrays = {name.removesuffix(".weight") if name == "embedding.weight" else name: tensor.numpy()
                  for name, tensor in model.state_dict().items()}  # fmt: skip
    return arrays | (counted_arrays(recommender.baselines_[PARTNER]) if linear_settings(recommender)["weight"] else {})


def counted_arrays(baseline: Baseline) -> Arrays:
    """Return the arrays of a model of counts, as `counted_model` in standalone/recommender.py reads them."""
    arrays = {name: tensor.numpy() for name, tensor in baseline.tensors().items() if name != "counts"}
    counts = baseline.counts.double().numpy()
    return arrays | {"popularity": POPULARITY_WEIGHT * counts / max(counts.sum(), 1)}


def head_weights(classifier: MultiLabelClassifier) -> Arrays:
    """Return the weights of the head by name."""
    return {name: tensor.detach().numpy() for name, tensor in classifier.head_.state_dict().items()}


def ngram_facts(classifier: MultiLabelClassifier) -> dict[str, Any] | None:
    """Return the n-grams as vocabulary.json stores them; None: the run has none."""
    ngrams = classifier.features_.ngrams
    if ngrams is None:
        return None
    settings = ngrams.settings
    return {
        "longest": {"words": settings.word_ngrams, "chars": settings.char_ngrams},
        "hashed": settings.hashed,
        "terms": ngrams.terms,
        "idf": {name: weights.tolist() for name, weights in ngrams.weights.items()},
    }


def opinion_facts(classifier: MultiLabelClassifier) -> dict[str, Any] | None:
    """Return the opinions as opinions.json stores them; None: no opinion counts."""
    model = classifier.fit_.model
    if model.reader is None or not model.combination.weights:
        return None
    limit, counts = model.combination.limit, model.labels.counts.tolist()
    return {
        "weights": dict(model.combination.weights),
        "labels": [int(limit is None or count < limit) for count in counts],
        "stems": model.reader.matcher.postings(),
    }


def label_vectors(classifier: MultiLabelClassifier) -> Arrays:
    """Return the vectors of label texts and their mean cosines by name; {}: no opinion of an encoder counts."""
    model = classifier.fit_.model
    reader = model.reader
    if reader is None or reader.vectors is None or reader.center is None or SIMILARITY not in model.combination.weights:
        return {}
    return {"label_vectors": reader.vectors.numpy(), "label_means": (reader.vectors @ reader.center).numpy()}
