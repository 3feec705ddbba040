"""The monitor: false alarms stay under their stated share whenever one looks, drifts are seen, arithmetic is the gambler's."""

import numpy as np
import pytest

from ghostkv.elimination.monitor import _BETS, Monitor
from ghostkv.files.errors import ConfigError


def losses_of(kind, target, rng, shape):
    """Independent losses of exactly the target's mean."""
    if kind == "coin":
        return (rng.random(shape) < target).astype(float)
    if kind == "half":
        return 0.5 * (rng.random(shape) < 2 * target)
    if kind == "beta":
        return rng.beta(0.3 * target, 0.3 * (1 - target), shape)
    return np.full(shape, target)


@pytest.mark.parametrize("kind", ["coin", "half", "beta", "constant"])
@pytest.mark.parametrize("target", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("failure", [0.05, 0.2])
def test_false_alarms_stay_under_the_stated_share(kind, target, failure):
    rng = np.random.default_rng(int(1000 * target) + len(kind))
    runs, steps = 1500, 600
    alarms = 0
    for losses in losses_of(kind, target, rng, (runs, steps)):
        monitor = Monitor(target, failure)
        monitor.update(losses)
        alarms += monitor.alarm is not None
    # Four standard deviations of a share that is exactly `failure`.
    assert alarms / runs <= failure + 4 * np.sqrt(failure * (1 - failure) / runs)
    if kind == "coin" and failure == 0.2:
        # Not so by never betting.
        assert alarms / runs > 0.02


def test_losses_that_depend_on_the_past_are_covered_too():
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(1500):
        monitor, last = Monitor(0.1, 0.1), 0.0
        for _ in range(150):
            # The adversary stakes all after a win and little after a loss; each step's mean is the target.
            size = 0.11 if last else 1.0
            last = size * (rng.random() < 0.1 / size)
            monitor.update(last)
        alarms += monitor.alarm is not None
    assert alarms / 1500 <= 0.1 + 4 * np.sqrt(0.09 / 1500)


def test_a_drift_raises_the_alarm_and_a_larger_one_sooner():
    rng = np.random.default_rng(6)
    found = {}
    for drift in (2, 5):
        steps = []
        for _ in range(100):
            monitor = Monitor(0.01)
            monitor.update(losses_of("half", 0.01, rng, 300))
            monitor.update(losses_of("half", 0.01 * drift, rng, 4000))
            if monitor.alarm is not None:
                steps.append(monitor.alarm)
        assert len(steps) >= 97
        found[drift] = np.median(steps)
    assert 300 < found[5] < found[2]


def test_evidence_is_the_product_of_the_bets_whatever_the_pieces():
    losses = np.array([0.0, 0.3, 0.05, 1.0, 1.0])
    whole = Monitor(0.05).update(losses)
    for t in range(len(losses)):
        by_hand = np.mean([np.prod(1 + bet / 0.05 * (losses[: t + 1] - 0.05)) for bet in _BETS])
        assert whole[t] == pytest.approx(by_hand)
    monitor = Monitor(0.05)
    pieces = np.concatenate(
        [monitor.update(losses[:2]), monitor.update(losses[2]), monitor.update(losses[3:])]
    )
    assert pieces == pytest.approx(whole)
    assert monitor.alarm == int(np.flatnonzero(whole >= 20)[0]) + 1
    assert monitor.steps == 5


def test_what_is_no_loss_is_refused():
    for value in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="not in"):
            Monitor(0.1).update([0.0, value])
    for target, failure in ((0.0, 0.1), (0.1, 1.0)):
        with pytest.raises(ConfigError):
            Monitor(target, failure)
