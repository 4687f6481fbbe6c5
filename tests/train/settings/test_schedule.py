import pytest

from ssd34.train.settings.options import Schedule


def test_warm_up_then_cosine():
    schedule = Schedule(peak=0.1, warmup_steps=10)
    assert schedule.rate(step=0, progress=0) == pytest.approx(0.01)
    assert schedule.rate(step=9, progress=0) == pytest.approx(0.1)
    assert schedule.rate(step=100, progress=0.5) == pytest.approx(0.05)
    assert schedule.rate(step=100, progress=1) == pytest.approx(0)


def test_steps():
    schedule = Schedule(peak=1, warmup_steps=0, kind="step")
    rates = [schedule.rate(step=100, progress=epoch / 60) for epoch in (0, 39, 40, 49, 50, 59)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
