"""What an encoder does to raw columns, and to a network's outputs, as ONNX: the parts around an exported network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

from evergreen.training.encoder import CLIP, UNKNOWN, Encoder
from evergreen.training.graph import CATEGORICAL, NUMERIC, RESULT

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

OPSET = 18
"""What torch exports to without converting, and every ONNX Runtime since 1.14 runs."""
_IR, _ML_OPSET = 10, 3
NETWORK_NUMERIC, NETWORK_CATEGORICAL, NETWORK_OUTPUTS = "network_numeric", "network_categorical", "network_outputs"
"""What the network is given, and what it gives: the names at which the three parts are joined."""


def missing_marker(encoder: Encoder) -> str:
    """Return a text that is no category of any input: it stands for those that are missing, which are unknown too."""
    taken = {name for names in encoder.vocabulary.values() for name in names}
    marker = ""
    while marker in taken:
        marker += "?"
    return marker


def encoder_part(encoder: Encoder) -> ModelProto:
    """Return ``Encoder.encode`` as a graph: raw values to the float32 and int64 inputs of the network."""
    from onnx import TensorProto, helper

    inputs, nodes, constants = [], [], []
    for name, kind, columns, build in (
        (NUMERIC, TensorProto.DOUBLE, encoder.mean, _numbers),
        (CATEGORICAL, TensorProto.STRING, encoder.vocabulary, _categories),
    ):
        if columns:
            inputs.append(helper.make_tensor_value_info(name, kind, ["rows", len(columns)]))
            made, used = build(encoder)
            nodes += made
            constants += used
    for name, columns in ((NETWORK_NUMERIC, encoder.mean), (NETWORK_CATEGORICAL, encoder.vocabulary)):
        if not columns:  # as wide as nothing, and as long as the other
            made, used = _nothing(inputs[0].name, name)
            nodes += made
            constants += used
    schema = encoder.schema
    outputs = [
        helper.make_tensor_value_info(NETWORK_NUMERIC, TensorProto.FLOAT, ["rows", len(schema["numeric"])]),
        helper.make_tensor_value_info(NETWORK_CATEGORICAL, TensorProto.INT64, ["rows", len(schema["categorical"])]),
    ]
    return _model(helper.make_graph(nodes, "encoder", inputs, outputs, constants))


def _numbers(encoder: Encoder) -> tuple[list[NodeProto], list[TensorProto]]:
    """Standardise in float64, as pandas has it, and round to float32 at the end."""
    from onnx import TensorProto, helper

    node, double, size = helper.make_node, TensorProto.DOUBLE, [len(encoder.mean)]
    constants = [
        helper.make_tensor("mean", double, size, [*encoder.mean.values()]),
        helper.make_tensor("scale", double, size, [*encoder.scale.values()]),
        helper.make_tensor("zero", double, [], [0.0]),
        helper.make_tensor("lowest", double, [], [-CLIP]),
        helper.make_tensor("highest", double, [], [CLIP]),
    ]
    nodes = [
        node("IsNaN", [NUMERIC], ["is_nan"]),
        node("IsInf", [NUMERIC], ["is_infinite"]),
        node("Or", ["is_nan", "is_infinite"], ["is_missing"]),
        node("Sub", [NUMERIC, "mean"], ["centered"]),
        node("Div", ["centered", "scale"], ["scaled"]),
        node("Where", ["is_missing", "zero", "scaled"], ["filled"]),
        node("Clip", ["filled", "lowest", "highest"], ["clipped"]),
        node("Cast", ["clipped"], ["standardised" if encoder.indicators else NETWORK_NUMERIC], to=TensorProto.FLOAT),
    ]
    if encoder.indicators:
        places = [[*encoder.mean].index(name) for name in encoder.indicators]
        constants.append(helper.make_tensor("indicated", TensorProto.INT64, [len(places)], places))
        nodes += [
            node("Gather", ["is_missing", "indicated"], ["missing"], axis=1),
            node("Cast", ["missing"], ["indicators"], to=TensorProto.FLOAT),
            node("Concat", ["standardised", "indicators"], [NETWORK_NUMERIC], axis=1),
        ]
    return nodes, constants


def _categories(encoder: Encoder) -> tuple[list[NodeProto], list[TensorProto]]:
    """Look every text up in its column's vocabulary."""
    from onnx import TensorProto, helper

    nodes, constants, indices = [], [], []
    for place, names in enumerate(encoder.vocabulary.values()):
        column, text, index = f"column_{place}", f"text_{place}", f"index_{place}"
        constants.append(helper.make_tensor(column, TensorProto.INT64, [1], [place]))
        known = {name: number for number, name in enumerate(names, start=UNKNOWN + 1)}
        known = known or {missing_marker(encoder): UNKNOWN}  # a look-up must have something to find
        lookup = helper.make_node("LabelEncoder", [text], [index], domain="ai.onnx.ml", default_int64=UNKNOWN)
        for attribute, values in (("keys_strings", [*known]), ("values_int64s", [*known.values()])):
            lookup.attribute.append(helper.make_attribute(attribute, values))
        nodes += [helper.make_node("Gather", [CATEGORICAL, column], [text], axis=1), lookup]
        indices.append(index)
    return [*nodes, helper.make_node("Concat", indices, [NETWORK_CATEGORICAL], axis=1)], constants


def _nothing(given: str, name: str) -> tuple[list[NodeProto], list[TensorProto]]:
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT if name == NETWORK_NUMERIC else TensorProto.INT64
    nodes = [
        helper.make_node("Shape", [given], ["height"], start=0, end=1),
        helper.make_node("Concat", ["height", "width"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], [name], value=helper.make_tensor("nothing", kind, [1], [0])),
    ]
    return nodes, [helper.make_tensor("width", TensorProto.INT64, [1], [0])]


def decoder_part(encoder: Encoder) -> ModelProto:
    """Return ``Encoder.decode`` as a graph: the network's outputs to what the model says, in float64."""
    from onnx import TensorProto, helper

    node, result, width = helper.make_node, RESULT[encoder.task], encoder.schema["outputs"]
    nodes, constants = [node("Cast", [NETWORK_OUTPUTS], ["wide"], to=TensorProto.DOUBLE)], []
    if encoder.task == "binary":
        nodes.append(node("Sigmoid", ["wide"], [result]))
    elif encoder.task == "multiclass":
        nodes.append(node("Softmax", ["wide"], [result], axis=1))
    else:
        nodes += [node("Mul", ["wide", "spread"], ["spread_out"]), node("Add", ["spread_out", "center"], [result])]
        constants = [
            helper.make_tensor(name, TensorProto.DOUBLE, [], [value])
            for name, value in (("spread", encoder.target_scale), ("center", encoder.target_mean))
        ]
    given = helper.make_tensor_value_info(NETWORK_OUTPUTS, TensorProto.FLOAT, ["rows", width])
    said = helper.make_tensor_value_info(result, TensorProto.DOUBLE, ["rows", width])
    return _model(helper.make_graph(nodes, "decoder", [given], [said], constants))


def joined(encoder: Encoder, network: ModelProto) -> ModelProto:
    """Return encoder, network and decoder as one graph, which says nothing of the machine that made it."""
    from onnx import checker, compose

    _forget(network)
    network = compose.add_prefix(network, "network.", rename_inputs=False, rename_outputs=False)
    model = compose.merge_models(encoder_part(encoder), network, _same(NETWORK_NUMERIC, NETWORK_CATEGORICAL))
    model = compose.merge_models(model, decoder_part(encoder), _same(NETWORK_OUTPUTS))
    model.graph.name = "model"
    checker.check_model(model, full_check=True)
    return model


def _forget(part: Message) -> None:
    """Remove what was noted of where a part comes from: the exporter keeps stack traces, with the paths of files."""
    for field, value in part.ListFields():
        if field.name in {"metadata_props", "doc_string"}:
            part.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for inner in value if isinstance(value, Sequence) else [value]:
                _forget(inner)


def _same(*names: str) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def _model(graph: GraphProto) -> ModelProto:
    from onnx import helper

    versions = [helper.make_opsetid(*version) for version in (("", OPSET), ("ai.onnx.ml", _ML_OPSET))]
    return helper.make_model(graph, opset_imports=versions, ir_version=_IR)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what exporter and quantizer say of their own parts, and of what they will raise anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
