"""A model as it is logged, asked about frames that are not quite what it expects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evergreen.catalog import load_model
from evergreen.contract import DataError
from evergreen.judgement.metrics import deciding_metric
from evergreen.training import tracking
from evergreen.training.encoder import Encoder, load_network
from evergreen.training.golden import outputs_of
from evergreen.training.loading import read_model
from evergreen.training.ray_training import Trained
from evergreen.training.registry import import_mlflow
from evergreen.training.scorer import Scorer
from evergreen.trust.statement import Bound, Statement

RAW = pd.DataFrame({"x": [0.5, 1.0, 2.0], "open": [1.0, 0.0, 1.0], "site": ["a", "b", "a"]})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a logged model: two numbers and a category."""
    folder = tmp_path_factory.mktemp("logged") / "model"
    spec = load_model("flight_delay")
    encoder = Encoder.fit(RAW.assign(x=[0.5, np.nan, 2.0]), pd.Series([0, 1, 1]), "binary", ["x", "open"], ["site"])
    torch.manual_seed(0)
    network = load_network(spec.folder / "network.py", "build", encoder.schema)
    golden = outputs_of(network, *encoder.encode(RAW)).numpy()
    tracking._write_model(folder, spec, Trained(encoder, network.state_dict(), [], golden), RAW, deciding_metric)
    return folder


@pytest.fixture(scope="module")
def scorer(files: Path) -> Scorer:
    """That model, loaded as every step loads it."""
    statement = Statement.of(files, Bound(model="m", run_id="r", logged_model="m-1", version="1"))
    return read_model(files, "models:/m/1", statement)


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
def test_mlflow_alone_loads_the_model_too_and_names_a_misspelt_column(
    scorer: Scorer, files: Path, tmp_path: Path, name: str, typed: str
) -> None:
    """As `mlflow models serve` asks: a column that is gone is an error, not a missing value."""
    import_mlflow()
    import mlflow

    mlflow.pyfunc.save_model(
        tmp_path / "saved",
        python_model=str(Path(tracking.__file__).with_name("logged_model.py")),
        artifacts={"model": str(files)},
        signature=tracking._signature(scorer.encoder),
        pip_requirements=["torch"],
    )
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    assert loaded.predict(RAW).equals(scorer.predict(RAW))
    with pytest.raises(Exception, match=f"missing inputs.*{name}"):
        loaded.predict(RAW.rename(columns={name: typed}))


def test_a_row_of_which_nothing_is_known_has_a_prediction(scorer: Scorer) -> None:
    assert np.isfinite(scorer.predict(scorer.nothing_known())["probability"]).all()
