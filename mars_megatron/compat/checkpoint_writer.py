"""megatron-core's checkpoint writer, fitted to ranks that are asked to stop or killed.

Every name that is replaced stands in `replaced` with the reason. `install()` applies them once per process, before
the first checkpoint is written.
"""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable
from typing import Any

from mars_megatron.compat import patches
from mars_megatron.compat.patches import Patch

_MODULE = "megatron.core.dist_checkpointing.strategies.filesystem_async"


def _queue_of_this_process(_original: Callable[[], Any]) -> Callable[[], Any]:
    results: queue.Queue[Any] = queue.Queue()
    return lambda: results


def replaced(become_helper: Callable[[], None]) -> tuple[Patch, ...]:
    """What is replaced.

    Args:
        become_helper: Called first in every process that writes.
    """

    def as_helper(original: Callable[..., None]) -> staticmethod[..., None]:
        @functools.wraps(original)
        def write(*args: Any, **kwargs: Any) -> None:
            become_helper()
            original(*args, **kwargs)

        return staticmethod(write)

    return (
        Patch(
            _MODULE,
            "_get_write_results_queue",
            _queue_of_this_process,
            "the queue of a manager process, which a signal to the process group ends, so that nothing is saved any "
            "more, and which outlives a rank that is killed; a rank that saves synchronously is the only one to use it",
        ),
        Patch(
            f"{_MODULE}.FileSystemWriterAsync",
            "write_preloaded_data",
            as_helper,
            "runs in processes of its own, which must finish their files after a request to stop, and end with their "
            "rank",
        ),
    )


@functools.cache
def install(become_helper: Callable[[], None]) -> None:
    """Apply what `replaced` says; later calls do nothing."""
    patches.apply(replaced(become_helper))
