/* report_impl.h - what the panels of the report share.
 *
 * A SCOPE is one model and one split: numbers of different models are not averaged. Its
 * FOCUS is the policy and budget of the verdict, the heatmap and the timeline, its CELL
 * the trace where that policy has the largest tail loss. Its RANKING is the order of the
 * configurations at that budget; a few of them are CHOSEN to be drawn together in colour.
 * A FIGURE is drawn from the rows of one SQL text that is printed with it, so that what
 * a reader gets by running the text is what was drawn. */
#ifndef REPORT_IMPL_H
#define REPORT_IMPL_H

#include <sqlite3.h>
#include <stdint.h>
#include "html.h"
#include "kvt_report.h"
#include "kvt_status.h"
#include "ranking.h"

/* ---- rows of a query, in memory (rows.c) --------------------------------------- */

typedef struct kvt__value {
    int     type;                   /* SQLITE_INTEGER, _FLOAT, _TEXT, _BLOB, _NULL    */
    double  num;                    /* NaN when it is not a number                    */
    int64_t whole;
    char   *text;                   /* text and blobs: n bytes and a zero             */
    size_t  n;
} kvt__value;

typedef struct kvt__rows {
    size_t      n_row, n_col;
    char      **name;
    kvt__value *v;                  /* [n_row][n_col]                                 */
} kvt__rows;

/* sql is a format of sqlite3_mprintf (%lld, %Q). *sql_out, when wanted, is to be freed
 * with sqlite3_free(). */
kvt_status kvt__rows_read(kvt__rows *out, char **sql_out, sqlite3 *db, kvt_err *err,
                          const char *sql, ...) KVT_NODISCARD;
void       kvt__rows_free(kvt__rows *rows);
const kvt__value *kvt__at(const kvt__rows *rows, size_t row, size_t col);
double            kvt__num(const kvt__rows *rows, size_t row, size_t col);  /* NaN = NULL */
int64_t           kvt__int(const kvt__rows *rows, size_t row, size_t col);  /* 0 = NULL   */
const char       *kvt__str(const kvt__rows *rows, size_t row, size_t col);  /* "" = NULL  */
/* SQL: the value of the eight hexadecimal digits x of a Q1.31 number, little endian. */
#define KVT__DIGIT(k) "(instr('0123456789ABCDEF', substr(x, " #k ", 1)) - 1)"
#define KVT__Q31_SQL \
    "(((((((" KVT__DIGIT(7) " * 16 + " KVT__DIGIT(8) ") * 16 + " KVT__DIGIT(5) ") * 16 + " KVT__DIGIT(6) ") * 16\n" \
    "      + " KVT__DIGIT(3) ") * 16 + " KVT__DIGIT(4) ") * 16 + " KVT__DIGIT(1) ") * 16 + " KVT__DIGIT(2) ") / 2147483648.0"
/* Number i of a blob of Q1.31 values, little endian. i < v->n / 4. */
double            kvt__q31(const kvt__value *v, size_t i);
/* <table> of all rows (at most `limit`) with the column names as headers. */
void              kvt__rows_put(h_page *h, const kvt__rows *rows, const char *caption, size_t limit);

/* ---- scopes (scope.c) ------------------------------------------------------------ */

enum { KVT__MOST_CHOSEN = 8 };

typedef struct kvt__scope {
    int64_t     model_id;
    const char *model, *split;      /* the model's name, with its revision where two share it */
    uint32_t    n_trace, n_cluster;
    int         by_user;            /* the user named policy or budget                */
    int64_t     config_id, budget_id;
    const char *policy, *budget;    /* labels                                         */
    double      share;              /* of the prompt's entries                        */
    int64_t     cell_id, trace_id;
    const char *trace;
    uint32_t    n_prompt, n_decode;
    char        where[160];         /* SQL: the scope's finished cells of v_cell v    */
    char        suffix[24];         /* of ids: "", "-2", ...                          */
    kvt__ranking rank;              /* at the budget of the focus                     */
    size_t      chosen[KVT__MOST_CHOSEN], n_chosen;     /* of rank.e, in the order of colours */
    size_t      reference[2], n_reference;              /* random_protect, streaming  */
    int         named;              /* the user named the chosen                      */
    int         contested;          /* of chosen; -1 = none. Its places at the budgets: */
    unsigned    place_lo, place_hi;
    kvt__rows   own, focus, cell;   /* what the strings point into                    */
} kvt__scope;

/* ---- the report (report.c) ------------------------------------------------------ */

typedef struct kvt__sql_note { char *id, *sql; unsigned number; } kvt__sql_note;

typedef struct kvt__report {
    sqlite3        *db;
    h_page          page;
    kvt__scope     *scope;
    size_t          n_scope;
    kvt__sql_note  *note;
    size_t          n_note;
    unsigned        n_figure;
} kvt__report;

kvt_status kvt__scopes_read(kvt__report *r, const kvt_report_opts *opts, kvt_err *err) KVT_NODISCARD;
void       kvt__scopes_free(kvt__report *r);

/* ---- who is drawn how (highlight.c) ------------------------------------------------ */

enum {                              /* 0 .. KVT__MOST_CHOSEN - 1: chosen, that colour  */
    KVT__DRAWN_ORACLE = 100,        /* grey, in every chart                           */
    KVT__DRAWN_REFERENCE,           /* grey, in the chart of the chosen               */
    KVT__DRAWN_APART,               /* a small chart of its own                       */
    KVT__NOT_DRAWN                  /* the full cache                                 */
};

/* Fills chosen, reference, contested. found[i] is set when name i of the user is there. */
kvt_status kvt__highlight(kvt__scope *s, const kvt_report_opts *opts, int *found, kvt_err *err) KVT_NODISCARD;
int        kvt__drawn_as(const kvt__scope *s, const kvt__entry *e);
void       kvt__put_rule(h_page *h, const kvt__scope *s);   /* who was chosen, and by what */

typedef struct kvt__figure {
    char      id[40];
    char     *sql;
    kvt__rows rows;
} kvt__figure;

/* One section: heading, then body() once per scope, or `empty` (a sentence with the
 * command that produces what is missing) when the database has no finished cell. */
typedef kvt_status kvt__body(kvt__report *r, const kvt__scope *s, kvt_err *err);
kvt_status kvt__section(kvt__report *r, const char *id, const char *title, kvt__body *body,
                        const char *empty, kvt_err *err) KVT_NODISCARD;
void       kvt__empty(kvt__report *r, const char *sentence);

/* begin: <figure> and "Figure 3." inside <p class="finding">; the caller writes the
 * finding and closes the <p>. end: n, what the figure does not show, data, SQL. Both
 * need fig->sql and fig->rows, filled by kvt__rows_read(). free also when end was not reached. */
void kvt__figure_begin(kvt__report *r, kvt__figure *fig, const kvt__scope *s, const char *id);
void kvt__figure_end(kvt__report *r, kvt__figure *fig, const kvt__scope *s, const char *not_shown);
void kvt__figure_free(kvt__figure *fig);
void kvt__put_label(h_page *h, const char *label); /* a policy's label; lines may break after : and , */
void kvt__put_n(h_page *h, const kvt__scope *s);   /* "n = 1 cluster (1 trace), exploratory" */

#define KVT__MOST_HEADS 1024        /* as many as a trace may have                     */
/* cividis class 0..64 of a loss 0..1. */
unsigned kvt__shade(double loss);

/* ---- token text (tokens.c) ------------------------------------------------------- */

typedef struct kvt__tokens {        /* positions first .. first + n - 1               */
    int64_t   first;
    size_t    n;                    /* 0: the database has no text                    */
    int       redacted;             /* at least one token has no text: ids are shown  */
    kvt__rows rows;                 /* pos, token_id, bytes                           */
} kvt__tokens;

kvt_status kvt__tokens_read(kvt__tokens *out, sqlite3 *db, int64_t trace_id, int64_t first,
                            int64_t n, kvt_err *err) KVT_NODISCARD;
void       kvt__tokens_free(kvt__tokens *t);
/* Index of the token after the group that begins at i: tokens that split a character
 * between them belong together. */
size_t     kvt__tokens_group(const kvt__tokens *t, size_t i);
/* Text of tokens i .. end - 1, bytes joined before they are decoded. */
void       kvt__tokens_put(h_page *h, const kvt__tokens *t, size_t i, size_t end);
/* One token, printable, for a label; not escaped. out has 64 bytes. Returns out. */
char      *kvt__tokens_label(char out[64], const kvt__tokens *t, size_t i);
/* All of it with position `mark` in <mark>. */
void       kvt__tokens_marked(h_page *h, const kvt__tokens *t, int64_t mark);

/* ---- panels, in the order of the page --------------------------------------------- */

kvt_status kvt__panel_header(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_verdict(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_validity(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_curves(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_heatmap(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_timeline(kvt__report *r, kvt_err *err) KVT_NODISCARD;
/* A figure of the timeline: one head under each of the chosen few. */
kvt_status kvt__lanes_figure(kvt__report *r, const kvt__scope *s, int64_t layer, int64_t head, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_postmortem(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_decomposition(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_ladder(kvt__report *r, kvt_err *err) KVT_NODISCARD;
kvt_status kvt__panel_appendix(kvt__report *r, kvt_err *err) KVT_NODISCARD;

/* "late bloomer" for 'late_bloomer'; the word itself for a word that is not known. */
const char *kvt__cause_words(const char *cause);
const char *kvt__cause_meaning(const char *cause);   /* NULL = not known */

/* report.css and the 65 shades: the exact bytes between the style tags. */
void kvt__css_put(h_page *h);

#endif
