"""The sweep that one would write by hand: rows in memory, one mask per policy and budget.

    naive_sweep.py DIR HEADS STEPS KEYS POLICIES BUDGETS PAIRS PROCESSES

`kvtrace bench sweep --baseline` runs it and leaves in DIR, all in native order:
rows.f32 [HEADS][STEPS][KEYS], rank.u32 [POLICIES][HEADS][KEYS], cut.u32 [BUDGETS],
pairs.u32 [PAIRS][2] (policy, budget). Heads are split over the processes. Prints the
seconds of three forms; what a policy evicts at budget b is rank >= cut[b]:

  a  (A * mask).sum(1) for every pair
  b  A @ mask for every pair
  c  one A @ masks with a column for every policy and budget

Masks are made beforehand, as float32, and the rows are given: both favour this side.
Writes the losses of form a to DIR/lost.f32 [HEADS][PAIRS][STEPS]."""
import multiprocessing
import os
import sys
import time

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import numpy as np  # noqa: E402  (reads the variables above)


def worker(mine, data, start, times, lost):
    rows, rank, cut, pairs = data
    masks = [[(rank[p, h] >= cut[b]).astype(np.float32) for p, b in pairs] for h in mine]
    start.wait()
    at = time.monotonic()
    for i, h in enumerate(mine):
        for k, mask in enumerate(masks[i]):
            lost[h, k] = (rows[h] * mask).sum(1)
    times.put(("a", at, time.monotonic()))
    start.wait()
    at = time.monotonic()
    for i, h in enumerate(mine):
        for mask in masks[i]:
            rows[h] @ mask
    times.put(("b", at, time.monotonic()))
    for h in mine:
        # [keys][policies x budgets]
        all_masks = np.ascontiguousarray(
            np.concatenate([rank[p, h][:, None] >= cut[None, :] for p in range(len(rank))], 1).astype(np.float32))
        start.wait()
        at = time.monotonic()
        rows[h] @ all_masks
        times.put((f"c{mine.index(h)}", at, time.monotonic()))


def main():
    folder = sys.argv[1]
    heads, steps, keys, policies, budgets, n_pairs, processes = map(int, sys.argv[2:])
    processes = min(processes, heads)
    while heads % processes:            # every process has the same number of heads
        processes -= 1
    rows = np.fromfile(f"{folder}/rows.f32", np.float32).reshape(heads, steps, keys)
    rank = np.fromfile(f"{folder}/rank.u32", np.uint32).reshape(policies, heads, keys)
    cut = np.fromfile(f"{folder}/cut.u32", np.uint32).reshape(budgets)
    pairs = np.fromfile(f"{folder}/pairs.u32", np.uint32).reshape(n_pairs, 2)
    lost = np.memmap(f"{folder}/lost.f32", np.float32, "w+", shape=(heads, n_pairs, steps))

    context = multiprocessing.get_context("fork")
    start, times = context.Barrier(processes), context.Queue()
    each = heads // processes
    children = [context.Process(target=worker, args=(list(range(i * each, (i + 1) * each)), (rows, rank, cut, pairs), start, times, lost))
                for i in range(processes)]
    for child in children:
        child.start()
    seen = [times.get(timeout=600) for _ in range(processes * (2 + each))]
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        sys.exit("a worker failed")
    spans = {}
    for form, begin, end in seen:
        first, last = spans.get(form, (begin, end))
        spans[form] = (min(first, begin), max(last, end))
    took = {form: end - begin for form, (begin, end) in spans.items()}
    print(took["a"], took["b"], sum(t for form, t in took.items() if form.startswith("c")))


main()
