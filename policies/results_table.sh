#!/bin/sh
# The table of results in policies/README.md, from a results database (needs sqlite3):
#
#     kvtrace replay traces/samples/real_smollm2.h5 -o results.db
#     policies/results_table.sh results.db                    prints it
#     policies/results_table.sh results.db --update real      puts it between the marks
#
# "begin results real" and "end results real" of the README; for policies that need the
# queries of the whole prompt:
#
#     kvtrace synth -o prompt.h5 --prompt 600 --window 600 --decode 128 --layers 6
#     kvtrace replay prompt.h5 -p expected,roco,roco:mode=encoding,stride=8,keep_attention=on,recency \
#         -p tova:impl=easykv,h2o:impl=easykv,random:impl=easykv -p snapkv,h2o,tova -o prompt.db
#     policies/results_table.sh prompt.db --update prompt
#
# One row per configuration: mean loss / CVaR95 of the worst KV head at each budget; at
# 20 % also the share of the prompt that it held, and the share of its kept entries that
# tied with the first one rejected.
set -eu
db=${1:?usage: policies/results_table.sh RESULTS.db [--update real|prompt]}
readme=$(dirname "$0")/README.md
[ -f "$db" ] || { echo "results_table.sh: $db: no such file" >&2; exit 3; }

query() { sqlite3 -readonly -noheader -separator '' "$db" "$1"; }

n=$(query "SELECT count(*) FROM (SELECT DISTINCT trace_id, engine_version, metric_version FROM cell WHERE status = 'done')")
[ "$n" = 1 ] || { echo "results_table.sh: $db: $n traces or versions, the table is about one" >&2; exit 2; }

at() {  # at SHARE: the cell of the table for that budget
    echo "coalesce(max(CASE WHEN b.value = $1 THEN printf('%.3f / %.3f', s.mean_lost, s.cvar95_worst_head) END), '-') || ' | ' ||"
}

table() {
    query "SELECT 'Trace: ' || t.name || ' (' || m.name || ', ' || t.n_prompt || ' prompt tokens, ' || t.n_decode || ' decode steps). Open loop: queries, keys and values come from a full-cache run.'
           FROM trace t JOIN model m USING(model_id) WHERE t.trace_id IN (SELECT trace_id FROM cell WHERE status = 'done')"
    echo "Each entry is mean loss / CVaR95 of the worst KV head; oracles read the future and are bounds."
    echo
    echo "| configuration | 5 % | 10 % | 20 % | 40 % | 60 % | 80 % | held at 20 % | tied at 20 % |"
    echo "|---|---|---|---|---|---|---|---|---|"
    query "SELECT '| \`' || s.policy_label || '\` | ' ||
                  $(at 0.05) $(at 0.1) $(at 0.2) $(at 0.4) $(at 0.6) $(at 0.8)
                  coalesce(max(CASE WHEN b.value = 0.2 THEN printf('%.3f | %.3f', s.held_share, s.tie_share_max) END), '- | -') || ' |'
           FROM v_policy_summary s JOIN budget b USING(budget_id)
           WHERE b.kind = 'share' AND b.rule = 'share'
           GROUP BY s.config_id
           ORDER BY CASE s.role WHEN 'policy' THEN 0 WHEN 'baseline' THEN 1 ELSE 2 END,
                    coalesce(max(CASE WHEN b.value = 0.2 THEN s.mean_lost END), 2), s.policy_label"
}

if [ "${2:-}" = --update ]; then
    table >"$readme.table"
    awk -v table="$readme.table" -v name="${3:?--update needs a name: real or prompt}" '
        $0 == "<!-- end results " name " -->" { skip = 0 }
        $0 == "<!-- begin results " name " -->" { print; while ((getline line <table) > 0) print line; skip = 1 }
        !skip' "$readme" >"$readme.new"
    rm "$readme.table"
    mv "$readme.new" "$readme"
else
    table
fi
