"""Tests that a fit that is interrupted stops."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from abduce import Auto


def to_the_process():
    os.kill(os.getpid(), signal.SIGINT)


def to_another_thread():
    """As the system may choose to."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


@pytest.mark.parametrize("interrupt", [to_the_process, to_another_thread])
def test_an_interrupt_stops_the_fit_within_a_step(interrupt):
    """Ctrl-C while members are fitted in threads: the fit ends at once, not when they are done."""
    X = np.random.default_rng(0).normal(size=(4000, 30))
    X[np.random.default_rng(1).random(X.shape) < 0.3] = np.nan
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a process in the background ignores it
    threading.Timer(4, interrupt).start()
    start = time.process_time()  # of this process: others may be busy
    try:
        with pytest.raises(KeyboardInterrupt):
            Auto(random_state=0).fit(X)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.process_time() - start < 10  # the fit takes minutes
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
