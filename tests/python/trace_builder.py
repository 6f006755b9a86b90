"""A small valid trace, made with h5py from FORMAT.md alone: base of the malformed files."""
import hashlib, struct
import h5py
import numpy as np

BF16 = h5py.h5t.IEEE_F32LE.copy()
BF16.set_fields(15, 7, 8, 0, 7), BF16.set_ebias(127), BF16.set_size(2)
F16 = h5py.h5t.IEEE_F16LE
TYPES = {"u8": "<u1", "u16": "<u2", "u64": "<u8", "i32": "<i4", "i64": "<i8", "f32": "<f4", "f64": "<f8"}
N, G, W = 6, 3, 4
T, R = N + G, W + G
Z64 = np.bytes_(b"0" * 64)


# ------------------------------------------------------------------ values (FORMAT.md 19)
def m(x):
    return ((x % 17) - 8) / 8.0


def to_bf16(x):
    return (np.ascontiguousarray(x, "<f4").view("<u4") >> 16).astype("<u2")   # exact values only


def put(f, path, data, kind, **kw):
    """A dataset of one of the types of FORMAT.md 2.6; bf16 is written as bits."""
    data = np.asarray(data)
    if kind in ("bf16", "f16"):
        bits = to_bf16(data) if kind == "bf16" else data.astype("<f2").view("<u2")
        t = BF16 if kind == "bf16" else F16
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if "chunks" in kw:
            plist.set_chunk(kw["chunks"])
        f.require_group(path.rsplit("/", 1)[0] or "/")
        space = h5py.h5s.create_simple(data.shape)
        d = h5py.h5d.create(f.id, path.encode(), t, space, plist)
        d.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(bits), mtype=t)
        return h5py.Dataset(d)
    return f.create_dataset(path, data=data.astype(TYPES[kind]), **kw)


def text(s):
    return np.bytes_(s if isinstance(s, bytes) else s.encode())


def attention(q, k, index, scale, softcap, visible, sink=None):
    """Rows of one head in f64: probabilities [R][T] and lse [R]."""
    a, lse = np.zeros((len(index), len(k))), np.zeros(len(index))
    for r, p in enumerate(index):
        z = scale * (k @ q[r])
        if softcap > 0:
            z = softcap * np.tanh(z / softcap)
        vis = np.array([j <= p and visible(p, j) for j in range(len(k))])
        e = np.where(vis, np.exp(z), 0)
        den = e.sum() + (np.exp(sink) if sink is not None else 0)
        a[r], lse[r] = e / den, np.log(den)
    return a, lse


LAYERS = [
    dict(attn="full", H=4, Hkv=2, dk=4, dv=4, scale=0.5, softcap=0.0, window=-1, sinks=0, kind="bf16"),
    dict(attn="sliding", H=4, Hkv=2, dk=4, dv=4, scale=0.5, softcap=30.0, window=4, sinks=0, kind="bf16"),
    dict(attn="none"),
    dict(attn="full", H=3, Hkv=1, dk=4, dv=6, scale=0.25, softcap=0.0, window=-1, sinks=1, kind="f32"),
    dict(attn="chunked", H=2, Hkv=2, dk=2, dv=2, scale=1.0, softcap=0.0, window=3, sinks=0, kind="f16"),
]


def put_layer(f, l, L, samples, chunked):
    g = f.create_group("/layers/%03d" % l)
    g.attrs["attn_type"] = text(L["attn"])
    if L["attn"] == "none":
        return
    g.attrs["score"] = text("dot")
    H, Hkv, dk, dv = L["H"], L["Hkv"], L["dk"], L["dv"]
    for name, x in dict(n_heads=H, n_kv_heads=Hkv, d_k=dk, d_v=dv, window=L["window"],
                        has_sinks=L["sinks"], kv_layer=l).items():
        g.attrs[name] = np.int64(x)
    g.attrs["scale"], g.attrs["softcap"] = np.float64(L["scale"]), np.float64(L["softcap"])
    ax = np.arange
    G_, I, C = ax(Hkv)[:, None, None], ax(T)[None, :, None], ax(dk)[None, None, :]
    k = m(5 * l + 7 * G_ + 3 * I + 2 * C + I * C)
    v = m(11 * l + 3 * G_ + 5 * I + 7 * ax(dv)[None, None, :] + 1)
    qa = m(2 * l + 5 * ax(H)[:, None, None] + 4 * I + 3 * C + I * C + 2)
    wo = m(3 * l + ax(H)[:, None, None] + 2 * ax(dv)[None, :, None] + ax(8)[None, None, :])
    index = list(range(N - W, T))
    q, n_group = qa[:, index], H // Hkv
    kw = lambda a: dict(chunks=(1,) + a.shape[1:]) if chunked else {}
    base = g.name
    put(f, base + "/k", k, L["kind"], **kw(k))
    put(f, base + "/v", v, L["kind"], **kw(v))
    put(f, base + "/q", q, L["kind"], **kw(q))
    sinks = np.array([0.25 * h - 0.5 for h in range(H)]) if L["sinks"] else [None] * H
    if L["sinks"]:
        put(f, base + "/sinks", sinks, "f32")
    w = L["window"]
    visible = {"full": lambda p, j: True, "sliding": lambda p, j: p - j < w,
               "chunked": lambda p, j: j // w == p // w}[L["attn"]]
    lse, out, stats = np.zeros((H, R)), np.zeros((H, R, dv)), np.zeros((3, H, N))
    nu = np.zeros((H, T))
    for h in range(H):
        a, lse[h] = attention(q[h], k[h // n_group], index, L["scale"], L["softcap"], visible, sinks[h])
        out[h] = a @ v[h // n_group]
        p, _ = attention(qa[h][:N], k[h // n_group][:N], range(N), L["scale"], L["softcap"], visible, sinks[h])
        stats[:, h] = p.sum(0), (p * p).sum(0), p.max(0)
        nu[h] = np.abs(v[h // n_group] @ wo[h]).sum(1)
    put(f, base + "/lse", lse, "f32").attrs["source"] = text("recomputed")
    put(f, base + "/nu", nu, "f32")
    for i, name in enumerate(("sum", "sumsq", "max")):
        put(f, base + "/stats/" + name, stats[i], "f32")
    g["stats"].attrs["n_queries"], g["stats"].attrs["first_query"] = np.int64(N), np.int64(0)
    r = g.create_group("rope")
    r.attrs["type"], r.attrs["pairing"] = text("default"), text("half")
    r.attrs["rotary_dim"], r.attrs["offset"] = np.int64(dk), np.int64(0)
    r.attrs["attention_scaling"] = np.float64(1)
    r.attrs["angle_dtype"] = r.attrs["table_dtype"] = text("f32")
    put(f, base + "/rope/inv_freq", [[1.0, 0.01][:dk // 2]], "f64")
    put(f, base + "/rope/segment_start", [0], "i64")
    samples += [(l, h, r_, out[h][r_]) for h in range(min(H, 2)) for r_ in (max(W - 1, 0), R - 1)]


def put_optional(f):
    """Everything that FORMAT.md 3 allows and this version only checks."""
    put(f, "/tokens/flags", np.zeros(T), "u8")
    put(f, "/tokens/text_bytes", np.frombuffer(b"abcdefghijk", np.uint8), "u8")
    put(f, "/tokens/text_offset", [0, 1, 2, 3, 4, 4, 5, 6, 7, 11], "i64")
    put(f, "/spans/begin", [0, 0, 2, 3, 6], "i64")
    put(f, "/spans/end", [6, 2, 6, 3, 9], "i64")
    put(f, "/spans/kind", [1, 2, 5, 0, 7], "i32")
    put(f, "/logits/top_id", np.zeros((G + 1, 5)), "i32")
    put(f, "/logits/top_logit", np.zeros((G + 1, 5)), "f32")
    put(f, "/logits/lse", np.zeros(G + 1), "f32")
    put(f, "/provenance/model_files", np.frombuffer(b"[]", np.uint8), "u8")
    put(f, "/provenance/config_json", np.frombuffer(b"{}", np.uint8), "u8")
    l0 = "/layers/000"
    put(f, l0 + "/v_l1", np.ones((2, T)), "f32")
    put(f, l0 + "/wo", np.ones((4, 4, 8)), "bf16")
    put(f, l0 + "/wo_gram", np.ones((4, 4, 4)), "f32")
    put(f, l0 + "/ea/q_mean", np.ones((4, 4)), "f32")
    put(f, l0 + "/ea/q_cov", np.ones((4, 4, 4)), "f32")
    f[l0 + "/ea"].attrs.update(first=np.int64(1), last=np.int64(N - 1), basis=text("pre_rope"))
    put(f, l0 + "/stats/block_sum", np.ones((4, 3, N)), "f32")
    f[l0 + "/stats"].attrs["block"] = np.int64(2)
    s = put(f, l0 + "/scores/kvzip", np.ones((2, N)), "f32")
    s.attrs["granularity"], s.attrs["higher_is_better"] = text("kv_head"), np.int64(1)
    s = put(f, l0 + "/scores/gate", np.ones((4, G, T)), "f32")
    s.attrs["granularity"], s.attrs["higher_is_better"] = text("query_head"), np.uint8(0)
    x = l0 + "/extra/soft"
    put(f, x + "/q", np.ones((4, 2, 4)), "bf16")
    put(f, x + "/k", np.ones((2, 2, 4)), "bf16")
    put(f, x + "/position", [N, N + 1], "i32")
    f[x].attrs["after"] = np.int64(N)
    rows = put(f, "/layers/001/rows", np.zeros((4, R, T)), "f32")
    rows.attrs["encoding"] = text("logit_f32")
    put(f, "/verify/engine_lse", np.full(f["/verify/index"].shape[0], np.nan), "f32")
    put(f, "/verify/nonfinite", np.zeros((0, 4)), "i64")
    k = (f["/layers/000/k"][0, 2]).astype(np.float64)           # token 2, un-rotated by hand
    before = np.zeros(4)
    for c, w in ((0, 1.0), (1, 0.01)):
        th = np.float64(np.float32(2) * np.float32(w))
        co, si = np.float64(np.float32(np.cos(th))), np.float64(np.float32(np.sin(th)))
        before[c] = (k[c] * co + k[c + 2] * si) / (co * co + si * si)
        before[c + 2] = (k[c + 2] * co - k[c] * si) / (co * co + si * si)
    put(f, "/verify/rope_index", [[0, 0, 2]], "i32")
    put(f, "/verify/rope_k", [before], "f32")
    f.attrs["vocab_size"], f.attrs["cluster_id"] = np.int64(32), text("doc-1")
    put(f, "/future/thing", np.ones((2, 3, 1, 2)), "u64")        # unknown, listed


def make(path, optional=True, chunked=False, libver=("earliest", "v110")):
    with h5py.File(path, "w", libver=libver) as f:
        a = f.attrs
        a["format"], a["created"], a["writer"] = text("kvtrace"), text("2026-01-01T00:00:00Z"), text("gen 1")
        a["format_version"] = a["min_reader"] = np.array([1, 0, 0], "<u4")
        a["complete"] = np.uint8(1)
        a["uuid"] = text("01234567-89ab-cdef-0123-456789abcdef")
        a["trace_kind"], a["exactness"] = text("causal"), text("synthetic")
        for name, x in dict(n_layers=len(LAYERS), n_prompt=N, n_decode=G, window=W, question_start=min(N, 4),
                            model_dim=8, redacted=0).items():
            a[name] = np.int64(x)
        f.create_group("/provenance").attrs["engine"] = text("none")
        f["/provenance"].attrs["model_name"] = text("example")
        f["/provenance"].attrs["seed"] = np.int64(7)
        put(f, "/tokens/id", [(7 * i + 3) % 32 for i in range(T)], "i32")
        put(f, "/tokens/position", range(T), "i32")
        put(f, "/queries/index", range(N - W, T), "i32")
        samples = []
        for l, L in enumerate(LAYERS):
            put_layer(f, l, L, samples, chunked)
        put(f, "/verify/index", [s[:3] for s in samples], "i32")
        out = np.zeros((len(samples), max(L.get("dv", 0) for L in LAYERS)))
        for i, s in enumerate(samples):
            out[i, :len(s[3])] = s[3]
        put(f, "/verify/attn_out", out, "f32")
        f["/verify"].attrs.update(tol=np.float64(1e-3), max_err=np.float64(1e-7), passed=np.int64(1),
                                  n_nonfinite=np.int64(0))
        if optional:
            put_optional(f)
        relist(f)


# ------------------------------------------------------------------ checksums and content id
def type_name(d):
    t = d.id.get_type()
    if isinstance(t, h5py.h5t.TypeFloatID):
        return {2: "f16" if t.get_ebias() == 15 else "bf16", 4: "f32", 8: "f64"}[t.get_size()]
    if isinstance(t, h5py.h5t.TypeIntegerID):
        return ("i" if t.get_sign() else "u") + str(8 * t.get_size())
    return "other"


def digest(d):
    if d.size == 0:
        return hashlib.sha256(b"").digest()
    t = d.id.get_type()
    raw = np.empty(d.shape, "V%d" % t.get_size())
    if type_name(d) in ("f16", "bf16"):
        raw = np.empty(d.shape, "<u2")
        d.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, mtype=t)
    else:
        raw = d[...]
    parts = [raw.tobytes()] if raw.ndim < 2 else [raw[i].tobytes() for i in range(raw.shape[0])]
    leaves = [hashlib.sha256(p[i:i + 1048576]).digest() for p in parts for i in range(0, len(p), 1048576)]
    return hashlib.sha256(b"".join(leaves)).digest()


ID_ROOT = "trace_kind exactness n_layers n_prompt n_decode window question_start model_dim redacted".split()
ID_LAYER = "attn_type score n_heads n_kv_heads d_k d_v scale softcap window has_sinks kv_layer".split()
ID_GROUP = {"stats": "n_queries first_query block", "ea": "first last basis horizon",
            "rope": "pairing rotary_dim offset attention_scaling angle_dtype table_dtype"}


def id_attrs(path, o, names, lines):
    for n in names:
        if n not in o.attrs:
            continue
        x = o.attrs[n]
        x = x.reshape(-1)[0] if isinstance(x, np.ndarray) else x
        if isinstance(x, (bytes, str)):
            s = x.decode() if isinstance(x, bytes) else x
            lines.append("A %s %s s %s\n" % (path, n, s.rstrip(" ")))
        elif isinstance(x, (np.floating, float)):
            lines.append("A %s %s f %s\n" % (path, n, struct.pack(">d", float(x)).hex()))
        else:
            lines.append("A %s %s i %d\n" % (path, n, int(x)))


def content_id(f, rows):
    lines, skip = [], ("/provenance/", "/logits/", "/verify/", "/redact/", "/tokens/text_")
    for path, d, sha in rows:
        if not path.startswith(skip):
            lines.append("D %s %s %s %s\n" % (path, type_name(d), "x".join(map(str, d.shape)), sha.hex()))
    id_attrs("/", f, ID_ROOT, lines)
    for l in f["/layers"]:
        g = f["/layers"][l]
        base = "/layers/" + l
        id_attrs(base, g, ID_LAYER, lines)
        for name, attrs in ID_GROUP.items():
            if name in g:
                id_attrs(base + "/" + name, g[name], attrs.split(), lines)
        if "rows" in g:
            id_attrs(base + "/rows", g["rows"], ["encoding"], lines)
        for s in g.get("scores", ()):
            id_attrs(base + "/scores/" + s, g["scores"][s], ["granularity", "higher_is_better"], lines)
        for x in g.get("extra", ()):
            id_attrs(base + "/extra/" + x, g["extra"][x], ["after"], lines)
            if "rows" in g["extra"][x]:
                id_attrs(base + "/extra/" + x + "/rows", g["extra"][x]["rows"], ["encoding"], lines)
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def listing(f):
    rows = []

    def visit(name, o):
        path = "/" + name
        if isinstance(o, h5py.Dataset) and not path.startswith("/checksums/"):
            try:
                sha = digest(o) if o.size is not None and o.size < 1 << 24 else bytes(32)
            except Exception:
                sha = bytes(32)                    # a broken case: it must be refused anyway
            rows.append((path, o, sha))
    f.visititems(visit)
    return sorted(rows, key=lambda r: r[0].encode())


def write_list(f, paths, sizes, shas):
    if "checksums" in f:
        del f["checksums"]
    g = f.create_group("checksums")
    g.attrs["algorithm"] = text("sha256-1m")
    g.create_dataset("path", data=np.array([p.encode() for p in paths], "S128"))
    g.create_dataset("nbytes", data=np.array(sizes, "<u8"))
    g.create_dataset("sha256", data=np.frombuffer(b"".join(shas), "u1").reshape(len(shas), 32))


def relist(f):
    rows = listing(f)
    sizes = [min(d.size or 0, 1 << 60) * d.id.get_type().get_size() for _, d, _ in rows]
    write_list(f, [r[0] for r in rows], sizes, [r[2] for r in rows])
    try:
        f.attrs["content_id"] = text(content_id(f, rows))
    except Exception:
        f.attrs["content_id"] = Z64
