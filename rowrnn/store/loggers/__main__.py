"""The process of a logger: ``python -m rowrnn.store.loggers KIND RUN``, started by `Logger`."""

from rowrnn.store.loggers.follow import main

main()
