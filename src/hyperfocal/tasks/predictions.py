"""What predictions look like: rankings as rows, in the form of the log; and scores of labels as pairs."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from torch import Tensor

from hyperfocal.data.tables import Log
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError
from hyperfocal.metrics.ranking import NO_ITEM

PAIRS = pl.List(pl.Struct({"label": pl.String, "probability": pl.Float64}))


@dataclass(frozen=True, eq=False)
class Predictions:
    """What `predict` returns.

    Attributes:
        frame: the input's user and item columns, `rank` (1 is best) and `score`; or, for a log in the
            challenge format, `user_sequence` ("<user>_11" is the best after 10) and `challenge`.
        users: users of the log.
        unknown_events: events of items that training never saw, left out of the histories.
    """

    frame: pl.DataFrame
    users: int
    unknown_events: int


def as_rows(log: Log, vocabulary: Vocabulary, items: Tensor, scores: Tensor) -> pl.DataFrame:
    """Return (U, k) rankings of a log's users as rows.

    Raises:
        ConfigError: the log has a column called rank or score.
    """
    users, ranks = (items != NO_ITEM).nonzero().unbind(1)
    chosen = vocabulary.decode(items[users, ranks])
    owners = log.users.gather(pl.Series(users.numpy(), dtype=pl.UInt32))
    if log.form == "challenge":
        position = pl.Series(log.lengths[users.numpy()] + ranks.numpy() + 1).cast(pl.String)
        return pl.DataFrame({"user_sequence": owners + "_" + position, "challenge": chosen})
    columns = {log.user_column: owners, log.item_column: chosen}
    if columns.keys() & {"rank", "score"}:
        raise ConfigError(f"columns {', '.join(columns)}: predictions have a rank and a score too. Rename yours")
    return pl.DataFrame(columns | {"rank": ranks.numpy() + 1, "score": scores[users, ranks].numpy()})


def with_pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """Return what `predict_documents` does with scores as lists of (label, probability), as tables can hold them."""
    pairs = [[{"label": label, "probability": share} for label, share in row.items()] for row in frame["scores"]]
    return frame.with_columns(pl.Series("scores", pairs, dtype=PAIRS))
