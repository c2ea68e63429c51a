"""A process that has imported what recording needs, and forks children that record and are killed at a chosen moment.

A moment is a step on the disk: a file under the dataset's folder is opened to be written, renamed, linked or removed, or
a block is written to a shard. Counted, not timed, every moment can be met again. Importing takes seconds, forking none.

    {"call": "module:function", "args": [...], "root": "...", "at": 17}  ->  {"killed": true, "moments": 17, "error": ""}
"""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

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
            cwd=Path(__file__).parents[1],
        )

    def run(self, call: str, *args: Any, root: Path, at: int | None = None) -> dict[str, Any]:
        """Call `module:function` in a child; kill it at its moment number `at`, counted from 1."""
        request = {"call": call, "args": [str(arg) for arg in args], "root": str(root), "at": at}
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


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


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import torch

    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        reading, report = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(json.loads(line), report)
        os.close(report)
        with open(reading, "rb") as pipe:
            told = pipe.read()
        status = os.waitpid(pid, 0)[1]
        dots, _, error = told.decode().partition("|")
        print(json.dumps({"killed": os.WIFSIGNALED(status), "moments": len(dots), "error": error}), flush=True)


if __name__ == "__main__":
    main()
