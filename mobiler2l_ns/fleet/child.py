"""Starts a command that dies with whoever started it: ``python child.py PARENT COMMAND...``, replaced by the command.

A worker that is killed by -9 tells its children nothing. On Linux the kernel can (prctl, PR_SET_PDEATHSIG); elsewhere
they go on, and hold the run's lock until they end (see ``lock``).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before it was asked for
            sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main()
