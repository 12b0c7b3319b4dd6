"""rowrnn in a process that stops doing anything at a step: ``python hangs.py STEP INDEX train …``.

Only process INDEX hangs; its threads go on.
"""

import sys
import time


def main():
    step, index = map(int, sys.argv[1:3])
    from rowrnn import cli
    from rowrnn.lab import train
    from rowrnn.parallel import processes

    real = train._handle_events

    def handle_events(loop, events, state, order, progress):
        while progress.step >= step and processes.index() == index:
            time.sleep(1)
        real(loop, events, state, order, progress)

    train._handle_events = handle_events
    sys.exit(cli.run(sys.argv[3:]))


if __name__ == "__main__":
    main()
