"""``python -m abduce.cli`` is ``abduce``."""

from abduce.cli import main

main()
