"""The working folders of steps that are processes."""

from __future__ import annotations

from pathlib import Path

from evergreen_airflow.kubelet.scratch import make_scratch, remove_scratch


def test_what_is_left_is_removed_but_not_what_belongs_to_another_state_folder(tmp_path: Path) -> None:
    mine, other = Path(make_scratch(tmp_path / "mine")), Path(make_scratch(tmp_path / "other"))
    try:
        (mine / "ray").mkdir()
        (mine / "ray" / "socket").touch()
        assert mine.stat().st_mode & 0o777 == 0o700
        remove_scratch(tmp_path / "mine")
        assert not mine.exists()
        assert other.is_dir()
    finally:
        remove_scratch(tmp_path / "other")
    assert not other.exists()
    remove_scratch(tmp_path / "other")  # again: nothing to do


def test_the_sockets_of_ray_have_room_below_it(tmp_path: Path) -> None:
    scratch = Path(make_scratch(tmp_path))
    remove_scratch(tmp_path)
    longest = "r-12345678/session_2026-11-29_19-18-01_240644_4194304/sockets/plasma_store"
    assert len(str(scratch / longest)) <= 107
