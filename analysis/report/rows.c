/* Rows of a query in memory, and as a table. */
#include "report_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "kvt_mul.h"
#include "kvt_text.h"

/* What SQLite says about a file that is damaged or has another layout is about the
 * input; everything else happened while running. */
static kvt_status rows_fail(sqlite3 *db, kvt_err *err)
{
    const int code = sqlite3_errcode(db) & 0xff;
    char text[300];
    kvt_printable_str(text, sizeof text, sqlite3_errmsg(db));
    if (code == SQLITE_NOMEM) return kvt_fail(err, KVT_ENOMEM, "out of memory while reading the database");
    if (code == SQLITE_ERROR || code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
        return kvt_fail(err, KVT_EFORMAT, "the database is damaged or lacks a table of this version: %s", text);
    return kvt_fail(err, KVT_EDB, "reading the database: %s", text);
}

static kvt_status rows_copy(kvt__value *v, sqlite3_stmt *q, int col)
{
    const void *data;
    v->type = sqlite3_column_type(q, col);
    v->num = NAN;
    if (v->type == SQLITE_INTEGER || v->type == SQLITE_FLOAT) {
        v->num = sqlite3_column_double(q, col);
        v->whole = sqlite3_column_int64(q, col);
        return KVT_OK;
    }
    if (v->type == SQLITE_NULL) return KVT_OK;
    data = v->type == SQLITE_BLOB ? sqlite3_column_blob(q, col) : sqlite3_column_text(q, col);
    v->n = (size_t)sqlite3_column_bytes(q, col);
    v->text = malloc(v->n + 1);
    if (!v->text || (v->n && !data)) return KVT_ENOMEM;
    if (v->n) memcpy(v->text, data, v->n);
    v->text[v->n] = 0;
    return KVT_OK;
}

static kvt_status rows_grow(kvt__rows *rows, size_t *cap)
{
    size_t want, bytes;
    kvt__value *v;
    if (rows->n_row < *cap) return KVT_OK;
    if (!kvt_mul(*cap ? *cap : 32, 2, &want) || !kvt_mul(want, rows->n_col, &bytes) ||
        !kvt_mul(bytes, sizeof *v, &bytes)) return KVT_ENOMEM;
    v = realloc(rows->v, bytes);
    if (!v) return KVT_ENOMEM;
    rows->v = v;
    *cap = want;
    return KVT_OK;
}

static kvt_status rows_fill(kvt__rows *rows, sqlite3_stmt *q, sqlite3 *db, kvt_err *err)
{
    size_t cap = 0;
    int rc;
    rows->n_col = (size_t)sqlite3_column_count(q);
    rows->name = calloc(rows->n_col ? rows->n_col : 1, sizeof *rows->name);
    if (!rows->name) goto nomem;
    for (size_t c = 0; c < rows->n_col; c++) {
        const char *name = sqlite3_column_name(q, (int)c);
        rows->name[c] = name ? strdup(name) : NULL;
        if (!rows->name[c]) goto nomem;
    }
    while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
        kvt__value *v;
        if (rows_grow(rows, &cap) < 0) goto nomem;
        v = rows->v + rows->n_row * rows->n_col;
        memset(v, 0, rows->n_col * sizeof *v);
        rows->n_row++;
        for (size_t c = 0; c < rows->n_col; c++)
            if (rows_copy(&v[c], q, (int)c) < 0) goto nomem;
    }
    return rc == SQLITE_DONE ? KVT_OK : rows_fail(db, err);
nomem:
    return kvt_fail(err, KVT_ENOMEM, "out of memory for the rows of a query");
}

kvt_status kvt__rows_read(kvt__rows *out, char **sql_out, sqlite3 *db, kvt_err *err, const char *sql, ...)
{
    kvt__rows rows = {0};
    sqlite3_stmt *q = NULL;
    kvt_status st = KVT_OK;
    va_list ap;
    char *text;

    va_start(ap, sql);
    text = sqlite3_vmprintf(sql, ap);
    va_end(ap);
    if (!text) return kvt_fail(err, KVT_ENOMEM, "out of memory for a query");
    if (sqlite3_prepare_v2(db, text, -1, &q, NULL) != SQLITE_OK) st = rows_fail(db, err);
    if (st == KVT_OK) st = rows_fill(&rows, q, db, err);
    sqlite3_finalize(q);
    if (st < 0 || !sql_out) sqlite3_free(text);
    if (st < 0) {
        kvt__rows_free(&rows);
        return st;
    }
    if (sql_out) *sql_out = text;
    *out = rows;
    return KVT_OK;
}

void kvt__rows_free(kvt__rows *rows)
{
    for (size_t i = 0; i < rows->n_row * rows->n_col; i++) free(rows->v[i].text);
    for (size_t c = 0; rows->name && c < rows->n_col; c++) free(rows->name[c]);
    free(rows->name);
    free(rows->v);
    *rows = (kvt__rows){0};
}

const kvt__value *kvt__at(const kvt__rows *rows, size_t row, size_t col)
{
    KVT_ASSERT(row < rows->n_row && col < rows->n_col);
    return &rows->v[row * rows->n_col + col];
}

double kvt__num(const kvt__rows *rows, size_t row, size_t col)
{
    return kvt__at(rows, row, col)->num;
}

int64_t kvt__int(const kvt__rows *rows, size_t row, size_t col)
{
    return kvt__at(rows, row, col)->whole;
}

const char *kvt__str(const kvt__rows *rows, size_t row, size_t col)
{
    const kvt__value *v = kvt__at(rows, row, col);
    return v->type == SQLITE_TEXT ? v->text : "";
}

double kvt__q31(const kvt__value *v, size_t i)
{
    const unsigned char *b = (const unsigned char *)v->text + 4 * i;
    KVT_ASSERT(i < v->n / 4);
    return (double)((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24) * 0x1p-31;
}

static void rows_put_value(h_page *h, const kvt__value *v)
{
    char number[32];
    switch (v->type) {
    case SQLITE_INTEGER: h_put(h, "<td class=\"num\">%lld</td>", (long long)v->whole); break;
    case SQLITE_FLOAT:
        if (isfinite(v->num)) h_put(h, "<td class=\"num\">%s</td>", kvt_number(number, v->num));
        else h_raw(h, "<td class=\"num\">not finite</td>");
        break;
    case SQLITE_TEXT:
        h_raw(h, "<td>");
        h_text(h, v->text, v->n);
        h_raw(h, "</td>");
        break;
    case SQLITE_BLOB: h_put(h, "<td class=\"num\">%zu bytes</td>", v->n); break;
    default: h_raw(h, "<td class=\"num\">-</td>");
    }
}

void kvt__rows_put(h_page *h, const kvt__rows *rows, const char *caption, size_t limit)
{
    const size_t n = rows->n_row < limit ? rows->n_row : limit;
    h_put(h, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"%s\"><table class=\"data\"><caption>%s",
          caption, caption);
    if (n < rows->n_row) h_put(h, " The first %zu of %zu rows; the SQL gives all.", n, rows->n_row);
    h_raw(h, "</caption><thead><tr>");
    for (size_t c = 0; c < rows->n_col; c++) h_put(h, "<th scope=\"col\">%s</th>", rows->name[c]);
    h_raw(h, "</tr></thead><tbody>\n");
    for (size_t i = 0; i < n; i++) {
        h_raw(h, "<tr>");
        for (size_t c = 0; c < rows->n_col; c++) rows_put_value(h, kvt__at(rows, i, c));
        h_raw(h, "</tr>\n");
    }
    h_raw(h, "</tbody></table></div>\n");
}
