"""Where nothing can be asked of a server, a loop ends well and says why."""

from __future__ import annotations

from datetime import date

import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen_airflow.replay import traffic

WINDOW = Window(start=date(2013, 4, 1), end=date(2013, 4, 30))


@pytest.mark.parametrize(
    ("enabled", "why"),
    [(True, "does not answer (ConnectError); see `evergreen status`"), (False, "serving.enabled is false")],
)
def test_why_nothing_was_asked_is_said(monkeypatch: pytest.MonkeyPatch, enabled: bool, why: str) -> None:
    monkeypatch.setattr(traffic, "READY_SECONDS", 0.1)
    spec = load_model("flight_delay")
    spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"enabled": enabled})})
    seen = traffic.send(spec, WINDOW, "http://127.0.0.1:1", None, "loop", lambda _: None)
    assert seen.requests == 0
    assert seen.decision.startswith("not served: ")
    assert why in seen.decision
