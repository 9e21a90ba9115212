"""The job `recommend`: a user's last items in, the next items out.

Read from top to bottom: what a fitted recommender is, how one is fitted, how it predicts, how it is
scored, and how it is kept in a run folder.
"""

from __future__ import annotations

TRAIN_USERS_SCORED = 20_000  # training users whose map shows how much the model overfits
