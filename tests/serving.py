"""A local web server over a folder, which can fall silent in the middle of a file."""

import contextlib
import functools
import http.server
import threading
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    trickle: str | None = None  # a file that is delivered at 1 KB a second
    stall: str | None = None  # a file that is delivered in part, and then nothing more
    released = threading.Event()

    def log_message(self, *_):
        """Quiet."""

    def copyfile(self, source, target):
        if self.stall and self.path.endswith(self.stall):
            target.write(source.read(1500))
            target.flush()
            self.released.wait(20)
        elif self.trickle and self.path.endswith(self.trickle):
            with contextlib.suppress(ConnectionError):
                while (piece := source.read(200)) and not self.released.wait(0.2):
                    target.write(piece)
                    target.flush()
        else:
            with contextlib.suppress(ConnectionError):
                super().copyfile(source, target)


@contextlib.contextmanager
def serve(root: Path, **attributes):
    handler = functools.partial(type("H", (Handler,), attributes), directory=str(root.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{root.name}"
        finally:
            server.shutdown()
            thread.join()
