"""Exports a trained model as one ONNX graph, which is kept only if it answers as the network does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import described, is_stop
from evergreen.spec import ModelSpec
from evergreen.training.encoder import Encoder, load, predict
from evergreen.training.golden import TOLERANCE
from evergreen.training.graph import DESCRIPTION, GRAPH, INT8, Graph, GraphDescription
from evergreen.training.graph_int8 import Metric, write_int8
from evergreen.training.graph_parts import (
    NETWORK_CATEGORICAL,
    NETWORK_NUMERIC,
    NETWORK_OUTPUTS,
    OPSET,
    joined,
    missing_marker,
    quiet,
)
from evergreen.training.graph_rows import differences, edge_rows

if TYPE_CHECKING:
    import pandas as pd
    from onnx import ModelProto

log = logging.getLogger(__name__)

GRAPH_REFUSED, INT8_LOSS, INT8_REFUSED = "graph_refused", "int8_loss", "int8_refused"
"""Facts of a model: why it has no graph; what its smaller graph loses; why that is not among its files."""
_LONGEST_WHY = 500
_EXAMPLE_ROWS = 7
"""What the exporter is shown; it takes a number of rows that it meets elsewhere, like 1, for one that never changes."""


def write_graph(folder: Path, spec: ModelSpec, frame: pd.DataFrame, metric: Metric) -> dict[str, str]:
    """Add the graph of a model to its files, or the reason why it has none: a training does not fail for it.

    Parameters
    ----------
    folder
        The other files of the model.
    spec
        The model.
    frame
        The rows that it was trained with.
    metric
        By which a smaller graph is measured, where model.yaml asks for one.

    Returns
    -------
    dict
        The facts that are to be known of it.
    """
    facts = {}
    try:
        encoder, network = load(folder)
        exported = exported_network(encoder, network)
        description = _write(folder, encoder, network, exported, frame)
    except BaseException as error:  # the network is anybody's code, and so are the exporter's thousand operators
        cause = _cause(error)
        description = GraphDescription(why=_why(cause))
        facts = {GRAPH_REFUSED: description.why}
        (folder / GRAPH).unlink(missing_ok=True)
        log.warning("the model has no graph, and cannot be served: %s", description.why, exc_info=cause)
    else:
        if spec.serving.int8_maximum_loss is not None:
            description, facts = _smaller(folder, spec, encoder, exported, description, frame, metric)
    (folder / DESCRIPTION).write_text(description.model_dump_json(), encoding="utf-8")
    return facts


def _write(folder: Path, encoder: Encoder, network: Any, exported: ModelProto, frame: pd.DataFrame) -> GraphDescription:
    """Write the graph and return what it takes and gives.

    Raises
    ------
    ValueError
        If it does not answer as the network does.
    """
    import numpy as np

    description = GraphDescription(
        numeric=tuple(encoder.mean),
        categorical=tuple(encoder.vocabulary),
        outputs=tuple(encoder.decode(np.zeros((1, encoder.schema["outputs"])))),
        missing=missing_marker(encoder),
    )
    (folder / GRAPH).write_bytes(joined(encoder, exported).SerializeToString(deterministic=True))
    graph = Graph.load_file(folder / GRAPH, description)
    rows = edge_rows(encoder, frame)
    for asked in (rows, rows.head(1)):  # a network may do something else to a single row
        expected, got = predict(network, encoder, asked), graph.run(asked.to_dict("list"))
        apart = differences(encoder, expected, got)
        if (worst := float(apart.max())) > TOLERANCE:
            raise ValueError(f"among {len(asked)} row(s), it differs from the network by {worst:.3g}")
    return description


def _smaller(
    folder: Path,
    spec: ModelSpec,
    encoder: Encoder,
    exported: ModelProto,
    description: GraphDescription,
    frame: pd.DataFrame,
    metric: Metric,
) -> tuple[GraphDescription, dict[str, str]]:
    """Make the smaller graph, if that can be; whatever becomes of it, the model has its graph."""
    try:
        int8 = write_int8(folder, spec, encoder, exported, description, frame, metric)
    except BaseException as error:
        (folder / INT8).unlink(missing_ok=True)
        cause = _cause(error)
        why = _why(cause)
        log.warning("the model has no int8 graph: %s", why, exc_info=cause)
        return description, {INT8_REFUSED: why}
    facts = {INT8_LOSS: repr(int8.loss)}
    if not int8.kept:
        loss = f"{int8.metric} loses {int8.loss:.4g}, and may lose {int8.limit:.4g}"
        facts[INT8_REFUSED] = f"{loss}; it has {int8.int8_bytes} bytes, and {int8.float32_bytes} as float32"
    return description.model_copy(update={"int8": int8}), facts


def _cause(error: BaseException) -> BaseException:
    """Return what came first: the exporter's own errors speak of its steps, and how to report them."""
    if is_stop(error):
        raise error
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _why(cause: BaseException) -> str:
    return described(cause).partition("\n")[0][:_LONGEST_WHY]


def exported_network(encoder: Encoder, network: Any) -> ModelProto:
    """Return a network alone as a graph, for any number of rows."""
    import torch

    network.eval()
    example = (
        torch.zeros(_EXAMPLE_ROWS, len(encoder.schema["numeric"])),
        torch.zeros(_EXAMPLE_ROWS, len(encoder.schema["categorical"]), dtype=torch.int64),
    )
    rows = torch.export.Dim("rows")
    with quiet():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            dynamic_shapes=({0: rows}, {0: rows}),
            input_names=[NETWORK_NUMERIC, NETWORK_CATEGORICAL],
            output_names=[NETWORK_OUTPUTS],
            verbose=False,
        )
    model: ModelProto = program.model_proto
    return model
