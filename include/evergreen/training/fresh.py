"""A process of its own that loads a model from its verified files, and answers its golden requests, by its graph too.

``python -m evergreen.training.fresh FILES ANSWERS``: started by `evergreen.training.golden`, and by nobody else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from evergreen.training.golden import NETWORK, read_golden
from evergreen.training.graph import GRAPH, INT8, Graph
from evergreen.training.loading import read_model
from evergreen.trust.statement import Bound, Statement


def answer(files: Path, answers: Path) -> None:
    """Write what a model, and each graph of it, answers to its golden requests, and to a row of nothing known."""
    import pandas as pd

    unbound = Statement(files={}, bound=Bound(model="", run_id="", logged_model=""))  # who asks has verified it
    scorer = read_model(files, str(files), unbound)
    golden = read_golden(files)
    requests = pd.DataFrame(golden.inputs, dtype=object) if golden else pd.DataFrame()
    asked = pd.concat([requests, scorer.nothing_known()], ignore_index=True)
    said = {NETWORK: scorer.predict(asked).to_dict("list")}
    for file in (GRAPH, INT8):
        if (files / file).exists():
            graph = Graph.load(files, int8=file == INT8)
            said[file] = {name: values.tolist() for name, values in graph.run(asked.to_dict("list")).items()}
    answers.write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    answer(Path(sys.argv[1]), Path(sys.argv[2]))
