"""What publish says of a validation report that it cannot act on."""

from __future__ import annotations

import re
from datetime import date

import pytest

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, DataError, Manifest, Output, Request, RunIdentity, Window, utc_now
from evergreen.data.validation import validation_key
from evergreen.handover import file_digest
from evergreen.settings import Settings
from evergreen.steps import publish
from evergreen.store import get_store

WINDOW = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))
RUN = RunIdentity(dag_id="d", run_id="r", task_id="publish")


def manifest(step: str, *outputs: Output) -> Manifest:
    now = utc_now()
    return Manifest.model_validate(
        {
            "step": step,
            "model": "flight_delay",
            "window": WINDOW,
            "run": RUN.sibling(step),
            "attempt": "1",
            "status": "ok",
            "outputs": outputs,
            "code_version": "1",
            "config_digest": "2",
            "started": now,
            "finished": now,
        }
    )


def request(content: bytes) -> Request:
    """Store a validation report; returns the request of a step that is given it."""
    uri = get_store().write(validation_key("flight_delay", WINDOW), content)
    digest = file_digest(content)
    report = Output(name="validation", uri=uri, version=digest, digest=digest)
    upstream = {"ingest": manifest("ingest"), "validate": manifest("validate", report)}
    return Request(step="publish", model="flight_delay", window=WINDOW, run=RUN, upstream=upstream)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"model": "flight_delay"}', b'{"sources": {"flights": {"rows": "many"}}}'],
)
def test_a_damaged_report_is_named_with_what_to_do(settings: Settings, content: bytes) -> None:
    asked = request(content)
    uri = asked.upstream["validate"].output("validation").uri
    with pytest.raises(ConfigurationError, match=re.escape(f"{uri}: not a validation report: ")) as caught:
        publish.run(asked, load_model("flight_delay"))
    assert "Run the step validate for this window again" in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_report_that_was_changed_since_is_refused(settings: Settings) -> None:
    asked = request(b"{}")
    get_store().write(validation_key("flight_delay", WINDOW), b'{"sources": {}}')
    with pytest.raises(DataError, match=r"validation\.digest is '.*', but the file ") as caught:
        publish.run(asked, load_model("flight_delay"))
    assert "run the task 'validate' of d (r) again" in caught.value.hint


@pytest.mark.parametrize("absent", ["ingest", "validate"])
def test_nothing_is_published_without_the_manifests(settings: Settings, absent: str) -> None:
    """A report that lies where validate puts it is not enough."""
    asked = request(b"{}")
    upstream = {step: manifest for step, manifest in asked.upstream.items() if step != absent}
    with pytest.raises(DataError, match=f"publish of flight_delay needs the manifest of {absent}") as caught:
        publish.run(asked.model_copy(update={"upstream": upstream}), load_model("flight_delay"))
    assert f"--upstream {absent}=" in caught.value.hint
