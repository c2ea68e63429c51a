"""Chromium, driven by its DevTools protocol: as much of it as the explorer's tests need."""

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

# Elements that match, also those in shadow roots.
FIND = """
globalThis.shown = (accept, root = document, found = []) => {
  for (const one of root.querySelectorAll("*")) {
    if (accept(one) && one.getClientRects().length) found.push(one);
    if (one.shadowRoot) shown(accept, one.shadowRoot, found);
  }
  return found;
};
"""


class Browser:
    """One page; `errors` are the errors of its console and its uncaught exceptions."""

    def __init__(self, socket: ClientConnection):
        self.socket, self.sent, self.errors = socket, 0, []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            about = message.get("params", {})
            if (
                message.get("method") == "Runtime.exceptionThrown"
                or about.get("type") == "error"
                or about.get("entry", {}).get("level") == "error"
            ):
                self.errors.append(json.dumps(about)[:500])
            if message.get("id") == self.sent:
                return message["result"]

    def js(self, expression: str) -> Any:
        """The value of an expression."""
        return self.call("Runtime.evaluate", expression=FIND + expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str, seconds: float = 60, step: float = 0.1) -> Any:
        """The value of an expression as soon as it is true; asked every `step` seconds."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}; {self.errors}"
            time.sleep(step)
        return value

    def click(self, accept: str, number: int = 0, at: float = 0.5) -> None:
        """Press the mouse on an element, in its middle, as soon as it is there; `accept` is a function of `one`."""
        find = f"shown(one => {accept})[{number}]"
        self.until(f"!!{find}")
        self.js(f"{find}.scrollIntoView({{block: 'center'}})")
        box = f"(({{left, top, width, height}}) => [left, top, width, height])({find}.getBoundingClientRect())"
        before = None
        while (where := self.js(box)) != before:  # the page may still be moving
            before = where
            time.sleep(0.1)
        left, top, width, height = where
        x, y = left + at * width, top + at * height
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key."""
        more = {"Enter": {"windowsVirtualKeyCode": 13, "text": "\r"}, "Escape": {"windowsVirtualKeyCode": 27}}.get(
            key, {}
        )
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    def upload(self, file: Path) -> None:
        """Choose a file in the first input of files, as soon as it is there."""
        find = """(function find(root) {
          for (const one of root.querySelectorAll("*")) {
            if (one.matches("input[type=file]")) return one;
            const below = one.shadowRoot && find(one.shadowRoot);
            if (below) return below;
          }
        })(document)"""
        self.until(f"!!{find}")
        node = self.call("Runtime.evaluate", expression=find)["result"]["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=node)

    def type(self, text: str) -> None:
        """Type a text where the cursor is."""
        self.call("Input.insertText", text=text)


@contextlib.contextmanager
def browsing(address: str, profile: Path) -> Iterator[Browser]:
    """The page at an address, 1200 pixels wide."""
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
    ]
    process = subprocess.Popen(
        [*command, "--window-size=1200,1500", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        file, end = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (file.is_file() and len(file.read_text().splitlines()) > 1):
            assert time.monotonic() < end and process.poll() is None, "Chromium did not start"
            time.sleep(0.1)
        port = file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            (page,) = [one for one in json.load(answer) if one["type"] == "page"]
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            browser = Browser(socket)
            for domain in ("Runtime", "Log", "Page"):
                browser.call(f"{domain}.enable")
            browser.call("Page.navigate", url=address)
            yield browser
    finally:
        process.terminate()
        process.wait(20)
