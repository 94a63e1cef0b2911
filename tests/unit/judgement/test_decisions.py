"""The decision log: events that are never changed, folded into what came of each training, shown to people."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from corpus_kit import CORPUS
from decision_log_kit import assert_none_is_lost
from evergreen.cli import app
from evergreen.contract import ConfigurationError, Request, Result, RunIdentity, Window
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.champions import champions, served_before
from evergreen.judgement.decisions import fold, list_decisions, look_at, refused_in_a_row
from evergreen.judgement.events import Event, EventKind, Judgement, last_move
from evergreen.judgement.evidence import Candidate, Check, Decision, Evaluation, Verdict
from evergreen.judgement.history import history_table
from evergreen.judgement.questions import Answer, write_answer
from evergreen.pipelines import APPROVED
from evergreen.settings import get_settings
from evergreen.store import get_store
from evergreen.trust.audit_log import insert, records_of
from evergreen.trust.chain import canonical, chained

MODEL = "flight_delay"
WINDOW = Window(start=date(2013, 5, 2), end=date(2013, 5, 31))
TRAINING = Window(start=date(2013, 2, 1), end=date(2013, 5, 1))
NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)


def judgement(decision=Decision.PROMOTE, why="better [by far]", code="v"):
    evaluation = Evaluation(
        model=MODEL,
        metric="auc",
        window=WINDOW,
        rows=9,
        dataset="d",
        challenger=Candidate(run_id="r", training=TRAINING, metrics={"auc": 0.75}),
        champion=Candidate(version="1", run_id="q", training=TRAINING, metrics={"auc": 0.7}),
        improvement=0.05,
        low=0.04,
        high=0.06,
        confidence=0.95,
    )
    given = {"decision": decision, "why": why, "requested_by": "drift", "config_digest": "c", "code_version": code}
    return Judgement(evaluation=evaluation, **given)


def event(kind, training="a", day=31, at=NOON, task="promote", model=MODEL, **fields):
    run = RunIdentity(dag_id=f"{model}.train", run_id=training or "by hand", task_id=task)
    given = {"kind": kind, "model": model, "at": at, "run": run, "partition": date(2013, 5, day)}
    return Event.model_validate({**given, "training": training, **fields})


def decided(training="a", day=31, at=NOON, model=MODEL, **fields):
    return event("decided", training, day, at, "gate", model, judgement=judgement(**fields))


def log(*events):
    for one in events:
        assert isinstance(append(get_store(), one), Event)


def only_record():
    (record,) = list_decisions(get_store(), MODEL)
    return record


def moved(version, previous, kind="promoted", training="a", **fields):
    return event(kind, training, version=version, previous=previous, **{"by": "ada", **fields})


def history(*arguments, columns="250"):
    return CliRunner().invoke(app, ["history", *arguments], env={"COLUMNS": columns}).output


def test_the_same_event_again_is_the_same_record(settings):
    later = NOON + timedelta(days=1)
    for at in (NOON, later):
        log(decided(at=at), event("approved", by="ada", at=at), moved("2", "1", at=at))
    assert [record.number for record in records_of(MODEL)] == [1, 2, 3]
    assert {one.at for one in read_events(get_store(), MODEL)} == {NOON}


def test_a_gate_that_decides_again_erases_no_promotion(settings):
    log(decided(), event("approved", by="ada"), moved("2", "1"))
    log(decided(code="after an upgrade"))
    record = only_record()
    assert record.judgement.code_version == "after an upgrade"
    assert (record.promoted.version, record.answered.by) == ("2", "ada")
    log(decided(decision=Decision.NOT_JUSTIFIED))
    assert only_record().promoted.version == "2"
    assert "not justified when judged again, after promotion: version 2" in history(MODEL)


def test_of_many_who_add_at_once_none_is_lost(settings):
    store = get_store()
    events = [event("registered", f"run {number}", version=str(number)) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: append(store, one), [*events, *events]))
    found = read_events(store, MODEL)
    assert sorted(int(one.version) for one in found) == list(range(24))
    assert [one.number for one in found] == list(range(1, 25))


def test_many_processes_that_add_at_once_lose_nothing(settings):
    assert_none_is_lost(get_store(), 20, events=2)


def test_events_of_one_second_keep_their_order(settings):
    shutil.copytree(CORPUS / "v1/DecisionDocument", settings.state_dir / "artifacts/decisions/small_binary")
    first = read_events(get_store(), "small_binary")
    at = first[-1].at
    for number in range(12):
        append(get_store(), event("registered", f"run {number}", at=at, model="small_binary"))
    found = read_events(get_store(), "small_binary")
    assert found[: len(first)] == first
    assert [one.training for one in found[len(first) :]] == [f"run {number}" for number in range(12)]


def test_an_objection_has_seen_everything_before_the_event(settings):
    log(decided(), event("superseded", why="version 3 came"))

    def objection(events):
        return Result(facts={"seen": len(events)}) if fold(events)[0].superseded else None

    answer = append(get_store(), event("approved", by="ada"), objection)
    assert answer.facts == {"seen": 2}
    assert len(read_events(get_store(), MODEL)) == 2


@pytest.mark.parametrize(("who", "said"), [("bob", "rejected by bob"), (None, "rejected: nobody answered in time")])
def test_a_rejection_is_kept_shown_and_followed_by_another_answer(settings, who, said):
    log(decided(), event("rejected", by=who))
    assert only_record().answered.by == who
    shown = history(MODEL)
    assert "promote, rejected" in shown
    assert f"drift; {said}" in shown
    log(event("approved", by="ada"), moved("2", "1"))
    assert "rejected" not in history(MODEL)
    log(event("rejected", by=who))  # asked once more, and each answer is another event
    assert [one.kind for one in read_events(get_store(), MODEL)].count(EventKind.REJECTED) == 2


def test_two_people_who_approve_have_a_record_each(settings):
    log(decided(), event("approved", by="ada", by_id="1"), event("approved", by="bob", by_id="2", question=2))
    log(event("approved", by="ada", by_id="1"))  # a retry says it again
    assert len(read_events(get_store(), MODEL)) == 3
    assert "drift; approved by ada and bob" in history(MODEL)
    log(event("rejected", by="bob", by_id="2", question=2))
    assert only_record().answered.by == "bob"
    assert "drift; rejected by bob; approved by ada" in history(MODEL)
    log(event("approved", by="eve", by_id="3", question=2), moved("2", "1", by="ada and eve"))
    assert "drift; approved by ada and eve" in history(MODEL)


@pytest.mark.parametrize(
    ("approvers", "answers", "waits"),
    [
        (1, {}, True),
        (1, {1: "approved"}, False),
        (2, {1: "approved"}, True),
        (2, {2: "approved"}, True),
        (2, {1: "approved", 2: "approved"}, False),
        (2, {1: "rejected"}, False),
        (2, {1: "approved", 2: "rejected"}, False),
    ],
)
def test_a_challenger_waits_for_a_no_or_for_all_the_approvals_that_it_needs(approvers, answers, waits):
    given = [event(kind, version="2", question=question) for question, kind in answers.items()]
    (record,) = fold([decided(), event("registered", version="2", approvers=approvers), *given])
    assert record.waiting is waits


def test_answers_are_about_one_version():
    asked = [decided(), event("registered", version="3"), event("rejected", version="3", by="bob")]
    (record,) = fold([*asked, event("registered", version="3")])
    assert (record.answered.by, record.waiting) == ("bob", False)
    (record,) = fold([*asked, event("registered", version="4")])  # trained again in the same run
    assert (record.answered, record.waiting) == (None, True)


def test_what_is_superseded_waits_no_more(settings):
    log(decided(), event("registered", version="2"))
    assert only_record().waiting
    log(event("superseded", why="version 3 came from b"))
    assert not only_record().waiting
    assert "promote, superseded" in history(MODEL)
    assert "drift; version 3 came from b" in history(MODEL)


@pytest.mark.parametrize(
    ("approvers", "answers", "said"),
    [
        (1, {}, "promote: version 2 waits for approval\n"),
        (2, {}, "promote: version 2 waits for approval: 0 of 2 given\n"),
        (2, {2: "approved"}, "promote: version 2 waits for approval: 1 of 2 given, by eve2\n"),
        (2, {1: "approved", 2: "rejected"}, "promote, rejected\n"),
        (2, {1: "approved", 2: "approved"}, "promote, not promoted\n"),
    ],
)
def test_history_says_that_people_are_waited_for(settings, monkeypatch, tmp_path, approvers, answers, said):
    folder = tmp_path / "models" / MODEL
    shutil.copytree(settings.models_dir / MODEL, folder)
    text = (folder / "model.yaml").read_text()
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(folder.parent))
    get_settings.cache_clear()
    log(decided(), event("registered", version="2", approvers=approvers))
    log(*(event(kind, version="2", question=number, by=f"eve{number}") for number, kind in answers.items()))
    for required in (True, False):
        (folder / "model.yaml").write_text(text.replace("required: false", f"required: {str(required).lower()}"))
        for arguments in ((), (MODEL,)):
            shown = "\n".join(line.rstrip() for line in history(*arguments).splitlines())
            assert (said in shown) == (required or "waits" not in said)
            assert ("waits" in shown) == (required and "waits" in said)
            assert all(f"eve{number}" in shown for number in answers)


def test_history_names_who_of_two_has_answered_before_the_log_does(settings):
    """`promote` logs both answers when there are both; until then they lie beside the questions."""
    events = [decided(), event("registered", version="2", approvers=2)]
    for version, by, said in (("1", "eve", "0 of 2 given"), ("2", "bob [x]", "1 of 2 given, by bob [x]")):
        answer = Answer(version=version, chosen=APPROVED, by=by)
        write_answer(get_store(), events[0].run.sibling("approve_again"), answer)
        assert f"promote: version 2 waits for approval: {said}\n" in waiting(events)
    get_store().write(f"{events[0].run.sibling('approve_again').key}/answer.json", b"{")
    assert "0 of 2 given" in waiting(events)


def waiting(events):
    console = Console(width=200, record=True, file=StringIO())
    console.print(history_table({MODEL: events}, {MODEL}))
    return "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines())


def test_what_was_refused_is_not_called_waiting(settings):
    events = [decided(), event("registered", version="2"), event("refused", why="nobody knows who approved")]
    assert "promote, refused" in waiting(events)


def test_a_time_that_is_yet_to_come_has_no_champion(settings):
    log(decided(), moved("2", "1"))
    found = CliRunner().invoke(app, ["history", MODEL, "--at", "2999-01-01"]).exception
    assert isinstance(found, ConfigurationError)
    assert str(found) == "--at='2999-01-01' is yet to come. Name a time that has been."


def test_a_single_row_is_one_row(settings):
    release = {"source": "weather", "exempt": {"windy": ("d" * 64,)}, "asked": {"windy": "q"}}
    log(event("quarantine_released", training="", by="ada", why="it was that windy", release=release))
    shown = [line.rstrip() for line in history(MODEL).splitlines()]
    assert shown[:2] == [
        "2013-06-01  released from quarantine: 1 row of weather of 2013-05-31",
        "12:00 UTC   windy: 1 row",
    ]


def test_what_checks_have_objected_and_warned_of_is_told_line_by_line(settings):
    failed = [Check(rule="r", verdict=Verdict.FAILED, why=why) for why in ("too few rows", "ece of 0.2 is above")]
    warning = Check(rule="r", verdict=Verdict.WARNING, why="log_loss worse")
    why = "too few rows; ece of 0.2 is above; warnings: log_loss worse; not judged: origin=SWF (3 rows of 500)"
    refused = decided(day=30, decision=Decision.NOT_JUSTIFIED, why=why)
    passed = decided("b", why="better; warnings: log_loss worse")
    log(
        refused.model_copy(update={"checks": (*failed, warning, Check(rule="r"))}),
        passed.model_copy(update={"checks": (warning, Check(rule="r"))}),
        decided("c", decision=Decision.NOT_JUSTIFIED, why="of before: the checks were not listed"),
    )
    shown = [line[12:].rstrip() for line in history().splitlines()]
    scores, by = "auc: champion 0.7000, challenger 0.7500, +0.0500 [+0.0400, +0.0600]", "by drift"
    rest = "warnings: log_loss worse; not judged: origin=SWF (3 rows of 500)"
    assert shown == [
        *("not justified, with 1 warning", scores, "too few rows", "ece of 0.2 is above", rest, by, ""),
        *("promote, not promoted, with 1 warning", scores, "better; warnings: log_loss worse", by, ""),
        *("not justified", scores, "of before: the checks were not listed", by, ""),
    ]


def test_a_rollback_is_shown_where_it_happened_and_with_what_it_undid(settings):
    log(decided("a", 30), moved("2", "1", day=30), decided("b"), moved("3", "2", training="b"))
    log(moved("2", "3", "rolled_back", training="", why="late flights scored as on time"))
    first, second = list_decisions(get_store(), MODEL)
    assert (first.rolled_back, second.rolled_back.why) == (None, "late flights scored as on time")
    assert [line.rstrip() for line in history(columns="80").splitlines()] == [
        "2013-05-30  promote: version 2",
        "partition   auc: champion 0.7000, challenger 0.7500, +0.0500 [+0.0400, +0.0600]",
        "            better [by far]",
        "            by drift",
        "",
        "2013-05-31  promote: version 3, then rolled back",
        "partition   auc: champion 0.7000, challenger 0.7500, +0.0500 [+0.0400, +0.0600]",
        "            better [by far]",
        "            by drift",
        "",
        "2013-06-01  rollback: version 2, instead of 3",
        "12:00 UTC   late flights scored as on time",
        "            by ada",
        "",
    ]
    rows = [json.loads(row) for row in history("--json").splitlines()]
    assert [row["kind"] for row in rows] == ["decided", "promoted", "decided", "promoted", "rolled_back"]
    log(moved("3", "2", "rolled_back", training=""))
    assert list_decisions(get_store(), MODEL)[1].rolled_back is None


def test_the_champion_before_is_the_one_that_a_promotion_replaced():
    events = [moved("1", None), moved("2", "1"), moved("3", "2")]
    assert (served_before(events, "3"), served_before(events, "1")) == ("2", None)
    events.append(moved("2", "3", "rolled_back"))
    assert served_before(events, "2") == "1", "a second rollback goes further back, not forth again"
    events.append(moved("2", "2", "rolled_back"))
    assert served_before(events, "2") == "1", "one that put the alias back replaced nothing"
    events.append(moved("7", "2", "alias_moved"))
    assert champions(events) == ["1", "2", "3"]
    assert last_move([*events, event("registered")]).version == "2", "a hand makes no champion"
    events.append(moved("7", "2", "rolled_back"))  # taken over
    assert served_before(events, "7") == "2"


def test_documents_of_the_first_schema_are_events_too(settings):
    store = get_store()
    folder = settings.state_dir / "artifacts/decisions/small_binary"
    shutil.copytree(CORPUS / "v1/DecisionDocument", folder)
    by_name = {record.run.run_id: record for record in list_decisions(store, "small_binary")}
    better = by_name["better"]
    assert (better.promoted.version, better.promoted.previous, better.answered.by) == ("2", "1", "ada")
    assert by_name["shuffled"].decision is Decision.NOT_JUSTIFIED
    assert (by_name["asked"].answered.by, by_name["asked"].promoted) == ("bob", None)
    # what follows is a record, also what a document has said already: that nobody has signed
    again = next(one for one in read_events(store, "small_binary") if one.kind is EventKind.PROMOTED)
    assert append(store, event("registered", "shuffled", 31, model="small_binary", version="9")).number == 1
    for _ in range(2):
        assert append(store, again).number == 2
    assert not list(store.keys("decision_log/"))


def test_an_event_of_a_later_version_is_shown_and_changes_nothing(settings):
    log(decided(), event("exported[x]", reviewer="eve", by="eve", why="to the [b] registry", version="2"))
    before = records_of(MODEL)
    assert only_record().decision is Decision.PROMOTE
    assert json.loads(history("--json").splitlines()[1])["reviewer"] == "eve"
    shown = history(MODEL)
    assert "promote, not promoted" in shown
    assert "2013-06-01  exported[x]: version 2" in shown
    assert "to the [b] registry" in shown
    assert "by eve; written by a newer version of Evergreen" in shown
    # a gate that runs again, a promotion and a rollback go on behind it
    log(decided(code="again"), event("approved", by="ada"), moved("2", "1"), event("parked", "b", 30))
    log(moved("1", "2", "rolled_back", training="", why="worse"))
    record = only_record()
    assert (record.promoted.version, record.answered.by, record.rolled_back.why) == ("2", "ada", "worse")
    assert champions(read_events(get_store(), MODEL)) == ["1", "2"]
    assert "2013-06-01  parked (2013-05-30)" in history(MODEL)
    assert records_of(MODEL)[: len(before)] == before


def test_a_log_with_an_event_of_a_newer_schema_is_shown_and_not_decided_on(settings):
    log(decided())
    (first,) = records_of(MODEL)
    sealed = {"schema_version": 3, "what": "sealed", "model": MODEL, "number": 2, "at": NOON.isoformat()}
    assert insert(chained(first, MODEL, 2, NOON, canonical(sealed), signed=True))
    found = CliRunner().invoke(app, ["history", MODEL], env={"COLUMNS": "250"})
    assert "promote, not promoted" in found.output
    assert isinstance(found.exception, ConfigurationError)
    assert f"{MODEL}: record 2: written by a newer version of Evergreen: schema_version: 3" in str(found.exception)
    assert "Update Evergreen here" in str(found.exception)
    for use in (only_record, lambda: log(moved("2", "1"))):
        with pytest.raises(ConfigurationError, match=r"record 2: written by a newer"):
            use()
    assert len(records_of(MODEL)) == 2


def test_a_decision_of_a_later_version_is_shown_as_it_is(settings):
    log(decided(decision="trial"))
    assert "trial, not promoted" in history(MODEL)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "kind: Field required"),
        (b"", "EOF while parsing"),  # what a power cut leaves of a file on some disks
        (b'{"kind": "decided", "mod', "EOF while parsing"),
        (b'{"kind": "promoted", "at": "yesterday"}', "at: Input should be a valid datetime"),
        (b"\x00" * 512, "expected value"),
    ],
)
def test_a_broken_file_is_named_and_the_others_are_shown(settings, content, said):
    """Of an earlier version, which had a file for each event."""
    for number, one in enumerate((decided("a", 30), decided("b"), decided("c")), start=1):
        get_store().write(f"decision_log/{MODEL}/00000{number}.json", one.model_dump_json().encode())
    get_store().write(f"decision_log/{MODEL}/000002.json", content)
    get_store().write(f"decision_log/{MODEL}/000003.json~", b"an editor's")
    found = CliRunner().invoke(app, ["history"], env={"COLUMNS": "250"})
    assert found.output.count("promote, not promoted") == 2
    assert isinstance(found.exception, ConfigurationError)
    assert "000002.json: not an event of the decision log: " in str(found.exception)
    assert said in str(found.exception)
    with pytest.raises(ConfigurationError, match=r"000002.json: not an event"):  # nothing is decided on half a log
        list_decisions(get_store(), MODEL)
    with pytest.raises(ConfigurationError, match=r"000002.json: not an event"):
        log(decided("d"))
    get_store().write(f"decision_log/{MODEL}/000002.json", decided("b").model_dump_json().encode())
    log(decided("d"))
    assert [one.number for one in read_events(get_store(), MODEL)] == [1, 2, 3, 4]


def test_records_come_oldest_partition_first(settings):
    log(decided("a", 31), decided("b", 1), decided("../../c d", 31))
    found = [(record.partition.day, record.run.run_id) for record in list_decisions(get_store(), MODEL)]
    assert found == [(1, "b"), (31, "../../c d"), (31, "a")]
    assert list_decisions(get_store(), "flight") == []


def test_history_is_readable_at_eighty_columns_and_says_which_model_if_there_are_several(settings):
    assert "No decisions yet" in history()
    why = "; ".join(f"origin={name}: auc worse by 0.0500 (900 rows), more than the allowed 0.03" for name in "ABC")
    log(decided(day=30, why=why), decided(model="churn"))
    shown = history(columns="80")
    assert why in " ".join(line[12:].rstrip() for line in shown.splitlines())
    assert f"2013-05-30  {MODEL}: promote, not promoted" in shown
    assert "2013-05-31  churn: promote, not promoted" in shown
    assert "…" not in shown


def test_history_of_an_unknown_model_is_an_error(settings):
    assert isinstance(CliRunner().invoke(app, ["history", "nothing"]).exception, ConfigurationError)


def judged_on(window, run_id="r", champion="1", training="a"):
    """Return the decision about a challenger on a window, compared with a version."""
    found = judgement()
    changes = {
        "window": window,
        "challenger": found.evaluation.challenger.model_copy(update={"run_id": run_id}),
        "champion": found.evaluation.champion.model_copy(update={"version": champion}) if champion else None,
    }
    evaluation = found.evaluation.model_copy(update=changes)
    return event("decided", training, judgement=found.model_copy(update={"evaluation": evaluation}))


def days(first, last):
    return Window(start=date(2013, 5, first), end=date(2013, 5, last))


def test_looks_at_days_that_overlap_are_counted():
    earlier = [judged_on(days(1, 10), "a"), judged_on(days(8, 17), "b"), judged_on(days(8, 17), "b", training="again")]
    assert look_at(earlier, "1", "c", days(9, 18)) == 3
    assert look_at(earlier, "1", "c", days(11, 20)) == 2
    assert look_at(earlier, "1", "c", days(18, 27)) == 1  # days that nobody has looked at
    assert look_at(earlier, "2", "c", days(9, 18)) == 1  # another champion
    assert look_at(earlier, None, "c", days(9, 18)) == 1


def test_a_judgement_made_again_is_the_same_look():
    """Whatever came after it: cleared, it must find what it found."""
    events = [judged_on(days(1, 10), "a"), judged_on(days(2, 11), "b"), judged_on(days(3, 12), "c")]
    assert [look_at(events, "1", run, window) for run, window in (("a", days(1, 10)), ("b", days(2, 11)))] == [1, 2]
    assert look_at([judged_on(days(1, 10), "a", champion=None)], None, "b", days(1, 10)) == 2


def test_refusals_in_a_row_are_counted_up_to_a_training():
    no, yes = Decision.NOT_JUSTIFIED, Decision.PROMOTE
    events = [
        decided(training, decision=decision) for training, decision in (("a", no), ("b", no), ("c", yes), ("d", no))
    ]

    def row(training):
        run = RunIdentity(dag_id=f"{MODEL}.train", run_id=training, task_id="gate")
        day = Window(start=date(2013, 5, 31), end=date(2013, 5, 31))
        return refused_in_a_row(events, Request(step="gate", model=MODEL, window=day, run=run, attempt="1"))

    assert [row(name) for name in "abcd"] == [["a 2013-05-31"], ["a 2013-05-31", "b 2013-05-31"], [], ["d 2013-05-31"]]
