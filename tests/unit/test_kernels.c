/* test_kernels.c - the row kernels: every table that this CPU runs gives the same bits,
 * and those bits are right. The reference here is written from the definition of a row:
 * a fused chain over the channels for the logit (compared bit for bit), the exponential
 * of the C library in long double (compared within the rounding to f32). */
#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "kvt_kernels.h"

#define LANES KVT_TILE
enum { MAX_KEYS = 257, MAX_D = 300, GUARD = 32 };

static const uint32_t key_counts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 257};
static const uint32_t widths[] = {1, 2, 3, 7, 8, 64, 127, 128, 129, 257};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static uint64_t state = 1;
static uint64_t next_u64(void)                      /* splitmix64 */
{
    uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
static double uniform(void) { return (double)(next_u64() >> 11) * 0x1p-53; }
static double normal(void)
{
    return sqrt(-2.0 * log(1.0 - uniform())) * cos(6.283185307179586 * uniform());
}

typedef struct input {
    kvt_rows_args a;
    double   qt[MAX_D * LANES], lse[LANES];
    float    k[MAX_KEYS * MAX_D];
    uint32_t n_visible[LANES];
} input;

/* Queries and keys of size `size`; lanes see different numbers of keys; the last
 * `n_unused` lanes are padding. lse is near the largest logit, so values reach 1. */
static input *make(uint32_t n_keys, uint32_t d, double softcap, double size, uint32_t n_unused)
{
    input *in = calloc(1, sizeof *in);

    cr_assert(in != NULL);
    in->a = (kvt_rows_args){in->qt, in->k, n_keys, d, 1.0 / sqrt(d), softcap, in->lse, in->n_visible, NULL};
    for (uint32_t i = 0; i < n_keys * d; i++) in->k[i] = (float)(size * normal());
    for (uint32_t l = 0; l < LANES; l++) {
        const int used = l < LANES - n_unused;
        for (uint32_t c = 0; c < d; c++) in->qt[c * LANES + l] = used ? (double)(float)(size * normal()) : 0.0;
        in->lse[l] = used ? 3.0 * size * size : (double)INFINITY;
        in->n_visible[l] = n_keys <= LANES ? n_keys : n_keys - LANES + 1 + l;
    }
    return in;
}

static double ref_logit(const kvt_rows_args *a, uint32_t j, uint32_t lane)
{
    double s = 0, x;
    for (uint32_t c = 0; c < a->d; c++) s = fma((double)a->k[j * a->d + c], a->qt[c * LANES + lane], s);
    x = s * a->scale;
    return a->softcap > 0 ? a->softcap * tanh(x / a->softcap) : x;
}

static int same_double(double x, double y)          /* all NaN are one value */
{
    return (isnan(x) && isnan(y)) || memcmp(&x, &y, sizeof x) == 0;
}
static int same_float(float x, float y)
{
    return (isnan(x) && isnan(y)) || memcmp(&x, &y, sizeof x) == 0;
}

/* Run one table into a tile with guards around it; the caller frees. */
static float *run(const kvt_kernels *t, input *in, double *z)
{
    const size_t n = (size_t)in->a.n_keys * LANES;
    float *buf = malloc((n + 2 * GUARD) * sizeof *buf);

    cr_assert(buf != NULL);
    for (size_t i = 0; i < n + 2 * GUARD; i++) buf[i] = -77.0f;
    in->a.tile = buf + GUARD;
    t->rows(&in->a);
    t->logits(&in->a, z);
    for (size_t i = 0; i < GUARD; i++)
        cr_assert(buf[i] == -77.0f && buf[GUARD + n + i] == -77.0f, "%s wrote outside the tile", t->name);
    return buf;
}

static void check_against_definition(const input *in, const float *tile, const double *z)
{
    const kvt_rows_args *a = &in->a;

    for (uint32_t j = 0; j < a->n_keys; j++)
        for (uint32_t l = 0; l < LANES; l++) {
            const double x = ref_logit(a, j, l), got = z[j * LANES + l];
            const float v = tile[j * LANES + l];

            if (a->softcap > 0)
                cr_assert(fabs(got - x) <= 1e-15 * a->softcap + 1e-15 * fabs(x), "logit %u,%u: %.17g, expected %.17g", j, l, got, x);
            else
                cr_assert(same_double(got, x), "logit %u,%u: %a, expected %a", j, l, got, x);
            if (isinf(a->lse[l]) || j >= a->n_visible[l]) {
                cr_assert(v == 0.0f && !signbit(v), "%u,%u must be 0, is %g", j, l, (double)v);
            } else {
                const long double e = expl((long double)x - (long double)a->lse[l]);
                cr_assert(fabsl((long double)v - e) <= 6.0e-8L * e + 1e-45L, "%u,%u: %.9g, expected %.9Lg", j, l, (double)v, e);
            }
        }
}

/* The portable table against the definition, every other one against its bits. */
static void check_tables(input *in, int with_definition)
{
    const size_t n = (size_t)in->a.n_keys * LANES;
    double *z0 = malloc(n * sizeof *z0), *z = malloc(n * sizeof *z);
    float *tile0 = run(kvt_kernels_find("portable"), in, z0);

    if (with_definition) check_against_definition(in, tile0 + GUARD, z0);
    for (uint32_t i = 0; kvt_kernels_at(i) != NULL; i++) {
        const kvt_kernels *t = kvt_kernels_at(i);
        float *tile;

        if (!t->usable()) continue;
        tile = run(t, in, z);
        for (size_t e = 0; e < n; e++) {
            cr_assert(same_float(tile[GUARD + e], tile0[GUARD + e]), "%s: row element %zu: %a, portable %a", t->name, e, (double)tile[GUARD + e], (double)tile0[GUARD + e]);
            cr_assert(same_double(z[e], z0[e]), "%s: logit %zu: %a, portable %a", t->name, e, z[e], z0[e]);
        }
        free(tile);
    }
    free(tile0);
    free(z0);
    free(z);
}

Test(kernels, same_bits_for_every_shape)
{
    for (size_t i = 0; i < COUNT(key_counts); i++)
        for (size_t w = 0; w < COUNT(widths); w++) {
            input *in = make(key_counts[i], widths[w], 0.0, 1.5, (uint32_t)(i % 5));
            check_tables(in, 1);
            free(in);
        }
}

/* Tables without fused operations decide by a bound whether a plain exponential rounds to the
 * same f32: many values over the whole range of f32, against those that have them. */
Test(kernels, exponential_of_many_values)
{
    static float tile[MAX_KEYS * LANES];

    for (uint32_t round = 0; round < 400; round++) {
        input *in = make(MAX_KEYS, 1, 0.0, 1.0, 0);
        for (uint32_t j = 0; j < MAX_KEYS; j++) in->k[j] = (float)(round % 2 ? 200.0 * uniform() - 110.0 : -20.0 * uniform());
        for (uint32_t l = 0; l < LANES; l++) in->qt[l] = 1.0, in->lse[l] = uniform(), in->n_visible[l] = MAX_KEYS;
        check_tables(in, 0);
        in->a.tile = tile;
        kvt_kernels_find("portable")->rows(&in->a);
        for (uint32_t e = 0; e < MAX_KEYS * LANES; e++) {
            const float want = (float)kvt_exp((double)in->k[e / LANES] - in->lse[e % LANES]);
            cr_assert(same_float(tile[e], want), "element %u: %a, expected %a", e, (double)tile[e], (double)want);
        }
        free(in);
    }
}

Test(kernels, softcap)
{
    for (size_t i = 0; i < COUNT(key_counts); i++) {
        input *in = make(key_counts[i], 64, i % 2 ? 50.0 : 0.75, 2.0, 3);
        check_tables(in, 1);
        free(in);
    }
}

/* Logits far beyond the range of exp, of both signs: 0 below, infinity above. */
Test(kernels, large_logits)
{
    for (uint32_t s = 0; s < 6; s++) {
        input *in = make(65, 33, s % 2 ? 30.0 : 0.0, pow(10.0, s), 0);
        for (uint32_t l = 0; l < LANES; l++) in->lse[l] = l % 4 == 0 ? -900.0 : 900.0 * (l % 4);
        check_tables(in, 0);
        free(in);
    }
}

/* Infinities, subnormals, both zeros and values at the ends of f32 as operands. */
Test(kernels, extreme_operands)
{
    static const float odd[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 3.4e38f, -3.4e38f, INFINITY, -INFINITY, 1.0f, 6.1e-5f};

    for (uint32_t round = 0; round < 40; round++) {
        input *in = make(17 + round, 1 + round % 9, round % 3 ? 0.0 : 20.0, 1.0, 2);
        for (uint32_t i = 0; i < in->a.n_keys * in->a.d; i++)
            if (next_u64() % 4 == 0) in->k[i] = odd[next_u64() % COUNT(odd)];
        for (uint32_t i = 0; i < in->a.d * (LANES - 2); i++)
            if (next_u64() % 4 == 0) in->qt[i] = (double)odd[next_u64() % COUNT(odd)];
        for (uint32_t l = 0; l < LANES - 2; l++)
            if (next_u64() % 8 == 0) in->lse[l] = next_u64() % 2 ? (double)NAN : -(double)INFINITY;
        check_tables(in, 0);
        free(in);
    }
}

/* A NaN in a key reaches every lane that sees the key, and no other element. */
Test(kernels, nan_is_not_hidden)
{
    for (uint32_t i = 0; kvt_kernels_at(i) != NULL; i++) {
        const kvt_kernels *t = kvt_kernels_at(i);
        input *in = make(64, 64, 0.0, 1.0, 4);
        double z[64 * LANES];
        float *tile;

        in->k[55 * 64 + 63] = NAN;
        if (t->usable()) {
            tile = run(t, in, z);
            for (uint32_t j = 0; j < 64; j++)
                for (uint32_t l = 0; l < LANES; l++) {
                    const int sees = j < in->n_visible[l] && l < LANES - 4;
                    const float v = tile[GUARD + j * LANES + l];
                    cr_assert(j == 55 && sees ? isnan(v) : sees ? v > 0 : v == 0, "%s: %u,%u is %g", t->name, j, l, (double)v);
                    cr_assert(isnan(z[j * LANES + l]) == (j == 55));
                }
            free(tile);
        }
        free(in);
    }
}

/* n_visible may exceed the keys of this call (a block of a longer row), or be 0. */
Test(kernels, visible_beyond_and_none)
{
    input *in = make(20, 5, 0.0, 1.0, 0);
    for (uint32_t l = 0; l < LANES; l++) in->n_visible[l] = l % 3 == 0 ? 0 : l % 3 == 1 ? UINT32_MAX : 20;
    check_tables(in, 1);
    for (uint32_t l = 0; l < LANES; l++) in->n_visible[l] = 0;
    check_tables(in, 1);
    free(in);
}

/* Masses are multiples of 2^-40, so the sums are exact: backwards gives the same. */
Test(kernels, class_mass_is_exact_in_any_order)
{
    enum { N = 1000, CLASSES = 7 };
    static float tile[N * LANES];
    static uint16_t cls[N];
    double want[CLASSES * LANES], got[CLASSES * LANES];

    for (uint32_t i = 0; i < N * LANES; i++) tile[i] = (float)exp(-30.0 * fabs(normal()));
    for (uint32_t j = 0; j < N; j++) cls[j] = (uint16_t)(next_u64() % CLASSES);
    for (uint32_t i = 0; i < CLASSES * LANES; i++) want[i] = (double)i;
    for (uint32_t j = N; j-- > 0;)
        for (uint32_t l = 0; l < LANES; l++) want[cls[j] * LANES + l] += ldexp(rint(ldexp((double)tile[j * LANES + l], 40)), -40);
    for (uint32_t i = 0; kvt_kernels_at(i) != NULL; i++) {
        const kvt_kernels *t = kvt_kernels_at(i);
        if (!t->usable()) continue;
        for (uint32_t e = 0; e < CLASSES * LANES; e++) got[e] = (double)e;
        t->class_mass(tile, N, cls, got);
        cr_assert(memcmp(got, want, sizeof got) == 0, "%s", t->name);
        t->class_mass(tile, 0, cls, got);
        cr_assert(memcmp(got, want, sizeof got) == 0, "%s: no keys", t->name);
    }
}

/* The same sums from keys listed by class, an empty class and one of a single key among them. */
Test(kernels, line_mass_gives_the_sums_of_class_mass)
{
    enum { N = 1001, CLASSES = 9, NONE = 3, SINGLE = 5 };
    static float tile[N * LANES], exact[N * LANES];
    static uint16_t cls[N], key[N];
    uint32_t start[CLASSES + 1] = { 0 }, n = 0;
    double want[CLASSES * LANES], got[CLASSES * LANES];

    for (uint32_t i = 0; i < N * LANES; i++) tile[i] = (float)exp(-30.0 * fabs(normal()));
    for (uint32_t j = 0; j < N; j++) {
        cls[j] = (uint16_t)(next_u64() % CLASSES);
        cls[j] = cls[j] == NONE || cls[j] == SINGLE ? 0 : cls[j];
    }
    cls[77] = SINGLE;
    for (uint32_t c = 0; c < CLASSES; c++) {
        for (uint32_t j = 0; j < N; j++)
            if (cls[j] == c) key[n++] = (uint16_t)j;
        start[c + 1] = n;
    }
    for (uint32_t i = 0; kvt_kernels_at(i) != NULL; i++) {
        const kvt_kernels *t = kvt_kernels_at(i);
        if (!t->usable()) continue;
        for (uint32_t e = 0; e < CLASSES * LANES; e++) want[e] = got[e] = (double)e;
        t->class_mass(tile, N, cls, want);
        t->masses(tile, N, exact);
        for (uint32_t e = 0; e < N * LANES; e++) cr_assert((double)exact[e] == kvt_mass(tile[e]), "%s", t->name);
        t->line_mass(exact, key, start, CLASSES, got);
        cr_assert(memcmp(got, want, sizeof got) == 0, "%s", t->name);
    }
}

Test(kernels, exps_gives_the_bits_of_kvt_exp)
{
    enum { N = 4099 };
    static double x[N], got[N];

    for (uint32_t i = 0; i < N; i++) x[i] = 1500.0 * uniform() - 750.0;
    x[0] = -INFINITY, x[1] = INFINITY, x[2] = 0.0;
    for (uint32_t k = 0; kvt_kernels_at(k) != NULL; k++) {
        const kvt_kernels *t = kvt_kernels_at(k);
        if (!t->usable()) continue;
        memcpy(got, x, sizeof got);
        t->exps(got, N);
        for (uint32_t i = 0; i < N; i++) {
            const double want = kvt_exp(x[i]);
            cr_assert(memcmp(&got[i], &want, sizeof want) == 0, "%s: exp(%g) is %g, expected %g", t->name, x[i], got[i], want);
        }
    }
}

Test(kernels, weigh_lanes_adds_four_sums_of_four)
{
    enum { N = 101 };
    static float tile[N * LANES];
    double weight[LANES], want[N], got[N];

    for (uint32_t i = 0; i < N * LANES; i++) tile[i] = (float)uniform();
    for (uint32_t l = 0; l < LANES; l++) weight[l] = uniform();
    for (uint32_t j = 0; j < N; j++) {
        double s[4] = { 0 };
        for (uint32_t l = 0; l < LANES; l++) {
            const double product = weight[l] * (double)tile[j * LANES + l];
            s[l % 4] += product;
        }
        want[j] = j + ((s[0] + s[1]) + (s[2] + s[3]));
    }
    for (uint32_t k = 0; kvt_kernels_at(k) != NULL; k++) {
        if (!kvt_kernels_at(k)->usable()) continue;
        for (uint32_t j = 0; j < N; j++) got[j] = j;
        kvt_kernels_at(k)->weigh_lanes(tile, N, weight, got);
        cr_assert(memcmp(got, want, sizeof got) == 0, "%s", kvt_kernels_at(k)->name);
    }
}

/* One chain per channel, at widths that leave a rest of each kind, over a stretch of keys that
 * is met in two calls. */
Test(kernels, weigh_values_is_one_chain_per_channel)
{
    enum { N = 200, MOST = 71 };
    static const uint32_t width[] = { 1, 3, 4, 32, 39, 64, MOST };
    static float v[N * MOST];
    double weight[N], want[MOST], got[MOST + 1];
    uint32_t key[N], n = 0;

    for (uint32_t i = 0; i < N * MOST; i++) v[i] = (float)normal();
    for (uint32_t j = 0; j < N; j++)
        if (next_u64() % 3) weight[n] = uniform(), key[n++] = j;
    for (uint32_t k = 0; k < sizeof width / sizeof *width; k++) {
        const uint32_t d = width[k];
        for (uint32_t c = 0; c < d; c++) {
            want[c] = c;
            for (uint32_t i = 0; i < n; i++) {
                const double product = weight[i] * (double)v[key[i] * d + c];
                want[c] += product;
            }
        }
        for (uint32_t i = 0; kvt_kernels_at(i) != NULL; i++) {
            const kvt_kernels *t = kvt_kernels_at(i);
            if (!t->usable()) continue;
            for (uint32_t c = 0; c <= d; c++) got[c] = c;
            t->weigh_values(v, d, weight, key, 50, got);
            t->weigh_values(v, d, weight + 50, key + 50, n - 50, got);
            t->weigh_values(v, d, weight, key, 0, got);
            cr_assert(memcmp(got, want, d * sizeof *got) == 0, "%s, %u channels", t->name, d);
            cr_assert(got[d] == d, "%s, %u channels: wrote behind the last one", t->name, d);
        }
    }
}

Test(kernels, exp_is_accurate)
{
    long double worst = 0;

    for (uint32_t i = 0; i < 200000; i++) {
        const double x = i < 100000 ? 1400.0 * uniform() - 700.0 : 40.0 * uniform() - 39.0;
        const long double e = expl((long double)x), err = fabsl((long double)kvt_exp(x) - e) / e;
        worst = err > worst ? err : worst;
    }
    cr_assert(worst <= 1e-14L, "largest relative error %Lg", worst);
    cr_assert(kvt_exp(0.0) == 1.0 && kvt_exp(-0.0) == 1.0);
    cr_assert(kvt_exp(-700.0) > 0 && kvt_exp(700.0) < (double)INFINITY);
    cr_assert(kvt_exp(nextafter(-700.0, -701.0)) == 0.0 && kvt_exp(-1e300) == 0.0);
    cr_assert(kvt_exp(-(double)INFINITY) == 0.0 && !signbit(kvt_exp(-(double)INFINITY)));
    cr_assert(isinf(kvt_exp(1e300)) && isinf(kvt_exp((double)INFINITY)) && isnan(kvt_exp((double)NAN)));
}

/* kvt_exp() is the exponential inside the tables: a capped logit made from it has the
 * same bits as theirs. */
Test(kernels, exp_is_the_tables_own)
{
    for (uint32_t i = 0; kvt_kernels_at(i) != NULL; i++) {
        const kvt_kernels *t = kvt_kernels_at(i);
        input *in = make(200, 1, 8.0, 30.0, 0);
        double z[200 * LANES];

        if (t->usable()) {
            free(run(t, in, z));
            for (uint32_t j = 0; j < 200; j++)
                for (uint32_t l = 0; l < LANES; l++) {
                    const double x = (double)in->k[j] * in->qt[l];
                    const double want = 8.0 * (1.0 - 2.0 / (kvt_exp(2.0 * (x / 8.0)) + 1.0));
                    cr_assert(same_double(z[j * LANES + l], want), "%s: %a, expected %a", t->name, z[j * LANES + l], want);
                }
        }
        free(in);
    }
}

Test(kernels, find)
{
    uint32_t n = 0;
    const kvt_kernels *widest = NULL;

    for (; kvt_kernels_at(n) != NULL; n++) {
        const kvt_kernels *t = kvt_kernels_at(n);
        cr_assert(kvt_kernels_find(t->name) == (t->usable() ? t : NULL));
        if (t->usable()) widest = t;
        for (uint32_t m = 0; m < n; m++) cr_assert(strcmp(t->name, kvt_kernels_at(m)->name) != 0);
    }
    cr_assert(n >= 1 && strcmp(kvt_kernels_at(0)->name, "portable") == 0 && kvt_kernels_at(0)->usable());
    cr_assert(kvt_kernels_find(NULL) == widest && kvt_kernels_find("auto") == widest);
    cr_assert(kvt_kernels_find("") == NULL && kvt_kernels_find("AVX2") == NULL && kvt_kernels_find("amx") == NULL);
    cr_assert(kvt_kernels_at(UINT32_MAX) == NULL);
}
