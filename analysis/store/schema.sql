-- kvtrace results database, schema version 3 (PRAGMA user_version = 3).
-- Needs SQLite >= 3.38 (STRICT, RETURNING).
-- Loads on an empty file:  sqlite3 results.db < schema.sql
-- Conventions: ids are <table>_id; names are lower snake case; fractions are 0..1, never percent; times are UTC ISO 8601 text;
-- flags are 0/1 INTEGER with a CHECK; head = query head, kv_head = head / group size; step = decode step from 0; pos = position from 0.
-- Every result column has a unit in column_doc (filled at the end of this file); v_check reports a column without one.
-- A quantity that was not measured is NULL, never 0 and never a column that nothing fills.

PRAGMA page_size = 8192;                      -- must come before the first table
PRAGMA encoding = 'UTF-8';
BEGIN IMMEDIATE;                              -- one transaction: a file has the whole schema or is empty
PRAGMA application_id = 0x4B565431;           -- 'KVT1'

-- ------------------------------------------------------------------------------------------------ housekeeping
CREATE TABLE meta(
  key   TEXT NOT NULL PRIMARY KEY,            -- 'engine_version', 'metric_version', 'created_utc', 'title', 'note', ...
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE schema_migration(
  version      INTEGER PRIMARY KEY,
  applied_utc  TEXT NOT NULL,
  tool_version TEXT NOT NULL,
  sql_sha256   TEXT NOT NULL CHECK(length(sql_sha256) = 64)
) STRICT;

CREATE TABLE column_doc(
  table_name  TEXT NOT NULL,
  column_name TEXT NOT NULL,
  unit        TEXT NOT NULL,
  lo          REAL,
  hi          REAL,
  description TEXT NOT NULL,
  PRIMARY KEY(table_name, column_name)
) STRICT, WITHOUT ROWID;

-- ------------------------------------------------------------------------------------------------ what was measured
CREATE TABLE model(
  model_id       INTEGER PRIMARY KEY,
  name           TEXT NOT NULL,
  revision       TEXT NOT NULL,
  n_layer        INTEGER NOT NULL CHECK(n_layer > 0),
  UNIQUE(name, revision)
) STRICT;

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

CREATE TABLE dataset(
  dataset_id INTEGER PRIMARY KEY,
  name       TEXT NOT NULL,
  revision   TEXT NOT NULL,
  licence    TEXT,
  UNIQUE(name, revision)
) STRICT;

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
CREATE INDEX trace_by_split ON trace(split, cluster_id);

CREATE TABLE trace_token(
  trace_id INTEGER NOT NULL REFERENCES trace ON DELETE CASCADE,
  pos      INTEGER NOT NULL CHECK(pos >= 0),
  token_id INTEGER NOT NULL,
  bytes    BLOB,                              -- raw bytes of the token, any encoding; NULL when redacted
  PRIMARY KEY(trace_id, pos)
) STRICT, WITHOUT ROWID;

CREATE TABLE trace_segment(                   -- spans of the trace, half-open ranges [start_pos, end_pos), by start, then descending end; they may nest or be empty
  trace_id  INTEGER NOT NULL REFERENCES trace ON DELETE CASCADE,
  seg_no    INTEGER NOT NULL CHECK(seg_no >= 0),
  kind      TEXT NOT NULL CHECK(kind IN ('other', 'system', 'user', 'assistant', 'tool', 'document', 'question', 'answer', 'needle', 'image', 'reasoning', 'generated')),
  label     TEXT NOT NULL,
  start_pos INTEGER NOT NULL CHECK(start_pos >= 0),
  end_pos   INTEGER NOT NULL CHECK(end_pos >= start_pos),
  PRIMARY KEY(trace_id, seg_no)
) STRICT, WITHOUT ROWID;

-- ------------------------------------------------------------------------------------------------ what was tried
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

CREATE TABLE policy_config(
  config_id      INTEGER PRIMARY KEY,
  policy_id      INTEGER NOT NULL REFERENCES policy,
  label          TEXT NOT NULL,
  semantics      TEXT NOT NULL CHECK(semantics IN ('paper', 'code', 'same')),
  may_overshoot  INTEGER NOT NULL CHECK(may_overshoot IN (0, 1)),  -- 1 = the rule may hold more than was requested
  canonical_json TEXT NOT NULL CHECK(json_valid(canonical_json)),
  sha256         TEXT NOT NULL UNIQUE CHECK(length(sha256) = 64)
) STRICT;

CREATE TABLE policy_param(
  config_id  INTEGER NOT NULL REFERENCES policy_config ON DELETE CASCADE,
  key        TEXT NOT NULL,
  value_num  REAL,
  value_text TEXT,
  CHECK((value_num IS NULL) <> (value_text IS NULL)),
  PRIMARY KEY(config_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE budget(
  budget_id INTEGER PRIMARY KEY,
  kind      TEXT NOT NULL CHECK(kind IN ('share', 'tokens')),
  value     REAL NOT NULL CHECK(value > 0),
  rule      TEXT NOT NULL CHECK(rule IN ('share', 'reference')),   -- reference = double truncation as in the reference codes
  label     TEXT NOT NULL UNIQUE,
  UNIQUE(kind, value, rule),
  CHECK(kind = 'tokens' OR value <= 1)
) STRICT;

CREATE TABLE tau(
  tau_id INTEGER PRIMARY KEY,
  tau    REAL NOT NULL UNIQUE CHECK(tau BETWEEN 0 AND 1),
  label  TEXT NOT NULL
) STRICT;

-- ------------------------------------------------------------------------------------------------ who ran it
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

-- One cell = one trace under one policy configuration at one budget: the unit of work, of resume and of idempotence.
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
CREATE INDEX cell_by_config  ON cell(config_id, budget_id, status);
CREATE INDEX cell_by_version ON cell(engine_version * 1000000 + metric_version);

-- ------------------------------------------------------------------------------------------------ results of one cell
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

-- ------------------------------------------------------------------------------------------------ loss against budget
CREATE TABLE curve_grid(                      -- the budgets of a curve
  grid_id INTEGER PRIMARY KEY,
  sha256  TEXT NOT NULL UNIQUE CHECK(length(sha256) = 64),
  n_point INTEGER NOT NULL CHECK(n_point > 0),
  kept    BLOB NOT NULL CHECK(length(kept) = 4 * n_point)     -- u32 little endian, tokens asked for per cache, strictly ascending
) STRICT;

CREATE TABLE result_curve(                    -- loss against budget: every budget of the grid, several metrics in one blob
  curve_id       INTEGER PRIMARY KEY,
  trace_id       INTEGER NOT NULL REFERENCES trace ON DELETE CASCADE,
  config_id      INTEGER NOT NULL REFERENCES policy_config,
  engine_version INTEGER NOT NULL,
  metric_version INTEGER NOT NULL,
  seed           INTEGER NOT NULL,
  level          TEXT NOT NULL CHECK(level = 'head' OR level = 'layer' OR level = 'model'),   -- three comparisons are faster than IN
  layer          INTEGER NOT NULL CHECK(layer >= -1 AND (level = 'model') = (layer = -1)),
  head           INTEGER NOT NULL CHECK(head >= -1 AND (level = 'head') = (head >= 0)),
  metrics        TEXT NOT NULL CHECK(metrics <> '' AND metrics NOT GLOB '*[^a-z0-9_,]*'),   -- names separated by commas, order of the blob
  grid_id        INTEGER NOT NULL REFERENCES curve_grid,
  data           BLOB NOT NULL CHECK(length(data) % 4 = 0),   -- u32 little endian Q1.31, metric by metric, one value per grid point
  n_not_nested   INTEGER NOT NULL CHECK(n_not_nested >= 0),
  UNIQUE(trace_id, config_id, engine_version, metric_version, seed, level, layer, head)
) STRICT;

-- ------------------------------------------------------------------------------------------------ self-checks
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
CREATE INDEX validity_by_status ON validity(status, check_name);

-- ------------------------------------------------------------------------------------------------ views
-- v_cell shows the newest (engine_version, metric_version) only; older results stay in the file.
CREATE VIEW v_cell AS
  SELECT c.cell_id, m.name AS model, d.name AS dataset, t.name AS trace, t.cluster_id, t.split, t.kind AS trace_kind,
         p.name AS policy, pc.label AS policy_label, pc.semantics, p.role, p.timing, p.budgeted, p.fixed_set, p.query_aware,
         b.label AS budget, b.kind AS budget_kind, b.value AS budget_value, c.requested_tokens,
         c.config_id, c.budget_id, c.trace_id, t.model_id, c.status
  FROM cell c JOIN trace t USING(trace_id) JOIN model m USING(model_id) JOIN dataset d USING(dataset_id)
       JOIN policy_config pc USING(config_id) JOIN policy p USING(policy_id) JOIN budget b USING(budget_id)
  WHERE c.engine_version * 1000000 + c.metric_version = (SELECT max(engine_version * 1000000 + metric_version) FROM cell);

-- Bare columns beside a single max() come from the row that holds the maximum (documented SQLite behaviour; exactly one max()).
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

-- A point is dominated when another policy point needs no more bytes and has no larger tail loss, one of the two strictly.
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

-- loss = infeasible + staticity + selection, per policy and budget, averaged over heads and traces; a head without a non-trivial step enters no average
CREATE VIEW v_decomposition AS
  SELECT v.model, v.split, v.policy_label, v.budget, count(*) AS n_row, avg(r.lost_mean) AS lost, avg(r.oracle_mean) AS infeasible,
         avg(r.fixed_mean - r.oracle_mean) AS staticity, avg(r.lost_mean - r.fixed_mean) AS selection,
         max(r.oracle_max) AS infeasible_worst
  FROM result_head r JOIN v_cell v USING(cell_id) WHERE v.status = 'done' AND r.n_trivial < r.n_step AND r.fixed_mean IS NOT NULL
  GROUP BY v.model_id, v.split, v.config_id, v.budget_id;

-- Per head: what is lost at some step whatever the policy (oracle), by the best fixed set (between bound and found), and the difference of the first two.
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
  UNION ALL SELECT 'curve length differs from its grid', rc.curve_id FROM result_curve rc JOIN curve_grid g USING(grid_id)
    WHERE length(rc.data) <> 4 * g.n_point * (1 + length(rc.metrics) - length(replace(rc.metrics, ',', '')))
  UNION ALL SELECT 'curve whose heads are not complete', rc.curve_id FROM result_curve rc JOIN trace t USING(trace_id)
    WHERE rc.level = 'model' AND (SELECT count(*) FROM result_curve h WHERE h.trace_id = rc.trace_id AND h.config_id = rc.config_id AND h.engine_version = rc.engine_version
        AND h.metric_version = rc.metric_version AND h.seed = rc.seed AND h.level = 'head' AND h.grid_id = rc.grid_id AND h.metrics = rc.metrics)
      <> (SELECT sum(n_q_head) FROM model_layer ml WHERE ml.model_id = t.model_id AND ml.attn_type = 'full')
  UNION ALL SELECT 'run left running', run_id FROM run WHERE status = 'running'
  UNION ALL SELECT 'undocumented column: ' || tl.name || '.' || ti.name, 0 FROM pragma_table_list tl JOIN pragma_table_info(tl.name) ti
    WHERE tl.schema = 'main' AND tl.type = 'table'
      AND tl.name IN ('result_cell', 'result_head', 'result_kvhead', 'result_layer', 'result_head_tau', 'result_series', 'violation', 'violation_token', 'ladder_head',
                      'minimax_cert', 'curve_grid', 'result_curve', 'validity')
      AND NOT EXISTS (SELECT 1 FROM column_doc cd WHERE cd.table_name = tl.name AND cd.column_name = ti.name)
  UNION ALL SELECT 'documented column does not exist: ' || cd.table_name || '.' || cd.column_name, 0 FROM column_doc cd
    WHERE NOT EXISTS (SELECT 1 FROM pragma_table_info(cd.table_name) ti WHERE ti.name = cd.column_name);
-- ------------------------------------------------------------------------------------------------ units
-- unit 'share' = dimensionless fraction of attention mass (or of the thing named), 'step' = decode step index, 'steps' = number of steps,
-- 'pos' = sequence position, 'tokens' = number of cache entries, 'ratio' = unbounded quotient, 'mass*steps' = sum of fractions over steps.
INSERT INTO column_doc(table_name, column_name, unit, lo, hi, description) VALUES
('result_cell','cell_id','id',NULL,NULL,'owning cell'),
('result_cell','n_head','count',1,NULL,'query heads of the layers that evict'),
('result_cell','held_share','share',0,NULL,'prompt entries held after the prefill eviction / prompt length, mean over the KV heads of the layers that evict; every copy counts, so caches per query head can exceed 1'),
('result_cell','held_mean','tokens',0,NULL,'the same as a count'),
('result_cell','held_min','tokens',0,NULL,'smallest count of any KV head'),
('result_cell','held_max','tokens',0,NULL,'largest count of any KV head'),
('result_cell','bytes_logical','byte',0,NULL,'K and V bytes of the held prompt entries, layers that evict'),
('result_cell','bytes_physical','byte',0,NULL,'bytes a real cache would occupy: page size and sharing rule of the configuration applied'),
('result_cell','tie_share','share',0,1,'share of the kept entries whose score equals the first rejected score of their head'),
('result_cell','row_defect_max','share',0,NULL,'largest |evicted + kept - 1| of any row'),
('result_cell','lost_mean','share',0,1,'mean of result_head.lost_mean over the heads with n_trivial < n_step'),
('result_cell','lost_worst','share',0,1,'largest lost of any head and step'),
('result_cell','worst_layer','index',0,NULL,'layer of lost_worst'),
('result_cell','worst_head','index',0,NULL,'query head of lost_worst'),
('result_cell','worst_step','step',0,NULL,'step of lost_worst'),
('result_cell','cvar95_mean','share',0,1,'mean of lost_cvar95 over the heads with n_trivial < n_step'),
('result_cell','cvar95_worst_head','share',0,1,'largest CVaR95 over KV heads of the group-max series'),
('result_cell','lost_ns_worst','share',0,1,'largest sink-excluded loss of any head and step'),
('result_cell','ns_cvar95_worst','share',0,1,'largest lost_ns_cvar95 of any head'),
('result_cell','out_err_basis','enum',NULL,NULL,'space of the output error: wo = after the output projection, v = head space, none = V missing'),
('result_cell','out_err_worst','ratio',0,NULL,'largest relative output error of any head and step'),
('result_cell','oracle_worst','share',0,1,'largest per-step oracle loss of any head and step'),
('result_cell','regret_mean','share',NULL,1,'mean of regret_mean over the heads with n_trivial < n_step'),
('result_cell','n_violation','count',0,NULL,'violations over all thresholds and heads'),
('result_cell','flags','flag',0,7,'sum of 1 = everything was kept (prompt not longer than the window, or budget covers it), 2 = budget below the protected tokens, 4 = stage-1 count of DefensiveKV clamped at 0'),
('result_head','cell_id','id',NULL,NULL,'owning cell'),
('result_head','layer','index',0,NULL,'layer, 0 = first'),
('result_head','head','index',0,NULL,'query head; KV head = head / (n_q_head / n_kv_head)'),
('result_head','n_step','steps',1,NULL,'decode steps replayed'),
('result_head','n_trivial','steps',0,NULL,'steps whose evictable entries all fit the requested uniform budget'),
('result_head','n_held','tokens',0,NULL,'prompt entries held by the KV head after the prefill eviction (budgeted set all: capacity)'),
('result_head','lost_mean','share',0,1,'mean evicted attention mass over non-trivial steps'),
('result_head','lost_max','share',0,1,'largest evicted mass of any step'),
('result_head','max_step','step',0,NULL,'first step at which lost_max occurs'),
('result_head','lost_q50','share',0,1,'median over non-trivial steps, method higher'),
('result_head','lost_q90','share',0,1,'90 % quantile, method higher'),
('result_head','lost_q95','share',0,1,'95 % quantile, method higher'),
('result_head','lost_q99','share',0,1,'99 % quantile, method higher'),
('result_head','lost_cvar95','share',0,1,'mean of the worst 5 % of the non-trivial steps, fractional last atom'),
('result_head','lost_cvar99','share',0,1,'mean of the worst 1 % of the non-trivial steps, fractional last atom'),
('result_head','ns_n','steps',0,NULL,'non-trivial steps whose non-sink mass is at least 1e-6'),
('result_head','lost_ns_mean','share',0,1,'mean sink-excluded loss over those steps'),
('result_head','lost_ns_max','share',0,1,'largest sink-excluded loss'),
('result_head','ns_max_step','step',0,NULL,'first step of lost_ns_max'),
('result_head','lost_ns_q95','share',0,1,'95 % quantile, method higher'),
('result_head','lost_ns_cvar95','share',0,1,'mean of the worst 5 %'),
('result_head','lost_prompt_mean','share',0,1,'mean of evicted prompt mass / prompt mass; NULL when generated entries compete too'),
('result_head','lost_prompt_max','share',0,1,'largest evicted prompt mass / prompt mass'),
('result_head','err_n','steps',0,NULL,'steps at which the output error was evaluated and defined'),
('result_head','out_err_mean','ratio',0,NULL,'mean of |o - o_kept|_2 / |o|_2 in the space named by result_cell.out_err_basis'),
('result_head','out_err_max','ratio',0,NULL,'largest value'),
('result_head','err_max_step','step',0,NULL,'first step of out_err_max'),
('result_head','out_err_q95','ratio',0,NULL,'95 % quantile, method higher'),
('result_head','out_err_cvar95','ratio',0,NULL,'mean of the worst 5 %'),
('result_head','value_sep_mean','ratio',0,NULL,'mean of |v_E - v_K|_2 / |o|_2 over steps with lost > 1e-6'),
('result_head','oracle_mean','share',0,1,'mean loss of the per-step oracle with n_held entries: unavoidable'),
('result_head','oracle_max','share',0,1,'largest per-step oracle loss'),
('result_head','fixed_mean','share',0,1,'mean loss of the best fixed set in hindsight'),
('result_head','fixed_max','share',0,1,'largest loss of that set'),
('result_head','regret_mean','share',NULL,1,'lost_mean - oracle_mean'),
('result_head','regret_max','share',NULL,1,'max over steps of lost - oracle loss'),
('result_kvhead','cell_id','id',NULL,NULL,'owning cell'),
('result_kvhead','layer','index',0,NULL,'layer'),
('result_kvhead','kv_head','index',0,NULL,'KV head'),
('result_kvhead','agg','enum',NULL,NULL,'per-step reduction over the query heads of the group: max or mean'),
('result_kvhead','n_held','tokens',0,NULL,'prompt entries held'),
('result_kvhead','lost_mean','share',0,1,'mean over non-trivial steps of the reduced series'),
('result_kvhead','lost_max','share',0,1,'its maximum'),
('result_kvhead','max_step','step',0,NULL,'first step of the maximum'),
('result_kvhead','lost_q95','share',0,1,'95 % quantile, method higher'),
('result_kvhead','lost_cvar95','share',0,1,'mean of the worst 5 %'),
('result_kvhead','lost_ns_mean','share',0,1,'mean of the sink-excluded reduced series'),
('result_kvhead','lost_ns_max','share',0,1,'its maximum'),
('result_kvhead','lost_ns_cvar95','share',0,1,'mean of its worst 5 %'),
('result_kvhead','out_err_cvar95','ratio',0,NULL,'mean of the worst 5 % of the reduced output error series'),
('result_layer','cell_id','id',NULL,NULL,'owning cell'),
('result_layer','layer','index',0,NULL,'layer'),
('result_layer','held_mean','tokens',0,NULL,'mean prompt entries held per KV head'),
('result_layer','lost_mean','share',0,1,'mean of lost_mean over the heads of the layer with n_trivial < n_step'),
('result_layer','lost_worst','share',0,1,'largest lost of any head and step of the layer'),
('result_layer','worst_head','index',0,NULL,'query head of lost_worst'),
('result_layer','cvar95_worst_head','share',0,1,'largest lost_cvar95 of a head of the layer'),
('result_head_tau','cell_id','id',NULL,NULL,'owning cell'),
('result_head_tau','layer','index',0,NULL,'layer'),
('result_head_tau','head','index',0,NULL,'query head'),
('result_head_tau','tau_id','id',NULL,NULL,'threshold'),
('result_head_tau','n_exceed','steps',0,NULL,'steps with lost > tau (strict)'),
('result_head_tau','n_infeasible','steps',0,NULL,'of these, steps at which even the per-step oracle loses more than tau'),
('result_head_tau','n_run','count',0,NULL,'maximal runs of consecutive exceedances'),
('result_head_tau','longest_run','steps',0,NULL,'length of the longest run'),
('result_head_tau','longest_start','step',0,NULL,'its first step, earliest on ties'),
('result_head_tau','first_step','step',0,NULL,'first exceedance; NULL = none, censored at n_step'),
('result_head_tau','excess_area','mass*steps',0,NULL,'sum over exceedances of lost - tau'),
('result_series','series_id','id',NULL,NULL,'surrogate key'),
('result_series','cell_id','id',NULL,NULL,'owning cell'),
('result_series','layer','index',0,NULL,'layer'),
('result_series','head','index',0,NULL,'query head'),
('result_series','metric','enum',NULL,NULL,'which per-step quantity'),
('result_series','step0','step',0,NULL,'step of the first value'),
('result_series','n','steps',1,NULL,'number of values'),
('result_series','codec','enum',NULL,NULL,'u32q31le: value * 2^31 as u32, little endian'),
('result_series','data','blob',NULL,NULL,'n values, little endian'),
('violation','violation_id','id',NULL,NULL,'surrogate key'),
('violation','cell_id','id',NULL,NULL,'owning cell'),
('violation','layer','index',0,NULL,'layer'),
('violation','head','index',0,NULL,'query head'),
('violation','tau_id','id',NULL,NULL,'threshold'),
('violation','start_step','step',0,NULL,'first step of the run'),
('violation','n_step','steps',1,NULL,'run length'),
('violation','peak_step','step',0,NULL,'first step of the largest loss in the run'),
('violation','peak_lost','share',0,1,'that loss'),
('violation','peak_oracle_lost','share',0,1,'per-step oracle loss at the same step'),
('violation','excess_area','mass*steps',0,NULL,'sum over the run of lost - tau'),
('violation','cause','enum',NULL,NULL,'infeasible: even the per-step oracle exceeds tau at all its steps; else the class of evicted entry that carries at least half of the evicted mass; mixed: none does'),
('violation','foreseeable','flag',0,1,'1 = the main evicted entry was above the keep threshold in at least one window row'),
('violation','recurrent','flag',0,1,'1 = the main evicted entry had been important before and was idle for at least 32 steps'),
('violation','share_top1','share',0,1,'share of the evicted mass of the run carried by its largest evicted entry'),
('violation','share_top5','share',0,1,'by its five largest'),
('violation','share_top20','share',0,1,'by its twenty largest'),
('violation_token','violation_id','id',NULL,NULL,'owning violation'),
('violation_token','ord','rank',1,20,'1 = largest share'),
('violation_token','pos','pos',0,NULL,'position in the sequence'),
('violation_token','mass_share','share',0,1,'share of the evicted mass of the run'),
('violation_token','evicted_step','step',-1,NULL,'when the policy dropped it; -1 = prefill eviction'),
('violation_token','window_rank','rank',1,NULL,'1 = highest score when the choice was made'),
('violation_token','window_score','score',NULL,NULL,'score when the choice was made, in the unit of the policy'),
('violation_token','score_margin','score',NULL,NULL,'score of the last kept entry minus this score'),
('violation_token','last_important','step',-1,NULL,'last step before the run with a_t(i) > 1/n_t; -1 = in the window; NULL = never'),
('violation_token','idle_steps','steps',0,NULL,'steps between last_important and the run'),
('ladder_head','cell_id','id',NULL,NULL,'cell of the oracle_minimax baseline'),
('ladder_head','layer','index',0,NULL,'layer'),
('ladder_head','head','index',0,NULL,'query head'),
('ladder_head','n_keep','tokens',0,NULL,'size of the sets'),
('ladder_head','n_step','steps',1,NULL,'decode steps'),
('ladder_head','n_trivial','steps',0,NULL,'trivial steps'),
('ladder_head','oracle_mean','share',0,1,'mean per-step oracle loss'),
('ladder_head','oracle_max','share',0,1,'largest per-step oracle loss'),
('ladder_head','oracle_max_step','step',0,NULL,'first step of oracle_max'),
('ladder_head','fixed_mean','share',0,1,'mean loss of the best fixed set in hindsight for the mean'),
('ladder_head','fixed_max','share',0,1,'largest loss of that set'),
('ladder_head','random_mean','share',0,1,'expected mean loss of a random set of n_keep prompt entries'),
('ladder_head','minimax_bound','share',0,1,'certified lower bound of the worst-case loss of every fixed set of n_keep entries, never above minimax_found'),
('ladder_head','minimax_found','share',0,1,'worst-case loss of the best fixed set found'),
('ladder_head','minimax_iters','count',0,NULL,'iterations of the searches that could improve this row'),
('ladder_head','minimax_stop','enum',NULL,NULL,'why the search ended: trivial, certified (bound and set within 0.001), fractional (the rest is integrality), limit'),
('ladder_head','stability_gap','share',NULL,1,'minimax_bound - oracle_max'),
('minimax_cert','minimax_cert_id','id',NULL,NULL,'surrogate key'),
('minimax_cert','cell_id','id',NULL,NULL,'owning cell'),
('minimax_cert','layer','index',0,NULL,'layer'),
('minimax_cert','head','index',0,NULL,'query head'),
('minimax_cert','bound_q31','2^-31',0,2147483648,'certified bound of these weights as an integer'),
('minimax_cert','n_lambda','count',1,NULL,'number of weights = number of non-trivial steps'),
('minimax_cert','lambda','blob',NULL,NULL,'weights in the order of the steps, u32 little endian, sum exactly 2^31'),
('minimax_cert','best_set','blob',NULL,NULL,'positions of the best set found: LEB128 varint count, then the first position and the differences of ascending positions'),
('curve_grid','grid_id','id',NULL,NULL,'surrogate key'),
('curve_grid','sha256','hash',NULL,NULL,'of the kept blob'),
('curve_grid','n_point','count',1,NULL,'number of budgets'),
('curve_grid','kept','blob',NULL,NULL,'tokens asked for per cache at each point, u32 little endian, strictly ascending'),
('result_curve','curve_id','id',NULL,NULL,'surrogate key'),
('result_curve','trace_id','id',NULL,NULL,'trace'),
('result_curve','config_id','id',NULL,NULL,'policy configuration'),
('result_curve','engine_version','version',1,NULL,'replay semantics'),
('result_curve','metric_version','version',1,NULL,'definitions'),
('result_curve','seed','id',NULL,NULL,'seed of the replay'),
('result_curve','level','enum',NULL,NULL,'head; layer and model: lost_mean is the mean over their heads, the other metrics are the largest of any head'),
('result_curve','layer','index',-1,NULL,'layer; -1 for level model'),
('result_curve','head','index',-1,NULL,'query head; -1 unless level head'),
('result_curve','metrics','text',NULL,NULL,'statistics over decode steps in the blob, in its order, defined as in result_head: lost_mean, lost_q95, lost_cvar95, lost_max'),
('result_curve','grid_id','id',NULL,NULL,'budgets'),
('result_curve','data','blob',NULL,NULL,'Q1.31 values (share x 2^31), u32 little endian, metric by metric, one per grid point'),
('result_curve','n_not_nested','count',0,NULL,'neighbouring grid points of which the smaller kept set is not inside the larger; layer and model: summed over heads'),
('validity','validity_id','id',NULL,NULL,'surrogate key'),
('validity','run_id','id',NULL,NULL,'run'),
('validity','cell_id','id',NULL,NULL,'cell; NULL = about the whole run'),
('validity','check_name','enum',NULL,NULL,'which check'),
('validity','status','enum',NULL,NULL,'ok, warn, fail, not_run'),
('validity','value','mixed',NULL,NULL,'measured value, unit by check'),
('validity','lim','mixed',NULL,NULL,'limit it was compared with'),
('validity','message','text',NULL,NULL,'one sentence for people');

INSERT INTO tau(tau_id, tau, label) VALUES (1, 0.5, '50 %'), (2, 0.25, '25 %'), (3, 0.1, '10 %');
PRAGMA user_version = 3;
COMMIT;
