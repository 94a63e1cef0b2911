"""A model as it is logged, asked about frames that are not quite what it expects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evergreen.catalog import load_model
from evergreen.contract import DataError
from evergreen.settings import Settings
from evergreen.training import tracking
from evergreen.training.encoder import Encoder, load_network
from evergreen.training.ray_training import Trained
from evergreen.training.registry import import_mlflow, load
from evergreen.training.scorer import Scorer

RAW = pd.DataFrame({"x": [0.5, 1.0, 2.0], "open": [1.0, 0.0, 1.0], "site": ["a", "b", "a"]})


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Two numbers and a category, with the files, the signature and the loader of every logged model."""
    import_mlflow()
    import mlflow

    folder = tmp_path_factory.mktemp("logged")
    spec = load_model("flight_delay")
    encoder = Encoder.fit(RAW.assign(x=[0.5, np.nan, 2.0]), pd.Series([0, 1, 1]), "binary", ["x", "open"], ["site"])
    torch.manual_seed(0)
    network = load_network(spec.folder / "network.py", "build", encoder.schema)
    tracking._write_model(folder / "model", spec, Trained(encoder, network.state_dict(), []))
    mlflow.pyfunc.save_model(
        folder / "saved",
        python_model=str(Path(tracking.__file__).with_name("logged_model.py")),
        artifacts={"model": str(folder / "model")},
        signature=tracking._signature(encoder),
        pip_requirements=["torch"],
    )
    return Scorer("models:/m/1", mlflow.pyfunc.load_model(str(folder / "saved")))


@pytest.mark.parametrize(
    ("column", "missing"),
    [
        ("x", pd.array([1, 1, None], dtype="Int64")),
        ("x", pd.array([1.0, 1.0, None], dtype="Float64")),
        ("x", pd.Series([1, 1, pd.NA], dtype=object)),
        ("x", pd.Series([None, None, None], dtype=object)),
        ("open", pd.array([True, True, None], dtype="boolean")),
        ("open", pd.Series([True, False, None], dtype=object)),
        ("site", pd.array(["a", "a", None], dtype="string")),
        ("site", pd.array([5, 6, None], dtype="Int64")),
        ("site", pd.Categorical(["a", "b", None])),
    ],
)
def test_what_is_not_available_counts_as_missing_whatever_its_type(
    scorer: Scorer, column: str, missing: object
) -> None:
    """MLflow's own check of a signature refuses nullable integers and booleans (mlflow#25593), and plain ones."""
    predicted = scorer.predict(RAW.assign(**{column: missing}))["probability"]
    unknown = RAW.astype(object)
    unknown.loc[2, column] = None
    assert np.isfinite(predicted).all()
    assert predicted[2] == scorer.predict(unknown)["probability"][2]


@pytest.mark.parametrize("number", [pd.Series([1, 2, 3]), pd.Series([True, False, True]), pd.Series(["1", "2", "3"])])
def test_a_number_is_a_number_in_any_type(scorer: Scorer, number: pd.Series) -> None:
    plain = pd.to_numeric(number).astype(float)
    assert scorer.predict(RAW.assign(x=number)).equals(scorer.predict(RAW.assign(x=plain)))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (RAW.rename(columns={"site": "sites"}), "missing site; unknown sites. Give x, open, site."),
        (RAW.drop(columns="x"), "missing x. Give"),
        (RAW.assign(X=1, ds="2024-01-01"), "unknown X, ds. Give"),
        (RAW[[*RAW.columns, "x"]], "there twice x. Give"),
        (RAW.assign(x="many"), "the input 'x' is not a number"),
        (RAW.assign(x=pd.Timestamp("2013-01-01", tz="UTC")), "the input 'x' is not a number"),
        (RAW.assign(x=pd.Timedelta("1h")), "the input 'x' is not a number"),
    ],
)
def test_wrong_columns_are_named_and_none_is_dropped_silently(scorer: Scorer, frame: pd.DataFrame, said: str) -> None:
    with pytest.raises(DataError) as raised:
        scorer.predict(frame)
    assert str(raised.value).startswith("models:/m/1: the input")
    assert said in str(raised.value)


@pytest.mark.parametrize(("name", "typed"), [("x", "X"), ("site", "sites")])
def test_mlflow_alone_names_a_misspelt_column_too(scorer: Scorer, name: str, typed: str) -> None:
    """Without the scorer, as `mlflow models serve` asks: a column that is gone is an error, not a missing value."""
    with pytest.raises(Exception, match=f"missing inputs.*{name}"):
        scorer.loaded.predict(RAW.rename(columns={name: typed}))


def test_a_row_of_which_nothing_is_known_has_a_prediction(scorer: Scorer) -> None:
    assert np.isfinite(scorer.predict(scorer.nothing_known())["probability"]).all()


def test_a_model_without_a_signature_is_not_loaded_and_so_not_registered(settings: Settings, tmp_path: Path) -> None:
    """MLflow logs one without a word when it could not infer a signature."""
    import_mlflow()
    import mlflow

    (tmp_path / "plain.py").write_text(
        "import mlflow\n\n\nclass Plain(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input):\n"
        "        return model_input\n\n\nmlflow.models.set_model(Plain())\n"
    )
    mlflow.pyfunc.save_model(tmp_path / "saved", python_model=str(tmp_path / "plain.py"), pip_requirements=["mlflow"])
    with pytest.raises(DataError, match="saved: the model has no signature: nothing says what its inputs are"):
        load(str(tmp_path / "saved"))
