#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kvt_result.h"
#include "kvt_sha256.h"
#include "kvt_text.h"

void kvt_cell_key(kvt_cell *cell)
{
    char number[32], text[256];
    uint8_t digest[32];
    kvt_sha256 h;

    kvt_sha256_init(&h);
    kvt_sha256_update(&h, "v1|", 3);
    kvt_sha256_update(&h, cell->trace->content_id, strlen(cell->trace->content_id));
    snprintf(text, sizeof text, "|%s|%s:%s:%s|%u|%u|%" PRIu64 "|", cell->config->sha256, cell->budget->kind,
             kvt_number(number, cell->budget->value), cell->budget->rule, KVT_ENGINE_VERSION, KVT_METRIC_VERSION, cell->seed);
    kvt_sha256_update(&h, text, strlen(text));
    kvt_sha256_update(&h, cell->trace->cluster_id, strlen(cell->trace->cluster_id));
    kvt_sha256_final(&h, digest);
    kvt_sha256_hex(digest, cell->key_sha256);
}
