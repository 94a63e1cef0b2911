"""What is refused before any training starts."""

import numpy as np
import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, DataError
from evergreen.spec import Task
from evergreen.training.preparation import check_labels, prepare


@pytest.fixture
def spec():
    return load_model("flight_delay").model_copy()  # of which a test moves the folder: the model itself is kept


@pytest.fixture
def frame(spec):
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=50) for name in spec.features.numeric}
    columns |= {name: rng.choice(["a", "b"], 50) for name in spec.features.categorical}
    return pd.DataFrame(columns | {"late": rng.integers(0, 2, 50)})


def test_a_sound_frame_is_encoded(spec, frame):
    prepared = prepare(spec, frame)
    assert prepared.numeric.shape == (50, len(spec.features.numeric))
    assert prepared.categorical.shape == (50, len(spec.features.categorical))
    assert prepared.target.tolist() == frame["late"].tolist()


def test_labels_that_are_missing_or_wrong_are_named(spec, frame):
    with pytest.raises(DataError, match="'late' of flight_delay is missing in 1 of 50"):
        prepare(spec, frame.assign(late=[None, *frame["late"][1:]]))
    with pytest.raises(DataError, match="not 0 or 1: 2"):
        prepare(spec, frame.assign(late=[2, *frame["late"][1:]]))
    with pytest.raises(DataError, match="not 0 or 1: 'yes'"):
        prepare(spec, frame.assign(late="yes"))
    with pytest.raises(DataError, match="nothing to learn"):
        prepare(spec, frame.assign(late=0))
    regression = spec.model_copy(update={"task": Task.REGRESSION})
    with pytest.raises(DataError, match="not a finite number"):
        check_labels(regression, pd.Series([1.0, np.inf], name="delay"))
    check_labels(spec, pd.Series([True, False], dtype=object, name="late"))


def test_missing_columns_are_named(spec, frame):
    with pytest.raises(DataError, match="temp, visib"):
        prepare(spec, frame.drop(columns=["temp", "visib"]))


def test_more_classes_than_declared_are_refused(spec, frame):
    training = spec.training.model_copy(update={"classes": 2})
    multiclass = spec.model_copy(update={"task": Task.MULTICLASS, "training": training})
    multiclass._folder = spec.folder
    with pytest.raises(DataError, match="has 3 classes"):
        prepare(multiclass, frame.assign(late=np.arange(50) % 3))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def build(schema):\n    return undefined\n", "NameError"),
        ("def other(schema):\n    pass\n", "no attribute 'build'"),
        (
            "import torch\n\n\nclass Two(torch.nn.Module):\n    def forward(self, numeric, categorical):\n"
            "        return torch.zeros(len(numeric), 2)\n\n\ndef build(schema):\n    return Two()\n",
            r"shape \(2, 2\), expected \(2, 1\)",
        ),
    ],
)
def test_a_wrong_network_is_its_authors_to_correct(spec, frame, tmp_path, source, words):
    (tmp_path / "network.py").write_text(source)
    spec._folder = tmp_path
    with pytest.raises(ConfigurationError, match=words):
        prepare(spec, frame)


def test_a_missing_network_file_is_named(spec, frame, tmp_path):
    spec._folder = tmp_path
    with pytest.raises(ConfigurationError, match=r"there is no file 'network.py'"):
        prepare(spec, frame)
