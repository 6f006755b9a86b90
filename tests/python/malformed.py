#!/usr/bin/env python3
"""Make a valid trace, break it in several hundred ways, and see what kvtrace says.

    malformed.py KVTRACE FOLDER [--keep]

Every case is a copy of one base file and a function that changes it through h5py; the
list of checksums and the content id are made again afterwards (unless raw), so that a
refusal can only come from the rule under test. Expected is an exit code and a word that
the one line on stderr must contain. FORMAT.md is the specification; this generator
shares no code with the program."""
import os, random, resource, shutil, struct, subprocess, sys, time
import h5py
import numpy as np
from trace_builder import *


# ------------------------------------------------------------------ cases
class Case:
    def __init__(self, name, change, word="", code=3, raw=False, whole=None):
        self.name, self.change, self.word, self.code = name, change, word, code
        self.raw, self.whole = raw, whole          # whole: makes the file from the base's bytes


CASES = []


def case(name, change, word="", code=3, raw=False):
    CASES.append(Case(name, change, word, code, raw))


def of_bytes(name, whole, word="", code=3):
    CASES.append(Case(name, None, word, code, True, whole))


def setattr_(path, name, value):
    def change(f):
        o = f[path]
        if name in o.attrs:
            del o.attrs[name]
        if value is not None:
            o.attrs[name] = value
    change.attributes_only = True
    return change


def redo(path, data=None, kind=None, **kw):
    """Replace a dataset; data may be a function of the old values."""
    def change(f):
        old = f[path][...] if path in f else None
        attrs = dict(f[path].attrs) if path in f else {}
        k = kind or type_name(f[path])
        if path in f:
            del f[path]
        new = data(old) if callable(data) else old if data is None else data
        d = put(f, path, new, k, **kw)
        for a, x in attrs.items():
            d.attrs[a] = x
    return change


def drop(*paths):
    def change(f):
        for p in paths:
            del f[p]
    return change


def low_attr(path, name, tid, space=None, data=None):
    """An attribute of any HDF5 type."""
    def change(f):
        o = f[path]
        if name in o.attrs:
            del o.attrs[name]
        a = h5py.h5a.create(o.id, name.encode(), tid, space or h5py.h5s.create(h5py.h5s.SCALAR))
        if data is not None:
            a.write(data, mtype=tid)
    change.attributes_only = True
    return change


def low_dataset(path, tid, shape, data=None, dcpl=None):
    def change(f):
        if path in f:
            del f[path]
        f.require_group(path.rsplit("/", 1)[0])
        d = h5py.h5d.create(f.id, path.encode(), tid, h5py.h5s.create_simple(shape), dcpl)
        if data is not None:
            d.write(h5py.h5s.ALL, h5py.h5s.ALL, data, mtype=tid)
    return change


def edit(path, fn):
    """Change values in place."""
    def change(f):
        d = f[path]
        x = d[...]
        fn(x)
        if type_name(d) == "bf16":
            t = d.id.get_type()
            d.id.write(h5py.h5s.ALL, h5py.h5s.ALL, to_bf16(x), mtype=t)
        else:
            d[...] = x
    return change


def at(index, value):
    def fn(x):
        x[index] = value
    return fn


def both(*changes):
    def change(f):
        for c in changes:
            c(f)
    return change


I64 = np.int64
L0 = "/layers/000"


def root_cases():
    for name in ("format format_version min_reader complete created writer uuid content_id trace_kind exactness "
                 "n_layers n_prompt n_decode window question_start model_dim redacted").split():
        case("root attribute %s missing" % name, setattr_("/", name, None), name, raw=True)
    for name in ("format", "created", "writer", "uuid", "trace_kind", "exactness", "cluster_id", "sample_id"):
        case("%s is variable-length" % name, setattr_("/", name, "text"), name)
        case("%s is an integer" % name, setattr_("/", name, I64(3)), name)
        case("%s is 70 kB" % name, low_attr("/", name, fixed(60000)), name)
        case("%s is 4097 bytes" % name, low_attr("/", name, fixed(4097)), name)
        case("%s has two elements" % name, setattr_("/", name, np.array([b"a", b"b"], "S4")), name)
    for name in ("n_layers", "n_prompt", "n_decode", "window", "question_start", "model_dim", "redacted", "vocab_size"):
        for label, x in (("-1", I64(-1)), ("float", np.float64(3)), ("text", text("3")), ("two", np.array([3, 3])),
                         ("huge", np.uint64(2**64 - 1)), ("big", I64(2**62)), ("null", h5py.Empty("i8")),
                         ("i128", None)):
            if label == "i128":
                t = h5py.h5t.STD_I64LE.copy()
                t.set_size(16)
                case("%s has 16 bytes" % name, low_attr("/", name, t), name)
            else:
                case("%s is %s" % (name, label), setattr_("/", name, x), name)
    for name, x in (("n_layers", 1025), ("n_layers", 0), ("n_prompt", 0), ("n_prompt", 2**22 + 1), ("n_decode", 2**22),
                    ("window", N + 1), ("question_start", N + 1), ("model_dim", 65537), ("model_dim", 0),
                    ("redacted", 2), ("complete", 2)):
        case("%s = %d" % (name, x), setattr_("/", name, I64(x)), name)
    case("n_layers + 1", setattr_("/", "n_layers", I64(len(LAYERS) + 1)), "/layers/005")
    case("n_prompt + 1", setattr_("/", "n_prompt", I64(N + 1)), "/")
    case("n_decode + 1", setattr_("/", "n_decode", I64(G + 1)), "/")
    case("n_decode - 1", setattr_("/", "n_decode", I64(G - 1)), "/")
    case("window smaller", setattr_("/", "window", I64(W - 1)), code=0)
    case("window larger than the rows", setattr_("/", "window", I64(W + 1)), "/queries/index")
    case("format is another", setattr_("/", "format", text("other")), "format")
    case("incomplete", setattr_("/", "complete", np.uint8(0)), "complete")
    case("trace_kind diffusion", setattr_("/", "trace_kind", text("diffusion")), "trace_kind")
    for name, v in (("format_version", (2, 0, 0)), ("format_version", (0, 9, 0)), ("min_reader", (1, 1, 0)),
                    ("min_reader", (2, 0, 0)), ("min_reader", (4000000000, 0, 0))):
        case("%s %s" % (name, v), setattr_("/", name, np.array(v, "<u4")), "%d.%d.%d" % v)
    case("format_version of two", setattr_("/", "format_version", np.array([1, 0])), "format_version")
    case("format_version scalar", setattr_("/", "format_version", I64(1)), "format_version")
    case("format_version float", setattr_("/", "format_version", np.array([1., 0, 0])), "format_version")
    case("format_version negative", setattr_("/", "format_version", np.array([1, -1, 0])), "format_version")
    case("minor 1.7, min_reader 1.0.9", both(setattr_("/", "format_version", np.array([1, 7, 0])),
                                             setattr_("/", "min_reader", np.array([1, 0, 9]))), code=0)
    case("uuid short", setattr_("/", "uuid", text("0123")), "uuid")
    case("content_id short", setattr_("/", "content_id", text("0123")), "content_id", raw=True)
    case("content_id upper case", setattr_("/", "content_id", text("A" * 64)), "content_id", raw=True)
    case("content_id of other data", setattr_("/", "content_id", Z64), "content id", code=1, raw=True)
    case("shards", both(setattr_("/", "shard_index", I64(0)), setattr_("/", "shard_count", I64(2))), "shard_count")
    case("one shard", both(setattr_("/", "shard_index", I64(0)), setattr_("/", "shard_count", I64(1))), code=0)
    case("shard_count alone", setattr_("/", "shard_count", I64(1)), "shard_index")
    case("redacted without the group", setattr_("/", "redacted", I64(1)), "/redact")
    case("provenance missing", drop("/provenance"), "/provenance")
    case("engine missing", setattr_("/provenance", "engine", None), "engine")
    case("engine variable-length", setattr_("/provenance", "engine", "x"), "engine")
    case("provenance text of 4097 bytes", low_attr("/provenance", "gpu", fixed(4097)), "gpu")
    case("provenance text of 4096 bytes", low_attr("/provenance", "gpu", fixed(4096)), code=0)
    case("seed is text", setattr_("/provenance", "seed", text("x")), "seed")
    case("config_json of 16 MiB + 1", low_dataset("/provenance/config_json", h5py.h5t.STD_U8LE, ((1 << 24) + 1,)),
         "/provenance/config_json")
    case("unknown attributes of odd types", both(setattr_("/", "note", "variable"), setattr_(L0, "note", np.arange(3)),
                                                 setattr_("/verify", "x", h5py.Empty("f4"))), code=0)


def fixed(n):
    t = h5py.h5t.C_S1.copy()
    t.set_size(n)
    return t


def form_cases():
    """Forms of attributes that must be accepted."""
    case("big-endian attributes", both(setattr_("/", "n_prompt", np.array(N, ">i8")),
                                       setattr_(L0, "scale", np.array(0.5, ">f8"))), code=0)
    case("attributes of one element", both(setattr_("/", "n_decode", np.array([G])),
                                           setattr_(L0, "attn_type", np.array([b"full"], "S4")),
                                           setattr_(L0, "scale", np.array([[0.5]]))), code=0)
    case("enumeration", setattr_("/", "redacted", np.bool_(False)), code=0)
    case("small types", both(setattr_("/", "window", np.int8(W)), setattr_(L0, "scale", np.float16(0.5)),
                             setattr_(L0, "softcap", np.float32(0))), code=0)

    def padded(f):
        t = fixed(12)
        t.set_strpad(h5py.h5t.STR_SPACEPAD)
        low_attr(L0, "attn_type", t, data=np.array(b"full        ", "S12"))(f)
    case("space-padded text", padded, code=0)


def layer_cases():
    a = L0
    for name in ID_LAYER:
        case("layer attribute %s missing" % name, setattr_(a, name, None), name)
        wrong = text("x") if name not in ("attn_type", "score") else I64(1)
        case("layer attribute %s mistyped" % name, setattr_(a, name, wrong), name)
        case("layer attribute %s of two" % name, setattr_(a, name, np.array([1, 1])), name)
        case("layer attribute %s empty" % name, setattr_(a, name, h5py.Empty("f8")), name)
    for name in ("n_heads", "n_kv_heads", "d_k", "d_v"):
        for x in (0, -1, 1025, 2**40, 8):
            case("layer %s = %d" % (name, x), setattr_(a, name, I64(x)), a)
    case("n_heads not a multiple", setattr_(a, "n_heads", I64(3)), "n_heads")
    case("more KV heads than heads", setattr_(a, "n_kv_heads", I64(8)), "n_kv_heads")
    for name, values in (("scale", (np.nan, np.inf, -np.inf, 0.0, -1.0)), ("softcap", (np.nan, -1.0, np.inf))):
        for x in values:
            case("%s = %g" % (name, x), setattr_(a, name, np.float64(x)), name)
    case("scale is an integer", setattr_(a, "scale", I64(1)), "scale")
    case("n_heads is a float", setattr_(a, "n_heads", np.float64(4)), "n_heads")
    case("attn_type unknown", setattr_(a, "attn_type", text("linear")), "attn_type")
    case("attn_type with an escape", setattr_(a, "attn_type", text("\x1b[2J")), "attn_type")
    case("score unknown", setattr_(a, "score", text("alibi")), "score")
    case("recorded without rows", setattr_(a, "score", text("recorded")), a + "/rows")
    case("recorded with rows", both(setattr_("/layers/001", "score", text("recorded")),
                                    drop("/layers/001/q", "/layers/001/lse")), code=0)
    for x in (0, 4, -2, 2**40):
        case("window %d on a full layer" % x, setattr_(a, "window", I64(x)), "window")
    for x in (0, -1, -5, 2**40):
        case("window %d on a sliding layer" % x, setattr_("/layers/001", "window", I64(x)), "window")
    case("window 0 on a chunked layer", setattr_("/layers/004", "window", I64(0)), "window")
    for x in (-1, 5, 2**33):
        case("kv_layer %d" % x, setattr_(a, "kv_layer", I64(x)), "kv_layer")
    case("kv_layer of another, but k is there", setattr_(a, "kv_layer", I64(1)), a)
    case("kv_layer of another", both(setattr_("/layers/001", "kv_layer", I64(0)),
                                     drop("/layers/001/k", "/layers/001/v")), code=1)   # other keys: row sums
    case("kv_layer of a layer of another shape", both(setattr_(a, "kv_layer", I64(3)), drop(a + "/k", a + "/v")),
         "kv_layer")
    case("kv_layer of a layer without attention", both(setattr_(a, "kv_layer", I64(2)), drop(a + "/k", a + "/v")),
         "kv_layer")
    case("has_sinks without sinks", setattr_(a, "has_sinks", I64(1)), a + "/sinks")
    case("has_sinks 2", setattr_(a, "has_sinks", I64(2)), "has_sinks")
    case("layer group missing", drop("/layers/002"), "/layers/002")
    case("layer is a dataset", both(drop("/layers/002"), redo("/layers/002", [1], "u8")), "/layers/002")
    case("layers missing", drop("/layers"), "/layers")


SHAPES = {                          # path: (kind, required)
    L0 + "/k": 1, L0 + "/v": 0, L0 + "/q": 1, L0 + "/lse": 1, L0 + "/nu": 0, L0 + "/v_l1": 0, L0 + "/wo": 0,
    L0 + "/wo_gram": 0, L0 + "/stats/sum": 2, L0 + "/stats/sumsq": 2, L0 + "/stats/max": 2, L0 + "/stats/block_sum": 0,
    L0 + "/rope/inv_freq": 1, L0 + "/rope/segment_start": 1, L0 + "/ea/q_mean": 0, L0 + "/ea/q_cov": 0,
    L0 + "/scores/kvzip": 0, L0 + "/scores/gate": 0, L0 + "/extra/soft/q": 1, L0 + "/extra/soft/k": 1,
    L0 + "/extra/soft/position": 1, "/layers/001/rows": 0, "/layers/003/sinks": 1, "/tokens/id": 1,
    "/tokens/position": 1, "/tokens/flags": 0, "/tokens/text_bytes": 2, "/tokens/text_offset": 2, "/spans/begin": 2,
    "/spans/end": 2, "/spans/kind": 2, "/queries/index": 1, "/logits/top_id": 2, "/logits/top_logit": 2,
    "/logits/lse": 2, "/verify/index": 1, "/verify/attn_out": 1, "/verify/engine_lse": 0, "/verify/nonfinite": 0,
    "/verify/rope_index": 2, "/verify/rope_k": 2, "/provenance/model_files": 0, "/provenance/config_json": 0,
}
FREE = {"/tokens/text_bytes", "/provenance/model_files", "/provenance/config_json", "/verify/nonfinite"}


def group_of(path):
    return path.rsplit("/", 1)[0]


def dataset_cases():
    opaque = h5py.h5t.create(h5py.h5t.OPAQUE, 2)
    vlen = h5py.h5t.vlen_create(h5py.h5t.STD_I32LE)
    compound = h5py.h5t.py_create(np.dtype([("a", "<f4"), ("b", "<f4")]))
    for p, need in SHAPES.items():
        word = p if need != 2 else group_of(p)
        if need:
            case("%s missing" % p, drop(p), word)
        elif p not in (L0 + "/ea/q_mean",):
            case("%s absent" % p, drop(p), code=0)
        case("%s is a group" % p, both(drop(p), lambda f, p=p: f.create_group(p)), p)

        def typed(dtype, p=p):
            def change(f):
                shape = f[p].shape
                attrs = dict(f[p].attrs)
                del f[p]
                d = f.create_dataset(p, shape=shape, dtype=dtype, data=np.zeros(shape, dtype))
                d.attrs.update(attrs)
            return change
        def low(tid, p=p):
            def change(f):
                low_dataset(p, tid, f[p].shape)(f)
            return change
        case("%s as u16" % p, typed("<u2"), p)
        case("%s as i16" % p, typed("<i2"), p)
        case("%s as text" % p, typed("S4"), p)
        case("%s big-endian" % p, typed(">f4" if "f" in kind_of(p) else ">i4"), p)
        case("%s opaque" % p, low(opaque), p)
        case("%s of variable length" % p, low(vlen), p)
        case("%s compound" % p, low(compound), p)
        case("%s with rank + 1" % p, redo(p, lambda x: x[..., None]), p)
        case("%s scalar" % p, both(drop(p), lambda f, p=p: f.create_dataset(p, data=np.zeros((), "<f4"))), p)
        case("%s null" % p, both(drop(p), lambda f, p=p: f.create_dataset(p, data=h5py.Empty("<f4"))), p)
        def longer(axis):
            return lambda x: np.concatenate([x, np.zeros_like(x.take([0] if x.shape[axis] else [], axis=axis))
                                             if x.shape[axis] else np.zeros(x.shape[:axis] + (1,) + x.shape[axis + 1:],
                                                                            x.dtype)], axis=axis)
        for axis in range(RANK[p]):
            if p in FREE and axis == 0:
                continue
            # the stored rows follow the list of queries: there the first tensor with another count is named
            word = "expected 4x" if p == "/queries/index" else group_of(p)
            case("%s longer on axis %d" % (p, axis), redo(p, longer(axis)), word)
            case("%s shorter on axis %d" % (p, axis),
                 redo(p, lambda x, axis=axis: x.take(range(x.shape[axis] - 1), axis=axis)), word)
        case("%s never written" % p, unwritten(p), p)
        case("%s chunked, chunks missing" % p, unwritten(p, True), p)
        case("%s deflated" % p, redo(p, filtered, **dict(compression="gzip")) if kind_of(p) != "bf16" else
             filtered_bf16(p), "filter", code=3)
        case("%s not listed" % p, unlisted(p), p, raw=True)


RANK = {}                           # of every dataset of the base file


def kind_of(p):
    last = p.rsplit("/", 1)[1]
    if p.startswith(L0) and last in ("k", "v", "q", "wo"):
        return "bf16"
    return "int" if last in ("segment_start", "position", "id", "flags", "text_bytes", "text_offset", "begin", "end",
                             "kind", "index", "top_id", "nonfinite", "rope_index", "model_files", "config_json") else "f"


def filtered(x):
    return np.zeros((1,) * x.ndim) if x.size == 0 else x


def filtered_bf16(p):
    def change(f):
        shape = f[p].shape
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(shape)
        plist.set_deflate(1)
        low_dataset(p, BF16, shape, np.zeros(shape, "<u2"), plist)(f)
    return change


def unwritten(p, chunked=False):
    def change(f):
        d = f[p]
        shape = tuple(max(s, 1) for s in d.shape)
        t, attrs = d.id.get_type(), dict(d.attrs)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if chunked:
            plist.set_chunk((1,) * len(shape))
        low_dataset(p, t, shape, None, plist)(f)
        if chunked and np.prod(shape) > 1:         # one chunk of many
            space = h5py.h5s.create_simple(shape)
            space.select_hyperslab((0,) * len(shape), (1,) * len(shape))
            f[p].id.write(h5py.h5s.create_simple((1,)), space, np.zeros(1, "V%d" % t.get_size()), mtype=t)
        f[p].attrs.update(attrs)
    return change


def unlisted(p):
    def change(f):
        g = f["checksums"]
        paths, sizes, shas = [x.decode() for x in g["path"][...]], g["nbytes"][...], g["sha256"][...]
        keep = [i for i, x in enumerate(paths) if x != p]
        write_list(f, [paths[i] for i in keep], sizes[keep], [shas[i].tobytes() for i in keep])
    return change


def link_cases():
    for p in (L0 + "/k", L0 + "/lse", "/tokens/id", "/queries/index", "/verify/attn_out", L0 + "/stats/sum",
              L0 + "/scores/kvzip", "/future/thing", L0, "/layers", "/tokens", "/verify", "/provenance", L0 + "/stats",
              L0 + "/rope", L0 + "/extra/soft", "/spans", "/logits"):
        aside = "/aside"
        # an unknown object that is not listed any more is ignored, whatever it is
        case("%s a soft link" % p, soft(p, aside), p, code=0 if p == "/future/thing" else 3)
        case("%s a dangling soft link" % p, both(drop(p), lambda f, p=p: f.__setitem__(p, h5py.SoftLink("/nowhere"))), p,
             raw=True)
        case("%s a looping soft link" % p, both(drop(p), lambda f, p=p: f.__setitem__(p, h5py.SoftLink(p))), p, raw=True)
        case("%s an external link" % p, both(drop(p), lambda f, p=p: f.__setitem__(p, h5py.ExternalLink("base.h5", p))),
             p, raw=True)
        case("%s an external link to nothing" % p,
             both(drop(p), lambda f, p=p: f.__setitem__(p, h5py.ExternalLink("/nowhere/x.h5", p))), p, raw=True)
    for name in ("checksums/path", "checksums/nbytes", "checksums/sha256", "checksums"):
        p = "/" + name
        case("%s an external link" % p, both(drop(p), lambda f, p=p: f.__setitem__(p, h5py.ExternalLink("base.h5", p))),
             p, raw=True)
        case("%s a soft link" % p, soft(p, "/aside"), p, raw=True)
        case("%s missing" % p, drop(p), p, raw=True)
    case("a layer that contains itself", lambda f: f[L0].__setitem__("loop", f[L0]), code=0, raw=True)

    def committed(f):
        f["/tokens/named"] = np.dtype("<i4")
        del f["/tokens/id"]
        f["/tokens/id"] = np.dtype("<i4")
    case("a data type where a dataset is expected", committed, "/tokens/id", raw=True)


def soft(p, aside):
    def change(f):
        f.move(p, aside)
        f[p] = h5py.SoftLink(aside)
    return change


def storage_cases():
    for p in (L0 + "/k", "/tokens/id", L0 + "/lse", "/future/thing"):
        def virtual(f, p=p, unlimited=False):
            d = f[p]
            shape, dt = d.shape, np.dtype("<f4") if kind_of(p) != "int" else np.dtype("<i4")
            del f[p]
            layout = h5py.VirtualLayout(shape, dt, maxshape=(None,) + shape[1:] if unlimited else None)
            src = h5py.VirtualSource("base.h5", "/src", shape, maxshape=(None,) + shape[1:] if unlimited else None)
            if unlimited:                       # h5py's own layouts cannot select without end
                here, there = (h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,) + shape[1:]) for _ in "ab")
                for s in (here, there):
                    s.select_hyperslab((0,) * len(shape), (h5py.h5s.UNLIMITED,) + (1,) * (len(shape) - 1),
                                       block=(1,) + shape[1:], stride=(1,) * len(shape))
                plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                plist.set_virtual(here, b"base.h5", b"/src", there)
                h5py.h5d.create(f.id, p.encode(), h5py.h5t.py_create(dt), here, plist)
            else:
                layout[...] = src
                f.create_virtual_dataset(p, layout)
        case("%s virtual" % p, virtual, p, raw=True)
        case("%s virtual, unlimited" % p, lambda f, p=p, v=virtual: v(f, p, True), p, raw=True)

        def external(f, p=p):
            shape = f[p].shape
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_external(b"base.h5", 0, int(np.prod(shape)) * 4)
            low_dataset(p, h5py.h5t.IEEE_F32LE if kind_of(p) != "int" else h5py.h5t.STD_I32LE, shape, None, plist)(f)
        case("%s in an external file" % p, external, p, raw=True)
    shape4 = (1 << 13, 1 << 13, 1 << 13, 1 << 13)
    case("2^52 elements without storage, listed", low_dataset("/future/huge", h5py.h5t.IEEE_F32LE, shape4), "/future/huge")
    case("k of 2^52 elements", low_dataset(L0 + "/k", BF16, (1 << 20, 1 << 20, 1 << 12)), L0 + "/k")
    case("path list of 2^40 entries", low_dataset("/checksums/path", fixed(128), (1 << 40,)), "/checksums/path", raw=True)
    case("tokens of 2^40", low_dataset("/tokens/id", h5py.h5t.STD_I32LE, (1 << 40,)), "/tokens/id")
    case("text of 256 MiB + 1", low_dataset("/tokens/text_bytes", h5py.h5t.STD_U8LE, ((1 << 28) + 1,)),
         "/tokens/text_bytes")
    case("65537 spans", both(*[redo("/spans/" + n, np.zeros(65537), k) for n, k in
                               (("begin", "i64"), ("end", "i64"), ("kind", "i32"))]), "/spans/begin")
    case("65536 spans", both(*[redo("/spans/" + n, np.zeros(65536), k) for n, k in
                               (("begin", "i64"), ("end", "i64"), ("kind", "i32"))]), code=0)
    case("65537 samples", both(redo("/verify/index", np.zeros((65537, 3)), "i32"),
                               redo("/verify/attn_out", np.zeros((65537, 6)), "f32")), "/verify/index")
    case("1025 non-finite entries", redo("/verify/nonfinite", np.zeros((1025, 4)), "i64"), "/verify/nonfinite")
    case("257 logits", both(redo("/logits/top_id", np.zeros((G + 1, 257)), "i32"),
                            redo("/logits/top_logit", np.zeros((G + 1, 257)), "f32")), "/logits/top_id")
    for filters, label in ((dict(compression="gzip"), "deflate"), (dict(shuffle=True), "shuffle"),
                           (dict(fletcher32=True), "fletcher32"), (dict(compression="lzf"), "filter 32000"),
                           (dict(compression="gzip", shuffle=True, fletcher32=True), "filter")):
        case("f32 with %s" % filters, redo("/layers/003/k", **filters), label)
        case("unknown dataset with %s" % filters, redo("/future/thing", **filters), label)

    def foreign(f):
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, T, 4))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0,) * 7)
        low_dataset("/layers/003/k", h5py.h5t.IEEE_F32LE, (1, T, 4), np.zeros((1, T, 4), "<f4"), plist)(f)
    case("filter 32001", foreign, "filter 32001")
    big = lambda f: low_dataset("/future/chunk", h5py.h5t.STD_U8LE, (1,), None, big_chunk())(f)

    def big_chunk():
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(((64 << 20) + 1,))
        return plist

    def huge_chunk(f):
        if "/future/chunk" in f:
            del f["/future/chunk"]
        d = h5py.h5d.create(f.id, b"/future/chunk", h5py.h5t.STD_U8LE,
                            h5py.h5s.create_simple((1,), (h5py.h5s.UNLIMITED,)), big_chunk())
        del d
    case("chunk of 64 MiB + 1", huge_chunk, "/future/chunk")

    def compact(f):
        for p in ("/tokens/id", L0 + "/lse"):
            d = f[p]
            x, t, attrs = d[...], d.id.get_type(), dict(d.attrs)
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.COMPACT)
            low_dataset(p, t, x.shape, x, plist)(f)
            f[p].attrs.update(attrs)
    case("compact datasets", compact, code=0)
    case("extensible chunked", both(redo("/layers/003/k", chunks=(1, 4, 4), maxshape=(1, None, 4)),
                                    redo("/tokens/id", chunks=(4,), maxshape=(None,))), code=0)
    case("odd chunks", both(redo("/layers/003/k", chunks=(1, 2, 3)), redo("/layers/003/q", chunks=(2, 5, 1))), code=0)


def rule_cases():
    q = "/queries/index"
    for label, x in (("repeats", [2, 3, 4, 5, 6, 7, 7]), ("falls", [2, 3, 5, 4, 6, 7, 8]), ("negative", [-1, 3, 4, 5, 6, 7, 8]),
                     ("too large", [3, 4, 5, 6, 7, 8, 9]), ("gap", [1, 2, 3, 4, 6, 7, 8])):
        case("queries %s" % label, redo(q, x), q)
    case("positions fall", edit("/tokens/position", at(3, 0)), "/tokens/position")
    case("position gap on a sliding layer", edit("/tokens/position", at(8, 100)), "/tokens/position")
    case("positions from 1000", both(edit("/tokens/position", lambda x: x.__iadd__(1000)),
                                     drop("/verify/rope_index", "/verify/rope_k")), code=0)
    case("positions of rank 2", redo("/tokens/position", np.zeros((3, T))), "/tokens/position")
    case("token id -2", edit("/tokens/id", at(0, -2)), "/tokens/id")
    case("token ids removed", edit("/tokens/id", lambda x: x.fill(-1)), code=0)
    for label, x in (("falls", [0, 1, 2, 3, 4, 3, 5, 6, 7, 11]), ("starts late", [1, 1, 2, 3, 4, 4, 5, 6, 7, 11]),
                     ("ends early", [0, 1, 2, 3, 4, 4, 5, 6, 7, 10]), ("ends late", [0, 1, 2, 3, 4, 4, 5, 6, 7, 12]),
                     ("negative", [0, -1, 2, 3, 4, 4, 5, 6, 7, 11]), ("huge", [0, 1, 2, 3, 4, 2**62, 2**62, 2**62, 2**62, 11])):
        case("text offsets: %s" % label, redo("/tokens/text_offset", x), "/tokens/text_offset")
    spans = lambda b, e: both(redo("/spans/begin", b), redo("/spans/end", e), redo("/spans/kind", [0] * len(b)))
    for label, b, e in (("crossing", [0, 3], [5, 8]), ("unsorted", [3, 0], [4, 9]), ("short before long", [0, 0], [3, 9]),
                        ("past the end", [0], [10]), ("negative", [-1], [3]), ("reversed", [4], [3]),
                        ("crossing below another", [0, 1, 2, 4], [9, 5, 4, 7]), ("huge", [2**62], [2**62])):
        case("spans: %s" % label, spans(b, e), "/spans")
    case("span of kind -1", edit("/spans/kind", at(0, -1)), "/spans")
    for label, b, e in (("none", [], []), ("nested", [0, 0, 1, 1], [9, 5, 4, 2]), ("empty ones", [0, 0, 9], [9, 0, 9]),
                        ("equal", [2, 2], [5, 5])):
        case("spans accepted: %s" % label, spans(b, e), code=0)
    s = L0 + "/stats"
    case("stats n_queries", setattr_(s, "n_queries", I64(N - 1)), "n_queries")
    case("stats n_queries missing", setattr_(s, "n_queries", None), "n_queries")
    case("stats first_query", setattr_(s, "first_query", I64(1)), "first_query")
    case("stats block missing", setattr_(s, "block", None), "block")
    case("stats block 0", setattr_(s, "block", I64(0)), "block")
    case("stats absent", drop(s), code=0)
    r = L0 + "/rope"
    for name in "type pairing rotary_dim offset attention_scaling angle_dtype table_dtype".split():
        case("rope %s missing" % name, setattr_(r, name, None), name)
    for name, x in (("pairing", text("other")), ("angle_dtype", text("f8")), ("table_dtype", text("int8")),
                    ("rotary_dim", I64(3)), ("rotary_dim", I64(0)), ("rotary_dim", I64(6)), ("rotary_dim", I64(-4)),
                    ("rotary_dim", I64(2**40)), ("offset", I64(1)), ("offset", I64(-1)), ("attention_scaling", np.float64(np.nan)),
                    ("attention_scaling", np.float64(0)), ("type", I64(0))):
        case("rope %s = %s" % (name, x), setattr_(r, name, x), name)
    case("inv_freq NaN", edit(r + "/inv_freq", at((0, 0), np.nan)), r + "/inv_freq")
    seg = lambda x: both(redo(r + "/segment_start", x), redo(r + "/inv_freq", np.ones((len(x), 2))))
    for label, x in (("start 1", [1]), ("not increasing", [0, 5, 5]), ("none", []), ("65", list(range(65)))):
        case("rope segments: %s" % label, seg(x), r)
    case("rope interleaved", both(setattr_(r, "pairing", text("interleaved")), drop("/verify/rope_index", "/verify/rope_k")),
         code=0)
    case("rope absent", both(drop(r), drop("/verify/rope_index", "/verify/rope_k")), code=0)
    e = L0 + "/ea"
    for name, x in (("first", I64(-1)), ("first", None), ("last", I64(N)), ("last", I64(0)), ("basis", text("x")),
                    ("basis", None)):
        case("ea %s = %s" % (name, x), setattr_(e, name, x), name)
    case("ea future without horizon", setattr_(e, "basis", text("future")), "horizon")
    for name, x in (("granularity", text("layer")), ("granularity", None), ("higher_is_better", I64(2)),
                    ("higher_is_better", None), ("granularity", text("query_head"))):
        case("score %s = %s" % (name, x), setattr_(L0 + "/scores/kvzip", name, x), L0 + "/scores/kvzip")
    case("score named in upper case", lambda f: f.move(L0 + "/scores/kvzip", L0 + "/scores/KVZIP"), "KVZIP")
    case("score with a long name", lambda f: f.move(L0 + "/scores/kvzip", L0 + "/scores/" + "a" * 49), "a" * 20)

    def many(group, n):
        def change(f):
            for i in range(n):
                if group == "scores":
                    d = put(f, L0 + "/scores/s%03d" % i, np.ones((2, N)), "f32")
                    d.attrs["granularity"], d.attrs["higher_is_better"] = text("kv_head"), I64(1)
                else:
                    f.copy(L0 + "/extra/soft", L0 + "/extra/s%03d" % i)
        return change
    case("64 scores", many("scores", 62), code=0)
    case("65 scores", many("scores", 63), "too many")
    case("16 extra", many("extra", 15), code=0)
    case("17 extra", many("extra", 16), "too many")
    x = L0 + "/extra/soft"
    for v in (None, I64(-1), I64(T + 1)):
        case("extra after = %s" % v, setattr_(x, "after", v), "after")
    case("extra of 4097 rows", both(redo(x + "/q", np.ones((4, 4097, 4)), "f32"), redo(x + "/k", np.ones((2, 4097, 4)), "f32"),
                                    redo(x + "/position", np.zeros(4097), "i32")), x)
    case("extra rows instead of q and k", both(drop(x + "/q", x + "/k"), redo(x + "/rows", np.zeros((4, 2, N)), "u16"),
                                               setattr_(x + "/rows", "encoding", text("logp_u16"))), code=0)
    case("rows encoding unknown", setattr_("/layers/001/rows", "encoding", text("x")), "encoding")
    case("rows encoding of another type", setattr_("/layers/001/rows", "encoding", text("logp_u16")), "/layers/001/rows")
    case("rows encoding missing", setattr_("/layers/001/rows", "encoding", None), "encoding")
    v = "/verify"
    for name in ("tol", "max_err", "passed", "n_nonfinite"):
        case("verify %s missing" % name, setattr_(v, name, None), name)
    for name, x in (("tol", np.float64(np.nan)), ("max_err", np.float64(np.inf)), ("passed", I64(2)), ("n_nonfinite", I64(-1))):
        case("verify %s = %s" % (name, x), setattr_(v, name, x), name)
    for label, i, x in (("layer", (0, 0), 5), ("layer without attention", (0, 0), 2), ("negative layer", (0, 0), -1),
                        ("head", (0, 1), 4), ("row", (0, 2), R), ("negative row", (0, 2), -1)):
        case("verify index: %s" % label, edit(v + "/index", at(i, x)), v + "/index")
    case("verify missing", drop(v), v)
    for label, x in (("layer", [9, 0, 0, 0]), ("tensor", [0, 3, 0, 0]), ("head", [0, 1, 2, 0]), ("token", [0, 0, 0, T])):
        case("nonfinite: %s" % label, redo(v + "/nonfinite", [x]), v + "/nonfinite")
    for i, x in (((0, 0), 7), ((0, 1), 2), ((0, 2), T), ((0, 2), -1)):
        case("rope_index %s = %d" % (i, x), edit(v + "/rope_index", at(i, x)), v + "/rope_index")
    redact = dict(ids=text("hash"), dtype=text("f32"), source_dtype=text("bf16"), max_logit_err=np.float64(0),
                  max_mass_err=np.float64(0))

    def redacted(f, skip=None, **change):
        f.attrs["redacted"] = I64(1)
        f.create_group("/redact").attrs.update({k: x for k, x in {**redact, **change}.items() if k != skip})
    case("redacted", redacted, code=0)
    for name in redact:
        case("redact %s missing" % name, lambda f, n=name: redacted(f, n), name)
    case("redact source_dtype unknown", lambda f: redacted(f, source_dtype=text("fp4")), "source_dtype")


def list_cases():
    def relisted(fn):
        def change(f):
            g = f["checksums"]
            rows = [[p.decode(), int(n), s.tobytes()] for p, n, s in zip(g["path"][...], g["nbytes"][...], g["sha256"][...])]
            rows = fn(rows) or rows
            write_list(f, [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
        return change
    L = lambda name, fn, word, code=3: case("list: " + name, relisted(fn), word, code, raw=True)
    one = lambda p: (lambda rows: sorted(rows + [[p, 4, bytes(32)]]))
    for p in ("/tokens/../x", "/tokens//id", "tokens/id2", "/", "", "/tokens/", "/zz/./id", "/zz zz", "/zz-z", "/zz\x1b[2J", "/zz\u00e9"):
        L(repr(p), one(p), "/checksums/path")
    L("128 bytes", one("/z" + "a" * 126), "127 bytes")
    L("127 bytes, absent", one("/z" + "a" * 125), "missing")
    L("twice", lambda rows: sorted(rows + [rows[3]]), "twice")
    L("out of order", lambda rows: [rows[1], rows[0]] + rows[2:], "order")
    L("a group", one("/layers"), "/layers")
    L("a dataset as a group", one("/tokens/id/x"), "/tokens/id/x")
    L("absent", one("/zzz/nothing"), "/zzz/nothing")
    L("itself", one("/checksums/path"), "/checksums/path")
    L("nbytes of one", lambda rows: rows[5].__setitem__(1, rows[5][1] + 1), "/checksums/nbytes")
    L("empty", lambda rows: rows[:1], "not listed")
    L("a digest of one", lambda rows: rows[5].__setitem__(2, bytes(32)), "checksums", 1)
    case("algorithm missing", setattr_("/checksums", "algorithm", None), "algorithm", raw=True)
    case("algorithm unknown", setattr_("/checksums", "algorithm", text("md5")), "algorithm", raw=True)
    case("path of 64 bytes", redo_list("path", lambda x: x.astype("S64")), "/checksums/path", raw=True)
    case("path of 129 bytes", redo_list("path", lambda x: x.astype("S129")), "/checksums/path", raw=True)
    case("path variable-length", redo_list("path", lambda x: [p.decode() for p in x]), "/checksums/path", raw=True)
    case("nbytes as i64", redo_list("nbytes", lambda x: x.astype("<i8")), "/checksums/nbytes", raw=True)
    case("nbytes shorter", redo_list("nbytes", lambda x: x[:-1]), "/checksums/nbytes", raw=True)
    case("sha256 of 31", redo_list("sha256", lambda x: x[:, :31]), "/checksums/sha256", raw=True)
    case("sha256 flat", redo_list("sha256", lambda x: x.reshape(-1)), "/checksums/sha256", raw=True)
    for dt, label in (("<i2", "i16"), ("S4", "text"), (">f8", "big-endian"), ([("a", "<f4")], "compound"), ("?", "bool")):
        case("unknown listed dataset: %s" % label, lambda f, dt=dt: f.create_dataset("/future/odd", data=np.zeros(3, dt)),
             "/future/odd")
    case("unknown listed scalar", lambda f: f.create_dataset("/future/odd", data=np.float64(1)), "/future/odd")
    case("unknown, not listed, odd type", lambda f: f.create_dataset("/future/odd", data=np.zeros(3, "S4")), code=0, raw=True)


def redo_list(name, fn):
    def change(f):
        x = f["checksums"][name][...]
        del f["checksums"][name]
        f["checksums"].create_dataset(name, data=fn(x))
    return change


def content_cases():
    """Structure is sound, contents are not: verify says so with exit code 1."""
    for p in (L0 + "/k", L0 + "/v", L0 + "/q", "/layers/003/k", "/layers/003/q"):
        i = (0, 2, 1)
        case("NaN in %s" % p, edit(p, at(i, np.nan)), p, code=1)
        case("infinity in %s" % p, edit(p, at(i, np.inf)), p, code=1)
    for p in (L0 + "/lse", L0 + "/nu", L0 + "/stats/sum", "/layers/003/sinks"):
        case("NaN in %s" % p, edit(p, at((0, 1) if "sinks" not in p else 0, np.nan)), p, code=1)
    case("negative nu", edit(L0 + "/nu", at((0, 1), -1)), L0 + "/nu", code=1)
    case("lse shifted", edit(L0 + "/lse", lambda x: x.__setitem__((1, 2), x[1, 2] + 0.01)), "layer 0 head 1 row 2", code=1)
    case("lse shifted on the sliding layer", edit("/layers/001/lse", lambda x: x.__setitem__((3, 6), x[3, 6] - 0.01)),
         "layer 1 head 3 row 6", code=1)
    case("lse shifted on the chunked layer", edit("/layers/004/lse", lambda x: x.__setitem__((1, 0), x[1, 0] - 0.01)),
         "layer 4 head 1 row 0", code=1)
    case("lse shifted with sinks", edit("/layers/003/lse", lambda x: x.__setitem__((2, 3), x[2, 3] + 0.01)),
         "layer 3 head 2 row 3", code=1)
    case("another scale", setattr_(L0, "scale", np.float64(0.6)), "row sums", code=1)
    case("another window", setattr_("/layers/001", "window", I64(3)), "row sums", code=1)
    case("another softcap", setattr_("/layers/001", "softcap", np.float64(1)), "row sums", code=1)
    case("stats of other rows", edit(L0 + "/stats/sum", lambda x: x.__imul__(1.01)), "column statistics", code=1)
    case("sumsq above sum", edit(L0 + "/stats/sumsq", at((0, 0), 3)), "column statistics", code=1)
    case("max above 1", edit(L0 + "/stats/max", at((0, 0), 1.1)), "column statistics", code=1)
    case("negative sum", edit(L0 + "/stats/sum", at((0, 0), -1)), "column statistics", code=1)
    case("another output", edit("/verify/attn_out", at((2, 1), 3)), "attention output", code=1)
    case("output NaN", edit("/verify/attn_out", at((2, 1), np.nan)), "/verify/attn_out", code=1)
    case("output in an unused column", edit("/verify/attn_out", at((0, 5), 2)), "attention output", code=1)
    case("a loose tol does not help", both(setattr_("/verify", "tol", np.float64(1e9)),
                                           edit("/verify/attn_out", at((2, 1), 3))), "attention output", code=1)
    case("tol 0 tightens", setattr_("/verify", "tol", np.float64(0)), "attention output", code=1)
    case("values changed", edit(L0 + "/v", lambda x: x.__imul__(2)), "attention output", code=1)
    case("no values", lambda f: [f.__delitem__("/layers/%03d/v" % l) for l in (0, 1, 3, 4)], code=0)
    case("n_nonfinite 3", setattr_("/verify", "n_nonfinite", I64(3)), "n_nonfinite", code=1)
    case("rotary sample differs", edit("/verify/rope_k", at((0, 0), 5)), "rotary samples", code=1)
    case("rotary sample NaN", edit("/verify/rope_k", at((0, 0), np.nan)), "/verify/rope_k", code=1)
    case("rotary frequencies differ", edit(L0 + "/rope/inv_freq", at((0, 0), 0.7)), "rotary samples", code=1)


def file_cases(base):
    size = os.path.getsize(base)
    data = open(base, "rb").read()
    points = sorted(set(list(range(0, size, 4096)) + [1, 7, 8, 47, 48, 95, 96, 97, 511, 512, 513, size - 1, size - 8, size - 100]
                        + [random.randrange(1, size) for _ in range(40)]))
    for n in points:
        of_bytes("truncated at %d" % n, lambda d, n=n: d[:n])
    of_bytes("text", lambda d: b"hello\n", "HDF5")
    of_bytes("zeros", lambda d: bytes(70000), "HDF5")
    of_bytes("signature only", lambda d: d[:8])
    of_bytes("user block", lambda d: bytes(512) + d, code=0)
    of_bytes("bytes after the end", lambda d: d + bytes(5000), code=0)
    with h5py.File(base) as f:
        for path, d, _ in listing(f):
            offset = d.id.get_offset()
            if offset is not None and d.size:
                of_bytes("bit flipped in %s" % path, flip(offset + d.id.get_storage_size() // 2, 1 << 6), "", (1, 3))
        k = f[L0 + "/k"]
        where, n = k.id.get_offset(), k.id.get_storage_size()
        assert data.count(struct.pack("<QQ", where, n)) == 1
        for label, x, code in (("one byte past the end", size - n + 1, 3), ("past the end", size + 4096, 3), ("at 2^63", 1 << 63, 3),
                               ("at the last address", 2**64 - 2, 3), ("undefined", 2**64 - 1, 3),
                               ("in the superblock", 0, (1, 3)), ("in the root group", 96, (1, 3)), ("unaligned", where + 1, 1)):
            of_bytes("data of k %s" % label, moved(where, n, x), L0 + "/k", code)
        of_bytes("file ends inside k", ends_inside(where, n), L0 + "/k")
        for name in ("path", "nbytes", "sha256"):
            d = f["/checksums/" + name]
            of_bytes("bit flipped in /checksums/" + name, flip(d.id.get_offset() + 5, 2), "", (1, 3))
    return data


def flip(offset, bit):
    def whole(d):
        b = bytearray(d)
        b[offset] ^= bit
        return bytes(b)
    return whole


def moved(where, n, to):
    """The dataset's layout message names another address."""
    return lambda d: d.replace(struct.pack("<QQ", where, n), struct.pack("<QQ", to, n))


def ends_inside(where, n):
    """The dataset lies at the end, half of it is there, and the superblock (version 0) says that this is all."""
    def whole(d):
        assert d[8] == 0 and struct.unpack("<Q", d[40:48])[0] == len(d)
        size = len(d) + n // 2
        return moved(where, n, len(d))(d[:40] + struct.pack("<Q", size) + d[48:]) + d[where:where + n // 2]
    return whole


def fuzz_cases(n, size):
    """Random damage anywhere, metadata of HDF5 included: any answer but a crash or a hang."""
    rng = random.Random(20260101)
    for i in range(n):
        edits = [(rng.randrange(size), rng.randrange(1, 256)) for _ in range(rng.choice((1, 1, 2, 8, 64)))]

        def whole(d, edits=edits):
            b = bytearray(d)
            for o, x in edits:
                b[o] ^= x
            return bytes(b)
        of_bytes("damage %d" % i, whole, "", (0, 1, 3))


# ------------------------------------------------------------------ running
def is_sanitized(program):
    with open(program, "rb") as f:
        return b"__asan_init" in f.read()


def limits():
    """No file may ask for more than 1 GiB; AddressSanitizer itself maps terabytes."""
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(program, verb, path):
    """Exit code, stderr and peak memory in MB."""
    p = subprocess.Popen([program, verb, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limits)
    try:
        out, err = p.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        p.kill()
        p.communicate()
        return "hangs", b"", b""
    return p.returncode, out, err


def in_library(err):
    """A sanitizer's finding that lies in libhdf5, which reads metadata before any check."""
    top = [line for line in err.split(b"\n") if line.lstrip().startswith(b"#1 ")]
    return b"Sanitizer: " in err and top and all(b"libhdf5" in line for line in top)


def judge(n, c, program, path):
    errors = []
    codes = c.code if isinstance(c.code, tuple) else (c.code,)
    rc, out, err = run(program, "verify", path)
    if SANITIZED and c.name.startswith("damage ") and in_library(err):
        return [], err
    where = "verify: exit %s, expected %s" % (rc, "/".join(map(str, codes)))
    if rc not in codes:
        errors.append(where)
    if rc == 0 and err:
        errors.append("prints on stderr")
    if rc != 0:
        if not err.startswith(b"kvtrace: ") or err.count(b"\n") != 1 or not err.endswith(b"\n"):
            errors.append("not one line that begins with 'kvtrace: '")
        if c.word.encode() not in err:
            errors.append("does not name '%s'" % c.word)
        if any(b < 32 for b in err[:-1]):
            errors.append("control characters in the message")
    if rc == 3 and out:
        errors.append("refused, but prints on stdout")
    if errors:
        return errors, err
    if c.code in (0, 1) or (c.code == 3 and n % 5 == 0):
        rc2, out, err2 = run(program, "info", path)
        expected = 3 if c.code == 3 and c.name not in ("incomplete",) else 0
        if rc2 != expected:
            return ["info: exit %s, expected %s" % (rc2, expected)], err2
    return [], err


SANITIZED = len(sys.argv) > 1 and is_sanitized(sys.argv[1])


def main():
    program, folder = os.path.abspath(sys.argv[1]), sys.argv[2]
    only = os.environ.get("MALFORMED_ONLY", "")
    random.seed(1)
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    make("base.h5")
    with h5py.File("base.h5") as f:
        RANK.update((path, d.ndim) for path, d, _ in listing(f))
    for label, kw in (("as made", {}), ("without optional objects", dict(optional=False)), ("chunked", dict(chunked=True)),
                      ("version bounds v18", dict(libver=("v108", "v110"))), ("version bounds latest", dict(libver="latest"))):
        make("made.h5", **kw)
        of_bytes(label, lambda d, b=open("made.h5", "rb").read(): b, code=0)
    root_cases(), form_cases(), layer_cases(), dataset_cases(), link_cases(), storage_cases(), rule_cases()
    list_cases(), content_cases()
    data = file_cases("base.h5")
    fuzz_cases(int(os.environ.get("MALFORMED_FUZZ", "150")), len(data))
    n_bad = n_run = 0
    for c in CASES:
        if only and only not in c.name:
            continue
        path = "case.h5"
        with open(path, "wb") as f:
            f.write(c.whole(data) if c.whole else data)
        if c.change:
            with h5py.File(path, "r+") as f:
                c.change(f)
                # A wrong attribute is met before the list; that saves half the time.
                if not c.raw and not (c.code == 3 and getattr(c.change, "attributes_only", False)):
                    relist(f)
        n_run += 1
        errors, err = judge(n_run, c, program, path)
        if errors:
            n_bad += 1
            kept = "failed_%03d.h5" % n_bad
            shutil.copy(path, kept)
            print("FAILED: %s: %s\n    %s" % (c.name, "; ".join(errors), err.decode(errors="replace").strip()))
            print("    kept as %s" % os.path.join(folder, kept))
        elif "-v" in sys.argv:
            print("%s: %s" % (c.name, err.decode(errors="replace").strip()))
    print("%d cases, %d failed" % (n_run, n_bad))
    return 1 if n_bad or n_run < 1 else 0


if __name__ == "__main__":
    sys.exit(main())
