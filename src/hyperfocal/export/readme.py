"""README.md of an exported folder, with every formula of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCKS = """Each block, with norm(x) = (x - mean) / sqrt(variance + 1e-5) * weight + bias over the D numbers of each
position, and linear(x) = weight @ x + bias:

    a = norm_0(h_t);  q, k, v = the three thirds of project(a), each split into H heads of E = D / H numbers
    ROTATIONf_t = combine(concatenated heads: sum over s <= t of softmax_s(q_t . k_s / sqrt(E)) v_s)
    FILTERh_t += f_t
    h_t += narrow(gelu(widen(norm_1(h_t)))),      gelu(x) = x * (1 + erf(x / sqrt(2))) / 2

and after the last block hidden = norm(h_t) at the newest position. H = HEADS. Names: encoder.blocks.B.norms.0,
.norms.1, .project, .combine, .widen, .narrow, each with .weight and .bias; encoder.norm."""

ROTATION = """in each head of q and k, the pair (x_i, x_{i + E/2}) is rotated by the angle t * 10000^(-2i / E):
        (x_i cos - x_{i + E/2} sin,  x_i sin + x_{i + E/2} cos)
    """

FILTER = """low_t = sum over j = 0 to 4 of filter.taps[j] * a_{t-j}, with a = norm_0(h), and 0 before the first position
    f_t = (1 - SHARE) * f_t + SHARE * (low_t + filter.high^2 * (a_t - low_t))
    """

GRU = """For each of LAYERS layers N, with W = encoder.layers.weight_ih_lN, U = .weight_hh_lN, b = .bias_ih_lN,
c = .bias_hh_lN, whose rows have three thirds for r, z and n, and h_{-1} = 0:

    r = sigmoid(W_r x_t + b_r + U_r h_{t-1} + c_r);  z = sigmoid(W_z x_t + b_z + U_z h_{t-1} + c_z)
    n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c_n));  h_t = (1 - z) * n + z * h_{t-1}

Each layer reads the h_t of the layer before it. hidden = h_t of the last layer at the newest position."""

COUNTED = """    score(b) = sum over the newest WINDOW items a_1 (newest), a_2, ... of DECAY^(j - 1) * M[a_j, b]
               + popularity[b]

M is stored by rows: row a is data[indptr[a] : indptr[a + 1]] in the columns indices[indptr[a] : indptr[a + 1]]. Without
indptr there is no M, and the popularity alone ranks."""

NGRAMS = """N-grams of the text in lower case (vocabulary.json, `ngrams`). words: maximal sequences of two or more
letters, digits or underscores, and sequences of up to `longest` of them, joined by one space. chars: the text is split
at white space, each word gets a space before and after it, and its sequences of 3 to `longest` characters count; a
shorter word counts once, as a whole. The column of an n-gram is its position in `terms`, with the columns of chars
after those of words. If `hashed` is true, it is |MurmurHash3 (32 bit signed, seed 0) of the UTF-8 bytes| modulo the
number of idf. The value of an n-gram that occurs tf times is (1 + ln tf) * idf. The values of words are scaled to
length 1 (divided by the root of the sum of squares), and so are those of chars; if there are both kinds, each is then
divided by sqrt(2)."""


def readme(settings: dict[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """Return README.md of an exported folder, from the content of its settings.json.

    `shapes` are those of the plain weights, by name; None: the folder has model.onnx instead.
    """
    ranks = settings["job"] == "recommend"
    title = "A recommender of next items" if ranks else "A classifier of texts"
    files = _onnx_section(settings) if shapes is None else _plain_section(shapes)
    formulas = _ranking_formulas(settings) if ranks else _label_formulas(settings)
    return f"# {title}\n\nWritten by `hyperfocal export`.\n\n{files}\n\n{formulas}\n"


def _onnx_section(settings: dict[str, Any]) -> str:
    if settings["job"] == "recommend":
        example, call = 'echo \'["C12", "C7"]\' | python predict.py 3', "Recommender(folder).rank(histories, k)"
        graph = "`model.onnx`: input `items` (B, T) int64, output `scores` (B, L) float32, the logits below. "
        graph += "T is always the history" if settings["fixed"] else f"T is 1 to {settings['history']}"
        graph += "; item numbers, newest last, padded on the left with L, which is not an item."
        graph = graph if settings["weight"] < 1 else "There is no network: counts.npz holds the whole model."
    else:
        example, call = "echo '\"a glass of red wine\"' | python predict.py", "Classifier(folder).scores(texts)"
        graph = (
            "`model.onnx`: inputs `columns` (B, K) int64 and `values` (B, K) float32 of the n-grams, `dense` (B, D) "
        )
        graph += "float32 of the sentence encoder, whichever of them the run uses; output `scores` (B, L) float32, the "
        graph += "logits below. The text of a run with several text columns is their contents, joined by line breaks."
    needs = " tokenizers" if settings.get("encoder") == "exported" else ""
    return (
        f"    pip install numpy onnxruntime{needs}\n    {example}\n\nFrom Python: `{call}`.\n\n{graph} "
        "B is any number of rows. vocabulary.json lists the names of items or labels by number, from 0. predict.py "
        "reads settings.json, whose `run` holds all training settings."
    )


def _plain_section(shapes: Mapping[str, tuple[int, ...]]) -> str:
    rows = "\n".join(f"    {name:40} {' x '.join(map(str, shape))}" for name, shape in shapes.items())
    return (
        "`model.safetensors` holds the weights (https://github.com/huggingface/safetensors: a JSON header and raw "
        f"little-endian numbers):\n\n{rows}\n\nvocabulary.json lists the names of items or labels by number, from 0."
    )


def _ranking_formulas(settings: dict[str, Any]) -> str:
    model, weight = settings["run"]["model"], settings["weight"]
    unknown = "left out of a history. A history without any other item is ranked as an empty one; it is not `known`."
    sections = [f"## Formulas\n\nItems that are not in vocabulary.json are {unknown}"]
    if weight < 1:
        sections.append(_network_formulas(settings, model))
    if weight > 0 and not settings["parts"]:
        window = settings["window"] if settings["window"] is not None else "(all)"
        counted = COUNTED.replace("WINDOW", str(window)).replace("DECAY", str(settings["decay"]))
        sections.append(f"The model of counts, over all known items of the history:\n\n{counted}")
    if settings["parts"]:
        terms = [f"{part['weight']:g} * {_term(name)}" for name, part in settings["parts"].items()]
        sections.append(f"The ranking, with a share for the score of a model of counts over their sum (the class that "
                        f"computes each is in recommender.py):\n\n    {' + '.join(terms)}")  # fmt: skip
    elif settings["blend"]:
        sections.append(
            f"The ranking:\n\n    {1 - weight:g} * softmax(logits)[b] + {weight:g} * score(b) / sum of score"
        )
    sections.append("By default, items of the history are not recommended.")
    return "\n\n".join(sections)


def _term(name: str) -> str:
    return "log softmax(logits)[b]" if name == "network" else f"log(share of {name}[b] + 0.001)"


def _network_formulas(settings: dict[str, Any], model: dict[str, Any]) -> str:
    history, name = settings["history"], model["name"]
    if name == "concat_mlp":
        last = len(model["hidden_widths"])
        return (
            f"The newest {history} items, oldest first, missing ones in front; x = their rows of `embedding`, "
            f"concatenated, with zeros for a missing item. {last} times: x = max(layers.N.weight @ x + "
            "layers.N.bias, 0), N = 0, 3, 6, ...\n\n    logits = weight @ x + bias"
        )
    start = (
        f"The newest {history} items, oldest first, at the positions t = 0, 1, ...:\n\n"
        "    x_t = sqrt(D) * items[item at t],      logits = items @ hidden + bias\n\n"
        "For an empty history, x_0 is zeros."
    )
    if name == "mean":
        decay = model["decay"]
        return f"{start}\n\n    hidden = sum of {decay}^age * x_t / sum of {decay}^age,  age 0 for the newest item"
    if name == "gru":
        return f"{start}\n\n{GRU.replace('LAYERS', str(model['layers']))}"
    first = "h_t = x_t + encoder.positions[t]" if model["positions"] == "learned" else "h_t = x_t"
    blocks = BLOCKS.replace("ROTATION", ROTATION if model["positions"] == "rotary" else "")
    blocks = blocks.replace("FILTER", FILTER.replace("SHARE", str(model["filter"])) if model["filter"] else "")
    return f"{start} {first} goes through {model['layers']} blocks.\n\n{blocks.replace('HEADS', str(model['heads']))}"


def _label_formulas(settings: dict[str, Any]) -> str:
    run = settings["run"]
    sections = ["## Formulas"]
    terms = []
    if settings["ngrams"]:
        sections.append(NGRAMS)
        terms.append("sum over the n-grams of the text of value * wide[column]")
    if settings["encoder"] != "none":
        sections.append(
            f"Dense features: the vector of {settings['encoder_name']}, scaled to a mean square of 1, v / "
            "sqrt(mean of v_i^2)."
        )
        hidden = "max(hidden.0.weight @ v + hidden.0.bias, 0)" if run["head"]["name"] == "mlp" else "v"
        terms.append(f"weight @ {hidden}")
    sections.append(f"    logits = bias + {' + '.join(terms)}")
    if settings["opinions"]:
        sections.append(OPINIONS)
    if run["data"]["single"]:
        sections.append(f"{ONE_LABEL} A text is `known` if {_known_if(settings)}.")
        return "\n\n".join(sections)
    sections.append(
        "A text gets each label whose logit is above its threshold in thresholds.json. If top_k is above 0, it gets "
        "the best top_k labels instead. If minimum_one is true, a text without a label gets the best one. Then the "
        "`parents` of each label in settings.json are added. A probability is 1 / (1 + exp(-logit)). "
        f"A text is `known` if {_known_if(settings)}; all other texts get the scores of an empty text from n-grams."
    )
    return "\n\n".join(sections)


ONE_LABEL = (
    'A text gets the one label with the largest logit; if `one` in thresholds.json is "balanced", with the largest '
    "logit - threshold. Probabilities are softmax(logits / temperature), with the `temperature` in thresholds.json."
)

OPINIONS = """Opinions of the label texts are added to the logits of the labels that have a 1 in `labels` of
opinions.json: the sum over `weights` of weight * opinion.

    text          sum of the shares in `stems` of the distinct stems of the text
    first_line    the same of the first line of the text
    similarity    10 * (v @ label_vectors[l] / length of v - label_means[l]),  v the dense features

A stem is a word (letters and digits) in lower case without the first of the endings ings, ing, ies, ied, es, ed, s, e
and y that leaves 3 characters; a word in ss is left as it is."""


def _known_if(settings: dict[str, Any]) -> str:
    rules = ["one of its n-grams has a column"] if settings["ngrams"] else []
    rules += ["it has a letter, a digit or an underscore"] if settings["encoder"] != "none" else []
    return " or ".join(rules)
