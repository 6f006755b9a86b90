/* kvt_sha256.h - SHA-256 (FIPS 180-4), streaming. Names data in files and databases. */
#ifndef KVT_SHA256_H
#define KVT_SHA256_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvt_sha256 {
    uint32_t h[8];
    uint64_t n_bytes;
    uint8_t  block[64];
} kvt_sha256;

void kvt_sha256_init(kvt_sha256 *s);
void kvt_sha256_update(kvt_sha256 *s, const void *data, size_t n_bytes);
void kvt_sha256_final(kvt_sha256 *s, uint8_t out[32]);
/* The three in one. */
void kvt_sha256_of(const void *data, size_t n_bytes, uint8_t out[32]);
/* Lower-case hex of 32 bytes, with a terminating zero. */
void kvt_sha256_hex(const uint8_t digest[32], char out[65]);

/* The compression function over n whole blocks of 64 bytes: as this processor does it best,
 * and as the standard says it. */
void kvt_sha256_blocks(uint32_t h[8], const uint8_t *p, size_t n_blocks);
void kvt_sha256_blocks_plain(uint32_t h[8], const uint8_t *p, size_t n_blocks);

#ifdef __cplusplus
}
#endif
#endif
