"""Golden requests: what a network answered in the process that trained it, and whether it does so in a fresh one.

A network may lean on more than the weights that are saved: a buffer that is not persistent, a value of its module, a
seed. In the process that trained it nobody notices. So the answers to some training rows are recorded there, beside
the weights, and asked for again wherever nothing but the model's files is left.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from evergreen.environment import computing_environment
from evergreen.stored import Stored
from evergreen.training.graph import GRAPH, INT8, description_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from evergreen.training.encoder import Encoder

FILE = "golden.json"
_ROWS = 20
NETWORK = "network"
"""Under this name a fresh process writes what the network answers, beside the names of graphs and what they do."""
TOLERANCE = 1e-5
"""Of a probability, or of the label's standard deviation: what another processor makes of float32 is less. Of an answer
that is further than that from the label's mean: of this distance, because float32 rounds in proportion."""

_INT8_TIMES = 2
"""So many times the difference that was found of the int8 graph may be found again: its scales come from the rows that
are computed together, and these are others."""


class Golden(Stored):
    """Raw rows of the training window, and what the network answered."""

    inputs: dict[str, tuple[float | str | None, ...]]
    """The raw values of each input, a value a row."""
    answers: dict[str, tuple[float | None, ...]]
    """What each output came to, a value a row; None where it was not finite."""
    unit: float = 1.0
    """Of an answer: 1 of a probability, the label's standard deviation of a regression."""
    center: float | None = None
    """What a network gives as 0: the label's mean of a regression; None where it was not kept."""

    @classmethod
    def of(cls, encoder: Encoder, frame: pd.DataFrame, outputs: np.ndarray) -> Golden:
        """Return the golden requests of a training frame, with what the network gave for them.

        Parameters
        ----------
        encoder, frame
            What was learned about the inputs, and the training rows.
        outputs
            (:func:`golden_rows`, outputs) as :func:`outputs_of` returned them where the network was trained.
        """
        from evergreen.training.encoder import category_names

        rows = frame.iloc[golden_rows(len(frame))]
        numbers = {name: _finite(rows[name].astype("Float64")) for name in encoder.mean}
        texts = {name: tuple(category_names(rows[name])) for name in encoder.vocabulary}
        answers = encoder.decode(outputs)
        said = {name: _finite(answers[name]) for name in answers}
        known = {"unit": encoder.target_scale, "center": encoder.target_mean}
        return cls(inputs={**numbers, **texts}, answers=said, **known)

    @property
    def rows(self) -> int:
        """How many requests there are."""
        return len(next(iter(self.inputs.values())))

    def with_nothing_known(self, answers: Mapping[str, Sequence[float]]) -> Golden:
        """Return the same with one more row, of which nothing is known; ``answers`` ends with those to it."""
        inputs = {name: (*values, None) for name, values in self.inputs.items()}
        last = {name: answers[name][-1] for name in self.answers}
        said = {name: (*self.answers[name], value if math.isfinite(value) else None) for name, value in last.items()}
        return self.model_copy(update={"inputs": inputs, "answers": said})

    def difference(self, answers: Mapping[str, Sequence[float]], tolerance: float = TOLERANCE) -> str:
        """Return the first answer that is another than it was, in words; empty if there is none."""
        for row in range(self.rows):
            known = any(values[row] is not None for values in self.inputs.values())
            where = f"row {row + 1} of {FILE}" if known else "a row of nothing known"
            for name, values in self.answers.items():
                expected, got = values[row], answers[name][row] if name in answers else math.nan
                if not self._same(expected, got, tolerance):
                    return f"{where}: {name}: expected {expected!r}, as in training, got {got!r}"
        return ""

    def _same(self, expected: float | None, got: float, tolerance: float) -> bool:
        if expected is None:
            return not math.isfinite(got)
        far = abs(expected - self.center) if self.center is not None else 0.0
        return abs(got - expected) <= tolerance * max(self.unit, far)


def _finite(column: pd.Series) -> tuple[float | None, ...]:
    import numpy as np

    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return tuple(float(value) if math.isfinite(value) else None for value in values)


def golden_rows(count: int) -> np.ndarray:
    """Return the positions of the golden rows among so many: evenly taken, the first and the last among them."""
    import numpy as np

    return np.unique(np.linspace(0, count - 1, min(_ROWS, count)).astype(int))


def outputs_of(network: Any, numeric: np.ndarray, categorical: np.ndarray) -> Any:
    """Return what a network that is done with learning gives for the golden rows, on the CPU: a tensor.

    The network stays where that leaves it: on the CPU, in the mode of predictions.
    """
    import torch

    rows = golden_rows(len(numeric))
    network.cpu().eval()
    with torch.no_grad():
        return network(torch.from_numpy(numeric[rows]), torch.from_numpy(categorical[rows])).clone()


def found_wrong(files: Path) -> str:
    """Return what is wrong with a model's files as a fresh process finds them, in words; empty if nothing is.

    The process knows nothing of this one, and is handed no secret: a model's code runs there. It loads the model, asks
    about a row of which nothing is known, and asks the golden requests; a model of before there were any has none. The
    same is asked of the graph, of a model that has one.

    Parameters
    ----------
    files
        The model's files, verified.

    Raises
    ------
    MemoryError
        If there is not enough of it to load the model.
    """
    golden = read_golden(files)
    with TemporaryDirectory() as place:
        path = Path(place) / "answers.json"
        command = [sys.executable, "-m", "evergreen.training.fresh", str(files.absolute()), str(path)]
        done = subprocess.run(
            command, env=computing_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        if done.returncode == -SIGKILL:
            raise MemoryError("a process that loads the model was killed")
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            return f"does not load: {said or f'its process ended with {done.returncode}'}"
        answers = json.loads(path.read_text(encoding="utf-8"))
    return _differs(files, golden, answers) if golden else ""


def _differs(files: Path, golden: Golden, answers: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return which of a fresh process's answers is not what training had: the network's, or a graph's."""
    if difference := golden.difference(answers[NETWORK]):
        return f"does not answer as it did: {difference}"
    asked = golden.with_nothing_known(answers[NETWORK])
    if GRAPH in answers and (difference := asked.difference(answers[GRAPH])):
        return f"its graph does not answer as the network did: {difference}"
    smaller = description_of(files).int8 if INT8 in answers else None
    if smaller and (difference := asked.difference(answers[INT8], _INT8_TIMES * max(smaller.difference, TOLERANCE))):
        return f"its int8 graph is further from the network than it was when it was made: {difference}"
    return ""


def read_golden(files: Path) -> Golden | None:
    """Return the golden requests among a model's files; None of a model of before there were any."""
    path = files / FILE
    return Golden.parse(path.read_bytes()) if path.exists() else None
