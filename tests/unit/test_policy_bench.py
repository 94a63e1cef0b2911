"""What the replay of policies asks of a policy."""

from __future__ import annotations

import pytest

from benchmarks.policy import aims_missed


@pytest.mark.parametrize(
    ("gained", "trainings", "pairs", "missed"),
    [
        (0.0, 0.6, 0.05, []),
        (-0.001, 0.6, 0.05, ["worse by 0.0010"]),
        (0.01, 0.7, 0.05, ["70% as often"]),
        (0.01, 0.6, 0.06, ["6% of the pairs"]),
        (-0.01, 1.0, 0.5, ["worse by 0.0100", "100% as often", "50% of the pairs"]),
    ],
)
def test_what_is_missed_is_named(gained: float, trainings: float, pairs: float, missed: list[str]) -> None:
    figures = {
        "ours_over_the_better_of_always_and_never": gained,
        "trainings_of_ours_by_always": trainings,
        "pairs_of_equals_promoted": pairs,
    }
    found = aims_missed(figures)
    assert len(found) == len(missed)
    assert all(said in sentence for said, sentence in zip(missed, found, strict=True))
