/* The page: its frame, its figures, and how it gets onto the disk. */
#include "report_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvt_text.h"

/* ---- sections and figures --------------------------------------------------------- */

void kvt__empty(kvt__report *r, const char *sentence)
{
    h_put(&r->page, "<p class=\"empty\">%s</p>\n", sentence);
}

kvt_status kvt__section(kvt__report *r, const char *id, const char *title, kvt__body *body,
                        const char *empty, kvt_err *err)
{
    h_page *h = &r->page;
    h_put(h, "<section id=\"%s\" aria-labelledby=\"%s-h\"><h2 id=\"%s-h\">%s</h2>\n", id, id, id, title);
    if (!r->n_scope) kvt__empty(r, empty);
    for (size_t i = 0; i < r->n_scope; i++) {
        const kvt__scope *s = &r->scope[i];
        if (r->n_scope > 1) h_put(h, "<h3 class=\"scope\">%s, split %s</h3>\n", s->model, s->split);
        if (s->cell_id) KVT_TRY(body(r, s, err));
        else kvt__empty(r, empty);
    }
    h_raw(h, "</section>\n");
    return KVT_OK;
}

void kvt__put_label(h_page *h, const char *label)
{
    while (*label) {
        const size_t word = strcspn(label, ":,"), n = word + (label[word] ? 1 : 0);
        h_text(h, label, n);
        label += n;
        if (*label) h_raw(h, "<wbr>");
    }
}

void kvt__put_n(h_page *h, const kvt__scope *s)
{
    enum { ENOUGH = 20 };           /* clusters below which nothing is ranked         */
    h_put(h, "n\xc2\xa0=\xc2\xa0%u\xc2\xa0%s (%u\xc2\xa0%s)%s", s->n_cluster,
          s->n_cluster == 1 ? "cluster" : "clusters", s->n_trace, s->n_trace == 1 ? "trace" : "traces",
          s->n_cluster < ENOUGH ? ", exploratory" : "");
}

void kvt__figure_begin(kvt__report *r, kvt__figure *fig, const kvt__scope *s, const char *id)
{
    snprintf(fig->id, sizeof fig->id, "fig-%s%s", id, s->suffix);
    r->n_figure++;
    h_put(&r->page, "<figure id=\"%s\"><p class=\"finding\"><b>Figure %u.</b> ", fig->id, r->n_figure);
}

static void figure_note(kvt__report *r, const kvt__figure *fig)
{
    kvt__sql_note *p = realloc(r->note, (r->n_note + 1) * sizeof *p);
    if (!p) {
        r->page.failed = 1;
        return;
    }
    r->note = p;
    p += r->n_note;
    *p = (kvt__sql_note){.id = strdup(fig->id), .sql = strdup(fig->sql), .number = r->n_figure};
    r->n_note++;
    if (!p->id || !p->sql) r->page.failed = 1;
}

void kvt__figure_end(kvt__report *r, kvt__figure *fig, const kvt__scope *s, const char *not_shown)
{
    enum { MOST_ROWS = 1000, MOST_PRINTED = 60 };       /* on paper longer tables stay closed */
    h_page *h = &r->page;
    char caption[64];
    h_raw(h, "<p class=\"under\">");
    kvt__put_n(h, s);
    h_put(h, ". <span class=\"not\">Not shown: %s</span></p>\n", not_shown);
    snprintf(caption, sizeof caption, "Data of figure %u.", r->n_figure);
    h_put(h, "<details class=\"%s\"><summary>Data (%zu %s)</summary>\n", fig->rows.n_row > MOST_PRINTED ? "long" : "",
          fig->rows.n_row, fig->rows.n_row == 1 ? "row" : "rows");
    kvt__rows_put(h, &fig->rows, caption, MOST_ROWS);
    h_raw(h, "</details><details><summary>SQL</summary><pre class=\"sql\"><code>");
    h_code(h, fig->sql);
    h_raw(h, "</code></pre></details></figure>\n");
    figure_note(r, fig);
    kvt__figure_free(fig);
}

void kvt__figure_free(kvt__figure *fig)
{
    sqlite3_free(fig->sql);
    kvt__rows_free(&fig->rows);
    fig->sql = NULL;
}

/* ---- the page ----------------------------------------------------------------------- */

static void report_head(kvt__report *r)
{
    h_page *h = &r->page, css = {0};
    char hash[45];
    kvt__css_put(&css);
    h_csp_hash(hash, css.data ? css.data : "", css.n);
    h_put(h, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
             "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-%s'; "
             "img-src data:; base-uri 'none'; form-action 'none'\">\n", hash);
    h_put(h, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
             "<meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"color-scheme\" content=\"light dark\">\n"
             "<title>kvtrace report%s%s</title>\n<link rel=\"icon\" href=\"data:,\">\n",
          r->n_scope ? ": " : "", r->n_scope ? r->scope[0].model : "");
    h_raw(h, "<style>");
    h_raw_n(h, css.data ? css.data : "", css.n);
    h_raw(h, "</style>\n</head>\n<body>\n");
    if (css.failed) h->failed = 1;
    h_free(&css);
}

static kvt_status report_body(kvt__report *r, const kvt_report_opts *opts, kvt_err *err)
{
    KVT_TRY(kvt__scopes_read(r, opts, err));
    report_head(r);
    KVT_TRY(kvt__panel_header(r, err));
    h_raw(&r->page, "<main id=\"main\">\n");
    KVT_TRY(kvt__panel_verdict(r, err));
    KVT_TRY(kvt__panel_validity(r, err));
    KVT_TRY(kvt__panel_curves(r, err));
    KVT_TRY(kvt__panel_heatmap(r, err));
    KVT_TRY(kvt__panel_timeline(r, err));
    KVT_TRY(kvt__panel_postmortem(r, err));
    KVT_TRY(kvt__panel_decomposition(r, err));
    KVT_TRY(kvt__panel_ladder(r, err));
    KVT_TRY(kvt__panel_appendix(r, err));
    h_raw(&r->page, "</main>\n</body>\n</html>\n");
    return KVT_OK;
}

kvt_status kvt_report_build(char **html, size_t *n_bytes, sqlite3 *db, const kvt_report_opts *opts, kvt_err *err)
{
    kvt__report r = {.db = db};
    kvt__rows none;
    kvt_status st;

    /* One snapshot, also while a replay is writing. */
    KVT_TRY(kvt__rows_read(&none, NULL, db, err, "BEGIN"));
    kvt__rows_free(&none);
    st = report_body(&r, opts, err);
    if (st == KVT_OK && r.page.failed)
        st = kvt_fail(err, KVT_ENOMEM, "out of memory for a page of %zu bytes", r.page.n);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);     /* a reader has nothing to lose */
    if (st == KVT_OK) {
        *html = r.page.data;
        *n_bytes = r.page.n;
        r.page.data = NULL;
    }
    h_free(&r.page);
    for (size_t i = 0; i < r.n_note; i++) {
        free(r.note[i].id);
        free(r.note[i].sql);
    }
    free(r.note);
    kvt__scopes_free(&r);
    return st;
}

/* ---- onto the disk -------------------------------------------------------------------- */

kvt_status kvt_report_check_target(const char *path, const char *db_path, int force, kvt_err *err)
{
    struct stat target, db;
    char shown[300];
    kvt_printable_str(shown, sizeof shown, path);
    if (stat(path, &target) != 0) return KVT_OK;        /* saving says what is wrong, if anything */
    if (!S_ISREG(target.st_mode))
        return kvt_fail(err, KVT_EARG, "%s: is not a file; -o takes the name of the HTML file to write", shown);
    if (stat(db_path, &db) == 0 && db.st_dev == target.st_dev && db.st_ino == target.st_ino)
        return kvt_fail(err, KVT_EARG, "%s: is the results database itself; give another name with -o", shown);
    if (!force)
        return kvt_fail(err, KVT_EARG, "%s: exists; give --force to overwrite it or another name with -o", shown);
    return KVT_OK;
}

static kvt_status save_fail(const char *path, const char *what, int code, kvt_err *err)
{
    char shown[300];
    kvt_printable_str(shown, sizeof shown, path);
    return kvt_fail(err, KVT_EIO, "%s: cannot %s: %s", shown, what, strerror(code));
}

static int save_write(int fd, const char *html, size_t n)
{
    while (n) {
        const ssize_t done = write(fd, html, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return -1;
        html += done;
        n -= (size_t)done;
    }
    return fsync(fd);
}

kvt_status kvt_report_save(const char *path, const char *html, size_t n_bytes, kvt_err *err)
{
    const size_t size = strlen(path) + 32;
    char *part = malloc(size);
    int fd, code = 0;
    if (!part) return kvt_fail(err, KVT_ENOMEM, "out of memory for a file name");
    snprintf(part, size, "%s.%ld.part", path, (long)getpid());
    fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) {                    /* of a process that was killed and had this id */
        unlink(part);
        fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (fd < 0) {
        code = errno;
        free(part);
        return save_fail(path, "create the file", code, err);
    }
    if (save_write(fd, html, n_bytes) != 0) code = errno;
    if (close(fd) != 0 && !code) code = errno;
    if (!code && rename(part, path) != 0) code = errno;
    if (code) unlink(part);
    free(part);
    return code ? save_fail(path, "write the file", code, err) : KVT_OK;
}
