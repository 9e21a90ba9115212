"""What is written beside an exported model for people to read: predict.py and README.md, with every formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREDICT = {
    "recommend": '''"""Recommend next items: echo '["C12", "C7"]' | python predict.py 3

Reads a history a line, a JSON list of item ids, oldest first; writes {"items": [...], "scores": [...]} a line.
Needs numpy and onnxruntime.
"""

import json
import sys
from pathlib import Path

from recommender import Recommender

recommender = Recommender(Path(__file__).parent)
k = int(sys.argv[1]) if len(sys.argv) > 1 else recommender.settings["next"]
for line in sys.stdin:
    [(items, scores)] = recommender.rank([json.loads(line)], k)
    print(json.dumps({"items": items, "scores": scores}, ensure_ascii=False))
''',
    "classify": '''"""Classify texts: echo '"a glass of red wine"' | python predict.py

Reads a text a line, a JSON string; writes {"labels": decided, "scores": the best ten with their probability} a line.
Needs numpy and onnxruntime.
"""

import json
import sys
from pathlib import Path

import numpy as np
from classifier import Classifier

classifier = Classifier(Path(__file__).parent)
for line in sys.stdin:
    logits = classifier.scores([json.loads(line)])
    shares = 1 / (1 + np.exp(-logits[0].astype(float)))
    best = {classifier.labels[label]: round(shares[label], 6) for label in np.argsort(-shares)[:10]}
    print(json.dumps({"labels": classifier.decide(logits)[0], "scores": best}, ensure_ascii=False))
''',
}

BLOCKS = """Each block, with norm(x) = (x - mean) / sqrt(variance + 1e-5) * weight + bias over the D numbers of a place,
and linear(x) = weight @ x + bias:

    a = norm_0(h_t);  q, k, v = the three thirds of project(a), each cut into H heads of E = D / H numbers
    ROTATIONf_t = combine(heads side by side of: sum over s <= t of softmax_s(q_t . k_s / sqrt(E)) v_s)
    FILTERh_t += f_t
    h_t += narrow(gelu(widen(norm_1(h_t)))),      gelu(x) = x * (1 + erf(x / sqrt(2))) / 2

and after the last block hidden = norm(h_t) at the newest place. H = HEADS. Names: encoder.blocks.B.norms.0, .norms.1,
.project, .combine, .widen, .narrow, each with .weight and .bias; encoder.norm."""

ROTATION = """in each head of q and k, pair i of (x_i, x_{i + E/2}) turns by the angle t * 10000^(-2i / E):
        (x_i cos - x_{i + E/2} sin,  x_i sin + x_{i + E/2} cos)
    """

FILTER = """low_t = sum over j = 0 to 4 of filter.taps[j] * a_{t-j}, with a = norm_0(h), and 0 before the first place
    f_t = (1 - SHARE) * f_t + SHARE * (low_t + filter.high^2 * (a_t - low_t))
    """

GRU = """For each of LAYERS layers N, with W = encoder.layers.weight_ih_lN, U = .weight_hh_lN, b = .bias_ih_lN,
c = .bias_hh_lN, whose rows are three thirds for r, z and n, and h_{-1} = 0:

    r = sigmoid(W_r x_t + b_r + U_r h_{t-1} + c_r);  z = sigmoid(W_z x_t + b_z + U_z h_{t-1} + c_z)
    n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c_n));  h_t = (1 - z) * n + z * h_{t-1}

A layer reads the h_t of the one before it. hidden = h_t of the last layer at the newest place."""

COUNTED = """    score(b) = sum over the newest WINDOW items a_1 (newest), a_2, ... of DECAY^(j - 1) * M[a_j, b]
               + popularity[b]

M is kept by rows: row a has data[indptr[a] : indptr[a + 1]] in the columns indices[indptr[a] : indptr[a + 1]]. Without
indptr there is no M, and the popularity alone ranks."""


def readme(settings: dict[str, Any], *, onnx: bool, shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """Return README.md of an exported folder.

    Args:
        settings: what settings.json says.
        onnx: whether it is the folder with model.onnx; else that of plain weights.
        shapes: of the plain weights by name.
    """
    ranks = settings["job"] == "recommend"
    title = "A recommender of next items" if ranks else "A classifier of texts"
    parts = [f"# {title}\n\nWritten by `hyperfocal export`."]
    parts.append(_onnx_part(settings) if onnx else _plain_part(shapes or {}))
    parts.append(_ranking_formulas(settings) if ranks else _label_formulas(settings))
    return "\n\n".join(parts) + "\n"


def _onnx_part(settings: dict[str, Any]) -> str:
    if settings["job"] == "recommend":
        example, call = 'echo \'["C12", "C7"]\' | python predict.py 3', "Recommender(folder).rank(histories, k)"
        graph = "`model.onnx`: input `items` (B, T) int64, output `scores` (B, L) float32, the logits below. "
        graph += "T is always the history" if settings["fixed"] else f"T is 1 to {settings['history']}"
        graph += "; item numbers, newest last, filled up on the left with L, which is no item."
        graph = graph if settings["weight"] < 1 else "There is no network: counts.npz holds everything."
    else:
        example, call = "echo '\"a glass of red wine\"' | python predict.py", "Classifier(folder).scores(texts)"
        graph = (
            "`model.onnx`: inputs `columns` (B, K) int64 and `values` (B, K) float32 of the n-grams, `dense` (B, D) "
        )
        graph += "float32, as far as the run reads them; output `scores` (B, L) float32, the logits below. A text of "
        graph += "several columns is what they hold, joined by a line break."
    needs = " tokenizers" if settings.get("encoder") == "exported" else ""
    return (
        f"    pip install numpy onnxruntime{needs}\n    {example}\n\nFrom Python: `{call}`.\n\n{graph} "
        "The number of rows B is free. vocabulary.json names items or labels by their numbers; settings.json is what "
        "predict.py reads, and under `run` everything that the model was trained with."
    )


def _plain_part(shapes: Mapping[str, tuple[int, ...]]) -> str:
    rows = "\n".join(f"    {name:40} {' x '.join(map(str, shape))}" for name, shape in shapes.items())
    return (
        "`model.safetensors` holds the weights (https://github.com/huggingface/safetensors: a JSON header and raw "
        f"little-endian numbers):\n\n{rows}\n\nvocabulary.json names items or labels by their numbers, from 0."
    )


def _ranking_formulas(settings: dict[str, Any]) -> str:
    model, weight = settings["run"]["model"], settings["weight"]
    parts = ["## Formulas\n\nItems that vocabulary.json does not have are left out of a history."]
    if weight < 1:
        parts.append(_network_formulas(settings, model))
    if weight > 0:
        window = settings["window"] if settings["window"] is not None else "(all)"
        counted = COUNTED.replace("WINDOW", str(window)).replace("DECAY", str(settings["decay"]))
        parts.append(f"What is counted, over all items of the history that count:\n\n{counted}")
    if settings["blend"]:
        parts.append(f"The ranking:\n\n    {1 - weight:g} * softmax(logits)[b] + {weight:g} * score(b) / sum of score")
    parts.append("Items of the history are not recommended, unless they are asked for.")
    return "\n\n".join(parts)


def _network_formulas(settings: dict[str, Any], model: dict[str, Any]) -> str:
    history, name = settings["history"], model["name"]
    if name == "concat_mlp":
        last = len(model["hidden_widths"])
        return (
            f"The newest {history} items, oldest first, missing ones in front; x = the rows of `embedding` side by "
            f"side, zeros where one is missing. {last} times: x = max(layers.N.weight @ x + layers.N.bias, 0), "
            "N = 0, 3, 6, ...\n\n    logits = weight @ x + bias"
        )
    start = (
        f"The newest {history} items, oldest first, at the places t = 0, 1, ...:\n\n"
        "    x_t = sqrt(D) * items[item at t],      logits = items @ hidden + bias\n\n"
        "Without an item, x_0 is zeros."
    )
    if name == "mean":
        decay = model["decay"]
        return f"{start}\n\n    hidden = sum of {decay}^age * x_t / sum of {decay}^age,  age 0 for the newest"
    if name == "gru":
        return f"{start}\n\n{GRU.replace('LAYERS', str(model['layers']))}"
    first = "h_t = x_t + encoder.positions[t]" if model["positions"] == "learned" else "h_t = x_t"
    blocks = BLOCKS.replace("ROTATION", ROTATION if model["positions"] == "rotary" else "")
    blocks = blocks.replace("FILTER", FILTER.replace("SHARE", str(model["filter"])) if model["filter"] else "")
    return f"{start} {first} goes through {model['layers']} blocks.\n\n{blocks.replace('HEADS', str(model['heads']))}"


def _label_formulas(settings: dict[str, Any]) -> str:
    run = settings["run"]
    parts = ["## Formulas"]
    terms = []
    if settings["ngrams"]:
        parts.append(_NGRAMS)
        terms.append("sum over the n-grams of the text of value * wide[column]")
    if settings["encoder"] != "none":
        parts.append(
            f"Dense features: the vector of {settings['encoder_name']}, scaled to a mean square of 1, v / "
            "sqrt(mean of v_i^2)."
        )
        hidden = "max(hidden.0.weight @ v + hidden.0.bias, 0)" if run["head"]["name"] == "mlp" else "v"
        terms.append(f"weight @ {hidden}")
    parts.append(f"    logits = bias + {' + '.join(terms)}")
    parts.append(
        "A label is decided where its logit is above its threshold in thresholds.json; with top_k above 0 the best "
        "top_k are, in place of thresholds; with minimum_one a text without a label gets its best one. Then labels "
        "bring those that settings.json has under `parents`. A probability is 1 / (1 + exp(-logit))."
    )
    return "\n\n".join(parts)


_NGRAMS = """N-grams, in small letters (vocabulary.json, `ngrams`). words: maximal runs of two or more letters, digits
or underscores, and runs of up to `longest` of them joined by one space. chars: the text is parted at white space, each
word gets a space before and after it, and its runs of 3 to `longest` characters count; a word that is shorter counts
once, as it is. Columns are the places in `terms`, those of chars after those of words; hashed, they are |MurmurHash3
(32 bit signed, seed 0) of the UTF-8 bytes| modulo the number of idf. The value of an n-gram that stands tf times is
(1 + ln tf) * idf; words are scaled to length 1 (divided by the root of the sum of squares), and so are chars; where
there are both, each is divided by sqrt(2) then."""
