"""Write trained networks as ONNX graphs, for any number of rows and, for sequences and texts, any length."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperfocal.errors import ConfigError
from hyperfocal.models.sequence_networks import CausalNetwork, ConcatMLP
from hyperfocal.models.text_head import TextHead

WHOLE_BYTES = 1_500_000_000  # larger weights go to a separate file: a protobuf holds 2 GB at most


class RankingGraph(nn.Module):
    """(B, T) item numbers, newest last, padded on the left with L -> (B, L) logits.

    It computes the network's `scores` without a branch on the numbers, because a graph has no `if`. Features of items
    are already added into the item vectors.
    """

    def __init__(self, network: ConcatMLP | CausalNetwork) -> None:
        super().__init__()
        self.network = network.with_items() if isinstance(network, CausalNetwork) else network

    def forward(self, items: Tensor) -> Tensor:
        """Return the logits."""
        network = self.network
        if isinstance(network, ConcatMLP):
            return network.scores(items)
        width, lengths = items.shape[1], (items != network.num_items).sum(1)
        places = torch.arange(width) + (width - lengths)[:, None]
        moved = torch.where(places < width, items.gather(1, places.clamp(max=width - 1)), network.num_items)
        vectors, biases = network.output()
        return torch.addmm(biases, network(moved, vectors, (lengths - 1).clamp(min=0)), vectors.T)


class HeadGraph(nn.Module):
    """(B, K) columns and values of sparse features, (B, D) dense ones, or both -> (B, L) logits."""

    def __init__(self, head: TextHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits; a row with fewer than K features has columns with value 0."""
        logits: Tensor = self.head.bias
        if self.head.wide is not None:
            columns, values = inputs[:2]
            logits = logits + torch.bmm(values[:, None], self.head.wide[columns])[:, 0]
        if self.head.weight is not None:
            logits = logits + self.head.hidden_of(inputs[-1]) @ self.head.weight.T
        return logits


class EncoderGraph(nn.Module):
    """(B, T) token numbers and their mask -> (B, D) vectors of mean square 1."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vectors."""
        vectors: Tensor = self.encoder({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
        return vectors * vectors.square().mean(1, keepdim=True).clamp(min=1e-24).rsqrt()


def write_ranking(network: ConcatMLP | CausalNetwork, path: Path, history: int) -> None:
    """Write the graph of a network with histories of up to `history` items; errors as in `write_graph`."""
    graph, rows, fixed = RankingGraph(network), torch.export.Dim("rows"), isinstance(network, ConcatMLP)
    items = torch.zeros(2, history if fixed else max(history, 2), dtype=torch.int64)[:, :history]
    sizes: dict[int, Any] = {0: rows}
    if not fixed and history > 1:
        sizes[1] = torch.export.Dim("length", max=history)
    write_graph(graph, path, {"items": items}, [sizes], "scores")


def write_head(head: TextHead, path: Path, width: int) -> None:
    """Write the graph of a head with `width` dense features per text, 0: none; errors as in `write_graph`."""
    rows, number = torch.export.Dim("rows"), torch.export.Dim("number")
    inputs, sizes = dict[str, Tensor](), list[dict[int, Any]]()
    if head.wide is not None:
        inputs = {"columns": torch.zeros(2, 3, dtype=torch.int64), "values": torch.ones(2, 3)}
        sizes = [{0: rows, 1: number}, {0: rows, 1: number}]
    if width:
        inputs["dense"] = torch.ones(2, width)
        sizes.append({0: rows})
    write_graph(HeadGraph(head), path, inputs, (tuple(sizes),), "scores")


def write_encoder(encoder: Any, path: Path) -> None:
    """Write the graph of a sentence encoder; errors as in `write_graph`, and any that its code raises."""
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=int(encoder.max_seq_length))
    ids = torch.randint(5, 100, (2, 7))
    sizes = [{0: rows, 1: length}, {0: rows, 1: length}]
    write_graph(EncoderGraph(encoder), path, {"ids": ids, "mask": torch.ones_like(ids)}, sizes, "vectors")


def write_graph(module: nn.Module, path: Path, inputs: dict[str, Tensor], sizes: Any, output: str) -> None:
    """Write a module as an ONNX file, and weights of more than WHOLE_BYTES as PATH.data next to it.

    Raises:
        ConfigError: the extra `export` is not installed.
    """
    need("onnx", "onnxscript")
    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    with _quiet(), torch.inference_mode(mode=False), torch.no_grad():
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple(sizes),
            dynamo=True,
            external_data=weights >= WHOLE_BYTES,
            verbose=False,
        )


def need(*packages: str) -> None:
    """Raise ConfigError if a package of the extra `export` is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {' and '.join(missing)}, which is not installed. Install it with "
            "`pip install 'hyperfocal[export]'`"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, whose warnings are about its next version."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
