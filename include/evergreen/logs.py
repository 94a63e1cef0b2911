"""The log of a command: one line for each event, in UTC, on standard error."""

from __future__ import annotations

import logging
import time


class OneLineFormatter(logging.Formatter):
    """``2013-03-01T06:00:00.123Z INFO evergreen.runner: message``; a traceback, if there is one, follows below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Keep a message of several lines on one."""
        return " | ".join(super().formatMessage(record).splitlines())


def configure() -> None:
    """Log our own events from INFO on, and other libraries' and Python's warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("evergreen", "evergreen_models"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
