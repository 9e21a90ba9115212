import math

import pytest
import torch

from hyperfocal.metrics.buckets import BUCKETS, HEAD, TAIL, bucket_masks, bucket_means


def test_the_borders():
    counts = torch.tensor([0, 1, TAIL - 1, TAIL, TAIL + 1, HEAD - 1, HEAD, HEAD + 1, 10**9])
    masks = bucket_masks(counts)
    assert (HEAD, TAIL) == (200, 20)
    assert counts[masks["tail"]].tolist() == [0, 1, 19]
    assert counts[masks["medium"]].tolist() == [20, 21, 199]
    assert counts[masks["head"]].tolist() == [200, 201, 10**9]


def test_each_label_is_in_one_bucket():
    masks = bucket_masks(torch.arange(500))
    assert tuple(masks) == BUCKETS
    assert torch.stack(list(masks.values())).sum(0).tolist() == [1] * 500


def test_no_label():
    assert all(mask.shape == (0,) and mask.dtype == torch.bool for mask in bucket_masks(torch.arange(0)).values())


class TestBucketMeans:
    def test_by_hand(self):
        means = bucket_means(torch.tensor([1.0, 2, math.nan, 6]), torch.tensor([500, 250, 200, 3]))
        assert {name: mean.item() for name, mean in means.items()} == pytest.approx(
            {"macro": (1 + 2 + 6) / 3, "head": (1 + 2) / 2, "medium": math.nan, "tail": 6}, nan_ok=True
        )

    def test_the_last_axis(self):
        means = bucket_means(torch.tensor([[1.0, 2], [math.nan, 4]]), torch.tensor([5, 5]))
        assert means["tail"].tolist() == [(1 + 2) / 2, 4]
