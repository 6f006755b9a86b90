-- A results database of schema version 2: full, knorm and oracle_minimax at budget 0.5 on a synthetic trace (kvtrace synth --layers 1 --heads 2 --kv-heads 1 --head-dim 16 --prompt 48 --decode 12 --window 32 --seed 5).
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE meta(
  key   TEXT NOT NULL PRIMARY KEY,            -- 'engine_version', 'metric_version', 'created_utc', 'title', 'note', ...
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES('created_by','kvtrace 0.1.0');
INSERT INTO meta VALUES('created_utc','2026-11-24T21:34:11Z');
INSERT INTO meta VALUES('engine_version','1');
INSERT INTO meta VALUES('metric_version','1');
INSERT INTO meta VALUES('note','Open-loop replay on full-cache trajectories: evictions do not feed back into later queries.');
INSERT INTO meta VALUES('title','kvtrace results');
CREATE TABLE schema_migration(
  version      INTEGER PRIMARY KEY,
  applied_utc  TEXT NOT NULL,
  tool_version TEXT NOT NULL,
  sql_sha256   TEXT NOT NULL CHECK(length(sql_sha256) = 64)
) STRICT;
INSERT INTO schema_migration VALUES(2,'2026-11-24T21:34:11Z','0.1.0','5876ec430a4dfff6410f704a95d515525b9f9c40bb9d543f190b0958572b6780');
CREATE TABLE column_doc(
  table_name  TEXT NOT NULL,
  column_name TEXT NOT NULL,
  unit        TEXT NOT NULL,
  lo          REAL,
  hi          REAL,
  description TEXT NOT NULL,
  PRIMARY KEY(table_name, column_name)
) STRICT, WITHOUT ROWID;
INSERT INTO column_doc VALUES('ladder_head','cell_id','id',NULL,NULL,'cell of the oracle_minimax baseline');
INSERT INTO column_doc VALUES('ladder_head','fixed_max','share',0.0,1.0,'largest loss of that set');
INSERT INTO column_doc VALUES('ladder_head','fixed_mean','share',0.0,1.0,'mean loss of the best fixed set in hindsight for the mean');
INSERT INTO column_doc VALUES('ladder_head','head','index',0.0,NULL,'query head');
INSERT INTO column_doc VALUES('ladder_head','layer','index',0.0,NULL,'layer');
INSERT INTO column_doc VALUES('ladder_head','minimax_bound','share',0.0,1.0,'certified lower bound of the worst-case loss of every fixed set of n_keep entries, never above minimax_found');
INSERT INTO column_doc VALUES('ladder_head','minimax_found','share',0.0,1.0,'worst-case loss of the best fixed set found');
INSERT INTO column_doc VALUES('ladder_head','minimax_iters','count',0.0,NULL,'iterations of the searches that could improve this row');
INSERT INTO column_doc VALUES('ladder_head','minimax_stop','enum',NULL,NULL,'why the search ended: trivial, certified (bound and set within 0.001), fractional (the rest is integrality), limit');
INSERT INTO column_doc VALUES('ladder_head','n_keep','tokens',0.0,NULL,'size of the sets');
INSERT INTO column_doc VALUES('ladder_head','n_step','steps',1.0,NULL,'decode steps');
INSERT INTO column_doc VALUES('ladder_head','n_trivial','steps',0.0,NULL,'trivial steps');
INSERT INTO column_doc VALUES('ladder_head','oracle_max','share',0.0,1.0,'largest per-step oracle loss');
INSERT INTO column_doc VALUES('ladder_head','oracle_max_step','step',0.0,NULL,'first step of oracle_max');
INSERT INTO column_doc VALUES('ladder_head','oracle_mean','share',0.0,1.0,'mean per-step oracle loss');
INSERT INTO column_doc VALUES('ladder_head','random_mean','share',0.0,1.0,'expected mean loss of a random set of n_keep prompt entries');
INSERT INTO column_doc VALUES('ladder_head','stability_gap','share',NULL,1.0,'minimax_bound - oracle_max');
INSERT INTO column_doc VALUES('minimax_cert','best_set','blob',NULL,NULL,'positions of the best set found: LEB128 varint count, then the first position and the differences of ascending positions');
INSERT INTO column_doc VALUES('minimax_cert','bound_q31','2^-31',0.0,2147483648.0,'certified bound of these weights as an integer');
INSERT INTO column_doc VALUES('minimax_cert','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('minimax_cert','head','index',0.0,NULL,'query head');
INSERT INTO column_doc VALUES('minimax_cert','lambda','blob',NULL,NULL,'weights in the order of the steps, u32 little endian, sum exactly 2^31');
INSERT INTO column_doc VALUES('minimax_cert','layer','index',0.0,NULL,'layer');
INSERT INTO column_doc VALUES('minimax_cert','minimax_cert_id','id',NULL,NULL,'surrogate key');
INSERT INTO column_doc VALUES('minimax_cert','n_lambda','count',1.0,NULL,'number of weights = number of non-trivial steps');
INSERT INTO column_doc VALUES('result_cell','bytes_logical','byte',0.0,NULL,'K and V bytes of the held prompt entries, layers that evict');
INSERT INTO column_doc VALUES('result_cell','bytes_physical','byte',0.0,NULL,'bytes a real cache would occupy: page size and sharing rule of the configuration applied');
INSERT INTO column_doc VALUES('result_cell','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('result_cell','cvar95_mean','share',0.0,1.0,'mean of lost_cvar95 over the heads with n_trivial < n_step');
INSERT INTO column_doc VALUES('result_cell','cvar95_worst_head','share',0.0,1.0,'largest CVaR95 over KV heads of the group-max series');
INSERT INTO column_doc VALUES('result_cell','flags','flag',0.0,7.0,'sum of 1 = everything was kept (prompt not longer than the window, or budget covers it), 2 = budget below the protected tokens, 4 = stage-1 count of DefensiveKV clamped at 0');
INSERT INTO column_doc VALUES('result_cell','held_max','tokens',0.0,NULL,'largest count of any KV head');
INSERT INTO column_doc VALUES('result_cell','held_mean','tokens',0.0,NULL,'the same as a count');
INSERT INTO column_doc VALUES('result_cell','held_min','tokens',0.0,NULL,'smallest count of any KV head');
INSERT INTO column_doc VALUES('result_cell','held_share','share',0.0,NULL,'prompt entries held after the prefill eviction / prompt length, mean over the KV heads of the layers that evict; every copy counts, so caches per query head can exceed 1');
INSERT INTO column_doc VALUES('result_cell','lost_mean','share',0.0,1.0,'mean of result_head.lost_mean over the heads with n_trivial < n_step');
INSERT INTO column_doc VALUES('result_cell','lost_ns_worst','share',0.0,1.0,'largest sink-excluded loss of any head and step');
INSERT INTO column_doc VALUES('result_cell','lost_worst','share',0.0,1.0,'largest lost of any head and step');
INSERT INTO column_doc VALUES('result_cell','n_head','count',1.0,NULL,'query heads of the layers that evict');
INSERT INTO column_doc VALUES('result_cell','n_violation','count',0.0,NULL,'violations over all thresholds and heads');
INSERT INTO column_doc VALUES('result_cell','ns_cvar95_worst','share',0.0,1.0,'largest lost_ns_cvar95 of any head');
INSERT INTO column_doc VALUES('result_cell','oracle_worst','share',0.0,1.0,'largest per-step oracle loss of any head and step');
INSERT INTO column_doc VALUES('result_cell','out_err_basis','enum',NULL,NULL,'space of the output error: wo = after the output projection, v = head space, none = V missing');
INSERT INTO column_doc VALUES('result_cell','out_err_worst','ratio',0.0,NULL,'largest relative output error of any head and step');
INSERT INTO column_doc VALUES('result_cell','regret_mean','share',NULL,1.0,'mean of regret_mean over the heads with n_trivial < n_step');
INSERT INTO column_doc VALUES('result_cell','row_defect_max','share',0.0,NULL,'largest |evicted + kept - 1| of any row');
INSERT INTO column_doc VALUES('result_cell','tie_share','share',0.0,1.0,'share of the kept entries whose score equals the first rejected score of their head');
INSERT INTO column_doc VALUES('result_cell','worst_head','index',0.0,NULL,'query head of lost_worst');
INSERT INTO column_doc VALUES('result_cell','worst_layer','index',0.0,NULL,'layer of lost_worst');
INSERT INTO column_doc VALUES('result_cell','worst_step','step',0.0,NULL,'step of lost_worst');
INSERT INTO column_doc VALUES('result_head','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('result_head','err_max_step','step',0.0,NULL,'first step of out_err_max');
INSERT INTO column_doc VALUES('result_head','err_n','steps',0.0,NULL,'steps at which the output error was evaluated and defined');
INSERT INTO column_doc VALUES('result_head','fixed_max','share',0.0,1.0,'largest loss of that set');
INSERT INTO column_doc VALUES('result_head','fixed_mean','share',0.0,1.0,'mean loss of the best fixed set in hindsight');
INSERT INTO column_doc VALUES('result_head','head','index',0.0,NULL,'query head; KV head = head / (n_q_head / n_kv_head)');
INSERT INTO column_doc VALUES('result_head','layer','index',0.0,NULL,'layer, 0 = first');
INSERT INTO column_doc VALUES('result_head','lost_cvar95','share',0.0,1.0,'mean of the worst 5 % of the non-trivial steps, fractional last atom');
INSERT INTO column_doc VALUES('result_head','lost_cvar99','share',0.0,1.0,'mean of the worst 1 % of the non-trivial steps, fractional last atom');
INSERT INTO column_doc VALUES('result_head','lost_max','share',0.0,1.0,'largest evicted mass of any step');
INSERT INTO column_doc VALUES('result_head','lost_mean','share',0.0,1.0,'mean evicted attention mass over non-trivial steps');
INSERT INTO column_doc VALUES('result_head','lost_ns_cvar95','share',0.0,1.0,'mean of the worst 5 %');
INSERT INTO column_doc VALUES('result_head','lost_ns_max','share',0.0,1.0,'largest sink-excluded loss');
INSERT INTO column_doc VALUES('result_head','lost_ns_mean','share',0.0,1.0,'mean sink-excluded loss over those steps');
INSERT INTO column_doc VALUES('result_head','lost_ns_q95','share',0.0,1.0,'95 % quantile, method higher');
INSERT INTO column_doc VALUES('result_head','lost_prompt_max','share',0.0,1.0,'largest evicted prompt mass / prompt mass');
INSERT INTO column_doc VALUES('result_head','lost_prompt_mean','share',0.0,1.0,'mean of evicted prompt mass / prompt mass; NULL when generated entries compete too');
INSERT INTO column_doc VALUES('result_head','lost_q50','share',0.0,1.0,'median over non-trivial steps, method higher');
INSERT INTO column_doc VALUES('result_head','lost_q90','share',0.0,1.0,'90 % quantile, method higher');
INSERT INTO column_doc VALUES('result_head','lost_q95','share',0.0,1.0,'95 % quantile, method higher');
INSERT INTO column_doc VALUES('result_head','lost_q99','share',0.0,1.0,'99 % quantile, method higher');
INSERT INTO column_doc VALUES('result_head','max_step','step',0.0,NULL,'first step at which lost_max occurs');
INSERT INTO column_doc VALUES('result_head','n_held','tokens',0.0,NULL,'prompt entries held by the KV head after the prefill eviction (budgeted set all: capacity)');
INSERT INTO column_doc VALUES('result_head','n_step','steps',1.0,NULL,'decode steps replayed');
INSERT INTO column_doc VALUES('result_head','n_trivial','steps',0.0,NULL,'steps whose evictable entries all fit the requested uniform budget');
INSERT INTO column_doc VALUES('result_head','ns_max_step','step',0.0,NULL,'first step of lost_ns_max');
INSERT INTO column_doc VALUES('result_head','ns_n','steps',0.0,NULL,'non-trivial steps whose non-sink mass is at least 1e-6');
INSERT INTO column_doc VALUES('result_head','oracle_max','share',0.0,1.0,'largest per-step oracle loss');
INSERT INTO column_doc VALUES('result_head','oracle_mean','share',0.0,1.0,'mean loss of the per-step oracle with n_held entries: unavoidable');
INSERT INTO column_doc VALUES('result_head','out_err_cvar95','ratio',0.0,NULL,'mean of the worst 5 %');
INSERT INTO column_doc VALUES('result_head','out_err_max','ratio',0.0,NULL,'largest value');
INSERT INTO column_doc VALUES('result_head','out_err_mean','ratio',0.0,NULL,'mean of |o - o_kept|_2 / |o|_2 in the space named by result_cell.out_err_basis');
INSERT INTO column_doc VALUES('result_head','out_err_q95','ratio',0.0,NULL,'95 % quantile, method higher');
INSERT INTO column_doc VALUES('result_head','regret_max','share',NULL,1.0,'max over steps of lost - oracle loss');
INSERT INTO column_doc VALUES('result_head','regret_mean','share',NULL,1.0,'lost_mean - oracle_mean');
INSERT INTO column_doc VALUES('result_head','value_sep_mean','ratio',0.0,NULL,'mean of |v_E - v_K|_2 / |o|_2 over steps with lost > 1e-6');
INSERT INTO column_doc VALUES('result_head_tau','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('result_head_tau','excess_area','mass*steps',0.0,NULL,'sum over exceedances of lost - tau');
INSERT INTO column_doc VALUES('result_head_tau','first_step','step',0.0,NULL,'first exceedance; NULL = none, censored at n_step');
INSERT INTO column_doc VALUES('result_head_tau','head','index',0.0,NULL,'query head');
INSERT INTO column_doc VALUES('result_head_tau','layer','index',0.0,NULL,'layer');
INSERT INTO column_doc VALUES('result_head_tau','longest_run','steps',0.0,NULL,'length of the longest run');
INSERT INTO column_doc VALUES('result_head_tau','longest_start','step',0.0,NULL,'its first step, earliest on ties');
INSERT INTO column_doc VALUES('result_head_tau','n_exceed','steps',0.0,NULL,'steps with lost > tau (strict)');
INSERT INTO column_doc VALUES('result_head_tau','n_infeasible','steps',0.0,NULL,'of these, steps at which even the per-step oracle loses more than tau');
INSERT INTO column_doc VALUES('result_head_tau','n_run','count',0.0,NULL,'maximal runs of consecutive exceedances');
INSERT INTO column_doc VALUES('result_head_tau','tau_id','id',NULL,NULL,'threshold');
INSERT INTO column_doc VALUES('result_kvhead','agg','enum',NULL,NULL,'per-step reduction over the query heads of the group: max or mean');
INSERT INTO column_doc VALUES('result_kvhead','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('result_kvhead','kv_head','index',0.0,NULL,'KV head');
INSERT INTO column_doc VALUES('result_kvhead','layer','index',0.0,NULL,'layer');
INSERT INTO column_doc VALUES('result_kvhead','lost_cvar95','share',0.0,1.0,'mean of the worst 5 %');
INSERT INTO column_doc VALUES('result_kvhead','lost_max','share',0.0,1.0,'its maximum');
INSERT INTO column_doc VALUES('result_kvhead','lost_mean','share',0.0,1.0,'mean over non-trivial steps of the reduced series');
INSERT INTO column_doc VALUES('result_kvhead','lost_ns_cvar95','share',0.0,1.0,'mean of its worst 5 %');
INSERT INTO column_doc VALUES('result_kvhead','lost_ns_max','share',0.0,1.0,'its maximum');
INSERT INTO column_doc VALUES('result_kvhead','lost_ns_mean','share',0.0,1.0,'mean of the sink-excluded reduced series');
INSERT INTO column_doc VALUES('result_kvhead','lost_q95','share',0.0,1.0,'95 % quantile, method higher');
INSERT INTO column_doc VALUES('result_kvhead','max_step','step',0.0,NULL,'first step of the maximum');
INSERT INTO column_doc VALUES('result_kvhead','n_held','tokens',0.0,NULL,'prompt entries held');
INSERT INTO column_doc VALUES('result_kvhead','out_err_cvar95','ratio',0.0,NULL,'mean of the worst 5 % of the reduced output error series');
INSERT INTO column_doc VALUES('result_layer','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('result_layer','cvar95_worst_head','share',0.0,1.0,'largest lost_cvar95 of a head of the layer');
INSERT INTO column_doc VALUES('result_layer','held_mean','tokens',0.0,NULL,'mean prompt entries held per KV head');
INSERT INTO column_doc VALUES('result_layer','layer','index',0.0,NULL,'layer');
INSERT INTO column_doc VALUES('result_layer','lost_mean','share',0.0,1.0,'mean of lost_mean over the heads of the layer with n_trivial < n_step');
INSERT INTO column_doc VALUES('result_layer','lost_worst','share',0.0,1.0,'largest lost of any head and step of the layer');
INSERT INTO column_doc VALUES('result_layer','worst_head','index',0.0,NULL,'query head of lost_worst');
INSERT INTO column_doc VALUES('result_series','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('result_series','codec','enum',NULL,NULL,'u32q31le: value * 2^31 as u32, little endian');
INSERT INTO column_doc VALUES('result_series','data','blob',NULL,NULL,'n values, little endian');
INSERT INTO column_doc VALUES('result_series','head','index',0.0,NULL,'query head');
INSERT INTO column_doc VALUES('result_series','layer','index',0.0,NULL,'layer');
INSERT INTO column_doc VALUES('result_series','metric','enum',NULL,NULL,'which per-step quantity');
INSERT INTO column_doc VALUES('result_series','n','steps',1.0,NULL,'number of values');
INSERT INTO column_doc VALUES('result_series','series_id','id',NULL,NULL,'surrogate key');
INSERT INTO column_doc VALUES('result_series','step0','step',0.0,NULL,'step of the first value');
INSERT INTO column_doc VALUES('validity','cell_id','id',NULL,NULL,'cell; NULL = about the whole run');
INSERT INTO column_doc VALUES('validity','check_name','enum',NULL,NULL,'which check');
INSERT INTO column_doc VALUES('validity','lim','mixed',NULL,NULL,'limit it was compared with');
INSERT INTO column_doc VALUES('validity','message','text',NULL,NULL,'one sentence for people');
INSERT INTO column_doc VALUES('validity','run_id','id',NULL,NULL,'run');
INSERT INTO column_doc VALUES('validity','status','enum',NULL,NULL,'ok, warn, fail, not_run');
INSERT INTO column_doc VALUES('validity','validity_id','id',NULL,NULL,'surrogate key');
INSERT INTO column_doc VALUES('validity','value','mixed',NULL,NULL,'measured value, unit by check');
INSERT INTO column_doc VALUES('violation','cause','enum',NULL,NULL,'infeasible: even the per-step oracle exceeds tau at all its steps; else the class of evicted entry that carries at least half of the evicted mass; mixed: none does');
INSERT INTO column_doc VALUES('violation','cell_id','id',NULL,NULL,'owning cell');
INSERT INTO column_doc VALUES('violation','excess_area','mass*steps',0.0,NULL,'sum over the run of lost - tau');
INSERT INTO column_doc VALUES('violation','foreseeable','flag',0.0,1.0,'1 = the main evicted entry was above the keep threshold in at least one window row');
INSERT INTO column_doc VALUES('violation','head','index',0.0,NULL,'query head');
INSERT INTO column_doc VALUES('violation','layer','index',0.0,NULL,'layer');
INSERT INTO column_doc VALUES('violation','n_step','steps',1.0,NULL,'run length');
INSERT INTO column_doc VALUES('violation','peak_lost','share',0.0,1.0,'that loss');
INSERT INTO column_doc VALUES('violation','peak_oracle_lost','share',0.0,1.0,'per-step oracle loss at the same step');
INSERT INTO column_doc VALUES('violation','peak_step','step',0.0,NULL,'first step of the largest loss in the run');
INSERT INTO column_doc VALUES('violation','recurrent','flag',0.0,1.0,'1 = the main evicted entry had been important before and was idle for at least 32 steps');
INSERT INTO column_doc VALUES('violation','share_top1','share',0.0,1.0,'share of the evicted mass of the run carried by its largest evicted entry');
INSERT INTO column_doc VALUES('violation','share_top20','share',0.0,1.0,'by its twenty largest');
INSERT INTO column_doc VALUES('violation','share_top5','share',0.0,1.0,'by its five largest');
INSERT INTO column_doc VALUES('violation','start_step','step',0.0,NULL,'first step of the run');
INSERT INTO column_doc VALUES('violation','tau_id','id',NULL,NULL,'threshold');
INSERT INTO column_doc VALUES('violation','violation_id','id',NULL,NULL,'surrogate key');
INSERT INTO column_doc VALUES('violation_token','evicted_step','step',-1.0,NULL,'when the policy dropped it; -1 = prefill eviction');
INSERT INTO column_doc VALUES('violation_token','idle_steps','steps',0.0,NULL,'steps between last_important and the run');
INSERT INTO column_doc VALUES('violation_token','last_important','step',-1.0,NULL,'last step before the run with a_t(i) > 1/n_t; -1 = in the window; NULL = never');
INSERT INTO column_doc VALUES('violation_token','mass_share','share',0.0,1.0,'share of the evicted mass of the run');
INSERT INTO column_doc VALUES('violation_token','ord','rank',1.0,20.0,'1 = largest share');
INSERT INTO column_doc VALUES('violation_token','pos','pos',0.0,NULL,'position in the sequence');
INSERT INTO column_doc VALUES('violation_token','score_margin','score',NULL,NULL,'score of the last kept entry minus this score');
INSERT INTO column_doc VALUES('violation_token','violation_id','id',NULL,NULL,'owning violation');
INSERT INTO column_doc VALUES('violation_token','window_rank','rank',1.0,NULL,'1 = highest score when the choice was made');
INSERT INTO column_doc VALUES('violation_token','window_score','score',NULL,NULL,'score when the choice was made, in the unit of the policy');
CREATE TABLE model(
  model_id       INTEGER PRIMARY KEY,
  name           TEXT NOT NULL,
  revision       TEXT NOT NULL,
  n_layer        INTEGER NOT NULL CHECK(n_layer > 0),
  UNIQUE(name, revision)
) STRICT;
INSERT INTO model VALUES(1,'synthetic','',1);
CREATE TABLE model_layer(                     -- one row per layer: models with mixed layers need it
  model_id  INTEGER NOT NULL REFERENCES model ON DELETE CASCADE,
  layer     INTEGER NOT NULL CHECK(layer >= 0),
  n_q_head  INTEGER NOT NULL CHECK(n_q_head >= 0),
  n_kv_head INTEGER NOT NULL CHECK(n_kv_head >= 0),
  d_k       INTEGER NOT NULL CHECK(d_k >= 0),
  d_v       INTEGER NOT NULL CHECK(d_v >= 0),
  attn_type TEXT NOT NULL CHECK(attn_type IN ('full', 'sliding', 'chunked', 'mla', 'none')),   -- results exist for 'full' only
  span      INTEGER CHECK(span IS NULL OR span > 0),          -- attention span of a sliding or chunked layer, tokens
  CHECK(CASE attn_type WHEN 'none' THEN n_q_head = 0 AND n_kv_head = 0 AND d_k = 0 AND d_v = 0
        ELSE n_kv_head > 0 AND n_q_head > 0 AND n_q_head % max(n_kv_head, 1) = 0 AND d_k > 0 AND d_v > 0 END),
  PRIMARY KEY(model_id, layer)
) STRICT, WITHOUT ROWID;
INSERT INTO model_layer VALUES(1,0,2,1,16,16,'full',NULL);
CREATE TABLE dataset(
  dataset_id INTEGER PRIMARY KEY,
  name       TEXT NOT NULL,
  revision   TEXT NOT NULL,
  licence    TEXT,
  UNIQUE(name, revision)
) STRICT;
INSERT INTO dataset VALUES(1,'synthetic; role of query head h of layer l by (h + l) mod 4: 0 retrieval, 1 sink, 2 local, 3 heavy; sinks: tokens 0 to 3; heavy hitters: tokens 24, 38; late bloomers: token 7 in decode step 3, token 13 in decode step 6, token 7 in decode step 9','',NULL);
CREATE TABLE trace(
  trace_id       INTEGER PRIMARY KEY,
  content_id     TEXT NOT NULL CHECK(length(content_id) = 64),         -- of the trace format, independent of the file's bytes
  name           TEXT NOT NULL,
  model_id       INTEGER NOT NULL REFERENCES model,
  dataset_id     INTEGER NOT NULL REFERENCES dataset,
  cluster_id     TEXT NOT NULL,                                     -- exchangeable unit: document or conversation
  split          TEXT NOT NULL CHECK(split IN ('tune', 'calib', 'test')),
  kind           TEXT NOT NULL CHECK(kind IN ('recorded', 'synthetic')),
  exactness      TEXT NOT NULL CHECK(exactness IN ('engine-operands', 'rounded', 'recomputed', 'synthetic')),
  n_prompt       INTEGER NOT NULL CHECK(n_prompt > 0),
  n_decode       INTEGER NOT NULL CHECK(n_decode >= 0),
  n_window       INTEGER NOT NULL CHECK(n_window >= 0),             -- stored prompt query rows
  question_start INTEGER NOT NULL CHECK(question_start BETWEEN 0 AND n_prompt), -- first token of the question; n_prompt = none or unknown
  end_reason     TEXT NOT NULL CHECK(end_reason IN ('eos', 'limit', 'unknown')),
  k_dtype        TEXT NOT NULL CHECK(k_dtype IN ('f16', 'bf16', 'f32')),   -- as stored, of the first layer that has the tensor
  v_dtype        TEXT CHECK(v_dtype IN ('f16', 'bf16', 'f32')),     -- NULL = no V
  q_dtype        TEXT CHECK(q_dtype IN ('f16', 'bf16', 'f32')),     -- NULL = no Q
  row_source     TEXT NOT NULL CHECK(row_source IN ('qk', 'logit_f32', 'logp_u16')),   -- an encoding when any layer has score = recorded
  has_value      INTEGER NOT NULL CHECK(has_value IN (0, 1)),       -- V present
  has_wo         INTEGER NOT NULL CHECK(has_wo IN (0, 1)),          -- output projection available to the replay
  has_value_norm INTEGER NOT NULL CHECK(has_value_norm IN (0, 1)),  -- NU present
  redacted       INTEGER NOT NULL CHECK(redacted IN (0, 1)),
  engine         TEXT NOT NULL,
  format_major   INTEGER NOT NULL,
  format_minor   INTEGER NOT NULL,
  bytes          INTEGER NOT NULL CHECK(bytes >= 0),
  path           TEXT,
  UNIQUE(content_id, cluster_id),
  CHECK((v_dtype IS NULL) = (has_value = 0)),
  CHECK(row_source <> 'qk' OR q_dtype IS NOT NULL)
) STRICT;
INSERT INTO trace VALUES(1,'2e27e929d9b9bc8918d5e597c0ceaf045f68e4086ebc9cada4c49b8ab018633a','small',1,1,'synth-5','test','synthetic','synthetic',48,12,32,48,'unknown','bf16','bf16','bf16','qk',1,0,1,0,'none',1,0,37296,'small.h5');
CREATE TABLE trace_token(
  trace_id INTEGER NOT NULL REFERENCES trace ON DELETE CASCADE,
  pos      INTEGER NOT NULL CHECK(pos >= 0),
  token_id INTEGER NOT NULL,
  bytes    BLOB,                              -- raw bytes of the token, any encoding; NULL when redacted
  PRIMARY KEY(trace_id, pos)
) STRICT, WITHOUT ROWID;
INSERT INTO trace_token VALUES(1,0,1,NULL);
INSERT INTO trace_token VALUES(1,1,3676,NULL);
INSERT INTO trace_token VALUES(1,2,2077,NULL);
INSERT INTO trace_token VALUES(1,3,1732,NULL);
INSERT INTO trace_token VALUES(1,4,3451,NULL);
INSERT INTO trace_token VALUES(1,5,70,NULL);
INSERT INTO trace_token VALUES(1,6,467,NULL);
INSERT INTO trace_token VALUES(1,7,857,NULL);
INSERT INTO trace_token VALUES(1,8,2881,NULL);
INSERT INTO trace_token VALUES(1,9,2478,NULL);
INSERT INTO trace_token VALUES(1,10,1119,NULL);
INSERT INTO trace_token VALUES(1,11,3300,NULL);
INSERT INTO trace_token VALUES(1,12,3329,NULL);
INSERT INTO trace_token VALUES(1,13,1872,NULL);
INSERT INTO trace_token VALUES(1,14,371,NULL);
INSERT INTO trace_token VALUES(1,15,1704,NULL);
INSERT INTO trace_token VALUES(1,16,2536,NULL);
INSERT INTO trace_token VALUES(1,17,3335,NULL);
INSERT INTO trace_token VALUES(1,18,721,NULL);
INSERT INTO trace_token VALUES(1,19,2874,NULL);
INSERT INTO trace_token VALUES(1,20,2333,NULL);
INSERT INTO trace_token VALUES(1,21,3957,NULL);
INSERT INTO trace_token VALUES(1,22,1100,NULL);
INSERT INTO trace_token VALUES(1,23,954,NULL);
INSERT INTO trace_token VALUES(1,24,169,NULL);
INSERT INTO trace_token VALUES(1,25,1648,NULL);
INSERT INTO trace_token VALUES(1,26,81,NULL);
INSERT INTO trace_token VALUES(1,27,341,NULL);
INSERT INTO trace_token VALUES(1,28,2022,NULL);
INSERT INTO trace_token VALUES(1,29,3255,NULL);
INSERT INTO trace_token VALUES(1,30,633,NULL);
INSERT INTO trace_token VALUES(1,31,880,NULL);
INSERT INTO trace_token VALUES(1,32,3704,NULL);
INSERT INTO trace_token VALUES(1,33,3028,NULL);
INSERT INTO trace_token VALUES(1,34,761,NULL);
INSERT INTO trace_token VALUES(1,35,1833,NULL);
INSERT INTO trace_token VALUES(1,36,2147,NULL);
INSERT INTO trace_token VALUES(1,37,1230,NULL);
INSERT INTO trace_token VALUES(1,38,1038,NULL);
INSERT INTO trace_token VALUES(1,39,3367,NULL);
INSERT INTO trace_token VALUES(1,40,892,NULL);
INSERT INTO trace_token VALUES(1,41,1521,NULL);
INSERT INTO trace_token VALUES(1,42,658,NULL);
INSERT INTO trace_token VALUES(1,43,1092,NULL);
INSERT INTO trace_token VALUES(1,44,4000,NULL);
INSERT INTO trace_token VALUES(1,45,2519,NULL);
INSERT INTO trace_token VALUES(1,46,2428,NULL);
INSERT INTO trace_token VALUES(1,47,446,NULL);
INSERT INTO trace_token VALUES(1,48,1528,NULL);
INSERT INTO trace_token VALUES(1,49,2193,NULL);
INSERT INTO trace_token VALUES(1,50,2167,NULL);
INSERT INTO trace_token VALUES(1,51,1533,NULL);
INSERT INTO trace_token VALUES(1,52,3427,NULL);
INSERT INTO trace_token VALUES(1,53,917,NULL);
INSERT INTO trace_token VALUES(1,54,1098,NULL);
INSERT INTO trace_token VALUES(1,55,1780,NULL);
INSERT INTO trace_token VALUES(1,56,601,NULL);
INSERT INTO trace_token VALUES(1,57,4039,NULL);
INSERT INTO trace_token VALUES(1,58,3627,NULL);
INSERT INTO trace_token VALUES(1,59,3751,NULL);
CREATE TABLE trace_segment(                   -- spans of the trace, half-open ranges [start_pos, end_pos), by start, then descending end; they may nest or be empty
  trace_id  INTEGER NOT NULL REFERENCES trace ON DELETE CASCADE,
  seg_no    INTEGER NOT NULL CHECK(seg_no >= 0),
  kind      TEXT NOT NULL CHECK(kind IN ('other', 'system', 'user', 'assistant', 'tool', 'document', 'question', 'answer', 'needle', 'image', 'reasoning', 'generated')),
  label     TEXT NOT NULL,
  start_pos INTEGER NOT NULL CHECK(start_pos >= 0),
  end_pos   INTEGER NOT NULL CHECK(end_pos >= start_pos),
  PRIMARY KEY(trace_id, seg_no)
) STRICT, WITHOUT ROWID;
INSERT INTO trace_segment VALUES(1,0,'user','user',0,48);
INSERT INTO trace_segment VALUES(1,1,'needle','needle',7,8);
INSERT INTO trace_segment VALUES(1,2,'needle','needle',13,14);
INSERT INTO trace_segment VALUES(1,3,'assistant','assistant',48,60);
INSERT INTO trace_segment VALUES(1,4,'generated','generated',48,60);
CREATE TABLE policy(
  policy_id     INTEGER PRIMARY KEY,
  name          TEXT NOT NULL UNIQUE,         -- lower-case identifier, never reused
  title         TEXT NOT NULL,
  role          TEXT NOT NULL CHECK(role IN ('policy', 'baseline', 'oracle')),
  timing        TEXT NOT NULL CHECK(timing IN ('none', 'prefill', 'decode', 'hindsight')),
  budgeted      TEXT NOT NULL CHECK(budgeted IN ('prompt', 'all')), -- which entries compete for the budget
  fixed_set     INTEGER NOT NULL CHECK(fixed_set IN (0, 1)),       -- 1 = one set of prompt entries for all decode steps
  nested        INTEGER NOT NULL CHECK(nested IN (0, 1)),          -- 1 = kept sets nest in the budget
  head_adaptive INTEGER NOT NULL CHECK(head_adaptive IN (0, 1)),   -- 1 = held counts may differ between heads or layers
  query_aware   INTEGER NOT NULL CHECK(query_aware IN (0, 1)),     -- 1 = scores see the question
  reference     TEXT
) STRICT;
INSERT INTO policy VALUES(1,'knorm','Knorm','policy','prefill','prompt',1,1,0,0,'arXiv:2406.11430');
INSERT INTO policy VALUES(2,'oracle_minimax','Best fixed set for the worst step','oracle','hindsight','prompt',1,0,0,1,'');
INSERT INTO policy VALUES(3,'full','Full cache','baseline','none','prompt',1,1,0,0,'');
CREATE TABLE policy_config(
  config_id      INTEGER PRIMARY KEY,
  policy_id      INTEGER NOT NULL REFERENCES policy,
  label          TEXT NOT NULL,
  semantics      TEXT NOT NULL CHECK(semantics IN ('paper', 'code', 'same')),
  may_overshoot  INTEGER NOT NULL CHECK(may_overshoot IN (0, 1)),  -- 1 = the rule may hold more than was requested
  canonical_json TEXT NOT NULL CHECK(json_valid(canonical_json)),
  sha256         TEXT NOT NULL UNIQUE CHECK(length(sha256) = 64)
) STRICT;
INSERT INTO policy_config VALUES(1,1,'knorm','same',0,'{"caches":"kv","id":"knorm","params":{"semantics":"code"},"rows":"exact","ties":"low","version":1}','203ea0e7fc62a886fb5dc1a2067d659932541347b81926adcfb9bff251661406');
INSERT INTO policy_config VALUES(2,2,'oracle_minimax','same',0,'{"caches":"kv","id":"oracle_minimax","params":{"semantics":"code"},"rows":"exact","ties":"low","version":1}','83e4574ca76647c01649b5073a75f6984d856849c443220710654484bfded7eb');
INSERT INTO policy_config VALUES(3,3,'full','same',0,'{"caches":"kv","id":"full","params":{"semantics":"code"},"rows":"exact","ties":"low","version":1}','4baf951a283babdc0cb14ea3e32299710237607017548f5f2dd5d967475e4e4e');
CREATE TABLE policy_param(
  config_id  INTEGER NOT NULL REFERENCES policy_config ON DELETE CASCADE,
  key        TEXT NOT NULL,
  value_num  REAL,
  value_text TEXT,
  CHECK((value_num IS NULL) <> (value_text IS NULL)),
  PRIMARY KEY(config_id, key)
) STRICT, WITHOUT ROWID;
INSERT INTO policy_param VALUES(1,'semantics',NULL,'code');
INSERT INTO policy_param VALUES(2,'semantics',NULL,'code');
INSERT INTO policy_param VALUES(3,'semantics',NULL,'code');
CREATE TABLE budget(
  budget_id INTEGER PRIMARY KEY,
  kind      TEXT NOT NULL CHECK(kind IN ('share', 'tokens')),
  value     REAL NOT NULL CHECK(value > 0),
  rule      TEXT NOT NULL CHECK(rule IN ('share', 'reference')),   -- reference = double truncation as in the reference codes
  label     TEXT NOT NULL UNIQUE,
  UNIQUE(kind, value, rule),
  CHECK(kind = 'tokens' OR value <= 1)
) STRICT;
INSERT INTO budget VALUES(1,'share',0.5,'share','0.5');
CREATE TABLE tau(
  tau_id INTEGER PRIMARY KEY,
  tau    REAL NOT NULL UNIQUE CHECK(tau BETWEEN 0 AND 1),
  label  TEXT NOT NULL
) STRICT;
INSERT INTO tau VALUES(1,0.5,'50 %');
INSERT INTO tau VALUES(2,0.25,'25 %');
INSERT INTO tau VALUES(3,0.10000000000000000555,'10 %');
CREATE TABLE run(
  run_id         INTEGER PRIMARY KEY,
  uuid           TEXT NOT NULL UNIQUE,
  command        TEXT NOT NULL,               -- subcommand: replay
  started_utc    TEXT NOT NULL,
  finished_utc   TEXT,
  status         TEXT NOT NULL CHECK(status IN ('running', 'done', 'failed', 'interrupted')),
  exit_code      INTEGER,
  tool_version   TEXT NOT NULL,
  git_commit     TEXT NOT NULL,
  git_dirty      INTEGER NOT NULL CHECK(git_dirty IN (0, 1)),
  argv_json      TEXT NOT NULL CHECK(json_valid(argv_json)),
  config_sha256  TEXT NOT NULL,
  seed           INTEGER NOT NULL,
  n_thread       INTEGER NOT NULL,
  n_rank         INTEGER NOT NULL DEFAULT 1,
  host           TEXT NOT NULL,
  pid            INTEGER,
  backend        TEXT NOT NULL CHECK(backend IN ('cpu', 'cuda')),
  compiler       TEXT NOT NULL,
  cflags         TEXT NOT NULL,
  libc           TEXT NOT NULL,
  cpu            TEXT NOT NULL,
  os             TEXT NOT NULL,
  sqlite_version TEXT NOT NULL,
  wall_s         REAL,
  cpu_s          REAL,
  peak_rss_bytes INTEGER
) STRICT;
INSERT INTO run VALUES(1,'d26cfb8e-7c6c-463f-8b82-e19c02041b6a','replay','2026-11-24T21:34:11Z','2026-11-24T21:34:11Z','done',0,'0.1.0','',0,'["kvtrace","replay"]','a8d9d793b78cabf48293c06580ba91a825f3ec69fcf20a0b5ba64b573c62e65c',0,2,1,'',18376,'cpu','gcc','','glibc','x86-64','Linux','3.40.1',0.030641999999999999099,0.038651999999999998858,16244736);
CREATE TABLE cell(
  cell_id          INTEGER PRIMARY KEY,
  key_sha256       TEXT NOT NULL UNIQUE CHECK(length(key_sha256) = 64),
  trace_id         INTEGER NOT NULL REFERENCES trace,
  config_id        INTEGER NOT NULL REFERENCES policy_config,
  budget_id        INTEGER NOT NULL REFERENCES budget,
  engine_version   INTEGER NOT NULL,          -- replay semantics, bumped by hand
  metric_version   INTEGER NOT NULL,          -- definitions of the quantities, bumped by hand
  seed             INTEGER NOT NULL,
  requested_tokens REAL NOT NULL CHECK(requested_tokens > 0),   -- budget x prompt length, before rounding
  status           TEXT NOT NULL CHECK(status IN ('todo', 'running', 'done', 'failed')),
  run_id           INTEGER REFERENCES run,
  attempt          INTEGER NOT NULL DEFAULT 0,
  error            TEXT,
  wall_s           REAL,
  result_sha256    TEXT,                      -- canonical hash of the child rows; equal for equal inputs
  UNIQUE(trace_id, config_id, budget_id, engine_version, metric_version, seed)
) STRICT;
INSERT INTO cell VALUES(1,'f831e62b996485606a0bc0b0058b8c47d1f35f76030eb72529c1e1003acaab12',1,1,1,1,1,0,24.0,'done',1,1,NULL,0.00031207500001073640305,'4ec34df612e8ddafa1b3502c834ead0c52e74a20fddf10081e8816f92cb0ac00');
INSERT INTO cell VALUES(2,'620071e4feabcfe8278a6e8175580fd54c6dffd2bdcc6f471b9b71381a644ed4',1,2,1,1,1,0,24.0,'done',1,1,NULL,0.00031207937490762560628,'89f4286905a8f6d751d04f5279391c64d808716ccd2ed952f5ae4252f291f717');
INSERT INTO cell VALUES(3,'a481c8fbe9a328d65d98f1e54d2e385d22e73d8ddba072910e287c73a1518d4e',1,3,1,1,1,0,24.0,'done',1,1,NULL,0.00031208187488118710462,'370922e2da7e494b2aca172d88d88cf8c0adc8543885e3782e22b00d55a5cb38');
CREATE TABLE result_cell(
  cell_id            INTEGER PRIMARY KEY REFERENCES cell ON DELETE CASCADE,
  n_head             INTEGER NOT NULL CHECK(n_head > 0),
  held_share         REAL NOT NULL CHECK(held_share >= 0),
  held_mean          REAL NOT NULL CHECK(held_mean >= 0),
  held_min           INTEGER NOT NULL CHECK(held_min >= 0),
  held_max           INTEGER NOT NULL CHECK(held_max >= held_min),
  bytes_logical      INTEGER NOT NULL CHECK(bytes_logical >= 0),
  bytes_physical     INTEGER NOT NULL CHECK(bytes_physical >= bytes_logical),
  tie_share          REAL NOT NULL CHECK(tie_share BETWEEN 0 AND 1),
  row_defect_max     REAL NOT NULL CHECK(row_defect_max >= 0),
  lost_mean          REAL NOT NULL CHECK(lost_mean BETWEEN 0 AND 1),
  lost_worst         REAL NOT NULL CHECK(lost_worst BETWEEN 0 AND 1),
  worst_layer        INTEGER NOT NULL,
  worst_head         INTEGER NOT NULL,
  worst_step         INTEGER NOT NULL,
  cvar95_mean        REAL NOT NULL CHECK(cvar95_mean BETWEEN 0 AND 1),
  cvar95_worst_head  REAL NOT NULL CHECK(cvar95_worst_head BETWEEN 0 AND 1),
  lost_ns_worst      REAL CHECK(lost_ns_worst BETWEEN 0 AND 1),
  ns_cvar95_worst    REAL CHECK(ns_cvar95_worst BETWEEN 0 AND 1),
  out_err_basis      TEXT NOT NULL CHECK(out_err_basis IN ('none', 'v', 'wo')),
  out_err_worst      REAL CHECK(out_err_worst >= 0),
  oracle_worst       REAL NOT NULL CHECK(oracle_worst BETWEEN 0 AND 1),
  regret_mean        REAL NOT NULL,
  n_violation        INTEGER NOT NULL CHECK(n_violation >= 0),
  flags              INTEGER NOT NULL CHECK(flags BETWEEN 0 AND 7)
) STRICT;
INSERT INTO result_cell VALUES(1,2,0.5,24.0,24,24,1536,1536,0.0,4.8581932787783443927e-07,0.97859045052124815633,0.99583955388516187667,0,0,3,0.99384992220439016819,0.99583955388516187667,0.99583541555330157279,0.99583541555330157279,'none',NULL,0.044300154782831668853,0.97138322688018274853,6,0);
INSERT INTO result_cell VALUES(2,2,0.5,24.0,24,24,1536,1536,0.0,4.8581932787783443927e-07,0.010339133305630335626,0.052361252717673778533,0,0,6,0.030811327975243333471,0.052361252717673785472,0.38560630474239587783,0.38560630474239587783,'none',NULL,0.044300154782831668853,0.0031319096645650761415,0,0);
INSERT INTO result_cell VALUES(3,2,1.0,48.0,48,48,3072,3072,0.0,4.8581932787783443927e-07,0.0,0.0,0,0,0,0.0,0.0,0.0,0.0,'none',NULL,0.0,0.0,0,0);
CREATE TABLE result_head(
  cell_id        INTEGER NOT NULL REFERENCES cell ON DELETE CASCADE,
  layer          INTEGER NOT NULL CHECK(layer >= 0),
  head           INTEGER NOT NULL CHECK(head >= 0),
  n_step         INTEGER NOT NULL CHECK(n_step > 0),
  n_trivial      INTEGER NOT NULL CHECK(n_trivial BETWEEN 0 AND n_step),
  n_held         INTEGER NOT NULL CHECK(n_held >= 0),
  -- lost: evicted share of the full-cache attention row
  lost_mean      REAL NOT NULL CHECK(lost_mean BETWEEN 0 AND 1),
  lost_max       REAL NOT NULL CHECK(lost_max BETWEEN 0 AND 1),
  max_step       INTEGER NOT NULL,
  lost_q50       REAL NOT NULL,
  lost_q90       REAL NOT NULL,
  lost_q95       REAL NOT NULL,
  lost_q99       REAL NOT NULL,
  lost_cvar95    REAL NOT NULL,
  lost_cvar99    REAL NOT NULL,
  -- lost_ns: the same with positions < n_sink removed from numerator and denominator
  ns_n           INTEGER NOT NULL CHECK(ns_n BETWEEN 0 AND n_step),
  lost_ns_mean   REAL CHECK(lost_ns_mean BETWEEN 0 AND 1),
  lost_ns_max    REAL CHECK(lost_ns_max BETWEEN 0 AND 1),
  ns_max_step    INTEGER,
  lost_ns_q95    REAL CHECK(lost_ns_q95 BETWEEN 0 AND 1),
  lost_ns_cvar95 REAL CHECK(lost_ns_cvar95 BETWEEN 0 AND 1),
  -- lost_prompt: denominator = prompt positions only; NULL when generated entries compete too
  lost_prompt_mean REAL CHECK(lost_prompt_mean BETWEEN 0 AND 1),
  lost_prompt_max  REAL CHECK(lost_prompt_max BETWEEN 0 AND 1),
  -- output error |o - o'|_2 / |o|_2; NULL without V
  err_n          INTEGER NOT NULL CHECK(err_n BETWEEN 0 AND n_step),
  out_err_mean   REAL CHECK(out_err_mean >= 0),
  out_err_max    REAL CHECK(out_err_max >= 0),
  err_max_step   INTEGER,
  out_err_q95    REAL CHECK(out_err_q95 >= 0),
  out_err_cvar95 REAL CHECK(out_err_cvar95 >= 0),
  value_sep_mean REAL CHECK(value_sep_mean >= 0),
  -- reference points at the same n_held
  oracle_mean    REAL NOT NULL,
  oracle_max     REAL NOT NULL,
  fixed_mean     REAL,                        -- best fixed set in hindsight; NULL = not computed
  fixed_max      REAL,
  regret_mean    REAL NOT NULL CHECK(regret_mean >= -5e-5),
  regret_max     REAL NOT NULL CHECK(regret_max >= -5e-5),
  CHECK(lost_mean <= lost_max + 1e-9 AND lost_cvar95 <= lost_max + 1e-9 AND lost_cvar95 <= lost_cvar99 + 1e-9),
  CHECK(lost_q50 <= lost_q90 AND lost_q90 <= lost_q95 AND lost_q95 <= lost_q99 AND lost_q99 <= lost_max),
  CHECK((ns_n = 0) = (lost_ns_mean IS NULL)),
  CHECK((err_n = 0) = (out_err_mean IS NULL)),
  PRIMARY KEY(cell_id, layer, head)
) STRICT, WITHOUT ROWID;
INSERT INTO result_head VALUES(1,0,0,12,0,24,0.97008061183926963533,0.99583955388516187667,3,0.98295110836625099182,0.99137376993894577026,0.99583955388516187667,0.99583955388516187667,0.99583955388516187667,0.9958395538851619877,12,0.6355771482146034268,0.99583541555330157279,3,0.99583541555330157279,0.99583541555330157279,0.97725635774744057382,0.99650207627564668655,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0097707177822788562199,0.044300154782831668853,0.01360222933969149929,0.053832483012229204177,0.96030989405699074268,0.99398195138201117515);
INSERT INTO result_head VALUES(1,0,1,12,0,24,0.98710028920322656631,0.9918602905236184597,4,0.98955090809613466262,0.9918250259943306446,0.9918602905236184597,0.9918602905236184597,0.9918602905236184597,0.9918602905236184597,12,0.48664571775589138269,0.67658862518146634101,2,0.67658862518146634101,0.67658862518146634101,0.99122663001374655689,0.9953660517930984497,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0046437294998516636182,0.0092614032328128814697,0.0060427602923785643865,0.010130675509572029113,0.98245655970337486539,0.98873231420293450355);
INSERT INTO result_head VALUES(2,0,0,12,0,24,0.014236806348587075291,0.052361252717673778533,6,0.012066432740539312362,0.021035285666584968566,0.052361252717673778533,0.052361252717673778533,0.052361252717673785472,0.052361252717673778533,12,0.20000722251522043415,0.36305790767073631286,2,0.36305790767073631286,0.36305790767073631286,0.014466396843393644275,0.054489771369844675064,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0097707177822788562199,0.044300154782831668853,0.01360222933969149929,0.053832483012229204177,0.0044660885663082199384,0.0089834579266607761383);
INSERT INTO result_head VALUES(2,0,1,12,0,24,0.0064414602626735968302,0.0092614032328128814697,0,0.0061752097681164741516,0.0092244734987616539001,0.0092614032328128814697,0.0092614032328128814697,0.0092614032328128814697,0.0092614032328128814697,12,0.2664437495016803159,0.38560630474239587783,4,0.38560630474239587783,0.38560630474239587783,0.0064678920898586511611,0.0092818331904709339141,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0046437294998516636182,0.0092614032328128814697,0.0060427602923785643865,0.010130675509572029113,0.0017977307628219325614,0.003323251381516456604);
INSERT INTO result_head VALUES(3,0,0,12,0,48,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,12,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(3,0,1,12,0,48,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,12,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
CREATE TABLE result_kvhead(                   -- series max_h or mean_h over the group's query heads, then tail statistics of that series
  cell_id        INTEGER NOT NULL REFERENCES cell ON DELETE CASCADE,
  layer          INTEGER NOT NULL CHECK(layer >= 0),
  kv_head        INTEGER NOT NULL CHECK(kv_head >= 0),
  agg            TEXT NOT NULL CHECK(agg IN ('max', 'mean')),
  n_held         INTEGER NOT NULL CHECK(n_held >= 0),
  lost_mean      REAL NOT NULL CHECK(lost_mean BETWEEN 0 AND 1),
  lost_max       REAL NOT NULL CHECK(lost_max BETWEEN 0 AND 1),
  max_step       INTEGER NOT NULL,
  lost_q95       REAL NOT NULL,
  lost_cvar95    REAL NOT NULL,
  lost_ns_mean   REAL,
  lost_ns_max    REAL,
  lost_ns_cvar95 REAL,
  out_err_cvar95 REAL,
  PRIMARY KEY(cell_id, layer, kv_head, agg)
) STRICT, WITHOUT ROWID;
INSERT INTO result_kvhead VALUES(1,0,0,'max',24,0.98744307062588632106,0.99583955388516187667,3,0.99583955388516187667,0.99583955388516187667,0.66117527851990109954,0.99583541555330157279,0.99583541555330157279,NULL);
INSERT INTO result_kvhead VALUES(1,0,0,'mean',24,0.9785904505600532266,0.99383229017257690429,3,0.99383229017257690429,0.99383229017257701531,0.56111143296584486961,0.76070182863622903823,0.76070182863622903823,NULL);
INSERT INTO result_kvhead VALUES(2,0,0,'max',24,0.014444413711316883563,0.052361252717673778533,6,0.052361252717673778533,0.052361252717673785472,0.29368091456126421689,0.38560630474239587783,0.38560630474239587783,NULL);
INSERT INTO result_kvhead VALUES(2,0,0,'mean',24,0.010339133247422674713,0.030048348475247621536,6,0.030048348475247621536,0.030048348475247625005,0.23322548608606061271,0.35369810368865728378,0.35369810368865728378,NULL);
INSERT INTO result_kvhead VALUES(3,0,0,'max',48,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(3,0,0,'mean',48,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
CREATE TABLE result_layer(
  cell_id              INTEGER NOT NULL REFERENCES cell ON DELETE CASCADE,
  layer                INTEGER NOT NULL CHECK(layer >= 0),
  held_mean            REAL NOT NULL CHECK(held_mean >= 0),
  lost_mean            REAL NOT NULL CHECK(lost_mean BETWEEN 0 AND 1),
  lost_worst           REAL NOT NULL CHECK(lost_worst BETWEEN 0 AND 1),
  worst_head           INTEGER NOT NULL,
  cvar95_worst_head    REAL NOT NULL,
  PRIMARY KEY(cell_id, layer)
) STRICT, WITHOUT ROWID;
INSERT INTO result_layer VALUES(1,0,24.0,0.97859045052124815633,0.99583955388516187667,0,0.99583955388516187667);
INSERT INTO result_layer VALUES(2,0,24.0,0.010339133305630335626,0.052361252717673778533,0,0.052361252717673785472);
INSERT INTO result_layer VALUES(3,0,48.0,0.0,0.0,0,0.0);
CREATE TABLE result_head_tau(
  cell_id       INTEGER NOT NULL,
  layer         INTEGER NOT NULL,
  head          INTEGER NOT NULL,
  tau_id        INTEGER NOT NULL REFERENCES tau,
  n_exceed      INTEGER NOT NULL CHECK(n_exceed >= 0),
  n_infeasible  INTEGER NOT NULL CHECK(n_infeasible BETWEEN 0 AND n_exceed),
  n_run         INTEGER NOT NULL CHECK(n_run >= 0),
  longest_run   INTEGER NOT NULL CHECK(longest_run >= 0),
  longest_start INTEGER,
  first_step    INTEGER,                      -- NULL = never exceeded (censored at n_step)
  excess_area   REAL NOT NULL CHECK(excess_area >= 0),
  CHECK((n_exceed = 0) = (first_step IS NULL)),
  PRIMARY KEY(cell_id, layer, head, tau_id),
  FOREIGN KEY(cell_id, layer, head) REFERENCES result_head ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO result_head_tau VALUES(1,0,0,1,12,0,1,12,0,0,5.6409673420712351799);
INSERT INTO result_head_tau VALUES(1,0,0,2,12,0,1,12,0,0,8.6409673420712351799);
INSERT INTO result_head_tau VALUES(1,0,0,3,12,0,1,12,0,0,10.440967340953648089);
INSERT INTO result_head_tau VALUES(1,0,1,1,12,0,1,12,0,0,5.8452034704387187957);
INSERT INTO result_head_tau VALUES(1,0,1,2,12,0,1,12,0,0,8.8452034704387187957);
INSERT INTO result_head_tau VALUES(1,0,1,3,12,0,1,12,0,0,10.645203469321131706);
INSERT INTO result_head_tau VALUES(2,0,0,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,0,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,0,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,1,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,1,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,1,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(3,0,0,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(3,0,0,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(3,0,0,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(3,0,1,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(3,0,1,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(3,0,1,3,0,0,0,0,NULL,NULL,0.0);
CREATE TABLE result_series(                   -- rowid table: blobs keep out of the small keyed tables
  series_id INTEGER PRIMARY KEY,
  cell_id   INTEGER NOT NULL,
  layer     INTEGER NOT NULL,
  head      INTEGER NOT NULL,
  metric    TEXT NOT NULL CHECK(metric IN ('lost', 'lost_ns', 'oracle', 'fixed')),
  step0     INTEGER NOT NULL CHECK(step0 >= 0),
  n         INTEGER NOT NULL CHECK(n > 0),
  codec     TEXT NOT NULL CHECK(codec = 'u32q31le'),
  data      BLOB NOT NULL CHECK(length(data) = 4 * n),
  UNIQUE(cell_id, layer, head, metric),
  FOREIGN KEY(cell_id, layer, head) REFERENCES result_head ON DELETE CASCADE
) STRICT;
INSERT INTO result_series VALUES(1,1,0,0,'lost',0,12,'u32q31le',X'f6ce907c6799367c8857d17da6ab777f7c034a7de241fd7d5173436c2eb1d77ba808bc7df055e57ebb29187e0bdade7d');
INSERT INTO result_series VALUES(2,1,0,0,'oracle',0,12,'u32q31le',X'b31943017478e3017d6add00b3de3c00d169d9008c50b600a2a0ab05d129360123b4bc005c4a5d00c1429a00415f9b00');
INSERT INTO result_series VALUES(3,1,0,1,'lost',0,12,'u32q31le',X'2a01627d95c7e57d67eeba7e591ff47e2b47f57e3ca0147e745c027d4b674e7eaa9aa97ebb18e27e7680947e18ebbd7e');
INSERT INTO result_series VALUES(4,1,0,1,'oracle',0,12,'u32q31le',X'487a2f0137a1f600422e8d0026f288005e7f6600f6735d00267ac900315d9d002d9c7800d9d3690036156b0050716d00');
INSERT INTO result_series VALUES(5,2,0,0,'lost',0,12,'u32q31le',X'ecd7f601c448b10293648b01926b65008078bd01c8f3f70006c6b30686885c02214016018e97a300d24ae600b055df00');
INSERT INTO result_series VALUES(6,2,0,0,'oracle',0,12,'u32q31le',X'b31943017478e3017d6add00b3de3c00d169d9008c50b600a2a0ab05d129360123b4bc005c4a5d00c1429a00415f9b00');
INSERT INTO result_series VALUES(7,2,0,1,'lost',0,12,'u32q31le',X'487a2f017e442e011e80f5006227b60078d5ab006a59ca009c79fd00ed79c0009899df002f7ea400feee8b0029539700');
INSERT INTO result_series VALUES(8,2,0,1,'oracle',0,12,'u32q31le',X'487a2f0137a1f600422e8d0026f288005e7f6600f6735d00267ac900315d9d002d9c7800d9d3690036156b0050716d00');
INSERT INTO result_series VALUES(9,3,0,0,'lost',0,12,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(10,3,0,0,'oracle',0,12,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(11,3,0,1,'lost',0,12,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(12,3,0,1,'oracle',0,12,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
CREATE TABLE violation(                       -- maximal run of steps with lost(t) > tau
  violation_id     INTEGER PRIMARY KEY,
  cell_id          INTEGER NOT NULL,
  layer            INTEGER NOT NULL,
  head             INTEGER NOT NULL,
  tau_id           INTEGER NOT NULL REFERENCES tau,
  start_step       INTEGER NOT NULL CHECK(start_step >= 0),
  n_step           INTEGER NOT NULL CHECK(n_step > 0),
  peak_step        INTEGER NOT NULL,
  peak_lost        REAL NOT NULL,
  peak_oracle_lost REAL NOT NULL,
  excess_area      REAL NOT NULL CHECK(excess_area >= 0),
  cause            TEXT NOT NULL CHECK(cause IN ('infeasible', 'sink_evicted', 'late_bloomer', 'selection', 'new_token', 'mixed')),
  foreseeable      INTEGER CHECK(foreseeable IN (0, 1)),
  recurrent        INTEGER CHECK(recurrent IN (0, 1)),
  share_top1       REAL CHECK(share_top1 BETWEEN 0 AND 1.000001),
  share_top5       REAL CHECK(share_top5 BETWEEN 0 AND 1.000001),
  share_top20      REAL CHECK(share_top20 BETWEEN 0 AND 1.000001),
  CHECK(peak_step BETWEEN start_step AND start_step + n_step - 1),
  UNIQUE(cell_id, layer, head, tau_id, start_step),
  FOREIGN KEY(cell_id, layer, head) REFERENCES result_head ON DELETE CASCADE
) STRICT;
INSERT INTO violation VALUES(1,1,0,0,1,0,12,3,0.99583955388516187667,0.0018576025031507015228,5.6409673420712351799,'sink_evicted',1,0,0.27641459795142181432,0.90659502181862250402,0.99899843819061773242);
INSERT INTO violation VALUES(2,1,0,0,2,0,12,3,0.99583955388516187667,0.0018576025031507015228,8.6409673420712351799,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(3,1,0,0,3,0,12,3,0.99583955388516187667,0.0018576025031507015228,10.440967340953648089,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(4,1,0,1,1,0,12,4,0.9918602905236184597,0.0031279763206839561462,5.8452034704387187957,'sink_evicted',1,0,0.30997037227465046305,0.9884567898998278812,0.99917535203552632072);
INSERT INTO violation VALUES(5,1,0,1,2,0,12,4,0.9918602905236184597,0.0031279763206839561462,8.8452034704387187957,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(6,1,0,1,3,0,12,4,0.9918602905236184597,0.0031279763206839561462,10.645203469321131706,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE violation_token(                 -- at most 20 evicted entries per violation, by share
  violation_id   INTEGER NOT NULL REFERENCES violation ON DELETE CASCADE,
  ord            INTEGER NOT NULL CHECK(ord BETWEEN 1 AND 20),
  pos            INTEGER NOT NULL CHECK(pos >= 0),
  mass_share     REAL NOT NULL CHECK(mass_share BETWEEN 0 AND 1.000001),
  evicted_step   INTEGER NOT NULL,            -- -1 = at the prefill eviction
  window_rank    INTEGER CHECK(window_rank >= 1),
  window_score   REAL,
  score_margin   REAL,                        -- score of the last kept entry minus this score, >= 0
  last_important INTEGER,                     -- last step before the violation with a_t(i) > 1/n_t; -1 = in the window; NULL = never
  idle_steps     INTEGER CHECK(idle_steps >= 0),
  PRIMARY KEY(violation_id, ord)
) STRICT, WITHOUT ROWID;
INSERT INTO violation_token VALUES(1,1,2,0.27641459795142181432,-1,32,-10.339343070983886719,1.9448719024658203125,-1,0);
INSERT INTO violation_token VALUES(1,2,1,0.19713704945973906101,-1,25,-8.5462245941162109375,0.15175342559814453125,-1,0);
INSERT INTO violation_token VALUES(1,3,7,0.16923483183909993066,-1,45,-14.46791839599609375,6.0734472274780273437,NULL,NULL);
INSERT INTO violation_token VALUES(1,4,0,0.14419092838273248058,-1,33,-10.455824851989746094,2.0613536834716796875,-1,0);
INSERT INTO violation_token VALUES(1,5,3,0.11961761418562918968,-1,40,-12.434326171875,4.0398550033569335937,-1,0);
INSERT INTO violation_token VALUES(1,6,13,0.050744490941534950434,-1,43,-13.2105560302734375,4.8160848617553710937,NULL,NULL);
INSERT INTO violation_token VALUES(1,7,4,0.008470376997486440615,-1,28,-9.5935659408569335937,1.1990947723388671875,-1,0);
INSERT INTO violation_token VALUES(1,8,44,0.0059835123313411444842,-1,46,-15.992210388183593749,7.5977392196655273437,NULL,NULL);
INSERT INTO violation_token VALUES(1,9,47,0.0056460107159701788948,-1,27,-9.310039520263671875,0.91556835174560546875,NULL,NULL);
INSERT INTO violation_token VALUES(1,10,38,0.0034140920046459325917,-1,48,-17.236419677734375,8.8419485092163085937,NULL,NULL);
INSERT INTO violation_token VALUES(1,11,32,0.0033126379071554707539,-1,47,-16.842220306396484374,8.4477491378784179687,-1,0);
INSERT INTO violation_token VALUES(1,12,30,0.0029710952382150691841,-1,34,-10.551568031311035156,2.15709686279296875,-1,0);
INSERT INTO violation_token VALUES(1,13,5,0.0027669513532792289201,-1,36,-11.128452301025390624,2.7339811325073242187,NULL,NULL);
INSERT INTO violation_token VALUES(1,14,36,0.0025209220085866219582,-1,41,-12.615230560302734374,4.2207593917846679687,-1,0);
INSERT INTO violation_token VALUES(1,15,10,0.0020363108843026900447,-1,39,-12.264097213745117187,3.8696260452270507812,NULL,NULL);
INSERT INTO violation_token VALUES(1,16,26,0.0016594162688575693834,-1,30,-9.809764862060546875,1.4152936935424804687,NULL,NULL);
INSERT INTO violation_token VALUES(1,17,25,0.0011595395138946182778,-1,26,-8.6182260513305664062,0.2237548828125,NULL,NULL);
INSERT INTO violation_token VALUES(1,18,20,0.00077764759848357445631,-1,35,-10.61002349853515625,2.2155523300170898437,NULL,NULL);
INSERT INTO violation_token VALUES(1,19,24,0.00061651821308481707939,-1,29,-9.72209930419921875,1.3276281356811523437,NULL,NULL);
INSERT INTO violation_token VALUES(1,20,42,0.00032389439515700344527,-1,38,-11.68683338165283203,3.292362213134765625,NULL,NULL);
INSERT INTO violation_token VALUES(4,1,0,0.30997037227465046305,-1,33,-10.455824851989746094,2.0613536834716796875,-1,0);
INSERT INTO violation_token VALUES(4,2,1,0.29932191681647507541,-1,25,-8.5462245941162109375,0.15175342559814453125,-1,0);
INSERT INTO violation_token VALUES(4,3,2,0.2809965332248875458,-1,32,-10.339343070983886719,1.9448719024658203125,-1,0);
INSERT INTO violation_token VALUES(4,4,3,0.096355744527501813179,-1,40,-12.434326171875,4.0398550033569335937,-1,0);
INSERT INTO violation_token VALUES(4,5,42,0.0018122230563130301526,-1,38,-11.68683338165283203,3.292362213134765625,NULL,NULL);
INSERT INTO violation_token VALUES(4,6,36,0.0017314319269862417458,-1,41,-12.615230560302734374,4.2207593917846679687,NULL,NULL);
INSERT INTO violation_token VALUES(4,7,10,0.0014754714396891205167,-1,39,-12.264097213745117187,3.8696260452270507812,NULL,NULL);
INSERT INTO violation_token VALUES(4,8,21,0.0010120374718642238288,-1,44,-13.797716140747070312,5.4032449722290039062,NULL,NULL);
INSERT INTO violation_token VALUES(4,9,32,0.00094757738960602171801,-1,47,-16.842220306396484374,8.4477491378784179687,NULL,NULL);
INSERT INTO violation_token VALUES(4,10,38,0.00070067431700186581788,-1,48,-17.236419677734375,8.8419485092163085937,NULL,NULL);
INSERT INTO violation_token VALUES(4,11,12,0.00069178374154305630281,-1,31,-9.9002733230590820312,1.505802154541015625,NULL,NULL);
INSERT INTO violation_token VALUES(4,12,44,0.00066892604164457995438,-1,46,-15.992210388183593749,7.5977392196655273437,NULL,NULL);
INSERT INTO violation_token VALUES(4,13,24,0.00063615215030030569307,-1,29,-9.72209930419921875,1.3276281356811523437,NULL,NULL);
INSERT INTO violation_token VALUES(4,14,4,0.00060947456455980172571,-1,28,-9.5935659408569335937,1.1990947723388671875,NULL,NULL);
INSERT INTO violation_token VALUES(4,15,47,0.00059178676420261835684,-1,27,-9.310039520263671875,0.91556835174560546875,NULL,NULL);
INSERT INTO violation_token VALUES(4,16,30,0.00042628114440624361586,-1,34,-10.551568031311035156,2.15709686279296875,NULL,NULL);
INSERT INTO violation_token VALUES(4,17,25,0.00032623463550684257857,-1,26,-8.6182260513305664062,0.2237548828125,NULL,NULL);
INSERT INTO violation_token VALUES(4,18,7,0.00031391901266616749994,-1,45,-14.46791839599609375,6.0734472274780273437,NULL,NULL);
INSERT INTO violation_token VALUES(4,19,5,0.00029468559879848571893,-1,36,-11.128452301025390624,2.7339811325073242187,NULL,NULL);
INSERT INTO violation_token VALUES(4,20,26,0.00029212593692279028613,-1,30,-9.809764862060546875,1.4152936935424804687,NULL,NULL);
CREATE TABLE ladder_head(                     -- written with the cell of the 'oracle_minimax' baseline: trace, budget and budgeted set come from there
  cell_id        INTEGER NOT NULL REFERENCES cell ON DELETE CASCADE,
  layer          INTEGER NOT NULL CHECK(layer >= 0),
  head           INTEGER NOT NULL CHECK(head >= 0),
  n_keep         INTEGER NOT NULL CHECK(n_keep >= 0),
  n_step         INTEGER NOT NULL CHECK(n_step > 0),
  n_trivial      INTEGER NOT NULL CHECK(n_trivial BETWEEN 0 AND n_step),
  oracle_mean    REAL NOT NULL CHECK(oracle_mean BETWEEN 0 AND 1),
  oracle_max     REAL NOT NULL CHECK(oracle_max BETWEEN 0 AND 1),
  oracle_max_step INTEGER NOT NULL,
  fixed_mean     REAL NOT NULL,
  fixed_max      REAL NOT NULL,
  random_mean    REAL NOT NULL,
  minimax_bound  REAL NOT NULL CHECK(minimax_bound BETWEEN 0 AND 1),
  minimax_found  REAL NOT NULL CHECK(minimax_found BETWEEN 0 AND 1),
  minimax_iters  INTEGER NOT NULL CHECK(minimax_iters >= 0),
  minimax_stop   TEXT NOT NULL CHECK(minimax_stop IN ('trivial', 'certified', 'fractional', 'limit')),
  stability_gap  REAL NOT NULL CHECK(stability_gap >= -5e-5),
  CHECK(oracle_max <= minimax_bound + 5e-5 AND minimax_bound <= minimax_found + 5e-5 AND minimax_found <= fixed_max + 5e-5),
  CHECK(oracle_mean <= fixed_mean + 5e-5),
  PRIMARY KEY(cell_id, layer, head)
) STRICT, WITHOUT ROWID;
INSERT INTO ladder_head VALUES(2,0,0,24,12,0,0.0097707177822788562199,0.044300154782831668853,6,0.01360222933969149929,0.053832483012229204177,0.49618508303191788399,0.049008693080395460128,0.052361252717673778533,120,'limit',0.004708538297563791275);
INSERT INTO ladder_head VALUES(2,0,1,24,12,0,0.0046437294998516636182,0.0092614032328128814697,0,0.0060427602923785643865,0.010130675509572029113,0.49791841592893132384,0.0092614032328128814697,0.0092614032328128814697,20,'certified',0.0);
CREATE TABLE minimax_cert(                    -- everything needed to re-check minimax_bound with integers only; no row where everything fits
  minimax_cert_id INTEGER PRIMARY KEY,
  cell_id    INTEGER NOT NULL,
  layer      INTEGER NOT NULL,
  head       INTEGER NOT NULL,
  bound_q31  INTEGER NOT NULL CHECK(bound_q31 BETWEEN 0 AND 2147483648),
  n_lambda   INTEGER NOT NULL CHECK(n_lambda > 0),            -- number of non-trivial steps
  lambda     BLOB NOT NULL CHECK(length(lambda) = 4 * n_lambda),  -- u32 little endian, sum = 2^31
  best_set   BLOB NOT NULL,                                   -- varint count, then varint differences of ascending positions
  UNIQUE(cell_id, layer, head),
  FOREIGN KEY(cell_id, layer, head) REFERENCES ladder_head ON DELETE CASCADE
) STRICT;
INSERT INTO minimax_cert VALUES(1,2,0,0,105245367,12,X'cd298e0059bb0a011aa04f00d01a2000d5576e000c2940006a37717b29660e01cb703d003fe626003f85310033653300',X'18000101010101020301020201060103040204020302010201');
INSERT INTO minimax_cert VALUES(2,2,0,1,19888712,12,X'000000800000000000000000000000000000000000000000000000000000000000000000000000000000000000000000',X'18000101010106020902010601010102010101020101010202');
CREATE TABLE validity(                        -- one row per self-check; the report prints the rows that are not ok first
  validity_id INTEGER PRIMARY KEY,
  run_id      INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
  cell_id     INTEGER REFERENCES cell ON DELETE CASCADE,
  check_name  TEXT NOT NULL CHECK(check_name IN ('full_cache_floor', 'oracle_dominates', 'minimax_dominates', 'budget_realised', 'tie_share', 'row_defect',
                'capture_error', 'freeze', 'closed_loop', 'query_aware_mix', 'nested_audit', 'trivial_share', 'cluster_count')),
  status      TEXT NOT NULL CHECK(status IN ('ok', 'warn', 'fail', 'not_run')),
  value       REAL,
  lim         REAL,
  message     TEXT NOT NULL
) STRICT;
INSERT INTO validity VALUES(1,1,1,'oracle_dominates','ok',0.0,-5.0000000000000002393e-05,'no head loses less than the per-step oracle at the same count');
INSERT INTO validity VALUES(2,1,1,'budget_realised','ok',24.0,24.0,'tokens held per KV head against what was asked for');
INSERT INTO validity VALUES(3,1,1,'tie_share','ok',0.0,0.050000000000000002775,'kept entries whose score equals the first rejected score of their head');
INSERT INTO validity VALUES(4,1,1,'row_defect','ok',4.8581932787783443927e-07,2.0000000000000001634e-05,'rows sum to 1');
INSERT INTO validity VALUES(5,1,2,'oracle_dominates','ok',0.0,-5.0000000000000002393e-05,'no head loses less than the per-step oracle at the same count');
INSERT INTO validity VALUES(6,1,2,'budget_realised','ok',24.0,24.0,'tokens held per KV head against what was asked for');
INSERT INTO validity VALUES(7,1,2,'tie_share','ok',0.0,0.050000000000000002775,'kept entries whose score equals the first rejected score of their head');
INSERT INTO validity VALUES(8,1,2,'row_defect','ok',4.8581932787783443927e-07,2.0000000000000001634e-05,'rows sum to 1');
INSERT INTO validity VALUES(9,1,3,'full_cache_floor','ok',0.0,0.0,'the full cache loses exactly nothing');
INSERT INTO validity VALUES(10,1,3,'capture_error','ok',3.758314769451781834e-07,1.0000000000000000817e-05,'attention output recomputed at capture against the engine''s own');
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 VALUES('result_layer','result_layer','16 1 1');
INSERT INTO sqlite_stat1 VALUES('violation','sqlite_autoindex_violation_1','121 11 11 7 3 1');
INSERT INTO sqlite_stat1 VALUES('result_head_tau','result_head_tau','96 6 6 3 1');
INSERT INTO sqlite_stat1 VALUES('violation_token','violation_token','360 20 1');
INSERT INTO sqlite_stat1 VALUES('result_kvhead','result_kvhead','32 2 2 2 1');
INSERT INTO sqlite_stat1 VALUES('result_series','sqlite_autoindex_result_series_1','64 4 4 2 1');
INSERT INTO sqlite_stat1 VALUES('ladder_head','ladder_head','2 2 2 1');
INSERT INTO sqlite_stat1 VALUES('minimax_cert','sqlite_autoindex_minimax_cert_1','2 2 2 1');
INSERT INTO sqlite_stat1 VALUES('result_head','result_head','32 2 2 1');
CREATE INDEX trace_by_split ON trace(split, cluster_id);
CREATE INDEX cell_by_config  ON cell(config_id, budget_id, status);
CREATE INDEX cell_by_version ON cell(engine_version * 1000000 + metric_version);
CREATE INDEX validity_by_status ON validity(status, check_name);
CREATE VIEW v_cell AS
  SELECT c.cell_id, m.name AS model, d.name AS dataset, t.name AS trace, t.cluster_id, t.split, t.kind AS trace_kind,
         p.name AS policy, pc.label AS policy_label, pc.semantics, p.role, p.timing, p.budgeted, p.fixed_set, p.query_aware,
         b.label AS budget, b.kind AS budget_kind, b.value AS budget_value, c.requested_tokens,
         c.config_id, c.budget_id, c.trace_id, t.model_id, c.status
  FROM cell c JOIN trace t USING(trace_id) JOIN model m USING(model_id) JOIN dataset d USING(dataset_id)
       JOIN policy_config pc USING(config_id) JOIN policy p USING(policy_id) JOIN budget b USING(budget_id)
  WHERE c.engine_version * 1000000 + c.metric_version = (SELECT max(engine_version * 1000000 + metric_version) FROM cell);
CREATE VIEW v_worst_heads AS
  SELECT v.model, v.split, v.policy_label, v.budget, r.layer, r.head, count(DISTINCT v.trace_id) AS n_trace, max(r.lost_max) AS worst_lost,
         v.trace AS worst_trace, r.max_step AS worst_step, r.cell_id AS worst_cell_id, avg(r.lost_mean) AS mean_lost
  FROM result_head r JOIN v_cell v USING(cell_id) WHERE v.status = 'done' AND r.n_trivial < r.n_step
  GROUP BY v.model_id, v.split, v.config_id, v.budget_id, r.layer, r.head;
CREATE VIEW v_policy_summary AS
  SELECT v.model, v.split, v.policy, v.policy_label, v.semantics, v.role, v.query_aware, v.budget, v.config_id, v.budget_id, v.model_id,
         count(*) AS n_cell, count(DISTINCT v.trace_id) AS n_trace, count(DISTINCT v.cluster_id) AS n_cluster,
         avg(rc.held_share) AS held_share, avg(rc.bytes_physical) AS bytes_physical,
         avg(rc.lost_mean) AS mean_lost, avg(rc.cvar95_mean) AS cvar95_mean, avg(rc.cvar95_worst_head) AS cvar95_worst_head,
         max(rc.lost_worst) AS worst_lost, max(rc.lost_ns_worst) AS worst_lost_ns, max(rc.out_err_worst) AS worst_out_err,
         max(rc.oracle_worst) AS oracle_worst, avg(rc.regret_mean) AS mean_regret,
         sum(rc.n_violation) AS n_violation, max(rc.tie_share) AS tie_share_max
  FROM result_cell rc JOIN v_cell v USING(cell_id) WHERE v.status = 'done'
  GROUP BY v.model_id, v.split, v.config_id, v.budget_id;
CREATE VIEW v_policy_rank AS
  SELECT *, rank() OVER (PARTITION BY model_id, split, budget_id ORDER BY worst_lost) AS rank_worst,
            rank() OVER (PARTITION BY model_id, split, budget_id ORDER BY cvar95_worst_head) AS rank_cvar95,
            rank() OVER (PARTITION BY model_id, split, budget_id ORDER BY mean_lost) AS rank_mean
  FROM v_policy_summary;
CREATE VIEW v_pareto AS
  SELECT a.model, a.split, a.policy_label, a.role, a.budget, a.held_share, a.bytes_physical, a.cvar95_worst_head, a.worst_lost, a.n_cluster,
         (SELECT b.policy_label || ' @ ' || b.budget FROM v_policy_summary b
           WHERE b.model_id = a.model_id AND b.split = a.split AND b.role <> 'oracle'
             AND b.bytes_physical <= a.bytes_physical AND b.cvar95_worst_head <= a.cvar95_worst_head
             AND (b.bytes_physical < a.bytes_physical OR b.cvar95_worst_head < a.cvar95_worst_head)
           ORDER BY b.cvar95_worst_head, b.bytes_physical, b.policy_label LIMIT 1) AS dominated_by
  FROM v_policy_summary a;
CREATE VIEW v_trace_fail AS
  SELECT v.model, v.split, v.policy_label, v.budget, x.tau_id, ta.tau, v.cluster_id, v.trace, v.config_id, v.budget_id, v.model_id,
         max(x.n_exceed > 0) AS failed, max(x.n_exceed > x.n_infeasible) AS failed_by_policy
  FROM result_head_tau x JOIN tau ta USING(tau_id) JOIN v_cell v USING(cell_id) WHERE v.status = 'done'
  GROUP BY v.config_id, v.budget_id, x.tau_id, v.trace_id;
CREATE VIEW v_fail_rate AS
  SELECT model, split, policy_label, budget, tau, count(*) AS n_cluster, sum(failed) AS k_failed, sum(failed_by_policy) AS k_policy,
         1.0 * sum(failed) / count(*) AS rate
  FROM (SELECT model, split, policy_label, budget, tau, model_id, config_id, budget_id, tau_id, cluster_id,
               max(failed) AS failed, max(failed_by_policy) AS failed_by_policy
        FROM v_trace_fail GROUP BY model_id, split, config_id, budget_id, tau_id, cluster_id)
  GROUP BY model_id, split, config_id, budget_id, tau_id;
CREATE VIEW v_violations AS
  SELECT v.model, v.split, v.policy_label, v.budget, v.trace, v.cluster_id, x.layer, x.head, t.tau, x.start_step, x.n_step,
         x.peak_step, x.peak_lost, x.peak_oracle_lost, x.excess_area, x.cause, x.foreseeable, x.recurrent, x.share_top1, x.share_top5, x.share_top20,
         x.violation_id, x.cell_id
  FROM violation x JOIN tau t USING(tau_id) JOIN v_cell v USING(cell_id);
CREATE VIEW v_violation_cause AS
  SELECT v.model, v.split, v.policy_label, v.budget, t.tau, x.cause, count(*) AS n_event, max(x.peak_lost) AS worst_peak, sum(x.n_step) AS n_step
  FROM violation x JOIN tau t USING(tau_id) JOIN v_cell v USING(cell_id)
  GROUP BY v.model_id, v.split, v.config_id, v.budget_id, x.tau_id, x.cause;
CREATE VIEW v_token_postmortem AS
  SELECT x.model, x.split, x.policy_label, x.budget, x.trace, x.layer, x.head, x.tau, x.start_step, x.peak_step, x.peak_lost, x.cause,
         y.ord, y.pos, t.n_prompt + x.peak_step - y.pos AS age, k.token_id, k.bytes AS token_bytes,
         (SELECT s.kind FROM trace_segment s WHERE s.trace_id = c.trace_id AND y.pos >= s.start_pos AND y.pos < s.end_pos
           ORDER BY s.end_pos - s.start_pos, s.seg_no LIMIT 1) AS segment,
         y.mass_share, y.evicted_step, y.window_rank, y.window_score, y.score_margin, y.last_important, y.idle_steps,
         x.violation_id, x.cell_id
  FROM violation_token y JOIN v_violations x USING(violation_id) JOIN cell c USING(cell_id) JOIN trace t USING(trace_id)
       LEFT JOIN trace_token k ON k.trace_id = c.trace_id AND k.pos = y.pos;
CREATE VIEW v_decomposition AS
  SELECT v.model, v.split, v.policy_label, v.budget, count(*) AS n_row, avg(r.lost_mean) AS lost, avg(r.oracle_mean) AS infeasible,
         avg(r.fixed_mean - r.oracle_mean) AS staticity, avg(r.lost_mean - r.fixed_mean) AS selection,
         max(r.oracle_max) AS infeasible_worst
  FROM result_head r JOIN v_cell v USING(cell_id) WHERE v.status = 'done' AND r.n_trivial < r.n_step AND r.fixed_mean IS NOT NULL
  GROUP BY v.model_id, v.split, v.config_id, v.budget_id;
CREATE VIEW v_ladder AS
  SELECT v.model, v.split, v.trace, v.cluster_id, v.budgeted, v.budget, l.layer, l.head, l.n_keep, l.oracle_mean, l.oracle_max,
         l.fixed_mean, l.fixed_max, l.random_mean, l.minimax_bound, l.minimax_found, l.minimax_found - l.minimax_bound AS minimax_width,
         l.stability_gap, v.trace_id, v.budget_id, v.model_id, l.cell_id
  FROM ladder_head l JOIN v_cell v USING(cell_id) WHERE v.status = 'done' AND l.n_trivial < l.n_step;
CREATE VIEW v_validity AS
  SELECT check_name, status, count(*) AS n, min(value) AS value_min, max(value) AS value_max, max(lim) AS lim, min(message) AS example
  FROM validity GROUP BY check_name, status
  ORDER BY CASE status WHEN 'fail' THEN 0 WHEN 'warn' THEN 1 WHEN 'not_run' THEN 2 ELSE 3 END, check_name;
CREATE VIEW v_todo AS SELECT status, count(*) AS n_cell, sum(attempt) AS attempts FROM cell GROUP BY status;
CREATE VIEW v_check AS                        -- every row is a defect; CI fails when the view is not empty
  SELECT 'done cell without heads' AS defect, cell_id AS id FROM cell
    WHERE status = 'done' AND NOT EXISTS (SELECT 1 FROM result_head r WHERE r.cell_id = cell.cell_id)
  UNION ALL SELECT 'done cell without summary', cell_id FROM cell
    WHERE status = 'done' AND NOT EXISTS (SELECT 1 FROM result_cell r WHERE r.cell_id = cell.cell_id)
  UNION ALL SELECT 'head count differs from model', c.cell_id FROM cell c JOIN trace t USING(trace_id)
    WHERE c.status = 'done' AND (SELECT count(*) FROM result_head r WHERE r.cell_id = c.cell_id)
                             <> (SELECT sum(n_q_head) FROM model_layer ml WHERE ml.model_id = t.model_id AND ml.attn_type = 'full')
  UNION ALL SELECT 'layer count differs from model', model_id FROM model
    WHERE n_layer <> (SELECT count(*) FROM model_layer ml WHERE ml.model_id = model.model_id)
  UNION ALL SELECT 'policy beats per-step oracle', cell_id FROM result_head WHERE lost_mean < oracle_mean - 5e-5
  UNION ALL SELECT 'full cache loses mass', r.cell_id FROM result_head r JOIN cell c USING(cell_id)
    JOIN policy_config pc USING(config_id) JOIN policy p USING(policy_id) WHERE p.name = 'full' AND r.lost_max > 0
  UNION ALL SELECT 'minimax cell whose ladder is not complete', c.cell_id FROM cell c JOIN policy_config pc USING(config_id) JOIN policy p USING(policy_id)
    WHERE p.name = 'oracle_minimax' AND c.status = 'done'
      AND (SELECT count(*) FROM ladder_head l WHERE l.cell_id = c.cell_id) <> (SELECT count(*) FROM result_head r WHERE r.cell_id = c.cell_id)
  UNION ALL SELECT 'minimax set loses something else than minimax_found', l.cell_id FROM ladder_head l JOIN result_head r USING(cell_id, layer, head)
    WHERE abs(l.minimax_found - r.lost_max) > 1e-9
  UNION ALL SELECT 'minimax bound without certificate', l.cell_id FROM ladder_head l
    WHERE l.n_trivial < l.n_step AND NOT EXISTS (SELECT 1 FROM minimax_cert m WHERE m.cell_id = l.cell_id AND m.layer = l.layer
      AND m.head = l.head AND m.n_lambda = l.n_step - l.n_trivial
      AND abs(min(max(m.bound_q31 / 2147483648.0, l.oracle_max), l.minimax_found) - l.minimax_bound) < 1e-9)
  UNION ALL SELECT 'stability gap is not minimax_bound - oracle_max', cell_id FROM ladder_head
    WHERE abs(stability_gap - (minimax_bound - oracle_max)) > 1e-9
  UNION ALL SELECT 'fixed set beats certified minimax bound', r.cell_id FROM ladder_head l JOIN cell lc USING(cell_id)
    JOIN cell c ON c.trace_id = lc.trace_id AND c.budget_id = lc.budget_id AND c.engine_version = lc.engine_version AND c.metric_version = lc.metric_version
    JOIN policy_config pc ON pc.config_id = c.config_id JOIN policy p USING(policy_id)
    JOIN result_head r ON r.cell_id = c.cell_id AND r.layer = l.layer AND r.head = l.head
    WHERE c.status = 'done' AND p.fixed_set = 1 AND p.budgeted = 'prompt' AND r.n_held <= l.n_keep AND r.n_trivial < r.n_step
      AND r.lost_max < l.minimax_bound - 5e-5
  UNION ALL SELECT 'budget exceeded', rc.cell_id FROM result_cell rc JOIN cell c USING(cell_id) JOIN policy_config pc USING(config_id) JOIN policy p USING(policy_id)
         JOIN trace t USING(trace_id)
    WHERE p.name <> 'full' AND pc.may_overshoot = 0 AND rc.held_mean > c.requested_tokens + 1
      AND NOT EXISTS (SELECT 1 FROM policy_param w WHERE w.config_id = c.config_id AND w.key = 'window' AND w.value_num >= t.n_prompt)
  UNION ALL SELECT 'run left running', run_id FROM run WHERE status = 'running'
  UNION ALL SELECT 'undocumented column: ' || tl.name || '.' || ti.name, 0 FROM pragma_table_list tl JOIN pragma_table_info(tl.name) ti
    WHERE tl.schema = 'main' AND tl.type = 'table'
      AND tl.name IN ('result_cell', 'result_head', 'result_kvhead', 'result_layer', 'result_head_tau', 'result_series', 'violation', 'violation_token', 'ladder_head',
                      'minimax_cert', 'validity')
      AND NOT EXISTS (SELECT 1 FROM column_doc cd WHERE cd.table_name = tl.name AND cd.column_name = ti.name)
  UNION ALL SELECT 'documented column does not exist: ' || cd.table_name || '.' || cd.column_name, 0 FROM column_doc cd
    WHERE NOT EXISTS (SELECT 1 FROM pragma_table_info(cd.table_name) ti WHERE ti.name = cd.column_name)
;
COMMIT;
PRAGMA application_id=1263948849; PRAGMA user_version=2;
