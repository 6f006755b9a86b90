/* family_snap.h - what SnapKV, PyramidKV, Ada-KV, CriticalKV and ChunkKV share: the last
 * `window` queries of the prompt vote on the prefix, the positions before them; policies
 * differ in how the window stays and in how counts spread over layers and heads.
 *
 * Two kinds of reference code. kvpress-style code pads the scores: the window gets one
 * value that ties with the best prefix token of the layer (dkv) or lies 1 above it
 * (kvpress), and a budget counts tokens with the window in. Capacity code keeps the window
 * apart: of a capacity C the best C - window of the prefix stay. Every function below
 * leaves out->score of the prefix as votes unless it says otherwise. */
#ifndef FAMILY_SNAP_H
#define FAMILY_SNAP_H

#include "kvt_prim.h"

/* Rows of parameter tables; the argument is the default. */
#define SNAP_WINDOW(def)  { "window", (def), 1, 4194304, NULL, 1, "last prompt queries that vote, tokens" }
#define SNAP_KERNEL(def)  { "kernel", (def), 1, 1023, NULL, 2, "width of the pooling, tokens" }
#define SNAP_POOLING(def) { "pooling", (def), 0, 1, "avg|max", 1, "how neighbours share a vote" }
#define SNAP_GQA          { "gqa", 0, 0, 1, "mean|max", 1, "how the query heads of a cache share a vote" }
#define SNAP_SCORER(def)  { "scorer", (def), 0, 1, "dkv|kvpress", 1, "base scores: the window ties with the best token, or lies above it" }
#define SNAP_ALPHA        { "alpha", 0.2, 0, 1, NULL, 0, "share of the budget that every head is sure of" }
#define SNAP_FIRST_STAGE  { "first_stage", 0.5, 0, 1, NULL, 0, "share of the budget spent before the value norm counts" }
#define SNAP_EPS          { "eps", 1e-4, 0, 1e6, NULL, 0, "added to a score before it is multiplied by the value norm" }

/* Votes with parameters as they stand in a job: pooling 0 mean, 1 max; gqa 0 mean, 1 max. */
kvt_votes snap_votes(double window, double kernel, double pooling, double gqa, int merge_first);

/* Scratch of every function below together, for setup(). */
size_t snap_bytes(const kvt_job *job);
/* 1 = nothing to decide, the engine keeps everything: a prompt not longer than the window
 * or a budget that covers it. */
int snap_trivial(const kvt_job *job, uint32_t window);

/* base() of all these policies: the votes, one plane. */
void  snap_base(const kvt_job *job, const kvt_prompt *in, kvt_votes how, kvt_ws *ws, float *base);
/* score[c * n + j] of every cache, j before the window, from in->base where it is there;
 * returns the best of them all. */
float snap_prefix(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, kvt_ws *ws, float *score);
void  snap_fill_window(const kvt_job *job, uint32_t window, float value, float *score);
/* Both, the window as padded by dkv (above = 0) or kvpress (above = 1). */
void  snap_padded(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, float above, kvt_ws *ws, float *score);
/* The k best of score[0..n-1] of one cache become KVT_ALWAYS_KEEP. */
void  snap_protect(const kvt_job *job, const kvt_prompt *in, uint32_t cache, float *score, uint32_t n, uint64_t k, kvt_ws *ws);

/* Prefix tokens of a layer in the integer pyramid around `base` (arXiv:2406.02069). */
uint32_t snap_pyramid(uint32_t base, uint32_t prefix, uint32_t n_layers, uint32_t slot);
/* Ada-KV as its repository allocates (arXiv:2407.11550): score and keep of all caches, with
 * `base` prefix tokens per cache on average; the window always stays. */
void  snap_adaptive(const kvt_job *job, const kvt_prompt *in, const kvt_votes *how, uint32_t base, double alpha,
                    kvt_ws *ws, kvt_choice *out);

#endif
