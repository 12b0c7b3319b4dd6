"""``python -m rowrnn``, which is the console script `rowrnn`."""

from rowrnn.cli import main

main()
