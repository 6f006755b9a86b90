-- A results database of schema version 1: full and knorm at budget 0.5 on traces/samples/tiny_mha.h5.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE meta(
  key   TEXT NOT NULL PRIMARY KEY,            -- 'engine_version', 'metric_version', 'created_utc', 'title', 'note', ...
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES('created_by','kvtrace 0.1.0');
INSERT INTO meta VALUES('created_utc','2026-11-24T19:34:35Z');
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
INSERT INTO schema_migration VALUES(1,'2026-11-24T19:34:35Z','0.1.0','b582bedfdb737fef3a861f11a5c4cebbc18c8cf492f54232b98a154ea2bcc233');
CREATE TABLE column_doc(
  table_name  TEXT NOT NULL,
  column_name TEXT NOT NULL,
  unit        TEXT NOT NULL,
  lo          REAL,
  hi          REAL,
  description TEXT NOT NULL,
  PRIMARY KEY(table_name, column_name)
) STRICT, WITHOUT ROWID;
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
INSERT INTO model VALUES(1,'synthetic','',2);
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
INSERT INTO model_layer VALUES(1,0,4,4,12,12,'full',NULL);
INSERT INTO model_layer VALUES(1,1,4,4,12,12,'full',NULL);
CREATE TABLE dataset(
  dataset_id INTEGER PRIMARY KEY,
  name       TEXT NOT NULL,
  revision   TEXT NOT NULL,
  licence    TEXT,
  UNIQUE(name, revision)
) STRICT;
INSERT INTO dataset VALUES(1,'synthetic; role of query head h of layer l by (h + l) mod 4: 0 retrieval, 1 sink, 2 local, 3 heavy; sinks: tokens 0 to 3; heavy hitters: tokens 33, 55; late bloomers: token 9 in decode step 6, token 22 in decode step 12, token 9 in decode step 18','',NULL);
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
INSERT INTO trace VALUES(1,'6fb28f73d59dc7a16f264fbe5ec90a0abff6d02533b13347297808ac385d3269','tiny_mha',1,1,'synth-2','test','synthetic','synthetic',64,24,32,64,'unknown','f16','f16','f16','qk',1,0,1,0,'none',1,0,95592,'tiny_mha.h5');
CREATE TABLE trace_token(
  trace_id INTEGER NOT NULL REFERENCES trace ON DELETE CASCADE,
  pos      INTEGER NOT NULL CHECK(pos >= 0),
  token_id INTEGER NOT NULL,
  bytes    BLOB,                              -- raw bytes of the token, any encoding; NULL when redacted
  PRIMARY KEY(trace_id, pos)
) STRICT, WITHOUT ROWID;
INSERT INTO trace_token VALUES(1,0,1,X'64616261');
INSERT INTO trace_token VALUES(1,1,3642,X'20736f706f');
INSERT INTO trace_token VALUES(1,2,3396,X'206b616c6f');
INSERT INTO trace_token VALUES(1,3,621,X'207a697261');
INSERT INTO trace_token VALUES(1,4,3292,X'207665676f');
INSERT INTO trace_token VALUES(1,5,2929,X'20646f7a69');
INSERT INTO trace_token VALUES(1,6,2727,X'206e697369');
INSERT INTO trace_token VALUES(1,7,3273,X'207261676f');
INSERT INTO trace_token VALUES(1,8,2939,X'20746f7a69');
INSERT INTO trace_token VALUES(1,9,1072,X'20626f6265');
INSERT INTO trace_token VALUES(1,10,4029,X'207a6f686f');
INSERT INTO trace_token VALUES(1,11,2859,X'2074697669');
INSERT INTO trace_token VALUES(1,12,2003,X'2067656a65');
INSERT INTO trace_token VALUES(1,13,3887,X'206a69766f');
INSERT INTO trace_token VALUES(1,14,306,X'20666f6b61');
INSERT INTO trace_token VALUES(1,15,1711,X'206a697365');
INSERT INTO trace_token VALUES(1,16,3928,X'2070657a6f');
INSERT INTO trace_token VALUES(1,17,3209,X'207261666f');
INSERT INTO trace_token VALUES(1,18,739,X'2067697461');
INSERT INTO trace_token VALUES(1,19,1146,X'20736f6465');
INSERT INTO trace_token VALUES(1,20,2384,X'2062656c69');
INSERT INTO trace_token VALUES(1,21,1339,X'20746f6b65');
INSERT INTO trace_token VALUES(1,22,2456,X'2070656d69');
INSERT INTO trace_token VALUES(1,23,1986,X'2066616a65');
INSERT INTO trace_token VALUES(1,24,1424,X'2062656d65');
INSERT INTO trace_token VALUES(1,25,960,X'2062616a61');
INSERT INTO trace_token VALUES(1,26,3123,X'20676f626f');
INSERT INTO trace_token VALUES(1,27,3747,X'206769736f');
INSERT INTO trace_token VALUES(1,28,1547,X'2074617065');
INSERT INTO trace_token VALUES(1,29,882,X'20666f7a61');
INSERT INTO trace_token VALUES(1,30,2627,X'2067617269');
INSERT INTO trace_token VALUES(1,31,3211,X'207461666f');
INSERT INTO trace_token VALUES(1,32,1144,X'20706f6465');
INSERT INTO trace_token VALUES(1,33,3083,X'207461626f');
INSERT INTO trace_token VALUES(1,34,2635,X'2074617269');
INSERT INTO trace_token VALUES(1,35,2706,X'2066657369');
INSERT INTO trace_token VALUES(1,36,2369,X'2064616c69');
INSERT INTO trace_token VALUES(1,37,3082,X'207361626f');
INSERT INTO trace_token VALUES(1,38,3839,X'206a6f746f');
INSERT INTO trace_token VALUES(1,39,1718,X'206d6f7365');
INSERT INTO trace_token VALUES(1,40,1256,X'2070696765');
INSERT INTO trace_token VALUES(1,41,1538,X'2066617065');
INSERT INTO trace_token VALUES(1,42,3738,X'207365736f');
INSERT INTO trace_token VALUES(1,43,3158,X'206d65646f');
INSERT INTO trace_token VALUES(1,44,2761,X'2072617469');
INSERT INTO trace_token VALUES(1,45,3808,X'206269746f');
INSERT INTO trace_token VALUES(1,46,3556,X'206b696e6f');
INSERT INTO trace_token VALUES(1,47,181,X'206c6f6661');
INSERT INTO trace_token VALUES(1,48,3359,X'206a656b6f');
INSERT INTO trace_token VALUES(1,49,1850,X'20736f7665');
INSERT INTO trace_token VALUES(1,50,2126,X'2068616469');
INSERT INTO trace_token VALUES(1,51,2080,X'2062696269');
INSERT INTO trace_token VALUES(1,52,1912,X'20706f7a65');
INSERT INTO trace_token VALUES(1,53,3571,X'20676f6e6f');
INSERT INTO trace_token VALUES(1,54,695,X'206e6f7361');
INSERT INTO trace_token VALUES(1,55,601,X'2072657261');
INSERT INTO trace_token VALUES(1,56,2292,X'206b6f6769');
INSERT INTO trace_token VALUES(1,57,1662,X'20686f7265');
INSERT INTO trace_token VALUES(1,58,2665,X'2072697269');
INSERT INTO trace_token VALUES(1,59,3988,X'206b65686f');
INSERT INTO trace_token VALUES(1,60,2188,X'2076616669');
INSERT INTO trace_token VALUES(1,61,3611,X'207465706f');
INSERT INTO trace_token VALUES(1,62,2120,X'2070616469');
INSERT INTO trace_token VALUES(1,63,1877,X'206c657a65');
INSERT INTO trace_token VALUES(1,64,568,X'20706f7061');
INSERT INTO trace_token VALUES(1,65,553,X'2072697061');
INSERT INTO trace_token VALUES(1,66,1724,X'20766f7365');
INSERT INTO trace_token VALUES(1,67,705,X'2064617461');
INSERT INTO trace_token VALUES(1,68,217,X'2072656761');
INSERT INTO trace_token VALUES(1,69,3620,X'206b69706f');
INSERT INTO trace_token VALUES(1,70,254,X'20686f6761');
INSERT INTO trace_token VALUES(1,71,1447,X'206e696d65');
INSERT INTO trace_token VALUES(1,72,1588,X'206b6f7065');
INSERT INTO trace_token VALUES(1,73,2673,X'20646f7269');
INSERT INTO trace_token VALUES(1,74,1346,X'2066616c65');
INSERT INTO trace_token VALUES(1,75,234,X'2073696761');
INSERT INTO trace_token VALUES(1,76,3965,X'207a6f7a6f');
INSERT INTO trace_token VALUES(1,77,2898,X'2066657a69');
INSERT INTO trace_token VALUES(1,78,845,X'207a617a61');
INSERT INTO trace_token VALUES(1,79,3598,X'206861706f');
INSERT INTO trace_token VALUES(1,80,1091,X'2067616465');
INSERT INTO trace_token VALUES(1,81,2662,X'206d697269');
INSERT INTO trace_token VALUES(1,82,3425,X'2064696c6f');
INSERT INTO trace_token VALUES(1,83,3360,X'2062696b6f');
INSERT INTO trace_token VALUES(1,84,2415,X'206a696c69');
INSERT INTO trace_token VALUES(1,85,3226,X'207365666f');
INSERT INTO trace_token VALUES(1,86,3624,X'207069706f');
INSERT INTO trace_token VALUES(1,87,41,X'2072696261');
CREATE TABLE trace_segment(                   -- spans of the trace, half-open ranges [start_pos, end_pos), by start, then descending end; they may nest or be empty
  trace_id  INTEGER NOT NULL REFERENCES trace ON DELETE CASCADE,
  seg_no    INTEGER NOT NULL CHECK(seg_no >= 0),
  kind      TEXT NOT NULL CHECK(kind IN ('other', 'system', 'user', 'assistant', 'tool', 'document', 'question', 'answer', 'needle', 'image', 'reasoning', 'generated')),
  label     TEXT NOT NULL,
  start_pos INTEGER NOT NULL CHECK(start_pos >= 0),
  end_pos   INTEGER NOT NULL CHECK(end_pos >= start_pos),
  PRIMARY KEY(trace_id, seg_no)
) STRICT, WITHOUT ROWID;
INSERT INTO trace_segment VALUES(1,0,'user','user',0,64);
INSERT INTO trace_segment VALUES(1,1,'needle','needle',9,10);
INSERT INTO trace_segment VALUES(1,2,'needle','needle',22,23);
INSERT INTO trace_segment VALUES(1,3,'assistant','assistant',64,88);
INSERT INTO trace_segment VALUES(1,4,'generated','generated',64,88);
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
INSERT INTO policy VALUES(2,'full','Full cache','baseline','none','prompt',1,1,0,0,'');
INSERT INTO policy VALUES(3,'oracle_fixed','Best fixed set in hindsight','oracle','hindsight','prompt',1,1,0,1,'');
INSERT INTO policy VALUES(4,'oracle_step','Best set of every step','oracle','hindsight','prompt',0,1,0,1,'');
INSERT INTO policy VALUES(5,'random','Random','baseline','prefill','prompt',1,1,0,0,'');
INSERT INTO policy VALUES(6,'random_protect','Random, sinks and window protected','baseline','prefill','prompt',1,1,0,0,'');
INSERT INTO policy VALUES(7,'streaming','StreamingLLM (sinks and recent)','baseline','prefill','prompt',1,1,0,0,'arXiv:2309.17453');
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
INSERT INTO policy_config VALUES(2,2,'full','same',0,'{"caches":"kv","id":"full","params":{"semantics":"code"},"rows":"exact","ties":"low","version":1}','4baf951a283babdc0cb14ea3e32299710237607017548f5f2dd5d967475e4e4e');
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
INSERT INTO run VALUES(1,'9bb06218-c7db-4ee1-bbf0-359446c6043b','replay','2026-11-24T19:34:35Z','2026-11-24T19:34:35Z','done',0,'0.1.0','',1,'["kvtrace","replay"]','60d69c1a9efc0ed9f9229b1b002c52b41828058179461456927867a51b6ae158',0,2,1,'',18020,'cpu','gcc','','glibc','x86-64','Linux','3.40.1',0.87004999999999999005,0.09906800000000000328,16297984);
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
INSERT INTO cell VALUES(1,'fe25929a2d8a07514a448253abb0125b9152170f7a91ad484b05f1379f39bc0f',1,1,1,1,1,0,32.0,'done',1,1,NULL,0.0053658257333154320972,'edd9e09273b52f898b400e0022a1a703777453e8ce1e4f58f64e6c97a0e75b86');
INSERT INTO cell VALUES(2,'6ac9463b48c453e6cc0d42aa09da97253541d7f170b7e9b111dcaf175a6f4d78',1,2,1,1,1,0,32.0,'done',1,1,NULL,0.0053658470666656894396,'a1593465b23d48061b4148e6cdbd360a8fea09850b3709270223ddcea3a225a3');
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
INSERT INTO result_cell VALUES(1,8,0.5,32.0,32,32,12288,12288,0.0,9.375269145461828657e-07,0.76090198639819095483,0.99244518391788005828,1,0,6,0.93027303557998197724,0.99207204572545992782,0.98688799235969781875,0.98558267485350370407,'none',NULL,0.043877316173166036605,0.7510416710550392727,41,0);
INSERT INTO result_cell VALUES(2,8,1.0,64.0,64,64,24576,24576,0.0,9.375269145461828657e-07,0.0,0.0,0,0,0,0.0,0.0,0.0,0.0,'none',NULL,0.0,0.0,0,0);
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
INSERT INTO result_head VALUES(1,0,0,24,0,32,0.9402836202255761,0.97474525962024927139,12,0.94421730004251003265,0.96551220584660768508,0.97133760713040828704,0.97474525962024927139,0.97417731753860914434,0.97474525962024927139,24,0.45805336164388182895,0.97470710007473826408,12,0.97128798766061663627,0.97413724800571799278,0.96796237456146627664,0.98676609480753540992,0,NULL,NULL,NULL,NULL,NULL,NULL,0.013611575569181392011,0.028842053376138210296,0.022311340299590181474,0.039764874149113893508,0.92667204465639463339,0.96897224010899662971);
INSERT INTO result_head VALUES(1,0,1,24,0,32,0.9653278619710666808,0.98651320114731788635,1,0.96918819891288876533,0.98094598809257149696,0.98232544213533401489,0.98651320114731788635,0.98581524131198738913,0.98651320114731788635,24,0.30572459584800526499,0.44727837620303034782,3,0.42470869608223438262,0.44351676284956437212,0.97944153886055573821,0.99352717772126197814,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0083303433299685512164,0.022236989811062812805,0.011540911761888613881,0.024959345348179340362,0.95699751864109805499,0.98063504369929432868);
INSERT INTO result_head VALUES(1,0,2,24,0,32,0.2160355697075525827,0.77786452230066061019,4,0.15111379092559218406,0.60338996443897485733,0.62587433867156505584,0.77786452230066061019,0.75253282502914464746,0.77786452230066061019,24,0.21577892662025988101,0.77786402078345417976,4,0.62583726318553090095,0.75252622785046696662,0.49640213215025141835,0.97866996005177497863,0,NULL,NULL,NULL,NULL,NULL,NULL,1.5567949352165062092e-05,5.1246024668216705322e-05,0.00041696514623860519944,0.0010327231138944625854,0.21602000175820043614,0.77784869028255343437);
INSERT INTO result_head VALUES(1,0,3,24,0,32,0.95581435732310637831,0.98092955071479082107,15,0.95885257748886942863,0.97278105327859520912,0.98019167734310030937,0.98092955071479082107,0.98080657181950914313,0.98092955071479093209,24,0.94468855640540516649,0.97850227216258645057,4,0.97560898773372173309,0.97802005809110903467,0.98140902341886737669,0.99025458423420786857,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0079414618279164041897,0.016125546768307685852,0.0098333346347014103511,0.018406385090202093124,0.94787289549518993769,0.97803605813533067703);
INSERT INTO result_head VALUES(1,1,0,24,0,32,0.97350186495653667773,0.99244518391788005828,6,0.97702715871855616569,0.98380161356180906295,0.9902063547633588314,0.99244518391788005828,0.99207204572545992782,0.99244518391788005828,24,0.37152096695111441748,0.50575436558574438095,1,0.49873503530398011207,0.50458447720545029913,0.9851690562597165135,0.99549678713083267211,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0072862614567081136415,0.016672726254910230636,0.0097959045669995248317,0.022927588317543268203,0.96621560349982849036,0.99024664517492055892);
INSERT INTO result_head VALUES(1,1,1,24,0,32,0.22513955998389670321,0.84276007069274783134,4,0.076544925570487976074,0.63378249434754252433,0.80607839906588196754,0.84276007069274783134,0.83664645875493681703,0.84276007069274794236,24,0.22496534602638953992,0.84275925392284989356,4,0.80586382979527115821,0.83661001656825351169,0.59063353432187193359,0.97876890329644083976,0,NULL,NULL,NULL,NULL,NULL,NULL,1.3552644910911718439e-05,5.7928264141082763671e-05,0.00033811881439760327339,0.0022149696014821529388,0.22512600733898580074,0.84274057811126112937);
INSERT INTO result_head VALUES(1,1,2,24,0,32,0.86579311287884286318,0.93717244919389486312,8,0.8778973408043384552,0.91155338333919644355,0.92137015517801046371,0.93717244919389486312,0.93453873352458083356,0.93717244919389486312,24,0.76852625992614775896,0.90904354676604270935,8,0.87762964982539415359,0.90380789727593469073,0.92260602553142234683,0.96153485262766480445,0,NULL,NULL,NULL,NULL,NULL,NULL,0.029151882859878242015,0.043877316173166036605,0.037959281122311949729,0.057668805588036775588,0.83664123001896462117,0.91845305310562252998);
INSERT INTO result_head VALUES(1,1,3,24,0,32,0.94531994413894915307,0.986897279042750597,12,0.94868031470105051994,0.97589246509596705436,0.97908415040001273155,0.986897279042750597,0.98559509093562758241,0.986897279042750597,24,0.41583678198124590652,0.98688799235969781875,12,0.97905608732253313064,0.98558267485350370407,0.96733125813382991875,0.99303001025691628456,0,NULL,NULL,NULL,NULL,NULL,NULL,0.012531877107297381343,0.024107337929308414459,0.021253892608607809905,0.037817156873643398284,0.9327880670316517353,0.98381578223779797554);
INSERT INTO result_head VALUES(2,0,0,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(2,0,1,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(2,0,2,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(2,0,3,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(2,1,0,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(2,1,1,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(2,1,2,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
INSERT INTO result_head VALUES(2,1,3,24,0,64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,0.0,24,0.0,0.0,0,0.0,0.0,0.0,0.0,0,NULL,NULL,NULL,NULL,NULL,NULL,0.0,0.0,0.0,0.0,0.0,0.0);
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
INSERT INTO result_kvhead VALUES(1,0,0,'max',32,0.9402836202255761,0.97474525962024927139,12,0.97133760713040828704,0.97417731753860914434,0.45805336164388182895,0.97470710007473826408,0.97413724800571799278,NULL);
INSERT INTO result_kvhead VALUES(1,0,0,'mean',32,0.9402836202255761,0.97474525962024927139,12,0.97133760713040828704,0.97417731753860914434,0.45805336164388182895,0.97470710007473826408,0.97413724800571799278,NULL);
INSERT INTO result_kvhead VALUES(1,0,1,'max',32,0.9653278619710666808,0.98651320114731788635,1,0.98232544213533401489,0.98581524131198738913,0.30572459584800526499,0.44727837620303034782,0.44351676284956437212,NULL);
INSERT INTO result_kvhead VALUES(1,0,1,'mean',32,0.9653278619710666808,0.98651320114731788635,1,0.98232544213533401489,0.98581524131198738913,0.30572459584800526499,0.44727837620303034782,0.44351676284956437212,NULL);
INSERT INTO result_kvhead VALUES(1,0,2,'max',32,0.2160355697075525827,0.77786452230066061019,4,0.62587433867156505584,0.75253282502914464746,0.21577892662025988101,0.77786402078345417976,0.75252622785046696662,NULL);
INSERT INTO result_kvhead VALUES(1,0,2,'mean',32,0.2160355697075525827,0.77786452230066061019,4,0.62587433867156505584,0.75253282502914464746,0.21577892662025988101,0.77786402078345417976,0.75252622785046696662,NULL);
INSERT INTO result_kvhead VALUES(1,0,3,'max',32,0.95581435732310637831,0.98092955071479082107,15,0.98019167734310030937,0.98080657181950914313,0.94468855640540516649,0.97850227216258645057,0.97802005809110903467,NULL);
INSERT INTO result_kvhead VALUES(1,0,3,'mean',32,0.95581435732310637831,0.98092955071479082107,15,0.98019167734310030937,0.98080657181950914313,0.94468855640540516649,0.97850227216258645057,0.97802005809110903467,NULL);
INSERT INTO result_kvhead VALUES(1,1,0,'max',32,0.97350186495653667773,0.99244518391788005828,6,0.9902063547633588314,0.99207204572545992782,0.37152096695111441748,0.50575436558574438095,0.50458447720545029913,NULL);
INSERT INTO result_kvhead VALUES(1,1,0,'mean',32,0.97350186495653667773,0.99244518391788005828,6,0.9902063547633588314,0.99207204572545992782,0.37152096695111441748,0.50575436558574438095,0.50458447720545029913,NULL);
INSERT INTO result_kvhead VALUES(1,1,1,'max',32,0.22513955998389670321,0.84276007069274783134,4,0.80607839906588196754,0.83664645875493681703,0.22496534602638953992,0.84275925392284989356,0.83661001656825351169,NULL);
INSERT INTO result_kvhead VALUES(1,1,1,'mean',32,0.22513955998389670321,0.84276007069274783134,4,0.80607839906588196754,0.83664645875493681703,0.22496534602638953992,0.84275925392284989356,0.83661001656825351169,NULL);
INSERT INTO result_kvhead VALUES(1,1,2,'max',32,0.86579311287884286318,0.93717244919389486312,8,0.92137015517801046371,0.93453873352458083356,0.76852625992614775896,0.90904354676604270935,0.90380789727593469073,NULL);
INSERT INTO result_kvhead VALUES(1,1,2,'mean',32,0.86579311287884286318,0.93717244919389486312,8,0.92137015517801046371,0.93453873352458083356,0.76852625992614775896,0.90904354676604270935,0.90380789727593469073,NULL);
INSERT INTO result_kvhead VALUES(1,1,3,'max',32,0.94531994413894915307,0.986897279042750597,12,0.97908415040001273155,0.98559509093562758241,0.41583678198124590652,0.98688799235969781875,0.98558267485350370407,NULL);
INSERT INTO result_kvhead VALUES(1,1,3,'mean',32,0.94531994413894915307,0.986897279042750597,12,0.97908415040001273155,0.98559509093562758241,0.41583678198124590652,0.98688799235969781875,0.98558267485350370407,NULL);
INSERT INTO result_kvhead VALUES(2,0,0,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,0,0,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,0,1,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,0,1,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,0,2,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,0,2,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,0,3,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,0,3,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,0,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,0,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,1,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,1,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,2,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,2,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,3,'max',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
INSERT INTO result_kvhead VALUES(2,1,3,'mean',64,0.0,0.0,0,0.0,0.0,0.0,0.0,0.0,NULL);
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
INSERT INTO result_layer VALUES(1,0,32.0,0.76936535230682545627,0.98651320114731788635,1,0.98581524131198738913);
INSERT INTO result_layer VALUES(1,1,32.0,0.75243862048955634236,0.99244518391788005828,0,0.99207204572545992782);
INSERT INTO result_layer VALUES(2,0,64.0,0.0,0.0,0,0.0);
INSERT INTO result_layer VALUES(2,1,64.0,0.0,0.0,0,0.0);
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
INSERT INTO result_head_tau VALUES(1,0,0,1,24,0,1,24,0,0,10.566806885413825512);
INSERT INTO result_head_tau VALUES(1,0,0,2,24,0,1,24,0,0,16.566806885413825512);
INSERT INTO result_head_tau VALUES(1,0,0,3,24,0,1,24,0,0,20.166806883178651332);
INSERT INTO result_head_tau VALUES(1,0,1,1,24,0,1,24,0,0,11.16786868730559945);
INSERT INTO result_head_tau VALUES(1,0,1,2,24,0,1,24,0,0,17.167868687305599451);
INSERT INTO result_head_tau VALUES(1,0,1,3,24,0,1,24,0,0,20.767868685070425271);
INSERT INTO result_head_tau VALUES(1,0,2,1,3,0,2,2,0,0,0.50712882541120052337);
INSERT INTO result_head_tau VALUES(1,0,2,2,8,0,5,2,0,0,2.1728366669267416);
INSERT INTO result_head_tau VALUES(1,0,2,3,14,0,5,8,0,0,3.6843602983281016349);
INSERT INTO result_head_tau VALUES(1,0,3,1,24,0,1,24,0,0,10.939544575754553079);
INSERT INTO result_head_tau VALUES(1,0,3,2,24,0,1,24,0,0,16.93954457575455308);
INSERT INTO result_head_tau VALUES(1,0,3,3,24,0,1,24,0,0,20.5395445735193789);
INSERT INTO result_head_tau VALUES(1,1,0,1,24,0,1,24,0,0,11.364044758956879377);
INSERT INTO result_head_tau VALUES(1,1,0,2,24,0,1,24,0,0,17.364044758956879377);
INSERT INTO result_head_tau VALUES(1,1,0,3,24,0,1,24,0,0,20.964044756721705198);
INSERT INTO result_head_tau VALUES(1,1,1,1,3,0,2,2,4,4,0.78262096410617232322);
INSERT INTO result_head_tau VALUES(1,1,1,2,9,0,4,4,3,0,2.3783082612790167331);
INSERT INTO result_head_tau VALUES(1,1,1,3,11,0,5,4,3,0,3.9935933863744139671);
INSERT INTO result_head_tau VALUES(1,1,2,1,24,0,1,24,0,0,8.7790347090922296047);
INSERT INTO result_head_tau VALUES(1,1,2,2,24,0,1,24,0,0,14.779034709092229605);
INSERT INTO result_head_tau VALUES(1,1,2,3,24,0,1,24,0,0,18.379034706857055425);
INSERT INTO result_head_tau VALUES(1,1,3,1,24,0,1,24,0,0,10.687678659334778786);
INSERT INTO result_head_tau VALUES(1,1,3,2,24,0,1,24,0,0,16.687678659334778785);
INSERT INTO result_head_tau VALUES(1,1,3,3,24,0,1,24,0,0,20.287678657099604607);
INSERT INTO result_head_tau VALUES(2,0,0,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,0,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,0,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,1,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,1,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,1,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,2,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,2,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,2,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,3,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,3,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,0,3,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,0,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,0,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,0,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,1,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,1,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,1,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,2,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,2,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,2,3,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,3,1,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,3,2,0,0,0,0,NULL,NULL,0.0);
INSERT INTO result_head_tau VALUES(2,1,3,3,0,0,0,0,NULL,NULL,0.0);
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
INSERT INTO result_series VALUES(1,1,0,0,'lost',0,24,'u32q31le',X'0c03ec796ae7957bcc1cdc7841f6cb762d6a4075af8981776cca547cdf5537795aef2676e7d6a57957194c78aead7276e273c47ccf3dee77f4f6497acaa07e7ab689c175fb47ea722819da79ae6fe978228b9f7ad4d60b76c3134c782768a774');
INSERT INTO result_series VALUES(2,1,0,0,'oracle',0,24,'u32q31le',X'51316d02fc639a01efde4d02d0df5703ae18b103fb945f026d453e014e04a10177c32d025bc4500129792d0197356802992bbd00f836aa016abb2101bbfc6e009d4cfa0128981702dd385d0113264c01602ff7001fca4d01dcd92b0157e0fa01');
INSERT INTO result_series VALUES(3,1,0,1,'lost',0,24,'u32q31le',X'5fc5e97a8810467e2a31617db3ca8977dd030e7ab4365a7ba8ac7b7c5da38f7d15d3df7be4368779203c4c7b4a626978ff2df17ccc0e827d319aff7c15ac7878d897127d10d7bc7dc8dcb27cd3918b7de15b0e7c2b6d627a10fcfc7a308e6a78');
INSERT INTO result_series VALUES(4,1,0,1,'oracle',0,24,'u32q31le',X'07479e018f9dc000a68e0f0164a9d8029531df0114773001eb23ff00566fcd00c7043b01e92d66013cdb560107102c012c05be00932ca2008031ae00c2567e0171509d0040a06900ea31ac00d3567f005cb0bf0028eaec001f63d20013981101');
INSERT INTO result_series VALUES(5,1,0,2,'lost',0,24,'u32q31le',X'7ca61c50e2e13b4d5bb2571373a729358e109163f632e4149bb9291677f1b631e1e57504ada5c30169b0153cc31e1b36e41944001a701d0e890c6d032a9035005cdc4f0e0a82243ca67783007eb6b600dacf8200eb7e4e007638b1000ee3d919');
INSERT INTO result_series VALUES(6,1,0,2,'oracle',0,24,'u32q31le',X'a10701002d8201005791010050720100cf84000071b30000e2ad0100d3d90000103b00005d3900002c7e0000664a000071090000c2ba0000b55000005a120000de1c0000c71a00005a0900001314000016080000090a0000be090000a41b0000');
INSERT INTO result_series VALUES(7,1,0,3,'lost',0,24,'u32q31le',X'ed16847c0460347c5b292f7a85b9f27abfeb767d7276b076d3f78c7b67aebb7a3b0d057a2cc3427afccb257b52d97779a2b22a7acc97ff7b71a36d7b7a198f7d6211f37af1eba47bc0c5a578cef0507853b9d379d45b6275c0d474781382b278');
INSERT INTO result_series VALUES(8,1,0,3,'oracle',0,24,'u32q31le',X'1ff35601acc359013142d000e46610029414d0003f41cd006016730018260b01634f94011bfd9401e70322012f863301b46f9301bb586f0097f2a40060d05e0003f38100637d660024398c014aac8300fde31f01ab2fb100746559015d481001');
INSERT INTO result_series VALUES(9,1,1,0,'lost',0,24,'u32q31le',X'e84d457db55f3f7d6cbe567cf8515a7d7240af7d813d2f7d9c71087f37c3b17d11ab057d7f39887911a0ca7b71c1337b1636ed7dd7390f7db124aa7d547b5079aa3bd27ac0666e7cec40987df314bf7ed7bfd47cac98227b5495547cdc57637b');
INSERT INTO result_series VALUES(10,1,1,0,'oracle',0,24,'u32q31le',X'bc273f018fc13c016044ae01db028c0087d6c90056980a01ae0a4800c7ecbc00eab1f000f7542202368a2401a9717601a75a930007eec100d7059300830b6d01501833017ddcdb00dfc577000ce349004f7c7d00f274e900db869e00bc1cf900');
INSERT INTO result_series VALUES(11,1,1,1,'lost',0,24,'u32q31le',X'fe22813290ec8f02bd283009674ffd3edf8fdf6bb5932d6784f038222ad57501e11bdc0197ca4b08e7c81f516dbf0a2fb9332d3884810a00a3011700c56e36016039cc092b255031264a541fa02c24003aa60700dce640002860b704622c3a1c');
INSERT INTO result_series VALUES(12,1,1,1,'oracle',0,24,'u32q31le',X'f0e50100d7410100bdd00000c265010084a30000b050010094480100866300002c240000472b000021610000423000003f3b0000be000000860700000b0f000024210000560d0000d20c0000e0040000fc0300009c080000220f0000a41a0000');
INSERT INTO result_series VALUES(13,1,1,2,'lost',0,24,'u32q31le',X'0e75ef75cc57146f4929526962061a740cfbcf703404486d7699e572e771076b4e44f5772e12fa6a7388f473a8f05e70e0eb4372da5b586de6d81f6da258146d1da7647101c8ad741920d860cc2ada7246cf23722557d869035543675fe32a67');
INSERT INTO result_series VALUES(14,1,1,2,'oracle',0,24,'u32q31le',X'd37f0d04aaf1110517d73f05649af8049bc59d0561586804bc0ace038a471f04ad65650270b63e05f9a1ac03e7df3504d33b4a03325f14037acc7603e1180f04259d44031a919e02e0512803795c4b02f40f4102be42d5029d537603bc04f402');
INSERT INTO result_series VALUES(15,1,1,3,'lost',0,24,'u32q31le',X'75bfe97b6fec717741ded97997b4eb75274a6477475b6e7923a1527d812084789051e876dfe9227a7b61de785d59797a69a6527e2870a07857a79b7a522aa77161866475061eb27b136cd578570bea7c31f82c7b7fbebb786d6a18717719cb7a');
INSERT INTO result_series VALUES(16,1,1,3,'oracle',0,24,'u32q31le',X'e7dc7301b9f8fd029dabea0102f31503a2f1e0025db0490257bec900c4460b02b2a3f301e91722017977d501a9054c0178f96400675ec101e9e3ec0065de2c02c894a00211518e001ad25301f8125a00eea6c100949f370124c2f0014836cf00');
INSERT INTO result_series VALUES(17,2,0,0,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(18,2,0,0,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(19,2,0,1,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(20,2,0,1,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(21,2,0,2,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(22,2,0,2,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(23,2,0,3,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(24,2,0,3,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(25,2,1,0,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(26,2,1,0,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(27,2,1,1,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(28,2,1,1,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(29,2,1,2,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(30,2,1,2,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(31,2,1,3,'lost',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO result_series VALUES(32,2,1,3,'oracle',0,24,'u32q31le',X'000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000');
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
INSERT INTO violation VALUES(1,1,0,0,1,0,24,12,0.97474525962024927139,0.0057730195112526416778,10.566806885413825512,'sink_evicted',1,0,0.34190945592549765175,0.91569413561748957963,0.99039846085317340129);
INSERT INTO violation VALUES(2,1,0,0,2,0,24,12,0.97474525962024927139,0.0057730195112526416778,16.566806885413825512,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(3,1,0,0,3,0,24,12,0.97474525962024927139,0.0057730195112526416778,20.166806883178651332,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(4,1,0,1,1,0,24,1,0.98651320114731788635,0.0058781574480235576629,11.16786868730559945,'sink_evicted',1,0,0.30742037481384054675,0.9859781471988535717,0.99596896599493922597);
INSERT INTO violation VALUES(5,1,0,1,2,0,24,1,0.98651320114731788635,0.0058781574480235576629,17.167868687305599451,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(6,1,0,1,3,0,24,1,0.98651320114731788635,0.0058781574480235576629,20.767868685070425271,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(7,1,0,2,1,0,2,0,0.62587433867156505584,3.142701461911201477e-05,0.22926430311053991317,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(8,1,0,2,1,4,1,4,0.77786452230066061019,1.5832018107175827026e-05,0.27786452230066061019,'selection',1,0,0.61662924637463423227,0.99809121180556981123,0.99999966783029914374);
INSERT INTO violation VALUES(9,1,0,2,2,0,2,0,0.62587433867156505584,3.142701461911201477e-05,0.72926430311053991317,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(10,1,0,2,2,3,2,4,0.77786452230066061019,1.5832018107175827026e-05,0.69319820450618863105,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(11,1,0,2,2,7,1,7,0.3883954840712249279,2.5966670364141464233e-05,0.1383954840712249279,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(12,1,0,2,2,10,2,10,0.46941189887002110481,1.5040859580039978027e-05,0.39211454056203365325,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(13,1,0,2,2,17,1,17,0.46986413467675447463,3.1921081244945526123e-06,0.21986413467675447463,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(14,1,0,2,3,0,8,4,0.77786452230066061019,1.5832018107175827026e-05,2.4983342112973332405,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(15,1,0,2,3,10,2,10,0.46941189887002110481,1.5040859580039978027e-05,0.69211454037576913833,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(16,1,0,2,3,13,1,13,0.1102733733132481575,2.2263266146183013916e-05,0.010273373220115900039,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(17,1,0,2,3,16,2,17,0.46986413467675447463,3.1921081244945526123e-06,0.3816762920469045639,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(18,1,0,2,3,23,1,23,0.20196188148111104965,3.2950192689895629882e-06,0.10196188138797879219,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(19,1,0,3,1,0,24,15,0.98092955071479082107,0.0028934925794601440429,10.939544575754553079,'selection',1,0,0.49170866590641271187,0.95312195974508140405,0.99682850130185007841);
INSERT INTO violation VALUES(20,1,0,3,2,0,24,15,0.98092955071479082107,0.0028934925794601440429,16.93954457575455308,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(21,1,0,3,3,0,24,15,0.98092955071479082107,0.0028934925794601440429,20.5395445735193789,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(22,1,1,0,1,0,24,6,0.99244518391788005828,0.0021985387429594993591,11.364044758956879377,'sink_evicted',1,0,0.29328066181670092715,0.98534877201638126908,0.99657294266867835208);
INSERT INTO violation VALUES(23,1,1,0,2,0,24,6,0.99244518391788005828,0.0021985387429594993591,17.364044758956879377,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(24,1,1,0,3,0,24,6,0.99244518391788005828,0.0021985387429594993591,20.964044756721705198,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(25,1,1,1,1,4,2,4,0.84276007069274783134,1.9492581486701965332e-05,0.64883846975862979888,'selection',1,0,0.52844685027836502122,0.98766698549700748799,0.99999569776825558697);
INSERT INTO violation VALUES(26,1,1,1,1,10,1,10,0.63378249434754252433,1.1578667908906936645e-05,0.13378249434754252433,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(27,1,1,1,2,0,1,0,0.39456593897193670272,5.7928264141082763671e-05,0.14456593897193670272,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(28,1,1,1,2,3,4,4,0.84276007069274783134,1.9492581486701965332e-05,1.4083065385930240154,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(29,1,1,1,2,10,3,10,0.63378249434754252433,1.1578667908906936645e-05,0.69017744669690728187,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(30,1,1,1,2,17,1,17,0.38525833701714873313,1.5897676348686218261e-06,0.13525833701714873313,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(31,1,1,1,3,0,1,0,0.39456593897193670272,5.7928264141082763671e-05,0.29456593887880444526,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(32,1,1,1,3,3,4,4,0.84276007069274783134,1.9492581486701965332e-05,2.0083065382204949855,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(33,1,1,1,3,10,3,10,0.63378249434754252433,1.1578667908906936645e-05,1.1401774464175105094,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(34,1,1,1,3,17,2,17,0.38525833701714873313,1.5897676348686218261e-06,0.43001815257593989372,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(35,1,1,1,3,23,1,23,0.22052531037479639053,3.1758099794387817382e-06,0.12052531028166413307,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(36,1,1,2,1,0,24,8,0.93717244919389486312,0.018719396088272333145,8.7790347090922296047,'selection',1,0,0.34444701862934190561,0.88928148113964888832,0.98905855156890021273);
INSERT INTO violation VALUES(37,1,1,2,2,0,24,8,0.93717244919389486312,0.018719396088272333145,14.779034709092229605,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(38,1,1,2,3,0,24,8,0.93717244919389486312,0.018719396088272333145,18.379034706857055425,'selection',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(39,1,1,3,1,0,24,12,0.986897279042750597,0.0030814968049526214599,10.687678659334778786,'sink_evicted',1,0,0.28346475706255314097,0.92411761489446109241,0.99081470153784123588);
INSERT INTO violation VALUES(40,1,1,3,2,0,24,12,0.986897279042750597,0.0030814968049526214599,16.687678659334778785,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
INSERT INTO violation VALUES(41,1,1,3,3,0,24,12,0.986897279042750597,0.0030814968049526214599,20.287678657099604607,'sink_evicted',NULL,NULL,NULL,NULL,NULL);
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
INSERT INTO violation_token VALUES(1,1,3,0.34190945592549765175,-1,62,-10.688016891479492187,5.7814807891845703125,-1,0);
INSERT INTO violation_token VALUES(1,2,2,0.20078034244451131717,-1,58,-8.9875078201293945312,4.0809717178344726562,-1,0);
INSERT INTO violation_token VALUES(1,3,0,0.1632995800039459544,-1,59,-9.0984649658203125,4.191928863525390625,-1,0);
INSERT INTO violation_token VALUES(1,4,1,0.12640215914733646251,-1,55,-8.4981842041015625,3.591648101806640625,-1,0);
INSERT INTO violation_token VALUES(1,5,9,0.083302598096198193777,-1,54,-7.7567582130432128906,2.8502221107482910156,NULL,NULL);
INSERT INTO violation_token VALUES(1,6,22,0.042229721061457448083,-1,56,-8.7193737030029296875,3.8128376007080078125,NULL,NULL);
INSERT INTO violation_token VALUES(1,7,56,0.0073268555211146576752,-1,63,-11.049126625061035156,6.1425905227661132812,-1,0);
INSERT INTO violation_token VALUES(1,8,57,0.0037355558719162763707,-1,42,-6.060302734375,1.153766632080078125,NULL,NULL);
INSERT INTO violation_token VALUES(1,9,55,0.0034826708177933384663,-1,57,-8.7695674896240234375,3.8630313873291015625,NULL,NULL);
INSERT INTO violation_token VALUES(1,10,50,0.0030447176667658358562,-1,43,-6.1441698074340820312,1.2376337051391601562,NULL,NULL);
INSERT INTO violation_token VALUES(1,11,62,0.0022814060019221691667,-1,48,-6.3783044815063476562,1.4717683792114257812,NULL,NULL);
INSERT INTO violation_token VALUES(1,12,46,0.0017481136441644742895,-1,40,-5.8670749664306640625,0.9605388641357421875,NULL,NULL);
INSERT INTO violation_token VALUES(1,13,30,0.0016293026924423627873,-1,44,-6.2056012153625488281,1.2990651130676269531,NULL,NULL);
INSERT INTO violation_token VALUES(1,14,58,0.0015185850919965850763,-1,33,-4.9292240142822265625,0.0226879119873046875,NULL,NULL);
INSERT INTO violation_token VALUES(1,15,10,0.0015042781899814634555,-1,50,-7.1847553253173828125,2.2782192230224609375,NULL,NULL);
INSERT INTO violation_token VALUES(1,16,6,0.0013625310898378666882,-1,52,-7.5826129913330078125,2.6760768890380859375,NULL,NULL);
INSERT INTO violation_token VALUES(1,17,51,0.0012852648916373819211,-1,49,-6.94889068603515625,2.042354583740234375,NULL,NULL);
INSERT INTO violation_token VALUES(1,18,19,0.0012027233966170570653,-1,64,-13.865430831909179687,8.9588947296142578125,NULL,NULL);
INSERT INTO violation_token VALUES(1,19,41,0.0011840703934319126572,-1,38,-5.6406917572021484375,0.7341556549072265625,NULL,NULL);
INSERT INTO violation_token VALUES(1,20,11,0.0011685289046049142543,-1,47,-6.3679561614990234375,1.4614200592041015625,NULL,NULL);
INSERT INTO violation_token VALUES(4,1,0,0.30742037481384054675,-1,55,-7.910900115966796875,2.60027313232421875,-1,0);
INSERT INTO violation_token VALUES(4,2,1,0.26462611626649362728,-1,64,-12.311211585998535156,7.0005846023559570312,-1,0);
INSERT INTO violation_token VALUES(4,3,3,0.21858004097639374685,-1,52,-7.5789346694946289062,2.2683076858520507812,-1,0);
INSERT INTO violation_token VALUES(4,4,2,0.19281418282686882403,-1,59,-8.9199857711791992187,3.6093587875366210937,-1,0);
INSERT INTO violation_token VALUES(4,5,54,0.0025374323152568623376,-1,62,-10.066707611083984374,4.75608062744140625,NULL,NULL);
INSERT INTO violation_token VALUES(4,6,55,0.0012022977892198623804,-1,49,-7.2936353683471679687,1.9830083847045898437,NULL,NULL);
INSERT INTO violation_token VALUES(4,7,19,0.0008758592288539834977,-1,41,-6.032260894775390625,0.7216339111328125,NULL,NULL);
INSERT INTO violation_token VALUES(4,8,51,0.00083085240860948075727,-1,35,-5.5888195037841796875,0.2781925201416015625,NULL,NULL);
INSERT INTO violation_token VALUES(4,9,53,0.0008208692991355409944,-1,42,-6.1826763153076171875,0.8720493316650390625,NULL,NULL);
INSERT INTO violation_token VALUES(4,10,41,0.00069875648863259806359,-1,45,-6.4038128852844238281,1.0931859016418457031,NULL,NULL);
INSERT INTO violation_token VALUES(4,11,37,0.00069041458169972374277,-1,56,-8.2817630767822265625,2.9711360931396484375,NULL,NULL);
INSERT INTO violation_token VALUES(4,12,31,0.00068257238746623552505,-1,63,-11.606010437011718749,6.295383453369140625,NULL,NULL);
INSERT INTO violation_token VALUES(4,13,25,0.00062240200403610509028,-1,47,-6.8157291412353515625,1.5051021575927734375,NULL,NULL);
INSERT INTO violation_token VALUES(4,14,26,0.00055382645302742470293,-1,40,-6.0128722190856933593,0.70224523544311523437,NULL,NULL);
INSERT INTO violation_token VALUES(4,15,39,0.00055086726553955391028,-1,54,-7.826992034912109375,2.51636505126953125,NULL,NULL);
INSERT INTO violation_token VALUES(4,16,24,0.00054022888732833040589,-1,33,-5.3410511016845703125,0.0304241180419921875,NULL,NULL);
INSERT INTO violation_token VALUES(4,17,42,0.00048965790995471206257,-1,48,-7.0752511024475097656,1.7646241188049316406,NULL,NULL);
INSERT INTO violation_token VALUES(4,18,52,0.00048443625458049148881,-1,60,-8.9355649948120117187,3.6249380111694335937,NULL,NULL);
INSERT INTO violation_token VALUES(4,19,44,0.00048385535331620755728,-1,53,-7.77622222900390625,2.465595245361328125,NULL,NULL);
INSERT INTO violation_token VALUES(4,20,15,0.00046392248468541291998,-1,39,-5.7732515335083007812,0.46262454986572265625,NULL,NULL);
INSERT INTO violation_token VALUES(8,1,62,0.61662924637463423227,-1,34,-5.0450158119201660156,0.21709489822387695312,-1,4);
INSERT INTO violation_token VALUES(8,2,61,0.16395130175105215863,-1,57,-8.158573150634765625,3.3306522369384765625,3,0);
INSERT INTO violation_token VALUES(8,3,55,0.10482551369095928495,-1,64,-12.090955734252929687,7.263034820556640625,3,0);
INSERT INTO violation_token VALUES(8,4,49,0.084583731632493178165,-1,53,-7.3703465461730957031,2.5424256324768066406,-1,4);
INSERT INTO violation_token VALUES(8,5,56,0.028101418356430908629,-1,46,-6.878143310546875,2.0502223968505859375,-1,4);
INSERT INTO violation_token VALUES(8,6,37,0.0013593758723629203056,-1,35,-5.155673980712890625,0.3277530670166015625,-1,4);
INSERT INTO violation_token VALUES(8,7,30,0.00022306293630100778127,-1,50,-7.0768728256225585937,2.2489519119262695312,-1,4);
INSERT INTO violation_token VALUES(8,8,45,0.00010433357254341635571,-1,44,-6.585391998291015625,1.7574710845947265625,0,3);
INSERT INTO violation_token VALUES(8,9,18,7.2741016205849244255e-05,-1,48,-7.0009508132934570312,2.1730298995971679687,-1,4);
INSERT INTO violation_token VALUES(8,10,31,6.1177454488045085933e-05,-1,37,-5.3881292343139648437,0.56020832061767578125,-1,4);
INSERT INTO violation_token VALUES(8,11,38,2.7523144834133182134e-05,-1,45,-6.8631582260131835937,2.0352373123168945312,-1,4);
INSERT INTO violation_token VALUES(8,12,47,1.7163839890178904753e-05,-1,39,-5.6867923736572265625,0.8588714599609375,2,1);
INSERT INTO violation_token VALUES(8,13,17,1.6369621530265512541e-05,-1,41,-6.2320928573608398437,1.4041719436645507812,-1,4);
INSERT INTO violation_token VALUES(8,14,5,8.1423224821166846967e-06,-1,59,-8.7764568328857421875,3.948535919189453125,NULL,NULL);
INSERT INTO violation_token VALUES(8,15,58,6.9975404184178364806e-06,-1,52,-7.1864709854125976562,2.3585500717163085937,1,2);
INSERT INTO violation_token VALUES(8,16,53,5.0718825480304460659e-06,-1,43,-6.3947463035583496093,1.5668253898620605468,2,1);
INSERT INTO violation_token VALUES(8,17,29,3.3176016272764218776e-06,-1,38,-5.5521869659423828125,0.72426605224609375,-1,4);
INSERT INTO violation_token VALUES(8,18,25,2.6188936280445156037e-06,-1,40,-6.1610569953918457031,1.3331360816955566406,-1,4);
INSERT INTO violation_token VALUES(8,19,0,3.554403739586747897e-07,-1,62,-10.274930953979492187,5.447010040283203125,NULL,NULL);
INSERT INTO violation_token VALUES(8,20,19,2.0488549570787646554e-07,-1,60,-9.4948482513427734375,4.666927337646484375,-1,4);
INSERT INTO violation_token VALUES(19,1,55,0.49170866590641271187,-1,56,-8.3890857696533203125,3.8962726593017578125,-1,0);
INSERT INTO violation_token VALUES(19,2,33,0.28195058637796516221,-1,55,-8.2181310653686523437,3.7253179550170898437,-1,0);
INSERT INTO violation_token VALUES(19,3,2,0.090753279329676320164,-1,57,-8.46947479248046875,3.97666168212890625,-1,0);
INSERT INTO violation_token VALUES(19,4,3,0.046948326389249339651,-1,62,-10.609765052795410156,6.1169519424438476562,-1,0);
INSERT INTO violation_token VALUES(19,5,0,0.041761101741777863216,-1,60,-9.4017391204833984375,4.9089260101318359375,-1,0);
INSERT INTO violation_token VALUES(19,6,1,0.018628577804157570724,-1,61,-9.7587575912475585937,5.2659444808959960937,-1,0);
INSERT INTO violation_token VALUES(19,7,60,0.0032844305770303445883,-1,49,-6.3204488754272460937,1.8276357650756835937,NULL,NULL);
INSERT INTO violation_token VALUES(19,8,41,0.0024731998404119372343,-1,41,-5.51525115966796875,1.02243804931640625,-1,0);
INSERT INTO violation_token VALUES(19,9,20,0.0022906845128327331731,-1,46,-5.9885258674621582031,1.4957127571105957031,-1,0);
INSERT INTO violation_token VALUES(19,10,9,0.002219410152707515689,-1,64,-11.297882080078124999,6.8050689697265625,NULL,NULL);
INSERT INTO violation_token VALUES(19,11,58,0.0020684258521263209316,-1,43,-5.6673498153686523437,1.1745367050170898437,NULL,NULL);
INSERT INTO violation_token VALUES(19,12,50,0.0020191861108989741027,-1,47,-6.1954011917114257812,1.7025880813598632812,NULL,NULL);
INSERT INTO violation_token VALUES(19,13,46,0.0019322004566051497603,-1,52,-7.3925647735595703125,2.8997516632080078125,NULL,NULL);
INSERT INTO violation_token VALUES(19,14,43,0.0019291910833104982791,-1,59,-9.1749410629272460937,4.6821279525756835937,-1,0);
INSERT INTO violation_token VALUES(19,15,56,0.0016074577523994730901,-1,34,-4.6192388534545898437,0.12642574310302734375,NULL,NULL);
INSERT INTO violation_token VALUES(19,16,39,0.0012609691034119207588,-1,39,-5.4738969802856445312,0.98108386993408203125,NULL,NULL);
INSERT INTO violation_token VALUES(19,17,35,0.0011663089769752311986,-1,50,-6.4070982933044433593,1.9142851829528808593,NULL,NULL);
INSERT INTO violation_token VALUES(19,18,62,0.001159856108448664453,-1,40,-5.5129995346069335937,1.0201864242553710937,NULL,NULL);
INSERT INTO violation_token VALUES(19,19,22,0.00099434216028665943498,-1,63,-10.785590171813964843,6.2927770614624023437,NULL,NULL);
INSERT INTO violation_token VALUES(19,20,47,0.00067230106516569709731,-1,36,-4.8406167030334472656,0.34780359268188476562,NULL,NULL);
INSERT INTO violation_token VALUES(22,1,1,0.29328066181670092715,-1,63,-13.5755157470703125,8.96767425537109375,-1,0);
INSERT INTO violation_token VALUES(22,2,3,0.2398865437073058604,-1,51,-7.3588304519653320312,2.7509889602661132812,-1,0);
INSERT INTO violation_token VALUES(22,3,2,0.22650906430996228801,-1,50,-7.3577785491943359375,2.7499370574951171875,-1,0);
INSERT INTO violation_token VALUES(22,4,0,0.22402217662782511475,-1,61,-8.5757465362548828125,3.9679050445556640625,-1,0);
INSERT INTO violation_token VALUES(22,5,62,0.00165032555458707029,-1,45,-6.3804254531860351562,1.7725839614868164062,NULL,NULL);
INSERT INTO violation_token VALUES(22,6,61,0.0014245707559721017612,-1,56,-7.7459230422973632812,3.1380815505981445312,NULL,NULL);
INSERT INTO violation_token VALUES(22,7,55,0.0013657430843418002456,-1,52,-7.5437068939208984375,2.9358654022216796875,NULL,NULL);
INSERT INTO violation_token VALUES(22,8,54,0.0011525094268035850075,-1,55,-7.7056360244750976562,3.0977945327758789062,NULL,NULL);
INSERT INTO violation_token VALUES(22,9,53,0.00088311794605984439161,-1,43,-5.8850603103637695312,1.2772188186645507812,NULL,NULL);
INSERT INTO violation_token VALUES(22,10,58,0.00080230682403510146516,-1,48,-7.1079883575439453125,2.5001468658447265625,NULL,NULL);
INSERT INTO violation_token VALUES(22,11,40,0.00077502265248048651802,-1,42,-5.8191823959350585937,1.2113409042358398437,NULL,NULL);
INSERT INTO violation_token VALUES(22,12,41,0.0007436635893555667209,-1,44,-6.2638845443725585937,1.6560430526733398437,NULL,NULL);
INSERT INTO violation_token VALUES(22,13,50,0.00069414947192536556423,-1,53,-7.5830163955688476562,2.9751749038696289062,NULL,NULL);
INSERT INTO violation_token VALUES(22,14,34,0.00058044049880556466188,-1,37,-5.0019359588623046875,0.3940944671630859375,NULL,NULL);
INSERT INTO violation_token VALUES(22,15,33,0.00053440339024289336498,-1,54,-7.6601839065551757812,3.0523424148559570312,NULL,NULL);
INSERT INTO violation_token VALUES(22,16,38,0.00052242703062187624118,-1,33,-4.6655607223510742187,0.05771923065185546875,NULL,NULL);
INSERT INTO violation_token VALUES(22,17,45,0.00051459899124276485288,-1,38,-5.16573333740234375,0.557891845703125,NULL,NULL);
INSERT INTO violation_token VALUES(22,18,32,0.0004632605530892167393,-1,47,-6.9687051773071289062,2.3608636856079101562,NULL,NULL);
INSERT INTO violation_token VALUES(22,19,31,0.00038646715031289460276,-1,36,-4.8856234550476074218,0.27778196334838867187,NULL,NULL);
INSERT INTO violation_token VALUES(22,20,36,0.00038148928700806037685,-1,34,-4.6698865890502929687,0.06204509735107421875,NULL,NULL);
INSERT INTO violation_token VALUES(25,1,62,0.52844685027836502122,-1,59,-9.2740802764892578125,4.4491991996765136718,-1,4);
INSERT INTO violation_token VALUES(25,2,50,0.20847381350063468041,-1,55,-8.4919891357421875,3.6671080589294433593,0,3);
INSERT INTO violation_token VALUES(25,3,55,0.14358101446250184918,-1,61,-10.114871978759765625,5.2899909019470214843,3,0);
INSERT INTO violation_token VALUES(25,4,63,0.074235878065400690006,-1,49,-7.2640829086303710937,2.4392018318176269531,0,3);
INSERT INTO violation_token VALUES(25,5,61,0.032929429190105233282,-1,44,-5.9429316520690917968,1.1180505752563476562,3,0);
INSERT INTO violation_token VALUES(25,6,51,0.0096893646463662389672,-1,42,-5.6009874343872070312,0.77610635757446289062,0,3);
INSERT INTO violation_token VALUES(25,7,38,0.00084801680691302385936,-1,35,-4.9895315170288085937,0.16465044021606445312,-1,4);
INSERT INTO violation_token VALUES(25,8,0,0.0006717200177393691093,-1,56,-9.0203886032104492187,4.1955075263977050781,-1,4);
INSERT INTO violation_token VALUES(25,9,37,0.00045751123737049242045,-1,46,-6.450290679931640625,1.6254096031188964843,-1,4);
INSERT INTO violation_token VALUES(25,10,42,0.00033630674565833816374,-1,43,-5.6371507644653320312,0.81226968765258789062,-1,4);
INSERT INTO violation_token VALUES(25,11,18,7.7954674446726256956e-05,-1,50,-7.3971433639526367187,2.5722622871398925781,-1,4);
INSERT INTO violation_token VALUES(25,12,60,6.653075255787430889e-05,-1,36,-5.1056265830993652343,0.28074550628662109375,3,0);
INSERT INTO violation_token VALUES(25,13,36,6.1318847857025295024e-05,-1,51,-7.4050097465515136718,2.5801286697387695312,-1,4);
INSERT INTO violation_token VALUES(25,14,33,5.7900366544697573381e-05,-1,64,-11.93019866943359375,7.1053175926208496093,0,3);
INSERT INTO violation_token VALUES(25,15,19,2.5994175265512747619e-05,-1,37,-5.144115447998046875,0.31923437118530273437,-1,4);
INSERT INTO violation_token VALUES(25,16,13,1.0948637621777785965e-05,-1,33,-4.9318704605102539062,0.10698938369750976562,NULL,NULL);
INSERT INTO violation_token VALUES(25,17,23,9.2185769805897154107e-06,-1,54,-8.2095088958740234375,3.3846278190612792968,-1,4);
INSERT INTO violation_token VALUES(25,18,41,8.0442848450573629552e-06,-1,41,-5.5813660621643066406,0.7564849853515625,-1,4);
INSERT INTO violation_token VALUES(25,19,47,4.2841081249747176807e-06,-1,39,-5.4485216140747070312,0.62364053726196289062,2,1);
INSERT INTO violation_token VALUES(25,20,35,3.598392956385264465e-06,-1,45,-6.278728485107421875,1.4538474082946777343,-1,4);
INSERT INTO violation_token VALUES(36,1,55,0.34444701862934190561,-1,59,-9.6266851425170898437,5.2308130264282226562,-1,0);
INSERT INTO violation_token VALUES(36,2,0,0.19885934459806392515,-1,56,-8.8870229721069335937,4.4911508560180664062,-1,0);
INSERT INTO violation_token VALUES(36,3,2,0.16342533815992971168,-1,50,-8.2075223922729492187,3.8116502761840820312,-1,0);
INSERT INTO violation_token VALUES(36,4,33,0.1241733737870652221,-1,62,-12.536298751831054687,8.1404266357421875,-1,0);
INSERT INTO violation_token VALUES(36,5,3,0.058376405965248095997,-1,61,-10.200585365295410156,5.8047132492065429687,-1,0);
INSERT INTO violation_token VALUES(36,6,1,0.03758966997359346196,-1,64,-14.097494125366210937,9.70162200927734375,-1,0);
INSERT INTO violation_token VALUES(36,7,46,0.010502337146317836796,-1,53,-8.436767578125,4.0408954620361328125,-1,0);
INSERT INTO violation_token VALUES(36,8,41,0.0090519944425424877371,-1,49,-8.156047821044921875,3.7601757049560546875,-1,0);
INSERT INTO violation_token VALUES(36,9,58,0.0067437191629557769259,-1,33,-4.4113216400146484375,0.01544952392578125,-1,0);
INSERT INTO violation_token VALUES(36,10,20,0.0055843782980898896625,-1,41,-5.4566946029663085937,1.0608224868774414062,-1,0);
INSERT INTO violation_token VALUES(36,11,57,0.0054178392605381759175,-1,45,-7.2888994216918945312,2.8930273056030273437,NULL,NULL);
INSERT INTO violation_token VALUES(36,12,9,0.0040206024371622428939,-1,58,-9.5292673110961914062,5.1333951950073242187,-1,0);
INSERT INTO violation_token VALUES(36,13,36,0.0038407973694892061193,-1,52,-8.3622369766235351562,3.9663648605346679687,-1,0);
INSERT INTO violation_token VALUES(36,14,26,0.0035657802858806179543,-1,55,-8.8090686798095703125,4.413196563720703125,-1,0);
INSERT INTO violation_token VALUES(36,15,4,0.0032880984799517429945,-1,60,-9.7151241302490234375,5.31925201416015625,-1,0);
INSERT INTO violation_token VALUES(36,16,53,0.0027611782676306559011,-1,40,-5.3513445854187011718,0.95547246932983398437,NULL,NULL);
INSERT INTO violation_token VALUES(36,17,61,0.0024773909913795039844,-1,48,-8.0059051513671875,3.6100330352783203125,NULL,NULL);
INSERT INTO violation_token VALUES(36,18,35,0.0016531099984230539137,-1,36,-4.74437713623046875,0.3485050201416015625,NULL,NULL);
INSERT INTO violation_token VALUES(36,19,50,0.0016458460087780083392,-1,34,-4.5665912628173828125,0.170719146728515625,NULL,NULL);
INSERT INTO violation_token VALUES(36,20,15,0.0016343283065186923683,-1,37,-4.7894411087036132812,0.39356899261474609375,NULL,NULL);
INSERT INTO violation_token VALUES(39,1,1,0.28346475706255314097,-1,63,-9.6090574264526367187,4.5160923004150390625,-1,0);
INSERT INTO violation_token VALUES(39,2,3,0.20805011155776045872,-1,55,-7.4707460403442382812,2.377780914306640625,-1,0);
INSERT INTO violation_token VALUES(39,3,2,0.1824022127748605726,-1,59,-8.2120866775512695312,3.119121551513671875,-1,0);
INSERT INTO violation_token VALUES(39,4,0,0.16684963919492465378,-1,61,-8.43901824951171875,3.3460531234741210937,-1,0);
INSERT INTO violation_token VALUES(39,5,9,0.083350894304362196929,-1,60,-8.2463970184326171875,3.1534318923950195312,NULL,NULL);
INSERT INTO violation_token VALUES(39,6,22,0.043176606084801075202,-1,62,-8.6913518905639648437,3.5983867645263671875,NULL,NULL);
INSERT INTO violation_token VALUES(39,7,55,0.0034179367262947781165,-1,51,-7.1689672470092773437,2.0760021209716796875,-1,0);
INSERT INTO violation_token VALUES(39,8,29,0.0022252741969987213307,-1,64,-12.493715286254882812,7.4007501602172851562,-1,0);
INSERT INTO violation_token VALUES(39,9,59,0.001840601678893412493,-1,46,-5.963565826416015625,0.87060070037841796875,NULL,NULL);
INSERT INTO violation_token VALUES(39,10,54,0.0017729868334486838157,-1,56,-7.6371102333068847656,2.5441451072692871093,-1,0);
INSERT INTO violation_token VALUES(39,11,47,0.0017117650906285832718,-1,33,-5.10483551025390625,0.01187038421630859375,NULL,NULL);
INSERT INTO violation_token VALUES(39,12,61,0.0016961415128348394498,-1,53,-7.3127193450927734375,2.2197542190551757812,NULL,NULL);
INSERT INTO violation_token VALUES(39,13,41,0.0016501925400541693315,-1,49,-6.33452606201171875,1.2415609359741210937,NULL,NULL);
INSERT INTO violation_token VALUES(39,14,56,0.0015561063755298056281,-1,41,-5.666301727294921875,0.57333660125732421875,NULL,NULL);
INSERT INTO violation_token VALUES(39,15,45,0.0014113675452150109025,-1,43,-5.7427659034729003906,0.64980077743530273437,NULL,NULL);
INSERT INTO violation_token VALUES(39,16,23,0.0013547241917335123891,-1,35,-5.2950806617736816406,0.20211553573608398437,NULL,NULL);
INSERT INTO violation_token VALUES(39,17,40,0.0012669849497145022152,-1,54,-7.3414325714111328125,2.2484674453735351562,NULL,NULL);
INSERT INTO violation_token VALUES(39,18,50,0.0012577557308107536505,-1,36,-5.4130315780639648437,0.3200664520263671875,NULL,NULL);
INSERT INTO violation_token VALUES(39,19,51,0.0012318041492945469659,-1,48,-6.275478363037109375,1.1825132369995117187,NULL,NULL);
INSERT INTO violation_token VALUES(39,20,32,0.0011268390371277842761,-1,57,-7.8022036552429199218,2.7092385292053222656,-1,0);
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
INSERT INTO validity VALUES(2,1,1,'budget_realised','ok',32.0,32.0,'tokens held per KV head against what was asked for');
INSERT INTO validity VALUES(3,1,1,'tie_share','ok',0.0,0.050000000000000002775,'kept entries whose score equals the first rejected score of their head');
INSERT INTO validity VALUES(4,1,1,'row_defect','ok',9.375269145461828657e-07,2.0000000000000001634e-05,'rows sum to 1');
INSERT INTO validity VALUES(5,1,2,'full_cache_floor','ok',0.0,0.0,'the full cache loses exactly nothing');
INSERT INTO validity VALUES(6,1,2,'capture_error','ok',6.5794204367371626846e-07,1.0000000000000000817e-05,'attention output recomputed at capture against the engine''s own');
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
  UNION ALL SELECT 'budget exceeded', rc.cell_id FROM result_cell rc JOIN cell c USING(cell_id) JOIN policy_config pc USING(config_id) JOIN policy p USING(policy_id)
         JOIN trace t USING(trace_id)
    WHERE p.name <> 'full' AND pc.may_overshoot = 0 AND rc.held_mean > c.requested_tokens + 1
      AND NOT EXISTS (SELECT 1 FROM policy_param w WHERE w.config_id = c.config_id AND w.key = 'window' AND w.value_num >= t.n_prompt)
  UNION ALL SELECT 'run left running', run_id FROM run WHERE status = 'running'
  UNION ALL SELECT 'undocumented column: ' || tl.name || '.' || ti.name, 0 FROM pragma_table_list tl JOIN pragma_table_info(tl.name) ti
    WHERE tl.schema = 'main' AND tl.type = 'table'
      AND tl.name IN ('result_cell', 'result_head', 'result_kvhead', 'result_layer', 'result_head_tau', 'result_series', 'violation', 'violation_token', 'validity')
      AND NOT EXISTS (SELECT 1 FROM column_doc cd WHERE cd.table_name = tl.name AND cd.column_name = ti.name)
  UNION ALL SELECT 'documented column does not exist: ' || cd.table_name || '.' || cd.column_name, 0 FROM column_doc cd
    WHERE NOT EXISTS (SELECT 1 FROM pragma_table_info(cd.table_name) ti WHERE ti.name = cd.column_name)
;
COMMIT;
PRAGMA application_id=1263948849; PRAGMA user_version=1;
