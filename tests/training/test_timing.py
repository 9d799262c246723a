"""Where a run's time goes."""

from __future__ import annotations

import pytest
import torch

from gpt_oss_stories.training.timing import PARTS, TimeSplit, device_event

CPU = torch.device("cpu")


class Clock:
    """A clock that only goes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_parts_add_up_and_begin_anew_when_taken():
    clock = Clock()
    times = TimeSplit(CPU, clock=clock)
    for _ in range(2):
        with times.part("data"):
            clock.now += 1.0
        with times.device_part("forward"):
            clock.now += 2.0
        clock.now += 4.0
    parts, passed = times.take()
    assert parts == {**dict.fromkeys(PARTS, 0.0), "data": 2.0, "forward": 4.0}
    assert passed == 14.0
    with times.part("saving"):
        clock.now += 0.5
    assert times.take() == ({**dict.fromkeys(PARTS, 0.0), "saving": 0.5}, 0.5)


def test_a_part_inside_another_counts_once():
    clock = Clock()
    times = TimeSplit(CPU, clock=clock)
    with times.part("evaluation"):
        clock.now += 1.0
        with times.part("saving"):
            clock.now += 10.0
        clock.now += 100.0
    parts, passed = times.take()
    assert (parts["evaluation"], parts["saving"], passed) == (101.0, 10.0, 111.0)


def test_taking_in_the_middle_of_a_part_divides_it():
    clock = Clock()
    times = TimeSplit(CPU, clock=clock)
    with times.part("evaluation"):
        clock.now += 1.0
        assert times.take()[0]["evaluation"] == 1.0
        clock.now += 3.0
    assert times.take()[0]["evaluation"] == 3.0


def test_an_error_ends_its_part():
    clock = Clock()
    times = TimeSplit(CPU, clock=clock)

    def fail():
        with times.part("evaluation"):
            clock.now += 1.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    clock.now += 5.0
    assert times.take()[0]["evaluation"] == 1.0


def test_a_clock_that_goes_back_stands_still():
    clock = Clock()
    times = TimeSplit(CPU, clock=clock)
    with times.part("data"):
        clock.now += 1.0
    clock.now -= 50.0
    with times.part("data"):
        clock.now -= 7.0
    with times.part("data"):
        clock.now += 2.0
    parts, passed = times.take()
    assert parts["data"] == 3.0
    assert passed == 0.0


class Gpu:
    """A device that does its work when somebody waits for it, at two seconds for each event."""

    def __init__(self):
        self.recorded, self.done, self.waits = 0, 0, 0

    def event(self):
        return Event(self)


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.gpu.recorded += 1
        self.place = self.gpu.recorded

    def query(self):
        return self.place <= self.gpu.done

    def synchronize(self):
        self.gpu.waits += 1
        self.gpu.done = max(self.gpu.done, self.place)

    def elapsed_time(self, later):
        assert self.query()
        assert later.query()
        return 2000.0 * (later.place - self.place)


def test_a_device_times_its_own_parts_and_is_waited_for_only_when_they_are_taken():
    clock, gpu = Clock(), Gpu()
    times = TimeSplit(CPU, clock=clock, new_event=gpu.event)
    for _ in range(3):
        with times.device_part("forward"):
            clock.now += 0.001
        with times.device_part("backward"):
            clock.now += 0.001
        with times.part("data"):
            clock.now += 1.0
    assert gpu.waits == 0
    parts, _ = times.take()
    assert gpu.waits == 1
    assert (parts["forward"], parts["backward"], parts["data"]) == (6.0, 6.0, 3.0)
    assert times.take()[0]["forward"] == 0.0


def test_events_that_have_passed_are_not_kept():
    gpu = Gpu()
    times = TimeSplit(CPU, new_event=gpu.event)
    for _ in range(100):
        with times.device_part("forward"):
            pass
        gpu.done = gpu.recorded
    assert len(times._events) <= 1
    assert times.take()[0]["forward"] == 200.0


def test_a_cpu_needs_no_events():
    assert device_event(CPU) is None
    assert device_event(torch.device("cuda")) is not None
