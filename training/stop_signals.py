"""The signals that ask a command to stop: an interrupt, an end, a terminal that is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

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
def delay_stop_signals() -> Iterator[None]:
    """Deliver the first of STOP_SIGNALS at the end, a second at once; those that are ignored stay so."""
    received: list[int] = []

    def note(number: int) -> None:
        if received:
            put_back()
            signal.raise_signal(number)
        received.append(number)

    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    try:
        with _replaced(note, heeded) as put_back:
            yield
    finally:
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def _handled(first: Callable[[int], None]) -> Iterator[None]:
    """Handle the first of STOP_SIGNALS by `first`; the second ends the process at once."""
    received: list[int] = []

    def handle(number: int) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        first(number)

    # A run that nohup shields from the end of its terminal is not stopped by it; None is handled by C code.
    shielded = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    left_alone = [signal.SIGHUP] if shielded else []
    heeded = [n for n in STOP_SIGNALS if n not in left_alone and signal.getsignal(n) is not None]
    with _replaced(handle, heeded):
        yield


@contextlib.contextmanager
def _replaced(handle: Callable[[int], None], numbers: Iterable[int]) -> Iterator[Callable[[], None]]:
    """Handle signals by `handle`, and give what puts the handlers before it back; in a thread, which gets no signals,
    nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    previous = {number: signal.signal(number, lambda received, _: handle(received)) for number in numbers}

    def put_back() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    try:
        yield put_back
    finally:
        put_back()
