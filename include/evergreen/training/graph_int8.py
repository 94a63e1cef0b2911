"""A smaller graph: weights as 8-bit integers, kept only if ``gate.metric`` loses no more than model.yaml allows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from evergreen.spec import Direction, ModelSpec
from evergreen.training.encoder import Encoder
from evergreen.training.graph import GRAPH, INT8, Graph, GraphDescription, Int8
from evergreen.training.graph_parts import joined, quiet
from evergreen.training.graph_rows import differences, evenly, plain

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from onnx import ModelProto

log = logging.getLogger(__name__)

Metric = Callable[[ModelSpec, "pd.DataFrame", "pd.DataFrame"], float]
"""Gives ``gate.metric`` of a model, labelled rows and predictions of them."""
_ROWS = 20_000


def write_int8(
    folder: Path,
    spec: ModelSpec,
    encoder: Encoder,
    network: ModelProto,
    description: GraphDescription,
    frame: pd.DataFrame,
    metric: Metric,
) -> Int8:
    """Make the smaller graph, measure both on rows of the training window, and keep it if it loses little enough.

    All rows are computed together, and so are scaled by the most extreme of them: the coarsest there is.

    Raises
    ------
    ValueError
        If there is nothing to compare: an answer or the metric is not a number.
    """
    file = folder / INT8
    file.write_bytes(joined(encoder, _quantized(network)).SerializeToString(deterministic=True))
    rows = frame.iloc[evenly(len(frame), _ROWS)]
    columns = plain(encoder, rows).to_dict("list")
    answers = [Graph.load_file(folder / name, description).run(columns) for name in (GRAPH, INT8)]
    found = _compared(spec, encoder, rows, answers, metric, [(folder / name).stat().st_size for name in (GRAPH, INT8)])
    if not found.kept:
        file.unlink()
    kept = "kept" if found.kept else "not kept"
    log.info("int8: %s %.4f, and %.4f as float32: %s", found.metric, found.int8, found.float32, kept)
    return found


def _compared(
    spec: ModelSpec,
    encoder: Encoder,
    rows: pd.DataFrame,
    answers: Sequence[Mapping[str, np.ndarray]],
    metric: Metric,
    sizes: Sequence[int],
) -> Int8:
    """Return what the second answers lose against the first, and whether that is little enough."""
    import pandas as pd

    said = [pd.DataFrame(answer, index=rows.index) for answer in answers]
    float32, int8 = (metric(spec, rows, predicted) for predicted in said)
    loss = float32 - int8 if spec.gate.direction is Direction.MAXIMIZE else int8 - float32
    difference, limit = float(differences(encoder, said[0], answers[1]).max()), spec.serving.int8_maximum_loss
    if not (math.isfinite(loss) and math.isfinite(difference)):
        raise ValueError(f"{spec.gate.metric} is {int8}, and {float32} as float32; an answer differs by {difference}")
    return Int8(
        metric=spec.gate.metric,
        float32=float32,
        int8=int8,
        loss=loss,
        limit=limit or 0.0,
        kept=loss <= (limit or 0.0) and sizes[1] < sizes[0],
        float32_bytes=sizes[0],
        int8_bytes=sizes[1],
        difference=difference,
    )


def _quantized(network: ModelProto) -> ModelProto:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as place, quiet():
        file = Path(place) / INT8
        # 7 of the 8 bits: sums of products overflow on processors without VNNI, and would give other answers there
        quantize_dynamic(network, file, weight_type=QuantType.QInt8, reduce_range=True)
        return onnx.load(file)
