"""Run in the clone that a worked example was applied to: its code is what is tested, not that of the project."""

from pathlib import Path

import evergreen
import evergreen_airflow


def test_the_clone_s_code_runs() -> None:
    clone = Path(__file__).parents[2]
    assert Path(evergreen.__file__).is_relative_to(clone)
    assert Path(evergreen_airflow.__file__).is_relative_to(clone)
