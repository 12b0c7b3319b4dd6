"""The process of a logger: ``python -m rowrnn.loggers KIND RUN``, started by `Logger`."""

from rowrnn.loggers.follow import main

main()
