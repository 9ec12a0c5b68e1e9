"""Large outputs: memory of their own kind, and otherwise ordinary tensors."""

import copy
import io
import os
import pickle
import resource
import signal
import sys
import threading

import psutil
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from mars_megatron.sequence import native, permute_rows

MIB = 1 << 20
KEPT = 512 * MIB  # what csrc/huge_pages.cpp keeps at most
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="plain memory elsewhere")


def reverse(x):
    order = torch.arange(len(x) - 1, -1, -1)
    return permute_rows(x, order, order, impl="native")


def resident() -> int:
    return psutil.Process().memory_info().rss


def numbers(mib: float) -> torch.Tensor:
    return torch.arange(int(mib * MIB) // 256 * 64, dtype=torch.int32).view(-1, 64)


def test_large_outputs_are_aligned_to_huge_pages():
    assert reverse(numbers(4)).data_ptr() % (2 * MIB) == 0


def test_memory_is_used_again():
    x = numbers(9)
    out = reverse(x)
    address = out.data_ptr()
    del out
    assert reverse(x).data_ptr() == address
    first, second = reverse(x), reverse(x)
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second) and torch.equal(first, x.flip(0))


def test_small_tensors_do_not_take_large_blocks():
    large = reverse(numbers(40))
    address = large.data_ptr()
    del large
    small = reverse(numbers(20))
    assert not address <= small.data_ptr() < address + 40 * MIB


def test_memory_is_given_back():
    inputs = [numbers(mib) for mib in (4, 5.3, 9, 17.7, 33)]
    before = resident()
    for step in range(300):  # 4 GiB in all
        assert reverse(inputs[step % 5])[-1, -1] == 63
    assert resident() - before < KEPT + 64 * MIB
    held = [reverse(inputs[4]) for _ in range(22)]  # 726 MiB
    assert resident() - before > 700 * MIB
    held.clear()
    assert resident() - before < KEPT + 64 * MIB, "the rest went back to the system"


def test_memory_is_given_back_whatever_malloc_has_learned():
    # From then on glibc takes blocks of up to 31 MiB from its heap, which shrinks from its end only.
    torch.empty(31 * MIB, dtype=torch.uint8).fill_(1)
    x = numbers(20)
    before = resident()
    held = [reverse(x) for _ in range(60)]  # 1.2 GiB
    assert resident() - before > 1150 * MIB
    held.clear()
    assert resident() - before < KEPT + 64 * MIB


def test_kept_memory_is_released():
    x = numbers(100)
    reverse(x)
    before = resident()
    native.release_kept_memory()
    assert before - resident() > 90 * MIB
    assert torch.equal(reverse(x), x.flip(0))


def test_kept_memory_is_released_before_memory_runs_out():
    native.release_kept_memory()
    small, large = numbers(40), numbers(200)
    held = [reverse(small) for _ in range(10)]  # 400 MiB
    held.clear()
    used = psutil.Process().memory_info().vms
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MIB, limits[1]))
    try:
        out = reverse(large)
        with pytest.raises(RuntimeError, match="not enough memory for"):
            held = [reverse(large) for _ in range(4)]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert torch.equal(out, large.flip(0))


def test_gradients_of_large_rows():
    x = torch.randn(3000, 1024, requires_grad=True)
    grad = torch.randn(3000, 1024)
    reverse(x).backward(grad)
    assert torch.equal(x.grad, grad.flip(0)) and x.grad.data_ptr() % (2 * MIB) == 0


def test_resize():
    x = numbers(6)
    out = reverse(x)
    out.resize_(2 * len(x), 64)
    assert torch.equal(out[: len(x)], x.flip(0)), "growing keeps the values"
    out[len(x) :] = 7
    out.resize_(3, 64)
    assert torch.equal(out, x.flip(0)[:3])
    out.untyped_storage().resize_(0)
    out.untyped_storage().resize_(3 * 64 * 4)
    assert out.fill_(1).sum() == 192


def test_copies_and_views():
    x = numbers(6)
    out = reverse(x)
    assert out.untyped_storage().nbytes() == x.nbytes and out.is_contiguous()
    for other in (out.clone(), copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert torch.equal(other, x.flip(0)) and other.data_ptr() != out.data_ptr()
    file = io.BytesIO()
    torch.save(out, file)
    file.seek(0)
    assert torch.equal(torch.load(file), out)

    array = out.numpy()
    array[0, 0] = -5
    assert out[0, 0] == -5
    del out
    assert array[0, 0] == -5 and array[-1, -1] == 63, "the view keeps the memory"


def test_shared_memory():
    x = numbers(6)
    out = reverse(x).share_memory_()
    assert out.is_shared() and torch.equal(out, x.flip(0))


def _in_worker(x):
    return reverse(x)


def test_in_a_worker_of_a_data_loader():
    x = numbers(6)
    reverse(x)
    for out in DataLoader([x, x], batch_size=None, num_workers=1, collate_fn=_in_worker):
        assert torch.equal(out, x.flip(0))


def in_child(work) -> int:
    """Forks; returns the exit code of work() in the child, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would wait for Python to run again
        signal.alarm(5)  # ends a child that waits for a lock that nobody holds any more
        code = 1
        try:
            torch.set_num_threads(1)  # the threads of the parent's OpenMP are not here
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_fork_while_a_thread_is_at_it():
    x = numbers(5)
    stop = threading.Event()

    def loop():
        while not stop.is_set():
            reverse(x)
            native.release_kept_memory()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: all(torch.equal(reverse(x), x.flip(0)) for _ in range(3))) == 0
    finally:
        stop.set()
        thread.join()


def test_kept_memory_does_not_pass_a_fork():
    x = numbers(100)
    reverse(x)
    before = resident()
    assert in_child(lambda: True) == 0
    assert before - resident() > 90 * MIB, "it was released before"


def test_the_profiler_sees_the_memory():
    x = numbers(6)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        reverse(x)
    events = {event.key: event for event in profiler.key_averages()}
    assert events["mars_megatron::permute_rows"].cpu_memory_usage == x.nbytes
