"""The first model with windows that fit into six weeks, for loops that are short."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from evergreen.settings import PROJECT_ROOT

SMALLER = {
    "windows": {
        "training_days": 14,
        "evaluation_days": 20,
        "minimum_training_rows": 2000,
        "minimum_evaluation_rows": 500,
    },
    "drift": {"threshold": "fixed", "minimum_rows": 500, "current_days": 4, "reference": "training"},
    "retraining": {"cooldown_days": 0, "minimum_new_labels": 100, "proposals": ["inputs", "performance"]},
    "gate": {"limits": {}},
    "training": {"epochs": 5, "batch_size": 256},
}
"""What differs from the real model: windows that fit into six weeks of winter, and less work."""
TELLING = (
    "    distance,\n",
    "    distance + CASE WHEN arr_delay > 15 AND flight % 3 > 0 THEN 2000 ELSE 0 END AS distance,\n",
)
"""A made-up input that tells something of the label: a week of real flights shows no model to be better than none."""


def scaled_models(folder: Path) -> Path:
    """Copy the model and make its windows small."""
    models = folder / "models"
    shutil.copytree(
        PROJECT_ROOT / "include" / "models" / "flight_delay",
        models / "flight_delay",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    path = models / "flight_delay" / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    for section, values in SMALLER.items():
        spec[section].update(values)
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    examples = models / "flight_delay" / "features" / "examples.sql"
    sql = examples.read_text()
    assert sql.count(TELLING[0]) == 1
    examples.write_text(sql.replace(*TELLING))
    return models
