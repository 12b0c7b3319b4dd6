"""The process through which the others of a job find each other: ``coordinator.py BIND COUNT``.

jax would run this service inside process 0; then all others abort, with a stack trace and at once,
when process 0 dies, and nobody can say what has happened. On its own it outlives process 0 for long
enough. It is started by process 0 and serves until that tells it to end, or has gone for a while.
A script that needs jaxlib alone, since it has no time to import jax.
"""

import signal
import socket
import sys
import time

# For the others to see that process 0 is lost, and to say so.
_OUTLIVES_S = 30.0


def main() -> None:
    """Serves; prints a line when it does."""
    # A cluster signals all that belongs to a job; the processes save then, and still need this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    from jaxlib import _jax  # type: ignore[attr-defined]

    address, count = sys.argv[1], int(sys.argv[2])
    host, _, port = address.rpartition(":")
    # gRPC would share a port that another has, and two jobs would meet there.
    socket.create_server(("" if host == "[::]" else host, int(port))).close()
    # Processes watch each other (`rowrnn.parallel.watchdog`), sooner and with better words.
    service = _jax.get_distributed_runtime_service(
        address, count, heartbeat_timeout=86_400, shutdown_timeout=86_400
    )
    print("serving", flush=True)
    if sys.stdin.readline() != "end\n":
        time.sleep(_OUTLIVES_S)
    service.shutdown()


if __name__ == "__main__":
    main()
