"""What a person reads who is asked about a challenger: why it passed the gate, and all that the gate has asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PASSED = "passed"
_HEAD = ("| verdict | of what | value | limit | rows | asked by |", "|---|---|--:|--:|--:|---|")


def page(gate: Mapping[str, Any], version: str) -> str:
    """Return the Markdown of a question.

    Parameters
    ----------
    gate
        What the task ``gate`` has told: ``why`` and ``checks``. What is not passed stands first.
    version
        The challenger's in the registry.
    """
    checks = sorted(gate.get("checks", ()), key=lambda check: bool(check["verdict"] == _PASSED))  # else in its order
    table = ["\n".join([*_HEAD, *map(_row, checks)])] if checks else []
    return "\n\n".join([_as_text(str(gate["why"])), *table, f"Version {version} in the registry."])


def _row(check: Mapping[str, Any]) -> str:
    verdict = str(check["verdict"])
    shown = verdict if verdict == _PASSED else f"**{verdict.replace('_', ' ')}**"
    figures = [f"{check[name]:.6g}" if name in check else "" for name in ("value", "limit", "rows")]
    return f"| {' | '.join([shown, _as_code(check['subject']), *figures, _as_code(check['rule'])])} |"


def _as_text(text: str) -> str:
    """Return text with every sign escaped that Markdown would read: values of a slice are data, not markup."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", text)


def _as_code(text: str) -> str:
    """Return text as code in one cell of a table."""
    plain = " ".join(text.replace("`", "'").replace("|", "\\|").split())
    return f"`{plain}`" if plain else ""
