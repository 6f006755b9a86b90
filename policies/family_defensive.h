/* family_defensive.h - the scoring that DefensiveKV and Layer-DefensiveKV share
 * (arXiv:2510.13334). Both rank the scores that come out of it, one over the layer, the
 * other over the model. */
#ifndef KVT_FAMILY_DEFENSIVE_H
#define KVT_FAMILY_DEFENSIVE_H

#include "kvt_prim.h"

extern const kvt_param_def kvt__defensive_params[];     /* semantics, window, kernel, rho */

/* Scratch, flags and window; reads the parameters above. */
void kvt__defensive_setup(const kvt_job *job, kvt_setup *out);
/* base() of both: the scores before stage 1 and, with semantics=code, the places of stage 1
 * in a second plane. */
void kvt__defensive_base(const kvt_job *job, const kvt_prompt *in, int over_tokens, kvt_ws *ws, float *base);
/* Writes out->score. over_tokens: with semantics=paper the value norms of a cache are
 * shares of their sum over its tokens, so that layers can be compared. */
void kvt__defensive_score(const kvt_job *job, const kvt_prompt *in, int over_tokens, kvt_ws *ws, kvt_choice *out);
#endif
