"""The encoding of raw columns, and how a category keeps its name whatever type it comes in."""

import json

import numpy as np
import pandas as pd
import pytest

from evergreen.training.encoder import CLIP, UNKNOWN, Encoder, category_names, load_network

FRAME = pd.DataFrame(
    {
        "temp": [10.0, 20.0, np.nan, 30.0],
        "wind": [1, 2, 3, 4],
        "hour": [5, 6, 6, 7],
        "origin": ["JFK", "LGA", None, "JFK"],
    }
)
LABELS = pd.Series([0, 1, 1, 0])


def fit(task="binary", labels=LABELS):
    return Encoder.fit(FRAME, labels, task, ["temp", "wind"], ["hour", "origin"])


def test_missing_numbers_become_the_mean_and_say_so():
    numeric, _ = fit().encode(FRAME)
    assert numeric[:, 0] == pytest.approx([-1.2247, 0, 0, 1.2247], abs=1e-4)
    assert fit().schema["numeric"] == ["temp", "wind", "temp_missing"]
    assert numeric[:, 2].tolist() == [0, 0, 1, 0]


def test_the_encoding_comes_from_the_training_rows_alone():
    encoder = fit()
    later = pd.DataFrame({"temp": [1e6], "wind": [np.inf], "hour": [23], "origin": ["EWR"]})
    numeric, categorical = encoder.encode(later)
    assert numeric.tolist() == [[CLIP, 0.0, 0.0]]
    assert categorical.tolist() == [[UNKNOWN, UNKNOWN]]
    assert encoder.encode(FRAME)[1][:, 1].tolist() == [1, 2, UNKNOWN, 1]


@pytest.mark.parametrize(
    "same", [[5, 6], [5.0, 6.0], ["5", "6"], pd.array([5, 6], dtype="Int64"), pd.Categorical(["5", "6"])]
)
def test_a_category_is_the_same_whatever_its_type(same):
    assert category_names(pd.Series(same)).tolist() == ["5", "6"]


def test_a_missing_category_is_none():
    assert category_names(pd.Series([5.0, None])).tolist() == ["5", None]
    assert category_names(pd.Series([1.5, 2.0])).tolist() == ["1.5", "2"]
    assert (
        category_names(pd.Series([True, None], dtype=object)).tolist()
        == category_names(pd.Series([True, None], dtype="boolean")).tolist()
    )


def test_it_survives_json():
    encoder = fit()
    again = Encoder(**json.loads(json.dumps(encoder.to_dict())))
    for one, other in zip(encoder.encode(FRAME), again.encode(FRAME), strict=True):
        assert (one == other).all()


def test_no_rows_and_no_columns_of_a_kind():
    encoder = Encoder.fit(FRAME, LABELS, "binary", ["temp"], [])
    numeric, categorical = encoder.encode(FRAME.head(0))
    assert numeric.shape == (0, 2)
    assert categorical.shape == (0, 0)


def test_targets_and_predictions_by_task():
    assert fit().encode_labels(pd.Series([True, False], dtype=object)).tolist() == [1, 0]
    probability = fit().decode(np.array([[0.0], [1000.0]]))["probability"]
    assert probability.tolist() == pytest.approx([0.5, 1.0])

    values = pd.Series([100.0, 300.0, 100.0, 300.0])
    regression = fit("regression", values)
    target = regression.encode_labels(values)
    assert target.tolist() == [-1, 1, -1, 1]
    assert regression.decode(target[:, None])["prediction"].tolist() == values.tolist()

    names = pd.Series(["late", "early", "late", "on time"])
    multiclass = fit("multiclass", names)
    assert multiclass.schema["outputs"] == 3
    assert multiclass.encode_labels(names).tolist() == [1, 0, 1, 2]
    decoded = multiclass.decode(np.array([[0.0, 1000.0, 0.0]]))
    assert list(decoded.columns) == ["early", "late", "on time"]
    assert decoded.to_numpy().tolist() == [[0, 1, 0]]


def test_two_networks_with_the_same_file_name_do_not_mix(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "network.py").write_text(f"def build(schema):\n    return {number}, schema\n")
    assert load_network(tmp_path / "1" / "network.py", "build", {}) == (1, {})
    assert load_network(tmp_path / "2" / "network.py", "build", {}) == (2, {})


def test_a_network_that_fails_to_load_fails_again(tmp_path):
    (tmp_path / "network.py").write_text("raise OSError('broken')\n")
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            load_network(tmp_path / "network.py", "build", {})
