"""Log lines on the terminal: the message, with the level in front only where it is a warning or worse."""

import logging


class Short(logging.Formatter):
    """Formats `message`, or `WARNING: message`, and a traceback where the record has one."""

    def __init__(self):
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"
