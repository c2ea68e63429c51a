"""A web server over a folder that gives away so many bytes a second and no more: a busy network disk, on one machine."""

import contextlib
import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 16


class Throttle:
    """Lets `rate` bytes a second pass, over all threads."""

    def __init__(self, rate: float):
        self.rate, self.lock, self.free = rate, threading.Lock(), time.monotonic()

    def wait(self, n_bytes: int) -> None:
        with self.lock:
            self.free = max(self.free, time.monotonic()) + n_bytes / self.rate
            pause = self.free - time.monotonic()
        time.sleep(max(0.0, pause))


class Handler(http.server.SimpleHTTPRequestHandler):
    throttle: Throttle

    def log_message(self, *_):
        """Quiet."""

    def copyfile(self, source, target):
        with contextlib.suppress(ConnectionError):
            while data := source.read(CHUNK):
                self.throttle.wait(len(data))
                target.write(data)


@contextlib.contextmanager
def serve(root: Path, rate: float) -> Iterator[str]:
    """The address of `root` on a server that gives `rate` bytes a second."""
    handler = functools.partial(type("Slow", (Handler,), {"throttle": Throttle(rate)}), directory=str(root.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{root.name}"
        finally:
            server.shutdown()
            thread.join()
