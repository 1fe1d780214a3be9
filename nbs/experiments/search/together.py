"""Several runs at a time in one process: each thread has a CUDA stream; while one records its step, the others wait."""

import contextlib
import threading
import torch


class Gate:
    "Many may be inside together, or one alone."

    def __init__(self):
        self.condition, self.inside, self.waiting, self.alone = threading.Condition(), 0, 0, False
        self.building = threading.Lock()  # models are made one after the other: they share the random numbers

    @contextlib.contextmanager
    def shared(self):
        "Inside with others, unless somebody is or wants to be alone."
        with self.condition:
            self.condition.wait_for(lambda: not self.alone and not self.waiting)
            self.inside += 1
        try:
            yield
        finally:
            with self.condition:
                self.inside -= 1
                self.condition.notify_all()

    @contextlib.contextmanager
    def exclusive(self):
        "Inside alone, as a recording wants it: another thread's call to the allocator would break it."
        with self.condition:
            self.waiting += 1
            self.condition.wait_for(lambda: not self.alone and not self.inside)
            self.waiting -= 1
            self.alone = True
        try:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch._C._cuda_clearCublasWorkspaces()  # else all recordings would share one, and run together later
            yield
        finally:
            with self.condition:
                self.alone = False
                self.condition.notify_all()


GATE = Gate()


def work_together(
    jobs,  # an iterator
    work,  # work(job), called in a thread with a stream of its own
    threads: int,
):
    "Do all jobs, `threads` at a time."
    jobs, lock = iter(jobs), threading.Lock()

    def serve():
        own = torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else contextlib.nullcontext()
        with own:
            while True:
                with lock:
                    job = next(jobs, None)
                if job is None:
                    return
                work(job)

    all_threads = [threading.Thread(target=serve) for _ in range(threads)]
    for t in all_threads:
        t.start()
    for t in all_threads:
        t.join()
