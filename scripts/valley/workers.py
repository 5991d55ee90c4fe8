"""Work on batches of a file in several processes, in order, with little more in memory than what they work
on.
"""

import collections
import concurrent.futures
import multiprocessing

from valley import environment


def become_worker(make, arguments):
    """First thing in a worker process: make its function."""
    environment.end_with_parent()
    global function
    function = make(*arguments)


def work(job):
    """In a worker: the function's result on one job."""
    return function(job)


def results(items, workers: int, make, *arguments):
    """Yield (what came with it, result) of items (what comes with it, job), in order.

    The result is `make(*arguments)(job)`. More workers than one are processes, each with a function made by
    itself (a tokenizer, say); one is this process.
    """
    if workers == 1:
        own = make(*arguments)
        yield from ((kept, own(job)) for kept, job in items)
        return
    context = multiprocessing.get_context("spawn")  # arrow's threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(workers, context, become_worker, (make, arguments)) as pool:
        waiting = collections.deque()
        for kept, job in items:
            waiting.append((kept, pool.submit(work, job)))
            if len(waiting) > 2 * workers:
                kept, future = waiting.popleft()
                yield kept, future.result()
        for kept, future in waiting:
            yield kept, future.result()
