"""A background thread that stays a few items ahead of the consumer and ends with it."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
END = object()


def prefetch(items: Iterable[T], depth: int, closing: threading.Event | None = None) -> Iterator[T]:
    """The items in order, computed up to `depth` ahead in a background thread; an exception is raised in its order.

    Closing the iterator (also by an exception in the consumer) sets `closing`, so that the computation of an item can
    be aborted, stops the thread and closes `items`.
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
            item, error = ready.get()
            if error is not None:
                raise error
            if item is END:
                return
            yield item
    finally:
        closing.set()
        thread.join()
