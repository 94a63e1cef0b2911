"""What labels are compared with: the counts that were stored with the version, else the rows that it learned from."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from concept_kit import LABEL, World, concept_spec
from drift_kit import draw
from evergreen.contract import Window
from evergreen.handover import file_digest
from evergreen.monitoring.baseline import DriftBaseline
from evergreen.monitoring.concept import compare_concept
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.reference import concept_reference
from evergreen.monitoring.relations import with_concept
from evergreen.settings import Settings
from evergreen.spec import ModelSpec, Task
from evergreen.store import get_store
from evergreen.training.registry import Version

SPEC = concept_spec()
RNG = np.random.default_rng(0)
LEARNED, NOW = (World().labelled(RNG, frame) for frame in draw(RNG, 1000))
TURNED = World(turned=("normal",)).labelled(RNG, NOW)


def learned(spec: ModelSpec = SPEC) -> DriftBaseline:
    return with_concept(spec, learn_reference(spec, LEARNED), LEARNED)


def version(baseline: DriftBaseline | None, rows: pd.DataFrame | None = None) -> Version:
    tags = {"training_start": "2024-01-01", "training_end": "2024-04-29"}
    if baseline is not None:
        content = baseline.model_dump_json().encode()
        tags["baseline_uri"] = get_store().write("runs/r/train/baseline.json", content)
        tags["baseline_digest"] = file_digest(content)
    if rows is not None:
        file = io.BytesIO()
        rows.to_parquet(file)
        tags["dataset_uri"] = get_store().write("datasets/d/training.parquet", file.getvalue())
    return Version("flight_delay", "7", "run", tags)


def unread(window: Window) -> pd.DataFrame:
    raise AssertionError(f"{window} was read again")


def renamed() -> ModelSpec:
    """The model, whose label has another name today."""
    examples = SPEC.features.examples.model_copy(update={"label": "very_late"})
    return SPEC.model_copy(update={"features": SPEC.features.model_copy(update={"examples": examples})})


def test_the_counts_that_were_stored_with_the_version_are_the_reference(settings: Settings) -> None:
    found, files = concept_reference(SPEC, version(learned()), unread)
    assert found == learned()
    assert [file.name for file in files] == ["baseline"]
    assert compare_concept(SPEC, found, TURNED).changed == ["normal"]
    assert compare_concept(SPEC, found, NOW).changed == []


def test_a_version_of_before_they_were_stored_is_counted_from_its_rows(settings: Settings) -> None:
    old = version(learn_reference(SPEC, LEARNED), LEARNED)
    found, files = concept_reference(SPEC, old, unread)
    assert found == learned()
    assert [file.name for file in files] == ["reference"]


@pytest.mark.parametrize("baseline", [None, learn_reference(SPEC, LEARNED)], ids=["gone", "without labels"])
def test_where_the_rows_are_gone_the_window_is_read_again(settings: Settings, baseline: DriftBaseline | None) -> None:
    asked = []

    def read(window: Window) -> pd.DataFrame:
        asked.append(str(window))
        return LEARNED

    found, files = concept_reference(SPEC, version(baseline), read)
    assert (found, files, asked) == (learned(), [], ["2024-01-01..2024-04-29"])


def test_counts_of_another_label_or_of_fewer_columns_are_left_aside(settings: Settings) -> None:
    fewer = learned(concept_spec(columns=("normal", "long tail")))
    assert concept_reference(SPEC, version(fewer), lambda _: LEARNED)[0] == learned()
    today = LEARNED.rename(columns={LABEL: "very_late"})
    found, _ = concept_reference(renamed(), version(learned()), lambda _: today)
    assert found.concept is not None
    assert found.concept.label == "very_late"
    as_number = SPEC.model_copy(update={"task": Task.REGRESSION})
    found, _ = concept_reference(as_number, version(learned()), lambda _: LEARNED)
    assert found.concept is not None
    assert found.concept.values.kind == "number"


def test_rows_without_the_label_are_read_again(settings: Settings) -> None:
    today = LEARNED.rename(columns={LABEL: "very_late"})
    found, files = concept_reference(renamed(), version(None, LEARNED), lambda _: today)
    assert found.concept is not None
    assert (found.concept.label, files) == ("very_late", [])


def test_a_version_whose_days_are_gone_has_no_verdict(settings: Settings) -> None:
    found, _ = concept_reference(SPEC, version(None), lambda _: LEARNED.head(0))
    assert compare_concept(SPEC, found, TURNED).verdict == "insufficient"
