"""Ending on a signal: in good order where that is quick, and soon in any case."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from secateurs.errors import Stopped

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""SIGHUP is of Unix: the terminal has gone."""
GRACE_SECONDS = 4.0
"""Time for an orderly end; a library that is in the middle of a long computation does not look at signals."""


def stop_on_signals() -> None:
    """Have `Stopped` raised on a signal, and the process end by itself if that has led to nothing for a while.

    What is kept for a run that goes on is whole at any time, so nothing is lost by that.
    """
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has a hang-up ignored
            signal.signal(number, _stop)
    heard, told = socket.socketpair()
    told.setblocking(False)
    try:
        threading.Thread(target=_end_in_time, args=(heard, told), daemon=True).start()
    except RuntimeError:  # there is no memory for a thread: an end in good order is all there is then
        return
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)


def _stop(number: int, frame: Any) -> None:
    for other in SIGNALS:  # the second one of an impatient user, or of `timeout`, is not to disturb the tidying up
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def _end_in_time(heard: socket.socket, told: socket.socket) -> None:
    """Wait for a signal, and end the process if it is still there some seconds later; `told` is to stay open."""
    while (number := heard.recv(1)[0]) not in SIGNALS:
        pass
    time.sleep(GRACE_SECONDS)
    message = (
        f"stopped by signal {number} in the middle of a computation; finished pieces are kept, and what lies half "
        "written is removed when OUT is next written\n"
    )
    with suppress(RuntimeError):
        writing = threading.Thread(target=os.write, args=(2, message.encode()), daemon=True)
        writing.start()
        writing.join(0.2)  # nobody may be reading
    os._exit(128 + number)
