"""A version as one ONNX graph: raw values in, probabilities or values out, and none of the model's code.

The graph holds what was learned about the inputs, the network, and what its outputs mean, in one file that is signed
with the others. `evergreen.training.graph_export` writes it; this module runs it, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import DataError
from evergreen.stored import Part, Stored

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

GRAPH, INT8, DESCRIPTION = "model.onnx", "model.int8.onnx", "graph.json"
NUMERIC, CATEGORICAL = "numeric", "categorical"
"""The graph's inputs: (rows, numbers) float64, and (rows, categories) strings. One without columns is left out."""
RESULT = {"binary": "probability", "multiclass": "probabilities", "regression": "prediction"}
"""The name of the graph's output, by task: (rows, outputs) float64."""
Value = str | int | float | bool | None


class Int8(Part):
    """What came of making the graph smaller."""

    metric: str
    """The one it was measured in: ``gate.metric``."""
    float32: float
    """What the graph came to on rows of the training window."""
    int8: float
    """What the smaller one did."""
    loss: float
    """How much worse that is; negative where it is better."""
    limit: float
    """What ``serving.int8_maximum_loss`` was."""
    kept: bool
    """Whether it is among the files, and answers: it loses little enough, and is smaller."""
    float32_bytes: int
    int8_bytes: int
    difference: float
    """The largest one between two answers to the same row, in units of the golden requests."""


class GraphDescription(Stored):
    """What a graph takes and gives; or why there is none."""

    numeric: tuple[str, ...] = ()
    """The inputs that are numbers, in the order of the graph's columns."""
    categorical: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    """The names of what it answers: ``probability``, ``prediction``, or the classes."""
    missing: str = ""
    """What stands for a category that is missing: a text that is none of the categories of the training window."""
    why: str = ""
    """Why there is no graph; empty where there is one."""
    int8: Int8 | None = None
    """None where no smaller one was asked for."""


@dataclass(frozen=True)
class Graph:
    """A graph that is loaded.

    Parameters
    ----------
    description
        What it takes and gives.
    session
        ONNX Runtime's; several threads may run it at once.
    """

    description: GraphDescription
    session: InferenceSession

    @classmethod
    def load(cls, files: Path, threads: int = 1, *, int8: bool | None = None) -> Graph:
        """Load the graph among a version's files.

        Parameters
        ----------
        files
            The files, verified.
        threads
            How many compute one call.
        int8
            Whether to take the smaller one; None: if it is there.

        Raises
        ------
        DataError
            If there is none, or it cannot be run.
        """
        smaller = (files / INT8).exists() if int8 is None else int8
        return cls.load_file(files / (INT8 if smaller else GRAPH), description_of(files), threads)

    @classmethod
    def load_file(cls, file: Path, description: GraphDescription, threads: int = 1) -> Graph:
        """Load a graph of which it is known what it takes and gives; raises what :meth:`load` does."""
        try:
            return cls(description, _session(file, threads))
        except Exception as error:  # ONNX Runtime has a dozen classes of them, and no common one
            hint = "Train the model again: evergreen models verify says whether its files are those that were signed."
            raise DataError(f"{file}: this is no graph that can be run: {str(error)[:500]}.", hint) from error

    @property
    def numeric(self) -> tuple[str, ...]:
        """The inputs that are numbers."""
        return self.description.numeric

    @property
    def categorical(self) -> tuple[str, ...]:
        """The inputs that are categories."""
        return self.description.categorical

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it answers."""
        return self.description.outputs

    def run(self, columns: Mapping[str, Sequence[Value]]) -> dict[str, np.ndarray]:
        """Return the answers to rows: by output, a float64 a row.

        Parameters
        ----------
        columns
            The values of every input, a value a row. Of a number None, nan and an infinite one are missing; of a
            category None and nan are, and 5, 5.0 and "5" are one.
        """
        import numpy as np

        rows = len(next(iter(columns.values())))
        if not rows:  # a network need not be able to answer nobody
            return {name: np.zeros(0) for name in self.outputs}
        feed: dict[str, np.ndarray] = {}
        if self.numeric:
            feed[NUMERIC] = np.empty((rows, len(self.numeric)))
            for index, name in enumerate(self.numeric):
                feed[NUMERIC][:, index] = np.array(columns[name], dtype=np.float64)  # None becomes nan
        if self.categorical:
            feed[CATEGORICAL] = np.empty((rows, len(self.categorical)), dtype=object)
            for index, name in enumerate(self.categorical):
                feed[CATEGORICAL][:, index] = self._texts(columns[name])
        (result,) = self.session.run(None, feed)
        return dict(zip(self.outputs, result.T, strict=True))

    def _texts(self, values: Sequence[Value]) -> list[str]:
        """Return categories as the graph is given them: half of a surrogate pair, which no file holds, is unknown."""
        missing = self.description.missing
        names = [missing if (name := category_name(value)) is None else name for value in values]
        try:
            "".join(names).encode()
        except UnicodeEncodeError:
            return [name.encode(errors="replace").decode() for name in names]
        return names


def description_of(files: Path) -> GraphDescription:
    """Return what is said of the graph among a version's files.

    Raises
    ------
    DataError
        If there is no graph, or what is said of it cannot be read.
    """
    path = files / DESCRIPTION
    if not path.exists():
        raise DataError(
            f"{files}: there is no {GRAPH}: the version was trained before graphs were exported, or where model.yaml "
            "says serving.enabled: false.",
            "Train the model again to serve it.",
        )
    try:
        description = GraphDescription.parse(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: {error}.", "Train the model again, or update what is to load it.") from error
    if description.why:
        raise DataError(
            f"{files}: there is no {GRAPH}: {description.why}.",
            "Change network.py so that torch.onnx.export takes it, and train the model again to serve it.",
        )
    return description


def category_name(value: Value) -> str | None:
    """Return a category as text, None where it is missing, as ``encoder.category_names`` does for a column of it."""
    if isinstance(value, str):
        return str(value)
    if value is None or value != value:
        return None
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and -(2.0**63) <= value < 2.0**63:
        return str(int(value))
    return f"{value:.15g}"


def _session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors alone
    # memory goes back after each call: requests of all sizes would make it keep the most that any of them took
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other models want the processor too
    return onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
