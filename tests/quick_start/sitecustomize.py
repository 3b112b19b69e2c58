"""Python imports this at its start in all processes of the suite, whose PYTHONPATH has this folder.

nerfstudio 1.1.5 looks at who calls the constructor of each of two dozen methods that are not installed, by
``inspect.stack``, which searches all loaded modules for the source of every frame: half of the time that a command of
nerfstudio takes to start.
"""

import inspect
import sys


def stack(context: int = 1) -> list[inspect.FrameInfo]:
    """``inspect.stack`` without lines of source."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return found


inspect.stack = stack
