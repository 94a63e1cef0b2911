"""What names a reference: what its inputs were like, and nothing else."""

from __future__ import annotations

import pytest

from corpus_kit import CORPUS
from evergreen.monitoring.baseline import DriftBaseline
from evergreen.monitoring.comparison import reference_digest

BASELINES = CORPUS / "v2" / "DriftBaseline"


@pytest.fixture
def baseline() -> DriftBaseline:
    return DriftBaseline.parse((BASELINES / "learned.json").read_bytes())


def test_a_baseline_has_the_name_it_had_when_it_was_written(baseline: DriftBaseline) -> None:
    """A check that is cleared after an update must find its proposal answered."""
    assert reference_digest(baseline) == "111c91bc7da616c4"


def test_neither_labels_nor_predictions_name_a_reference_and_inputs_do(baseline: DriftBaseline) -> None:
    labelled = DriftBaseline.parse((BASELINES / "labelled.json").read_bytes())
    assert labelled.concept is not None
    silent = {name: column for name, column in baseline.columns.items() if name != "prediction"}
    for same in ({"concept": labelled.concept}, {"columns": silent}):
        assert reference_digest(baseline.model_copy(update=same)) == reference_digest(baseline)
    assert reference_digest(baseline.model_copy(update={"columns": {"x": baseline.columns["x"]}})) != reference_digest(
        baseline
    )
