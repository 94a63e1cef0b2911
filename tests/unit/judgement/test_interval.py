"""The interval of an improvement: what it is made of, and when there is none."""

import numpy as np
import pytest

from evergreen.judgement.interval import FEWEST_DAYS, improvement
from evergreen.judgement.metrics import Scored
from evergreen.spec import METRICS, Task

RNG = np.random.default_rng(5)
TRUTH = (RNG.random(400) < 0.3).astype(float)
VALUES = RNG.normal(size=400)
MODELS = {
    Task.BINARY: Scored(Task.BINARY, TRUTH, np.clip(RNG.normal(0.3 + 0.2 * TRUTH, 0.2), 0.01, 0.99)),
    Task.MULTICLASS: Scored(Task.MULTICLASS, RNG.integers(0, 3, 400).astype(float), RNG.dirichlet(np.ones(3), 400)),
    Task.REGRESSION: Scored(Task.REGRESSION, VALUES, VALUES + RNG.normal(size=400)),
}
BINARY, REGRESSION = MODELS[Task.BINARY], MODELS[Task.REGRESSION]
DAYS = np.arange(400) // 20
RISK = 0.0125


def interval(champion, challenger, metric, days):
    better = improvement(champion, challenger, metric, days)
    return better and better.interval(RISK)


def better_by(daily, per_day=20):
    """Return two models whose mean absolute errors differ by the given amount on each day, and each row's day."""
    differences = np.repeat(np.asarray(daily, dtype=float), per_day)
    truth = np.zeros(differences.size)
    champion = Scored(Task.REGRESSION, truth, np.full(differences.size, 10.0))
    challenger = Scored(Task.REGRESSION, truth, 10.0 - differences)
    return champion, challenger, np.repeat(np.arange(len(daily)), per_day)


def test_an_identical_model_improves_by_exactly_nothing():
    found = interval(BINARY, BINARY, "auc", DAYS)
    assert (found.improvement, found.low, found.high) == (0, 0, 0)


def test_improvement_is_positive_when_better_whichever_the_direction():
    worse = Scored(Task.REGRESSION, VALUES, REGRESSION.prediction + 3)
    for metric in ("rmse", "mae", "r2"):
        better = interval(worse, REGRESSION, metric, DAYS)
        assert 0 < better.low < better.improvement < better.high
        assert interval(REGRESSION, worse, metric, DAYS).high < 0


def test_the_days_in_order_are_what_counts_not_the_rows():
    """More rows a day are no more evidence where the day itself is the noise."""
    daily = np.random.default_rng(1).normal(0.5, 1, 20)
    few, many = (interval(*better_by(daily, rows)[:2], "mae", better_by(daily, rows)[2]) for rows in (5, 500))
    assert few.low == pytest.approx(many.low)
    shuffled = np.random.default_rng(2).permutation(len(DAYS))
    champion, challenger, days = better_by(daily)
    again = interval(champion.select(shuffled), challenger.select(shuffled), "mae", days[shuffled])
    assert (again.low, again.high) == pytest.approx((few.low, few.high))


def test_days_that_follow_each_other_are_worth_fewer():
    """The same days, in an order in which good ones follow good ones: the same improvement, a wider interval."""
    daily = np.random.default_rng(3).normal(0.5, 1, 30)
    mixed, sorted_ = (
        interval(champion, challenger, "mae", days)
        for champion, challenger, days in (better_by(daily), better_by(np.sort(daily)))
    )
    assert sorted_.improvement == pytest.approx(mixed.improvement)
    assert sorted_.effective < mixed.effective <= 30
    assert sorted_.low < mixed.low
    assert sorted_.high > mixed.high


def test_for_a_mean_the_shares_are_the_days_themselves():
    daily = np.random.default_rng(4).normal(0.5, 1, 30)
    found = interval(*better_by(daily)[:2], "mae", better_by(daily)[2])
    assert found.improvement == pytest.approx(daily.mean())
    error = np.sqrt(daily.var() / (1 - 1 / found.effective) / found.effective)
    from scipy import stats

    assert found.high - found.improvement == pytest.approx(stats.t.ppf(1 - RISK, found.effective - 1) * error)


def test_it_is_the_same_whenever_it_is_asked():
    other = Scored(Task.BINARY, TRUTH, RNG.random(400))
    assert interval(BINARY, other, "auc", DAYS) == interval(BINARY, other, "auc", DAYS)


def test_too_few_days_have_no_interval():
    assert interval(BINARY, BINARY, "auc", np.arange(400) % (FEWEST_DAYS - 1)) is None
    assert interval(BINARY, BINARY, "auc", np.arange(400) % FEWEST_DAYS) is not None


def test_undefined_means_none():
    negatives = Scored(Task.BINARY, np.zeros(40), RNG.random(40))
    assert interval(negatives, negatives, "auc", np.arange(40)) is None
    nothing = Scored(Task.BINARY, np.zeros(0), np.zeros(0))
    assert interval(nothing, nothing, "auc", np.zeros(0)) is None
    one_day = Scored(Task.BINARY, (np.arange(40) < 2).astype(float), RNG.random(40))  # all positives on one day
    assert interval(one_day, one_day, "auc", np.arange(40) // 4) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name, (tasks, _) in METRICS.items() for task in sorted(tasks)]
)
def test_one_prediction_that_is_not_finite_is_no_evidence(name, task, value):
    model = MODELS[task]
    broken = Scored(model.task, model.truth, model.prediction.copy())
    broken.prediction[3] = value
    assert interval(model, model, name, DAYS) is not None
    assert interval(broken, model, name, DAYS) is None
    assert interval(model, broken, name, DAYS) is None


def test_what_to_expect_is_what_a_draw_of_the_days_would_bring():
    """The mean of the improvements above 0, and of those below, by drawing from Student's t around the estimate."""
    daily = np.sort(np.random.default_rng(6).normal(0.2, 1, 30)).reshape(2, 15).T.ravel()  # now high, now low
    champion, challenger, days = better_by(daily)
    better = improvement(champion, challenger, "mae", days)
    expected = better.outlook()
    error = daily.std() / np.sqrt(29)
    drawn = daily.mean() + error * np.random.default_rng(0).standard_t(29, 400_000)
    assert expected.gain == pytest.approx(np.maximum(drawn, 0).mean(), rel=0.02)
    assert expected.harm == pytest.approx(np.maximum(-drawn, 0).mean(), rel=0.03)
    assert expected.chance_of_harm == pytest.approx((drawn < 0).mean(), abs=0.005)
    assert expected.gain - expected.harm == pytest.approx(better.point)


def test_days_that_follow_each_other_expect_more_harm():
    daily = np.random.default_rng(3).normal(0.5, 1, 30)
    mixed, sorted_ = (
        improvement(*better_by(days)[:2], "mae", better_by(days)[2]).outlook() for days in (daily, np.sort(daily))
    )
    assert sorted_.harm > 2 * mixed.harm


@pytest.mark.parametrize(("by", "gain", "harm"), [(0.5, 0.5, 0.0), (-0.5, 0.0, 0.5), (0.0, 0.0, 0.0)])
def test_an_improvement_that_is_the_same_every_day_is_certain(by, gain, harm):
    expected = improvement(*better_by([by] * 20)[:2], "mae", better_by([by] * 20)[2]).outlook()
    assert (expected.gain, expected.harm) == pytest.approx((gain, harm))
