"""The Open Inference Protocol V2: tensors in and out, as KServe's and Triton's clients send them.

https://github.com/kserve/open-inference-protocol, with its extension for binary tensors: their bytes stand
behind the JSON.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evergreen.serving.answers import Answer
from evergreen.serving.requests import Column, InvalidRequestError, Problem, Rows
from evergreen.serving.validation import Checker, shown

DATATYPES = {"number": "FP64", "category": "BYTES", "string": "BYTES", "integer": "INT64"}
"""Kind of a column -> the type that the model's description names; every other that fits is taken too."""
TEXTS = ("prediction_id", "variant", "version")
"""Outputs that every answer has, beside the model's own."""
_NUMPY = {
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    "BOOL": "|b1",
}
_LENGTH = struct.Struct("<I")


def describe(name: str, columns: Sequence[Column], outputs: Sequence[str], versions: Sequence[str]) -> dict[str, Any]:
    """Return a model's metadata."""
    answered = [(output, "FP64") for output in outputs] + [(text, "BYTES") for text in TEXTS]
    return {
        "name": name,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": one.name, "datatype": DATATYPES[one.kind], "shape": [-1]} for one in columns],
        "outputs": [{"name": output, "datatype": datatype, "shape": [-1]} for output, datatype in answered],
    }


@dataclass(frozen=True)
class Inference:
    """One request, read."""

    rows: Rows
    identity: str | None
    wanted: Sequence[str] | None
    """The outputs that it asks for; None is all."""
    binary: frozenset[str] | bool
    """Those it wants as bytes, or whether it wants all so."""

    def is_binary(self, output: str) -> bool:
        """Tell whether an output is to be sent as bytes."""
        return self.binary if isinstance(self.binary, bool) else output in self.binary


def read(checker: Checker, header: object, tail: bytes, outputs: Sequence[str]) -> Inference:
    """Return a request's rows, and what it wants of the answer.

    Parameters
    ----------
    checker
        Of the model.
    header
        The JSON part, parsed.
    tail
        The bytes behind it: the tensors that say so, in their order.
    outputs
        Of the model; none while nothing answers.

    Raises
    ------
    InvalidRequestError
        If tensors are missing, unknown, of another shape, or hold what the model does not take, or if an output is
        asked for that the model has not.
    RefusedError
        If there are more rows than the model takes.
    """
    if not isinstance(header, Mapping) or not isinstance(header.get("inputs"), list):
        raise _wrong("inputs", None, "a list of tensors, each with name, shape, datatype and data")
    values = dict(_tensors(header["inputs"], tail))
    if problems := checker.misnamed(values):
        raise InvalidRequestError(problems)
    counts = {name: len(column) for name, column in values.items()}
    if len(set(counts.values())) != 1 or not max(counts.values()):
        raise _wrong("inputs", str(counts), "tensors of one length, of one row or more")
    checker.check_count(max(counts.values()))
    asked = header.get("parameters")
    parameters: Mapping[str, Any] = asked if isinstance(asked, Mapping) else {}
    wanted, binary = _wanted(header.get("outputs"), outputs)
    identity = header.get("id")
    if not isinstance(identity, str | None):
        raise _wrong("id", identity, "text")
    return Inference(
        rows=checker.by_column(values, parameters.get("event_timestamp")),
        identity=identity,
        wanted=wanted,
        binary=binary if wanted is not None else bool(parameters.get("binary_data_output")),
    )


def write(name: str, inference: Inference, answers: Sequence[Answer]) -> tuple[dict[str, Any], bytes]:
    """Return the JSON part of an answer, and the bytes behind it.

    The versions that answered may know different classes: what one of them has not, is NaN in its rows.
    """
    wanted = inference.wanted
    if wanted is None:
        wanted = (*dict.fromkeys(output for one in answers for output in one.outputs), *TEXTS)
    columns: dict[str, Sequence[Any]] = {
        output: [getattr(one, output) if output in TEXTS else one.outputs.get(output, math.nan) for one in answers]
        for output in wanted
    }
    tensors, tail = [], b""
    for output in wanted:
        is_text = output in TEXTS
        tensor: dict[str, Any] = {"name": output, "datatype": "BYTES" if is_text else "FP64", "shape": [len(answers)]}
        if inference.is_binary(output):
            content = _bytes_of(columns[output]) if is_text else struct.pack(f"<{len(answers)}d", *columns[output])
            tensor["parameters"] = {"binary_data_size": len(content)}
            tail += content
        else:
            tensor["data"] = columns[output]
        tensors.append(tensor)
    versions = list(dict.fromkeys(one.version for one in answers))
    answer: dict[str, Any] = {"model_name": name, "model_version": ",".join(versions), "outputs": tensors}
    return (answer | {"id": inference.identity} if inference.identity else answer), tail


def _wanted(asked: object, outputs: Sequence[str]) -> tuple[Sequence[str] | None, frozenset[str]]:
    """Return the outputs that a request asks for, None for all, and those it wants as bytes."""
    if asked is None or asked == []:
        return None, frozenset()
    if not isinstance(asked, list) or not all(isinstance(one, Mapping) for one in asked):
        raise _wrong("outputs", None, "a list of objects with a name")
    known, wanted, binary = (*outputs, *TEXTS), [], set()
    for one in asked:
        name, parameters = one.get("name"), one.get("parameters") or {}
        if not isinstance(name, str) or (outputs and name not in known):
            raise _wrong("outputs", name, f"one of {', '.join(known)}")
        if not isinstance(parameters, Mapping):
            raise _wrong("outputs", name, "parameters that are an object")
        wanted.append(name)
        if parameters.get("binary_data"):
            binary.add(name)
    return wanted, frozenset(binary)


def _tensors(inputs: Sequence[object], tail: bytes) -> Iterator[tuple[str, list[object]]]:
    taken, seen = 0, set()
    for tensor in inputs:
        if not isinstance(tensor, Mapping) or not isinstance(tensor.get("name"), str):
            raise _wrong("inputs", None, "tensors with a name")
        name, datatype = tensor["name"], tensor.get("datatype")
        if name in seen:
            raise _wrong(name, None, "one tensor of each name")
        seen.add(name)
        if not isinstance(datatype, str) or datatype not in {*_NUMPY, "BYTES"}:
            raise _wrong(name, datatype, f"a datatype of {', '.join([*_NUMPY, 'BYTES'])}")
        count = _count(name, tensor.get("shape"))
        parameters = tensor.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, Mapping) else None
        if size is None:
            values = _flat(tensor.get("data"))
        else:
            if not isinstance(size, int) or not 0 <= size <= len(tail) - taken:
                raise _wrong(name, size, f"at most the {len(tail) - taken} bytes that are left")
            values = _of_bytes(name, datatype, tail[taken : taken + size])
            taken += size
        if len(values) != count:
            raise _wrong(name, len(values), f"as many values as its shape says: {count}")
        yield name, values


def _count(name: str, shape: object) -> int:
    """Return how many rows a shape of ``[n]`` or ``[n, 1]`` is."""
    if (
        isinstance(shape, list)
        and shape
        and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in shape)
        and shape[1:] in ([], [1])
    ):
        return int(shape[0])
    raise _wrong(name, shape, "the shape [rows], or [rows, 1]")


def _flat(data: object) -> list[object]:
    if not isinstance(data, list):
        return []
    return [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]


def _of_bytes(name: str, datatype: str, content: bytes) -> list[object]:
    """Return the values of a binary tensor; a number that is none is missing."""
    import numpy as np

    if datatype == "BYTES":
        return list(_texts(name, content))
    kind = np.dtype(_NUMPY[datatype])
    if len(content) % kind.itemsize:
        raise _wrong(name, len(content), f"whole values of {kind.itemsize} bytes")
    values: list[object] = np.frombuffer(content, kind).tolist()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def _texts(name: str, content: bytes) -> Iterator[str]:
    place = 0
    while place < len(content):
        end = place + _LENGTH.size
        length = _LENGTH.unpack(content[place:end])[0] if end <= len(content) else len(content)
        if end + length > len(content):
            raise _wrong(name, None, "each text behind its length in four bytes")
        try:
            yield content[end : end + length].decode()
        except UnicodeDecodeError:
            raise _wrong(name, None, "text in UTF-8") from None
        place = end + length


def _bytes_of(texts: Sequence[str]) -> bytes:
    return b"".join(_LENGTH.pack(len(text.encode())) + text.encode() for text in texts)


def _wrong(column: str, value: object, expected: str) -> InvalidRequestError:
    return InvalidRequestError([Problem(None, column[:80], shown(value), expected)])
