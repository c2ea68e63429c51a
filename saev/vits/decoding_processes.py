"""Decoding images in processes, for machines with so many cores that threads would wait for each other's GIL.

    thread --position--> process: ImageLoader --row, labels, pixels--> thread
Each process is a new Python (not a fork, which threads and CUDA do not survive) that is started with a pickle of the loader. Each
thread of `load_ahead` asks an idle process, and reads its answer without the GIL.
"""

import fcntl
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from saev.images.source import ImageSource
from saev.vits.image_loader import ImageLoader, LoadedImage

PIPE_BYTES = 1 << 20  # the most that Linux allows: an image of 224 pixels a side is read in one call
# What is printed, by imports too, must not come between the answers.
START = "import os; answers = os.dup(1); os.dup2(2, 1); from saev.vits.decoding_processes import serve; serve(answers)"


class DecodingProcesses:
    """Loads images by `loader` in n processes: call it from at most n threads, and `close` it."""

    def __init__(self, loader: ImageLoader, n: int):
        pickled = pickle.dumps(loader)
        self.processes: list[Any] = [start() for _ in range(n)]
        self.idle: SimpleQueue[Any] = SimpleQueue()
        for process in self.processes:
            with suppress(BrokenPipeError):  # reported by the first call
                process.stdin.write(pickled)
            self.idle.put(process)

    def __call__(self, index: int) -> LoadedImage:
        """The image at position `index`; raises what the loader raises, RuntimeError where the process has ended."""
        process = self.idle.get()
        try:
            pickle.dump(index, process.stdin)
            process.stdin.flush()
            answer, shape = pickle.load(process.stdout)
            if isinstance(answer, Exception):
                raise answer
            if shape is None:
                return answer
            pixels = np.empty(shape, np.float32)
            if process.stdout.readinto(pixels.reshape(-1).view(np.uint8)) < pixels.nbytes:
                raise EOFError
            return replace(answer, pixels=torch.from_numpy(pixels))
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            process.kill()
            raise RuntimeError(
                f"a decoding process ended with code {process.wait()}: lower record.n_workers if memory was short, or use "
                "record.decoding=threads."
            ) from error
        finally:
            self.idle.put(process)

    def close(self) -> None:
        """End the processes, which have nothing to save."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            with suppress(BrokenPipeError):  # of what was not sent yet
                process.stdin.close()
            process.stdout.close()
            process.wait()


def start() -> subprocess.Popen[bytes]:
    """A process that runs `serve`; in a process group of its own, which Ctrl-C does not reach."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    warnings = [f"-W{option}" for option in sys.warnoptions]
    command = [sys.executable, *warnings, "-c", START]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, process_group=0)
    if process.stdout and hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # a user's pipes have a common limit
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return process


def serve(descriptor: int) -> None:
    """Answer the requests on standard input until it ends, by this file descriptor."""
    requests, answers = sys.stdin.buffer, os.fdopen(descriptor, "wb")
    loader = pickle.load(requests)
    while True:
        try:
            index = pickle.load(requests)
        except EOFError:
            return
        try:
            image = loader(index)
        except Exception as error:
            answers.write(pickled_error(error))
        else:
            pixels = None if image.pixels is None else image.pixels.numpy()
            pickle.dump((replace(image, pixels=None), None if pixels is None else pixels.shape), answers)
            if pixels is not None:
                answers.write(np.ascontiguousarray(pixels).data)
        answers.flush()


def pickled_error(error: Exception) -> bytes:
    """The answer for an error; a RuntimeError with its name and message where it cannot be pickled and read again."""
    try:
        answer = pickle.dumps((error, None))
        pickle.loads(answer)
    except Exception:  # whatever the error's class does
        answer = pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), None))
    return answer


def check_importable(images: ImageSource) -> None:
    """ValueError where another process cannot import the images' class."""
    if type(images).__module__ == "__main__":
        raise ValueError(
            f"record.decoding=processes: {type(images).__name__} is defined in a script or notebook, which other processes do not "
            "import: move it to a module, or use record.decoding=threads."
        )
