"""model.yaml: what is refused, and that the refusal says where and why."""

from __future__ import annotations

import copy
from datetime import date, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evergreen.contract import ConfigurationError
from evergreen.settings import PROJECT_ROOT, Settings
from evergreen.spec import METRICS, ModelSpec, Task, Windows

FLIGHTS: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return flight_delay's specification with one field changed; ``sources.0.key`` is a path."""
    content = copy.deepcopy(FLIGHTS)
    *parents, last = path.split(".")
    place: Any = content
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return content


def refusal(content: dict[str, Any], settings: Settings) -> str:
    """Return what ``load_model`` says about a specification."""
    from evergreen.catalog import load_model

    folder = settings.state_dir / "models" / "flight_delay"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigurationError) as raised:
        load_model("flight_delay", folder.parent)
    assert str(folder / "model.yaml") in raised.value.message
    return raised.value.message


def test_a_list_is_not_called_too_short_for_its_wrong_items(settings: Settings) -> None:
    content = changed("sources.0.columns.carrier", "text")
    content["sources"] = content["sources"][:1]
    said = refusal(content, settings)
    assert "sources, entry 1, columns.carrier: Input should be 'string'" in said
    assert "at least 1 item" not in said


def test_the_first_model_is_right() -> None:
    assert ModelSpec.model_validate(FLIGHTS).name == "flight_delay"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("name", "Flight-Delay", "name: at most 63 lower-case letters, digits and underscores, a letter first"),
        ("task", "clustering", "task: Input should be 'binary', 'multiclass' or 'regression' (value: 'clustering')"),
        ("owner", "  ", "owner: String should have at least 1 character"),
        ("owner", 7, "owner: Input should be a valid string (value: 7)"),
        ("ower", "x", "ower: there is no such field; did you mean 'owner'? (value: 'x')"),
        ("schedule.start", 20130101, "schedule.start: expected a day, written as 2013-01-01 (value: 20130101)"),
        ("schedule.start", "yesterday", "schedule.start: "),
        ("schedule.timezone", "Mars/Base", "schedule.timezone: not a time zone"),
        ("schedule.timezone", "", "schedule.timezone: not a time zone"),
        ("schedule.timezone", "../../etc", "schedule.timezone: not a time zone"),
        ("schedule.cron", "hourly", "schedule.cron: a minute and an hour of every day"),
        (
            "schedule.cron",
            "0 66 * * *",
            "schedule.cron: a minute and an hour of every day",
        ),
        (
            "schedule.cron",
            "60 6 * * *",
            "schedule.cron: a minute and an hour of every day",
        ),
        (
            "schedule.cron",
            "0 6 * * 1-5",
            "schedule.cron: a minute and an hour of every day",
        ),
        (
            "schedule.cron",
            "0 * * * *",
            "schedule.cron: a minute and an hour of every day",
        ),
        (
            "schedule.cron",
            "0 6 1 * *",
            "schedule.cron: a minute and an hour of every day",
        ),
        ("schedule.deadline_hours", 0, "schedule.deadline_hours: Input should be greater than 0"),
        (
            "alerts",
            [{"type": "pager"}],
            "alerts, entry 1, type: Input should be 'log', 'email', 'slack' or 'alertmanager'",
        ),
        ("alerts", [{"type": "email"}], "to: an email channel needs recipients"),
        (
            "alerts",
            [{"type": "email", "to": ["ada"]}],
            "alerts, entry 1, to, entry 1: an e-mail address, written as team@example.com",
        ),
        ("alerts", [{"type": "slack", "to": ["a@example.com"]}], "to: only an email has any"),
        ("alerts", [{"type": "slack", "url": "https://x"}], "alerts, entry 1, url: there is no such field"),
        ("alerts", [{"type": "slack", "connection": "https://x"}], "alerts, entry 1, connection: the id of an Airflow"),
        ("alerts", [{"type": "log", "connection": "x"}], "connection: the log needs none"),
        ("alerts", [{"type": "log", "events": []}], "alerts, entry 1, events: Tuple should have at least 1 item"),
        (
            "alerts",
            [{"type": "log", "events": ["drfit"]}],
            "alerts, entry 1, events, entry 1: Input should be 'task_failed', ",
        ),
        ("alerts", [{"type": "log", "events": ["drift", "drift"]}], "alerts, entry 1, events: names an event twice"),
        ("alerts", [{"type": "log"}, {"type": "log"}], "alerts: 'log' is there twice; give one channel all its events"),
        ("sources", [], "sources: Tuple should have at least 1 item"),
        ("sources.0.key", ["nope"], "sources, entry 1, key: 'nope' is not in columns"),
        ("sources.0.key", ["origin", "origin"], "sources, entry 1, key: named twice: origin"),
        ("sources.0.columns.ds", "string", "sources, entry 1, columns: 'ds' is a column that Evergreen adds"),
        (
            "sources.0.columns.Bad",
            "string",
            "sources, entry 1, columns.Bad: lower-case letters, digits and underscores",
        ),
        ("sources.0.columns.carrier", "text", "sources, entry 1, columns.carrier: Input should be 'string'"),
        (
            "sources.0.reader",
            "os.system",
            "sources, entry 1, reader: a function in a file of the model's folder, written as",
        ),
        (
            "sources.0.reader",
            "../other/source.py:read",
            "sources, entry 1, reader: a function in a file of the model's folder",
        ),
        (
            "sources.0.expectations",
            "../../secrets.yaml",
            "sources, entry 1, expectations: a file of the model's folder",
        ),
        (
            "sources.0.expectations",
            "/etc/passwd",
            "sources, entry 1, expectations: a file of the model's folder, written as",
        ),
        ("sources.1.name", "flights", "sources: 'flights': the table flights is already that of sources 'flights'"),
        ("sources.1.name", "raw_flights", "the table raw_flights is already that of sources 'raw_flights'"),
        ("sources.1.name", "examples", "sources: 'examples': the table examples is already that of the examples"),
        ("sources.1.name", "predictions", "the table predictions is already that of what is predicted in bulk"),
        ("features.views.0.name", "served", "the table served is already that of what was answered to requests"),
        ("sources.1.name", "feedback", "the table feedback is already that of what became of answers"),
        ("features.views.0.name", "weather", "features.views: 'weather': the table weather is already that of"),
        ("features.views.0.features", ["late"], "features.views: 'late' of airport_weather is the label"),
        ("features.views.0.features", ["route_flights"], "'route_flights' is a feature of both airport_weather and"),
        (
            "features.views.0.features",
            ["late__rate"],
            "features.views: 'late__rate' of airport_weather: Feast puts two",
        ),
        ("features.views.0.features", ["wind_y"], "features.views: 'wind_y' of airport_weather: Feast's join loses a"),
        ("features.views.0.features", ["rn"], "features.views: 'rn' of airport_weather: Feast's join loses a column"),
        ("features.views.0.features", ["entity_row_id"], "'entity_row_id' of airport_weather: Feast's join loses"),
        ("features.views.0.entities", ["event_expire_timestamp"], "'event_expire_timestamp' of airport_weather: Feast"),
        ("features.views.0.features", ["event_timestamp"], "'event_timestamp' of airport_weather is the label, an"),
        ("features.views.0.features", ["created_timestamp"], "'created_timestamp' of airport_weather is the label"),
        (
            "features.views.0.features",
            ["temp", "Temp"],
            "features.views, entry 1, features, entry 2: lower-case letters, digits and",
        ),
        (
            "features.views.0.features",
            ["temp.mean"],
            "features.views, entry 1, features, entry 1: lower-case letters, digits and",
        ),
        (
            "features.views.0.features",
            ["wind-speed"],
            "features.views, entry 1, features, entry 1: lower-case letters, digits and",
        ),
        (
            "features.views.0.features",
            ["tempé"],
            "features.views, entry 1, features, entry 1: lower-case letters, digits and",
        ),
        (
            "features.views.0.entities",
            ["Origin"],
            "features.views, entry 1, entities, entry 1: lower-case letters, digits and",
        ),
        ("features.views.0.entities", ["ds"], "features.views: 'ds', an entity, is a column that every such table has"),
        ("features.examples.label", "event_timestamp", "features.examples.label: 'event_timestamp', the label, is a"),
        ("features.categorical", ["ds"], "features.categorical: 'ds', an input, is a column that every such table has"),
        ("features.views.0.lookback_days", 401, "features.views, entry 1, lookback_days: Input should be less than"),
        ("features.numeric", ["late", "temp"], "features.examples.label: 'late' cannot be an input too"),
        ("features.categorical", ["temp"], "features.categorical: 'temp' is numeric too"),
        ("training.epochs", True, "training.epochs: expected a number; YAML reads yes, no, on and off"),
        ("training.epochs", 0, "training.epochs: Input should be greater than or equal to 1 (value: 0)"),
        ("training.epochs", 1_000_000_000, "training.epochs: Input should be less than or equal to 10000 (value: 1000"),
        ("training.workers", 10_000, "training.workers: Input should be less than or equal to 256 (value: 10000)"),
        ("training.batch_size", 10**8, "training.batch_size: Input should be less than or equal to 1048576"),
        ("training.seed", -1, "training.seed: Input should be greater than or equal to 0"),
        ("training.learning_rate", 100, "training.learning_rate: Input should be less than or equal to 10"),
        ("windows.minimum_training_rows", 10**12, "windows.minimum_training_rows: expected at most 1,000,000,000"),
        ("schedule.start", "9999-01-01", "schedule.start: expected a day from 1900-01-01 to 2199-12-31"),
        ("schedule.start", "0001-01-01", "schedule.start: expected a day from 1900-01-01 to 2199-12-31"),
        ("training.learning_rate", float("nan"), "training.learning_rate: Input should be"),
        ("training.learning_rate", float("inf"), "training.learning_rate: Input should be"),
        ("windows.training_days", 10**9, "windows.training_days: Input should be less than or equal to 3660"),
        ("gate.metric", "rmse", "gate.metric: 'rmse' is not a metric of a binary model; use one of auc"),
        ("gate.required", ["nope"], "gate.required: 'nope' is not a metric"),
        ("gate.looks", 101, "gate.looks: Input should be less than or equal to 100"),
        ("gate.limits", {"auc": True}, "gate.limits.auc: expected a number"),
        ("gate.direction", "minimize", "gate.direction: auc is to maximize, not to minimize"),
        ("gate.slices.0.column", "tailnum", "gate.slices, entry 1, column: 'tailnum' is neither an input"),
        ("gate.rules", [{"metric": "ece"}], "expected at least one of minimum, maximum and maximum_drop"),
        ("gate.rules", [{"metric": "ece", "minimum": 2, "maximum": 1}], "no value is at least 2 and at most 1"),
        ("gate.rules", [{"metric": "rmse", "maximum": 1}], "gate.rules, entry 1, metric: 'rmse' is not a metric"),
        (
            "gate.rules",
            [{"metric": "auc", "minimum": 1, "slice": "tailnum"}],
            "gate.rules, entry 1, slice: 'tailnum' is neither",
        ),
        (
            "gate.rules",
            [{"metric": "auc", "maximum_drop": -1}],
            "gate.rules, entry 1, maximum_drop: Input should be greater",
        ),
        (
            "gate.rules",
            [{"metric": "auc", "minimum": 1, "level": "note"}],
            "gate.rules, entry 1, level: Input should be 'block",
        ),
        (
            "gate.rules",
            [{"metric": "auc", "minimum": 1, "minimum_rows": 0}],
            "gate.rules, entry 1, minimum_rows: Input should",
        ),
        ("gate.rules", [{"metric": "group_difference", "maximum": 1}], "name their columns in gate.sensitive"),
        ("gate.rules", [{"metric": "flip_rate_noise", "maximum": 1, "slice": "origin"}], "is of the whole window: it"),
        (
            "gate.rules",
            [{"metric": "size_mb", "maximum": 1, "slice": "origin"}],
            "is of the model, whatever it is",
        ),
        ("gate.sensitive", ["tailnum"], "gate.sensitive: 'tailnum' is neither an input of the model nor an entity"),
        ("gate.sensitive", ["origin", "origin"], "gate.sensitive: named twice: origin"),
        ("gate.leak_threshold", 0.5, "gate.leak_threshold: Input should be greater than 0.5"),
        ("gate.maximum_shared_rows", 2, "gate.maximum_shared_rows: Input should be less than or equal to 1"),
        ("drift.columns", ["arr_delay"], "drift.columns: 'arr_delay' is not an input of the model"),
        ("drift.columns", ["carier"], "drift.columns: 'carier' is not an input of the model; use one of distance, dep"),
        ("gate.sensitive", ["color"], "an entity of a view; use one of distance, departure_minute, "),
        (
            "gate.rules",
            [{"metric": "auc", "minimum": 0}, {"metric": "ece"}],
            "model.yaml: gate.rules, entry 2: expected at least one of minimum, maximum and maximum_drop.",
        ),
        (
            "gate.rules",
            [{"metric": "auc", "minimum": 0}, {"metric": "rsme", "maximum": 1}],
            "model.yaml: gate.rules, entry 2, metric: 'rsme' is not a metric of a binary model; use one of auc",
        ),
        (
            "retraining.performance_drop",
            "noisy",
            "model.yaml: retraining.performance_drop: must be a number above 0, or 'noise' (value: 'noisy').",
        ),
        ("retraining.preformance_drop", 1, "there is no such field; did you mean 'performance_drop'? (value: 1)."),
        (
            "sources.0.colunms",
            {},
            "model.yaml: sources, entry 1, colunms: there is no such field; did you mean 'columns'? (value: {}).",
        ),
        ("resources.default", "huge", "resources.default: Input should be 'small'"),
    ],
)
def test_a_wrong_field_is_refused_with_file_field_and_value(
    path: str, value: Any, expected: str, settings: Settings
) -> None:
    content = changed(path, value) if path.partition(".")[0] in FLIGHTS else {**FLIGHTS, **_nested(path, value)}
    assert expected in refusal(content, settings)


def test_one_slip_is_one_problem(settings: Settings) -> None:
    for path, value in (("retraining.performance_drop", "noisy"), ("retraining.performance_drop", 0)):
        said = refusal({**FLIGHTS, **_nested(path, value)}, settings)
        assert said.count("model.yaml: ") == 1
        assert "function" not in said


@pytest.mark.parametrize(
    ("zone", "cron", "start", "skipped"),
    [
        ("Europe/Berlin", "30 2 * * *", "2013-01-01", "02:30 on 2013-03-31"),
        ("Europe/Berlin", "59 1 * * *", "2013-01-01", None),
        ("Europe/Berlin", "0 3 * * *", "2013-01-01", None),
        ("America/Santiago", "0 0 * * *", "2020-01-01", "00:00 on 2020-09-06"),
        ("America/Sao_Paulo", "0 0 * * *", "2017-01-01", "00:00 on 2017-10-15"),
        ("America/Sao_Paulo", "0 0 * * *", "2018-12-01", None),  # it has left its clocks alone since
        ("Australia/Lord_Howe", "15 2 * * *", "2024-01-01", "02:15 on 2024-10-06"),
        ("UTC", "30 2 * * *", "2013-01-01", None),
    ],
)
def test_a_time_that_clocks_skip_is_refused(
    zone: str, cron: str, start: str, skipped: str | None, settings: Settings
) -> None:
    content = changed("schedule", {"timezone": zone, "cron": cron, "start": start})
    if skipped:
        assert f"cron: clocks in {zone} skip {skipped}, and that run would not come" in refusal(content, settings)
    else:
        ModelSpec.model_validate(content)


def _nested(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: _nested(rest, value) if rest else value}


def test_a_missing_field_is_named(settings: Settings) -> None:
    content = copy.deepcopy(FLIGHTS)
    del content["gate"]["metric"]
    assert "gate.metric: the field is missing." in refusal(content, settings)


def test_no_field_is_explained_by_a_regular_expression() -> None:
    assert "'pattern'" not in str(ModelSpec.model_json_schema())


def test_every_problem_is_reported_at_once(settings: Settings) -> None:
    content = changed("gate.metric", "rmse")
    content["gate"]["slices"][0]["column"] = "tailnum"
    content["drift"]["columns"] = ["arr_delay", "nope"]
    message = refusal(content, settings)
    assert len(message.splitlines()) == 4
    for field in ("gate.metric", "gate.slices", "'arr_delay'", "'nope'"):
        assert field in message
    fields = changed("training.epochs", 0)
    fields["owner"] = ""
    assert len(refusal(fields, settings).splitlines()) == 2


@pytest.mark.parametrize("value", ["2013-01-01", date(2013, 1, 1)])
def test_a_day_may_be_quoted(value: object) -> None:
    assert ModelSpec.model_validate(changed("schedule.start", value)).schedule.start == date(2013, 1, 1)


def test_a_number_may_be_written_as_2e_3() -> None:
    # YAML reads 2e-3 as text
    assert ModelSpec.model_validate(changed("training.learning_rate", "2e-3")).training.learning_rate == 0.002


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_metrics_of_its_own_and_only_those(task: Task) -> None:
    usable = [name for name, (tasks, _) in METRICS.items() if task in tasks]
    assert usable
    for name, (tasks, direction) in METRICS.items():
        content = changed("task", task.value)
        content["gate"] = {"metric": name, "direction": direction.value}
        if task in tasks:
            assert ModelSpec.model_validate(content).task is task
        else:
            with pytest.raises(ValueError, match=f"'{name}' is not a metric of a {task} model"):
                ModelSpec.model_validate(content)


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(1, 3660), st.integers(10, 3660), st.integers(0, 400))
def test_the_last_training_labels_are_known_the_day_before_evaluation(
    newest: date, training: int, evaluation: int, delay: int
) -> None:
    windows = Windows(training_days=training, evaluation_days=evaluation)
    trained, judged = windows.training(newest, delay), windows.evaluation(newest)
    assert judged.end == newest
    assert (trained.days, judged.days) == (training, evaluation)
    assert trained.end + timedelta(days=delay) == judged.start - timedelta(days=1)


def test_a_model_may_be_judged_from_the_day_after_its_last_label_was_known() -> None:
    content = changed("features.examples.label_delay_days", 3)
    spec = ModelSpec.model_validate(content)
    newest = date(2024, 3, 31)
    trained = spec.windows.training(newest, 3)
    assert spec.first_unseen(trained) == spec.windows.evaluation(newest).start
    assert spec.first_unseen(trained) == trained.end + timedelta(days=4)


def test_groups_are_those_of_the_sensitive_columns_and_of_no_slice(settings: Settings) -> None:
    content = changed("gate.sensitive", ["origin"])
    rule = {"metric": "equalized_odds_difference", "maximum": 0.2}
    content["gate"]["rules"] = [rule]
    assert ModelSpec.model_validate(content).gate.rules[0].level == "blocking"
    content["gate"]["rules"] = [{**rule, "slice": "origin"}]
    assert "compares the groups of gate.sensitive: it takes no slice" in refusal(content, settings)


def test_windows_too_short_for_the_days_they_ask_for_are_refused() -> None:
    with pytest.raises(ValueError, match="evaluation_days: 13 can never hold the 14 days"):
        Windows(evaluation_days=13, minimum_evaluation_partitions=14)
    assert Windows(evaluation_days=14, minimum_evaluation_partitions=14).evaluation_days == 14
    with pytest.raises(ValueError, match="greater than or equal to 10"):
        Windows(minimum_evaluation_partitions=9)
