"""Attention votes that fade: policies/examples/mine.c once more, the same kept sets.

    kvtrace replay trace.h5 --policy-py mine.py -p mine_py:decay=0.5,snapkv
"""
import numpy as np

id = "mine_py"
title = "Attention votes that fade"
params = dict(window=(32, 1, 4096), decay=(0.9, 0, 1))      # name=default, or (default, min, max), or "a|b"
window = "window"                                           # prompt.win: the last `window` queries' rows
nested = True                                               # the score does not look at the budget


def score(job, prompt):
    n_window, prefix = job.param.window, job.n - job.param.window
    weight = np.cumprod([1.0] + [job.param.decay] * (n_window - 1))[::-1]
    vote = (prompt.win[:, :, :prefix] * weight[None, :, None]).sum(axis=1) / sum(weight)
    vote = vote.astype(np.float32).reshape(job.n_caches, job.group, prefix)     # of each query head
    score = np.empty((job.n_caches, job.n), np.float32)
    score[:, :prefix] = vote.mean(axis=1, dtype=np.float64)
    score[:, prefix:] = score[:, :prefix].max()                 # the window ties with the best
    return score
