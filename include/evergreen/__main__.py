"""``python -m evergreen``: what runs inside a pod."""

import atexit
import faulthandler
import os
import sys
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

from evergreen.cli import main


def run() -> NoReturn:
    """Run the command, then end as an interpreter does (threads, exit handlers), but leave memory to the kernel.

    To take thousands of modules apart takes a step 0.5 s and more, and DuckDB's bindings use the occasion to list, on
    fifty lines, what of them other libraries still hold.
    """
    faulthandler.enable(all_threads=False)  # a crash of native code says where, in few lines
    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = 0 if error.code is None else error.code
    except BaseException:
        traceback.print_exc()
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    run()
