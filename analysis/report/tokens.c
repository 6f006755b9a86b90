/* Token text: bytes joined before they are decoded, because a character may be split
 * over two tokens. */
#include "report_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_text.h"

enum { COL_POS, COL_ID, COL_BYTES };

kvt_status kvt__tokens_read(kvt__tokens *out, sqlite3 *db, int64_t trace_id, int64_t first,
                            int64_t n, kvt_err *err)
{
    kvt__tokens t = {.first = first};
    KVT_TRY(kvt__rows_read(&t.rows, NULL, db, err,
                           "SELECT pos, token_id, bytes FROM trace_token WHERE trace_id = %lld AND pos >= %lld AND pos "
                           "< %lld ORDER BY pos",
                           (long long)trace_id, (long long)first, (long long)first + n));
    /* Positions are consecutive from `first`, or there is no text to align with. */
    for (size_t i = 0; i < t.rows.n_row && kvt__int(&t.rows, i, COL_POS) == first + (int64_t)i; i++) t.n = i + 1;
    for (size_t i = 0; i < t.n; i++)
        if (kvt__at(&t.rows, i, COL_BYTES)->type == SQLITE_NULL) t.redacted = 1;
    *out = t;
    return KVT_OK;
}

void kvt__tokens_free(kvt__tokens *t)
{
    kvt__rows_free(&t->rows);
    *t = (kvt__tokens){0};
}

static int token_continues(const kvt__tokens *t, size_t i)
{
    const kvt__value *v = kvt__at(&t->rows, i, COL_BYTES);
    return v->n > 0 && ((unsigned char)v->text[0] & 0xc0u) == 0x80u;
}

size_t kvt__tokens_group(const kvt__tokens *t, size_t i)
{
    enum { LONGEST = 4 };           /* bytes of a character: more is no character     */
    size_t end = i + 1;
    while (end < t->n && end < i + LONGEST && token_continues(t, end)) end++;
    return end;
}

void kvt__tokens_put(h_page *h, const kvt__tokens *t, size_t i, size_t end)
{
    size_t n = 0, at = 0;
    char *joined;
    if (t->redacted) {
        for (; i < end; i++) h_put(h, "[%lld]", (long long)kvt__int(&t->rows, i, COL_ID));
        return;
    }
    for (size_t k = i; k < end; k++) n += kvt__at(&t->rows, k, COL_BYTES)->n;
    if (!n) return;
    joined = malloc(n);
    if (!joined) {
        h->failed = 1;
        return;
    }
    for (size_t k = i; k < end; k++) {
        const kvt__value *v = kvt__at(&t->rows, k, COL_BYTES);
        if (v->n) memcpy(joined + at, v->text, v->n);
        at += v->n;
    }
    h_text(h, joined, n);
    free(joined);
}

char *kvt__tokens_label(char out[64], const kvt__tokens *t, size_t i)
{
    const kvt__value *v = kvt__at(&t->rows, i, COL_BYTES);
    if (t->redacted) snprintf(out, 64, "[%lld]", (long long)kvt__int(&t->rows, i, COL_ID));
    else kvt_printable(out, 64, v->text ? v->text : "", v->n);
    return out;
}

void kvt__tokens_marked(h_page *h, const kvt__tokens *t, int64_t mark)
{
    const int64_t last = t->first + (int64_t)t->n;
    size_t from, end, begin = 0;                        /* not inside a character      */
    if (!t->n) return;
    while (begin < t->n && t->first && token_continues(t, begin) && begin < 3) begin++;
    if (mark < t->first || mark >= last) {
        kvt__tokens_put(h, t, begin, t->n);
        return;
    }
    from = (size_t)(mark - t->first);
    while (from > begin && token_continues(t, from)) from--;
    end = kvt__tokens_group(t, from);
    if (end <= (size_t)(mark - t->first)) end = (size_t)(mark - t->first) + 1;
    kvt__tokens_put(h, t, begin < from ? begin : from, from);
    h_raw(h, "<mark>");
    kvt__tokens_put(h, t, from, end);
    h_raw(h, "</mark>");
    kvt__tokens_put(h, t, end, t->n);
}
