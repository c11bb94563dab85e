"""Signals during a run: the first asks it to save and stop, a second Ctrl-C stops it at once."""

import os
import signal
import threading

import pytest

from unmask.training.interrupt import Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_run_to_stop_and_nothing_else(number: signal.Signals) -> None:
    interruption = Interruption()
    with interruption.watch():
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_does_not() -> None:
    with Interruption().watch():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_the_handlers_before_are_put_back(error: type[Exception] | None) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        with Interruption().watch():
            during = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
            if error is not None:
                raise error
    except RuntimeError:
        assert error is RuntimeError
    assert all(old != new for old, new in zip(before, during, strict=True))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_outside_the_main_thread_a_run_goes_on_without_watching() -> None:
    seen: list[object] = []

    def run() -> None:
        with Interruption().watch():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
