"""A process of its own that loads a model from its verified files, and answers its golden requests.

``python -m evergreen.training.fresh FILES ANSWERS``: started by `evergreen.training.golden`, and by nobody else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from evergreen.training.golden import read_golden
from evergreen.training.loading import read_model
from evergreen.trust.statement import Bound, Statement


def answer(files: Path, answers: Path) -> None:
    """Write what a model answers to its golden requests; without any it must answer to a row of nothing known."""
    import pandas as pd

    unbound = Statement(files={}, bound=Bound(model="", run_id="", logged_model=""))  # who asks has verified it
    scorer = read_model(files, str(files), unbound)
    scorer.predict(scorer.nothing_known())
    golden = read_golden(files)
    said = scorer.predict(pd.DataFrame(golden.inputs, dtype=object)).to_dict("list") if golden else {}
    answers.write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    answer(Path(sys.argv[1]), Path(sys.argv[2]))
