import pytest

from ssd34.train.options import TrainOptions
from ssd34.train.time_left import TimeLeft


def time_left(**options):
    return TimeLeft(
        TrainOptions(batch_size=8, **options), batches_per_epoch=10, full_size=300, measured=80
    )


def test_steps_and_evaluations_of_a_run_in_epochs():
    left = time_left(epochs=4)
    left.stepped(10, 20.0, share=0.25)
    # Before the first evaluation a third of the time of ten steps with as many pictures.
    assert left.seconds(step=10, evaluated=0, elapsed=20.0) == pytest.approx(60 + 4 * 20 / 3)
    left.evaluated(5.0)
    assert left.seconds(step=10, evaluated=10, elapsed=20.0) == pytest.approx(60 + 3 * 5)
    left.stepped(10, 40.0, share=0.5)
    assert left.seconds(step=20, evaluated=10, elapsed=60.0) == pytest.approx(20 * 3 + 3 * 5)
    assert left.seconds(step=40, evaluated=40, elapsed=120.0) == 0


def test_a_small_input_says_little_about_the_full_size_to_come():
    left = time_left(epochs=4, small_size=150, small_share=0.5)
    left.stepped(10, 10.0, share=0.25)
    left.evaluated(5.0)
    assert left.seconds(step=10, evaluated=10, elapsed=10.0) == pytest.approx(10 + 20 * 4 + 15)
    left.stepped(10, 10.0, share=0.5)
    left.stepped(5, 30.0, share=0.625)
    assert left.seconds(step=25, evaluated=20, elapsed=50.0) == pytest.approx(15 * 6 + 2 * 5)


def test_the_clock_of_a_run_in_minutes_does_not_count_evaluations():
    left = time_left(epochs=None, minutes=2.0)
    left.stepped(10, 30.0, share=0.25)
    left.evaluated(7.0)
    assert left.seconds(step=10, evaluated=10, elapsed=30.0) == pytest.approx(90 + 3 * 7)
    small = time_left(epochs=None, minutes=2.0, small_size=150, small_share=0.5)
    small.stepped(10, 30.0, share=0.25)
    small.evaluated(7.0)
    # Ten more steps in 30 s at the small size, five in 60 s at four times the area.
    assert small.seconds(step=10, evaluated=10, elapsed=30.0) == pytest.approx(90 + 2 * 7)


def test_evaluations_that_are_several_epochs_apart():
    left = time_left(epochs=4, evaluate_every=3)
    left.stepped(10, 20.0, share=0.25)
    left.evaluated(5.0)
    assert left.seconds(step=10, evaluated=0, elapsed=20.0) == pytest.approx(60 + 2 * 5)
    assert left.seconds(step=30, evaluated=30, elapsed=60.0) == pytest.approx(20 + 5)
    assert left.seconds(step=40, evaluated=40, elapsed=80.0) == 0
