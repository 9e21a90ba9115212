"""Classify texts: echo '"a glass of red wine"' | python predict.py

Reads one text per line, a JSON string. Writes {"labels": [...], "scores": {label: probability}, "known": true} per
line, with the labels decided and the ten best scores. If each text has one label, "label" is this text, in place of
"labels". known is false if the model knows no part of the text, such as an n-gram. Needs numpy and onnxruntime.
"""

import json
import sys
from pathlib import Path

import numpy as np
from classifier import Classifier

classifier = Classifier(Path(__file__).parent)
for line in sys.stdin:
    logits, known = classifier.answer([json.loads(line)])
    probabilities = classifier.probabilities(logits)[0]
    best = {classifier.labels[label]: round(probabilities[label], 6) for label in np.argsort(-probabilities)[:10]}
    decided = classifier.decide(logits)[0]
    named = {"label": decided[0]} if classifier.decisions.get("one") else {"labels": decided}
    print(json.dumps({**named, "scores": best, "known": bool(known[0])}, ensure_ascii=False))
