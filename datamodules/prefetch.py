"""A background thread that stays a few items ahead of the consumer and ends with it."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
END = object()
WAIT_S = 0.2


def prefetch(
    items: Iterable[T],
    depth: int,
    closing: threading.Event | None = None,
    while_waiting: Callable[[], None] | None = None,
) -> Generator[T, None, None]:
    """The items in order, computed up to `depth` ahead in a background thread; an exception is raised in its order.

    Closing the iterator (also by an exception in the consumer) sets `closing`, so that the computation of an item can
    be aborted, stops the thread and closes `items`. `while_waiting` is called several times a second in the consumer's
    thread while no item is ready, so that signals can be answered; it may raise.
    """
    if depth < 1:
        yield from items
        return
    ready: queue.Queue = queue.Queue(depth)
    closing = closing or threading.Event()

    def put(item: object) -> bool:
        while not closing.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put((item, None)):
                    return
            put((END, None))
        except BaseException as error:  # raised by the consumer
            put((END, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = ready.get(timeout=WAIT_S)
            except queue.Empty:
                if while_waiting is not None:
                    while_waiting()
                continue
            if error is not None:
                raise error
            if item is END:
                return
            yield item
    finally:
        closing.set()
        thread.join()
