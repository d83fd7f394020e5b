"""What every test shares: one thread a worker, so that parallel workers do not fight over the cores."""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes a test starts

    import torch

    torch.set_num_threads(1)

settings.register_profile("abduce", deadline=None, derandomize=True)  # a busy machine may be slow
settings.load_profile("abduce")
