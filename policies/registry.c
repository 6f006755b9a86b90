/* The list of policies: generated from the file names, and those that were added while
 * the program runs; sorted by id. */
#include <string.h>

#include "kvt_registry.h"
#include "kvt_status.h"
#include "policy_list.inc"

enum { REGISTRY_BUILT_IN = sizeof policy_list / sizeof *policy_list };

static const kvt_policy *registry_all[REGISTRY_BUILT_IN + KVT_PLUGINS_MAX];
static size_t            registry_n_added;
static struct { const kvt_policy *policy; const char *origin; } registry_added[KVT_PLUGINS_MAX];

size_t kvt_policy_count(void)
{
    return REGISTRY_BUILT_IN + registry_n_added;
}

const kvt_policy *kvt_policy_at(size_t i)
{
    if (i >= kvt_policy_count())
        return NULL;
    return registry_n_added ? registry_all[i] : policy_list[i];
}

const kvt_policy *kvt_policy_find(const char *id)
{
    for (size_t i = 0; i < kvt_policy_count(); i++)
        if (!strcmp(kvt_policy_at(i)->id, id))
            return kvt_policy_at(i);
    return NULL;
}

int kvt_policy_add(const kvt_policy *p, const char *origin_sha256)
{
    size_t at = kvt_policy_count();

    KVT_ASSERT(!kvt_policy_find(p->id));
    if (registry_n_added == KVT_PLUGINS_MAX)
        return 0;
    if (registry_n_added == 0)
        memcpy(registry_all, policy_list, sizeof policy_list);
    for (; at > 0 && strcmp(registry_all[at - 1]->id, p->id) > 0; at--)
        registry_all[at] = registry_all[at - 1];
    registry_all[at] = p;
    registry_added[registry_n_added].policy = p;
    registry_added[registry_n_added++].origin = origin_sha256;
    return 1;
}

const char *kvt_policy_origin(const kvt_policy *p)
{
    for (size_t i = 0; i < registry_n_added; i++)
        if (registry_added[i].policy == p)
            return registry_added[i].origin;
    return NULL;
}
