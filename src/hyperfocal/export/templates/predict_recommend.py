"""Recommend next items: echo '["C12", "C7"]' | python predict.py 3

Reads one history per line, a JSON list of item ids, oldest first. Writes {"items": [...], "scores": [...]} per line.
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
