"""What a person reads who is asked about a challenger: why it passed the gate, and what it was judged on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from evergreen.judgement.evidence import Evaluation, SliceScore, worst_first
from evergreen.pipelines import PICTURES
from evergreen_airflow.approval_evidence import Evidence

ADDRESS = "/evergreen/evaluations"
"""Where the pictures are, in Airflow's server."""
_MOST_SLICES = 20
_PASSED = "passed"
_CHECKS = ("| verdict | of what | value | limit | rows | asked by |", "|---|---|--:|--:|--:|---|")
_SLICES = ("| slice | rows | champion | challenger | improvement | interval |", "|---|--:|--:|--:|--:|---|")
_IN_A_ROW = 2


def page(gate: Mapping[str, Any], version: str, evidence: Evidence) -> str:
    """Return the Markdown of a question.

    Parameters
    ----------
    gate
        What the task ``gate`` has left: ``why`` and ``checks``. What is not passed stands first.
    version
        The challenger's in the registry.
    evidence
        The evaluation it was judged on. Its digest and those of its pictures are in the text, so that the digest of the
        text covers them.
    """
    checks = sorted(gate.get("checks", ()), key=lambda check: bool(check["verdict"] == _PASSED))  # else in its order
    parts = [
        _as_text(str(gate["why"])),
        *_table(_CHECKS, map(_check, checks)),
        *_slices(evidence.evaluation),
        *_pictures(evidence),
        f"Version {version} in the registry. Its evaluation has the SHA-256 `{evidence.digest}`.",
    ]
    return "\n\n".join(parts)


def _table(head: tuple[str, str], rows: Iterable[str]) -> Iterator[str]:
    if lines := list(rows):
        yield "\n".join([*head, *lines])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _check(check: Mapping[str, Any]) -> str:
    verdict = str(check["verdict"])
    shown = verdict if verdict == _PASSED else f"**{verdict.replace('_', ' ')}**"
    figures = [f"{check[name]:.6g}" if name in check else "" for name in ("value", "limit", "rows")]
    return _row([shown, _as_code(check["subject"]), *figures, _as_code(check["rule"])])


def _slices(evaluation: Evaluation) -> Iterator[str]:
    """Yield the deciding metric by slice, the worst first, and how many are left out."""
    found = worst_first(evaluation.slices)
    if not found:
        return
    order = "the worst first; above 0 the challenger is better" if evaluation.champion else "there is no champion yet"
    yield f"**{_as_text(evaluation.metric)} by slice, {order}**"
    yield from _table(_SLICES, map(_slice, found[:_MOST_SLICES]))
    if len(found) > _MOST_SLICES:
        yield f"{len(found) - _MOST_SLICES} more in `evaluation.json`."


def _slice(part: SliceScore) -> str:
    scores = ["" if score is None else f"{score:.4f}" for score in (part.champion, part.challenger)]
    interval = part.interval
    better = [f"{interval[0]:+.4f}", "{:+.4f} to {:+.4f}".format(*interval[1:])] if interval else ["", ""]
    return _row([_as_code(f"{part.column}={part.value}"), str(part.rows), *scores, *better])


def _pictures(evidence: Evidence) -> Iterator[str]:
    """Yield a table of pictures, each a link to itself in full size; addresses start where Airflow's pages do."""
    shown = [
        f"[![{PICTURES[name]}]({_address(evidence, name, digest)})]({_address(evidence, name, digest)})"
        for name, digest in evidence.pictures.items()
    ]
    rows = [_row([*shown[at : at + _IN_A_ROW]]) for at in range(0, len(shown), _IN_A_ROW)]
    yield from _table((_row([""] * _IN_A_ROW), _row(["---"] * _IN_A_ROW)), rows)


def _address(evidence: Evidence, name: str, digest: str) -> str:
    run = evidence.run
    asked = urlencode({"run_id": run.run_id, "sha256": digest}, quote_via=quote)
    return f"{ADDRESS.lstrip('/')}/{quote(run.dag_id)}/{name}?{asked}"


def _as_text(text: str) -> str:
    """Return text with every sign escaped that Markdown would read: values of a slice are data, not markup."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", text)


def _as_code(text: str) -> str:
    """Return text as code in one cell of a table."""
    plain = " ".join(text.replace("`", "'").replace("|", "\\|").split())
    return f"`{plain}`" if plain else ""
