/* The list of policies, generated from the file names and sorted by id. */
#include <string.h>

#include "kvt_policy.h"
#include "policy_list.inc"

enum { REGISTRY_COUNT = sizeof policy_list / sizeof *policy_list };

size_t kvt_policy_count(void)
{
    return REGISTRY_COUNT;
}

const kvt_policy *kvt_policy_at(size_t i)
{
    return i < REGISTRY_COUNT ? policy_list[i] : NULL;
}

const kvt_policy *kvt_policy_find(const char *id)
{
    for (size_t i = 0; i < REGISTRY_COUNT; i++)
        if (!strcmp(policy_list[i]->id, id))
            return policy_list[i];
    return NULL;
}
