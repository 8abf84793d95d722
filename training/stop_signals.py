"""The signals that ask a command to stop: an interrupt, an end, a terminal that is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(KeyboardInterrupt):
    """One of STOP_SIGNALS, where it met the main thread: what is half done is cleared away on its way out."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextlib.contextmanager
def raise_stop_signals() -> Iterator[None]:
    """Raise the first of STOP_SIGNALS as StopRequested; the second ends the process at once."""
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        raise StopRequested(number)

    with _handled(stop):
        try:
            yield
        except BaseException as error:
            # A library that the signal met may have made another error of it, as Ray does.
            if received and not isinstance(error, StopRequested):
                raise StopRequested(received[0]) from error
            raise


@contextlib.contextmanager
def collect_stop_signals() -> Iterator[list[int]]:
    """A list that collects the first of STOP_SIGNALS, to save and stop; the second ends the process at once."""
    received: list[int] = []

    def note(number: int) -> None:
        received.append(number)
        message = f"\n{signal.Signals(number).name}: saving and stopping; a second signal stops at once\n"
        with contextlib.suppress(OSError):  # nobody need be there to read it
            os.write(2, message.encode())

    with _handled(note):
        yield received


@contextlib.contextmanager
def _handled(first: Callable[[int], None]) -> Iterator[None]:
    """Handle the first of STOP_SIGNALS by `first`; in a thread, which gets no signals, nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        first(number)

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # A run that nohup shields from the end of its terminal is not stopped by it.
    shielded = handlers[signal.SIGHUP] is signal.SIG_IGN
    previous = {
        number: handler
        for number, handler in handlers.items()
        if handler is not None and not (shielded and number == signal.SIGHUP)  # None: C code handles it
    }
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
