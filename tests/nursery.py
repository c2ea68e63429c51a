"""A process that has imported the libraries and forks children. Importing takes 5 s, forking milliseconds.

A child calls a function that writes to the disk and is killed at a chosen moment. A moment is a step on the disk: a file
under the dataset's folder is opened for writing, renamed, linked or removed, or a block is written to a shard. Moments are
counted, not timed, so every one can be met again.

    {"call": "module:function", "args": [...], "root": "...", "at": 17}  ->  {"killed": true, "moments": 17, "error": ""}

Or a child runs a script of the clone, or a function, with arguments, and the test sends it signals:

    {"script": ["train.py", "k=4"], "env": {...}, "out": "...", "err": "..."}  ->  {"pid": 4711}
    {"poll": 4711}                                                             ->  {"code": null} or {"code": 0}
"""

import atexit
import importlib
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = ("open", "os.rename", "os.link", "os.remove")


class Nursery:
    """The parent, seen from a test; `modules` are imported once."""

    def __init__(self, *modules: str):
        command = [sys.executable, __file__, *modules]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def run(self, call: str, *args: Any, root: Path, at: int | None = None) -> dict[str, Any]:
        """Call `module:function` in a child; kill it at its moment number `at`, counted from 1."""
        return self.ask(call=call, args=[str(arg) for arg in args], root=str(root), at=at)

    def start(self, *script: str, env: dict[str, str]) -> "Child":
        """Run `script`, a file or `module:function` and its arguments, in a child with these environment variables."""
        return Child(self, script, env)

    def close(self) -> None:
        with self.process:
            self.process.kill()


class Child:
    """A script in a forked process: the part of Popen's interface that tests need."""

    def __init__(self, nursery: Nursery, script: tuple[str, ...], env: dict[str, str]):
        self.nursery, self.returncode = nursery, None
        self.files = [Path(tempfile.mkstemp(suffix=name)[1]) for name in (".out", ".err")]
        out, err = map(str, self.files)
        self.pid = nursery.ask(script=script, env=env, out=out, err=err)["pid"]

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.nursery.ask(poll=self.pid)["code"]
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """(stdout, stderr) once it has ended; killed and a TimeoutExpired where it does not end in time."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired("nursery", timeout, *(file.read_bytes() for file in self.files))
            time.sleep(0.02)
        texts = tuple(file.read_text() for file in self.files)
        for file in self.files:
            file.unlink()
        return texts


def watch(root: str, at: int | None, report: int) -> None:
    """Count the moments of this process, tell them to `report`, and die at number `at`."""
    from saev.shards.layer_shard import LayerShard

    numbers = itertools.count(1)

    def moment() -> None:
        number = next(numbers)
        os.write(report, b".")
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple) -> None:
        if (
            event in STEPS
            and str(args[0]).startswith(root)
            and (event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR))
        ):
            moment()

    write = LayerShard._write

    def counted(self: LayerShard, data: memoryview) -> None:
        half = len(data) // 2
        write(self, data[:half])
        moment()
        write(self, data[half:])

    LayerShard._write = counted
    sys.addaudithook(hook)


def child(request: dict[str, Any], report: int) -> None:
    """What a child does; never returns."""
    error = b""
    try:
        watch(request["root"], request["at"], report)
        module, function = request["call"].split(":")
        getattr(importlib.import_module(module), function)(*request["args"])
    except BaseException:
        error = traceback.format_exc().encode()
    os.write(report, b"|" + error[-3000:])
    os._exit(0)


def start(request: dict[str, Any]) -> int:
    """The number of a process that runs the script."""
    if pid := os.fork():
        return pid
    atexit._clear()  # what the libraries do at the end waits for threads that a fork does not have
    code: object = 0
    try:
        for fd, name in enumerate((os.devnull, request["out"], request["err"])):
            os.dup2(os.open(name, os.O_RDWR), fd)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv[:] = request["script"]
        module, _, function = sys.argv[0].partition(":")
        if function:
            getattr(importlib.import_module(module), function)(*sys.argv[1:])
        else:
            runpy.run_path(module, run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        code = traceback.format_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def poll(pid: int) -> int | None:
    """The exit code of a child, as subprocess counts it, or None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> None:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    import torch

    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        if "script" in request or "poll" in request:
            answer = {"code": poll(request["poll"])} if "poll" in request else {"pid": start(request)}
            print(json.dumps(answer), flush=True)
            continue
        reading, report = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(request, report)
        os.close(report)
        with open(reading, "rb") as pipe:
            told = pipe.read()
        status = os.waitpid(pid, 0)[1]
        dots, _, error = told.decode().partition("|")
        print(json.dumps({"killed": os.WIFSIGNALED(status), "moments": len(dots), "error": error}), flush=True)


if __name__ == "__main__":
    main()
