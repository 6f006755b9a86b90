/* kvt_registry.h - policies that were not built into the program, for its loaders.
 * kvt_policy_count(), _at() and _find() see them among the others. */
#ifndef KVT_REGISTRY_H
#define KVT_REGISTRY_H

#include "kvt_policy.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_PLUGINS_MAX 32u

/* Enter a policy whose id nobody has; origin_sha256 is the hash of the file that it came
 * from, in hex. Both are borrowed for good. Before any thread starts. 0: KVT_PLUGINS_MAX
 * are there. */
int kvt_policy_add(const kvt_policy *p, const char *origin_sha256);
/* The hash given for a policy that was added; NULL for a built-in one. */
const char *kvt_policy_origin(const kvt_policy *p);

#ifdef __cplusplus
}
#endif
#endif
