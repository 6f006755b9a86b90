/* kvcap_json.c - the provenance that a front-end passes: one flat JSON object whose
 * values are strings. Written here because libkvcap must not need a JSON library. */
#include "kvcap_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct json_in {
    const char *start, *at;
    char *why;
    size_t why_size;
} json_in;

static int json_fail(const json_in *in, const char *what)
{
    snprintf(in->why, in->why_size, "provenance_json, byte %zu: %s", (size_t)(in->at - in->start), what);
    return KVCAP_EARG;
}

static void json_blank(json_in *in)
{
    while (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r') in->at++;
}

/* Four hexadecimal digits; -1 when they are not there. */
static int32_t json_hex4(json_in *in)
{
    int32_t v = 0;
    for (int i = 0; i < 4; i++) {
        const char c = in->at[i];
        int digit;
        if (c >= '0' && c <= '9')
            digit = c - '0';
        else if (c >= 'a' && c <= 'f')
            digit = c - 'a' + 10;
        else if (c >= 'A' && c <= 'F')
            digit = c - 'A' + 10;
        else
            return -1;
        v = v * 16 + digit;
    }
    in->at += 4;
    return v;
}

static size_t json_utf8(char *out, uint32_t u)
{
    if (u < 0x80) {
        out[0] = (char)u;
        return 1;
    }
    if (u < 0x800) {
        out[0] = (char)(0xc0 | (u >> 6));
        out[1] = (char)(0x80 | (u & 63));
        return 2;
    }
    if (u < 0x10000) {
        out[0] = (char)(0xe0 | (u >> 12));
        out[1] = (char)(0x80 | ((u >> 6) & 63));
        out[2] = (char)(0x80 | (u & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | (u >> 18));
    out[1] = (char)(0x80 | ((u >> 12) & 63));
    out[2] = (char)(0x80 | ((u >> 6) & 63));
    out[3] = (char)(0x80 | (u & 63));
    return 4;
}

/* The character after a backslash; appends to out + *n. */
static int json_escape(json_in *in, char *out, size_t *n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char c = *in->at;
    const char *hit = c ? strchr(from, c) : NULL;
    int32_t u, low;

    if (hit) {
        out[(*n)++] = to[hit - from];
        in->at++;
        return KVCAP_OK;
    }
    if (c != 'u') return json_fail(in, "unknown escape");
    in->at++;
    u = json_hex4(in);
    if (u <= 0) return json_fail(in, u ? "\\u needs four hexadecimal digits" : "\\u0000 cannot be stored");
    if (u >= 0xdc00 && u < 0xe000) return json_fail(in, "lone low surrogate");
    if (u >= 0xd800 && u < 0xdc00) {
        if (in->at[0] != '\\' || in->at[1] != 'u') return json_fail(in, "lone high surrogate");
        in->at += 2;
        low = json_hex4(in);
        if (low < 0xdc00 || low >= 0xe000) return json_fail(in, "lone high surrogate");
        u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
    }
    *n += json_utf8(out + *n, (uint32_t)u);
    return KVCAP_OK;
}

/* A string at in->at; *out is allocated. Its text is never longer than its source. */
static int json_string(json_in *in, char **out)
{
    const char *end;
    char *text;
    size_t n = 0;

    if (*in->at != '"') return json_fail(in, "expected a string in double quotes (all values are strings)");
    in->at++;
    for (end = in->at; *end && *end != '"'; end++)
        if (*end == '\\' && end[1]) end++;
    text = malloc((size_t)(end - in->at) + 1);
    if (!text) return KVCAP_ENOMEM;
    while (*in->at && *in->at != '"') {
        if ((unsigned char)*in->at < 0x20) {
            free(text);
            return json_fail(in, "control character inside a string");
        }
        if (*in->at != '\\') {
            text[n++] = *in->at++;
            continue;
        }
        in->at++;
        if (json_escape(in, text, &n) != KVCAP_OK) {
            free(text);
            return KVCAP_EARG;
        }
    }
    if (*in->at != '"') {
        free(text);
        return json_fail(in, "the string does not end");
    }
    in->at++;
    text[n] = 0;
    *out = text;
    return KVCAP_OK;
}

static int json_pair(json_in *in, kvt_pair *pair)
{
    char *name = NULL, *value = NULL;
    int rc = json_string(in, &name);

    if (rc != KVCAP_OK) return rc;
    json_blank(in);
    if (*in->at != ':') {
        free(name);
        return json_fail(in, "expected ':'");
    }
    in->at++;
    json_blank(in);
    rc = json_string(in, &value);
    if (rc != KVCAP_OK) {
        free(name);
        return rc;
    }
    pair->name = name;
    pair->value = value;
    return KVCAP_OK;
}

static int json_object(json_in *in, kvt_pair **list, uint32_t *n)
{
    json_blank(in);
    if (*in->at != '{') return json_fail(in, "expected '{'");
    in->at++;
    json_blank(in);
    if (*in->at == '}') {
        in->at++;
        return KVCAP_OK;
    }
    for (;;) {
        kvt_pair *more = kvcap__grow(*list, (size_t)*n + 1, sizeof **list);
        int rc;
        if (!more) return KVCAP_ENOMEM;
        *list = more;
        rc = json_pair(in, &(*list)[*n]);
        if (rc != KVCAP_OK) return rc;
        for (uint32_t i = 0; i < *n; i++)
            if (strcmp((*list)[i].name, (*list)[*n].name) == 0) {
                (*n)++;
                return json_fail(in, "a name is there twice");
            }
        (*n)++;
        json_blank(in);
        if (*in->at == '}') {
            in->at++;
            return KVCAP_OK;
        }
        if (*in->at != ',') return json_fail(in, "expected ',' or '}'");
        in->at++;
        json_blank(in);
    }
}

int kvcap__json_pairs(const char *json, kvt_pair **out, uint32_t *n_out, char *why, size_t why_size)
{
    json_in in = {json, json, why, why_size};
    kvt_pair *list = NULL;
    uint32_t n = 0;
    int rc = json_object(&in, &list, &n);

    if (rc == KVCAP_OK) {
        json_blank(&in);
        if (*in.at) rc = json_fail(&in, "text after the object");
    }
    if (rc != KVCAP_OK) {
        if (rc == KVCAP_ENOMEM) snprintf(why, why_size, "out of host memory");
        kvcap__pairs_free(list, n);
        return rc;
    }
    *out = list;
    *n_out = n;
    return KVCAP_OK;
}

/* The strings of a kvt_pair are const for readers; here they are our own heap blocks. */
static void json_free_string(const char *s)
{
    union {
        const char *borrowed;
        void *owned;
    } p = {s};
    free(p.owned);
}

void kvcap__pairs_free(kvt_pair *pair, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        json_free_string(pair[i].name);
        json_free_string(pair[i].value);
    }
    free(pair);
}
