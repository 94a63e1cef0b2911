"""Claims on a local store: of any number of guards at once, one a cool-down passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims_kit import RacingStore, assert_one_a_cool_down, claim, judge, race
from evergreen.contract import ConfigurationError, Result
from evergreen.judgement.claims import Claim, claim_training
from evergreen.store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def test_a_report_keeps_its_claim_and_is_not_judged_again(store: LocalStore) -> None:
    first = claim_training(store, "m", "report-0", judge(0))
    assert isinstance(first, Claim)

    def never(_: object) -> Result:
        raise AssertionError

    assert claim_training(store, "m", "report-0", never) == first
    assert list(store.keys("claims/")) == ["claims/m/000001.json"]


def test_the_models_do_not_see_each_other_s_claims(store: LocalStore) -> None:
    assert isinstance(claim_training(store, "m", "report-0", judge(0)), Claim)
    assert isinstance(claim_training(store, "m", "report-1", judge(1)), Result)
    assert isinstance(claim_training(store, "n", "report-1", judge(1, "n")), Claim)


def test_guards_that_all_have_read_before_one_writes_are_kept_apart(tmp_path: Path) -> None:
    """Every guard has seen an empty log when the first claim is written: the worst case, made certain."""
    racing = RacingStore(tmp_path, guards=8)
    assert_one_a_cool_down(racing.run(), days=8)


def test_a_store_that_looks_before_it_writes_would_be_noticed(tmp_path: Path) -> None:
    racing = RacingStore(tmp_path, guards=8)
    racing.create = racing.look_then_write
    with pytest.raises(AssertionError):
        assert_one_a_cool_down(racing.run(), days=8)


def test_processes_are_kept_apart(store: LocalStore) -> None:
    assert_one_a_cool_down(race({"root": str(store.root)}, days=24), days=24)


def test_a_claim_that_was_deleted_is_gone_and_its_number_is_not_used_again(store: LocalStore) -> None:
    for day in (0, 7, 14):
        assert isinstance(claim_training(store, "m", f"report-{day}", judge(day)), Claim)
    (store.root / "claims/m/000002.json").unlink()
    assert isinstance(claim_training(store, "m", "report-13", judge(13)), Result)
    assert isinstance(claim_training(store, "m", "report-7", judge(7)), Claim)
    assert list(store.keys("claims/")) == [f"claims/m/00000{number}.json" for number in (1, 3, 4)]


@pytest.mark.parametrize("content", [b"", b"{", b"{}"])
def test_a_file_that_is_no_claim_is_named(store: LocalStore, content: bytes) -> None:
    store.write("claims/m/000001.json", content)
    with pytest.raises(ConfigurationError, match=r"claims/m/000001.json: not a claim"):
        claim_training(store, "m", "report-0", lambda _: claim(0))
