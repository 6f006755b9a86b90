/* policy_forms.h - what a policy does and needs under each of its parameters.
 *
 * A FORM is a combination of values of a policy's choice parameters (impl, mode, semantics
 * ...) that behaves otherwise than the others. */
#ifndef KVT_POLICY_FORMS_H
#define KVT_POLICY_FORMS_H

#include "kvt_sim.h"

enum { KVT_FORM_SPEC = 512, KVT_FORM_WORD = 48, KVT_FORM_TEXT = 512 };

typedef struct kvt_form {
    char       spec[KVT_FORM_SPEC];     /* "snapkv:impl=original"                          */
    const char *refused;                /* why there is no such form; NULL = there is      */
    uint32_t   caps, needs, window;     /* window: 0 unless needed                         */
    kvt_caches caches;
    kvt_span   span;                    /* what competes: one-shot rank_over, else share_over */
    int        in_prompt, later;        /* online: events in the prompt; evicts while generating */
    int        nested, overshoots;
    int        stack;                   /* one run gives every capacity                    */
    int        has;                     /* the trace has what is needed; -1 = no trace     */
    char       missing[sizeof ((kvt_err *)0)->text];
} kvt_form;

typedef struct kvt_forms {
    kvt_config *config;                 /* the spec asked for                              */
    kvt_form   *form;                   /* [n], owned; the default first                   */
    uint32_t    n;
} kvt_forms;

/* Every form of the policy that `spec` names, or only the one that it spells out when it
 * has parameters. Errors as kvt_config_parse(). kvt_forms_fini() takes it back. */
kvt_status kvt_forms_init(kvt_forms *out, const char *spec, kvt_err *err) KVT_NODISCARD;
void       kvt_forms_fini(kvt_forms *f);        /* a zeroed one is fine */
/* Fill has and missing of every form. */
kvt_status kvt_forms_check(kvt_forms *f, const kvt_trace_info *info, kvt_err *err) KVT_NODISCARD;

/* "baseline", "oracle", "one-shot", "online" or "both"; and what that means. */
const char *kvt_policy_class(const kvt_policy *p);
const char *kvt_policy_class_text(const kvt_policy *p);
/* What a trace must contain besides keys and the queries of the decode steps; when entries
 * leave; what competes: "cache", "layer", "model" or "-". */
const char *kvt_form_needs(const kvt_form *f, char out[KVT_FORM_TEXT]);
const char *kvt_form_decides(const kvt_form *f);
const char *kvt_form_span(const kvt_form *f);
/* The needs one by one, as words for programs: from *at = 0 until NULL. */
const char *kvt_form_need_word(const kvt_form *f, size_t *at);

/* Choices of a parameter: how many, and one of them. */
uint32_t    kvt_choice_count(const char *choices);
const char *kvt_choice_word(const char *choices, uint32_t index, char out[KVT_FORM_WORD]);

#endif
