"""Recommend next items: echo '["C12", "C7"]' | python predict.py 3

Reads one history per line, a JSON list of item ids, oldest first; or {"history": [...], "only": [...],
"exclude": [...], "repeats": true}, of which only the history is needed. Writes {"items": [...], "scores": [...],
"known": true} per line; known is false if the model knows no item of the history. Needs numpy and onnxruntime.
"""

import json
import sys
from pathlib import Path

from recommender import Recommender

recommender = Recommender(Path(__file__).parent)
k = int(sys.argv[1]) if len(sys.argv) > 1 else recommender.settings["next"]
for line in sys.stdin:
    asked = json.loads(line)
    rules = asked if isinstance(asked, dict) else {"history": asked}
    history = rules.pop("history")
    [(items, scores)], [known] = recommender.rank([history], k, **rules), recommender.known([history])
    print(json.dumps({"items": items, "scores": scores, "known": known}, ensure_ascii=False))
