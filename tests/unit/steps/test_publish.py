"""What publish says of a validation report that it cannot act on."""

from __future__ import annotations

import re
from datetime import date

import pytest

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, Request, RunIdentity, Window
from evergreen.data.validation import report_key
from evergreen.settings import Settings
from evergreen.steps import publish
from evergreen.store import get_store

WINDOW = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"model": "flight_delay"}', b'{"sources": {"flights": {"rows": "many"}}}'],
)
def test_a_damaged_report_is_named_with_what_to_do(settings: Settings, content: bytes) -> None:
    store, key = get_store(), report_key("flight_delay", WINDOW)
    store.write(key, content)
    run = RunIdentity(dag_id="d", run_id="r", task_id="publish")
    request = Request(step="publish", model="flight_delay", window=WINDOW, run=run)
    with pytest.raises(ConfigurationError, match=re.escape(f"{store.uri(key)}: not a validation report: ")) as caught:
        publish.run(request, load_model("flight_delay"))
    assert "Run the step validate for this window again" in caught.value.hint
    assert "\n" not in caught.value.message
