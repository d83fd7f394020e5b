"""``python -m abduce`` is ``abduce``; launchers start processes by it: ``torchrun --nproc-per-node 2 -m abduce fit ...``."""

from abduce.cli import main

main()
