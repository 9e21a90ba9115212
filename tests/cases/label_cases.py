"""Labels and scores that several tests of metrics draw."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from hyperfocal.labels import SparseLabels

NUM_LABELS = 4
quick = settings(deadline=None, max_examples=150)


def labels(lists: list[list[int]], num_labels: int = NUM_LABELS) -> SparseLabels:
    return SparseLabels.from_lists(lists, num_labels=num_labels)


def draw(rows: int, num_labels: int, share: float, seed: int) -> SparseLabels:
    dense = torch.rand(rows, num_labels, generator=torch.Generator().manual_seed(seed)) < share
    return SparseLabels.from_scipy(csr_matrix(dense.numpy()))


def normal(rows: int, num_labels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, num_labels, generator=torch.Generator().manual_seed(seed))


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, SparseLabels]:
    """Return scores with many ties and the truth of 1 to 8 documents over 4 labels."""
    rows = draw(st.integers(1, 8))
    level = st.sampled_from([-5.0, -0.5, -0.0, 0.0, 1e-7, 2.0, 300.0])
    scores = draw(st.lists(st.lists(level, min_size=NUM_LABELS, max_size=NUM_LABELS), min_size=rows, max_size=rows))
    lists = st.lists(st.integers(0, NUM_LABELS - 1), max_size=NUM_LABELS)
    return torch.tensor(scores), labels(draw(st.lists(lists, min_size=rows, max_size=rows)))
