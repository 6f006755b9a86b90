"""kvcap_hf - record the attention of a Hugging Face transformers model into a kvtrace file.

    with kvcap_hf.capture(model, tokenizer, "trace.h5", window=128, text=True) as cap:
        ids = cap.generate("Once upon a time", max_new_tokens=128)
    print(cap.summary)

or, as a program: python -m kvcap_hf --model DIR --prompt-file F --out trace.h5

An attention function that wraps the model's own (sdpa or eager) is registered; it returns
that function's result unchanged and hands the operands to libkvcap through ctypes. One
sequence, one capture at a time. What cannot be recorded faithfully is refused with a
CaptureError; the run itself is never altered. Needs transformers >= 4.57, torch, and
libkvcap.so (argument `library`, environment variable KVCAP_LIB, or a build folder).
"""

import argparse
import ctypes as C
import ctypes.util
import hashlib
import inspect
import json
import os
import pathlib
import platform
import re
import struct
import sys

import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask

__version__ = "0.1.0"
ABI = 1
SPANS = "other system user assistant tool document question answer needle image reasoning"
SPAN = {name: i for i, name in enumerate(SPANS.split())}
DTYPE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
STAT_ALL = 1 | 2 | 4
STORE_V, STORE_TEXT, STRICT = 1, 2, 16
FULL, SLIDING, CHUNKED = 0, 1, 2
LOG_FN = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)


class CaptureError(RuntimeError):
    """Something that cannot be recorded, or libkvcap's own error."""


# ------------------------------------------------------------------ the C ABI (kvcap.h)


def _struct(name, doc, fields):
    """A ctypes structure from lines of "type: field field[n] ..."."""
    types = {"u32": C.c_uint32, "i32": C.c_int32, "i64": C.c_int64, "f64": C.c_double, "size": C.c_size_t}
    types |= {"text": C.c_char_p, "pointer": C.c_void_p, "log": LOG_FN}
    types |= {t.__name__: t for t in _structs}
    out = []
    for line in fields.strip().splitlines():
        kind, names = line.split(":")
        for field in names.split():
            base, _, n = field.rstrip("]").partition("[")
            out.append((base, types[kind.strip()] * int(n) if n else types[kind.strip()]))
    _structs.append(type(name, (C.Structure,), {"__doc__": doc, "_fields_": out}))
    return _structs[-1]


_structs = []
View = _struct(
    "View",
    "kvcap_view: a strided view, strides in elements",
    """
    pointer: data
    i32: dtype device_type device_id ndim
    i64: shape[4] stride[4]""",
)
Params = _struct(
    "Params",
    "kvcap_params",
    """
    u32: struct_size abi
    text: path provenance_json cluster_id sample_id
    u32: n_layers model_dim vocab_size window
    i64: max_tokens
    u32: flags stat_flags stat_block compress
    size: pinned_bytes
    log: log
    pointer: log_user""",
)
Rope = _struct(
    "Rope",
    "kvcap_rope",
    """
    u32: struct_size
    i32: pairing
    u32: rotary_dim offset
    f64: attention_scaling
    i32: table_dtype angle_dtype
    u32: n_segments
    pointer: inv_freq segment_start
    text: type""",
)
Layer = _struct(
    "Layer",
    "kvcap_layer",
    """
    u32: struct_size layer n_heads n_kv_heads d_k d_v
    i32: attn_type score kv_layer reserved
    f64: scale softcap
    i64: window
    pointer: sinks rope""",
)
AttnCall = _struct(
    "AttnCall",
    "kvcap_attn_call",
    """
    u32: struct_size layer
    i64: token0
    pointer: pos
    View: q k_new v_new k_all v_all
    i64: key0
    View: lse out
    i32: mask_kind rows_kind
    View: mask rows""",
)
SIZES = {View: 88, Params: 104, Rope: 64, Layer: 80, AttnCall: 832}  # of ABI 1


def find_library(path=None):
    """The libkvcap.so to use: the argument, KVCAP_LIB, a build folder of this checkout, the system."""
    here = pathlib.Path(__file__).resolve().parent
    asked = path or os.environ.get("KVCAP_LIB")
    if asked:
        return str(asked)
    built = [p for p in here.parent.parent.glob("build*/**/libkvcap.so") if "asan" not in str(p)]
    built.sort(key=lambda p: p.stat().st_mtime)
    found = [str(here / "libkvcap.so")] if (here / "libkvcap.so").exists() else [str(p) for p in built[-1:]]
    found += [p for p in [ctypes.util.find_library("kvcap")] if p]
    if not found:
        raise CaptureError("libkvcap.so was not found: build it (capture/README.md) and name it in KVCAP_LIB")
    return found[0]


def load_library(path=None):
    name = find_library(path)
    try:
        lib = C.CDLL(name)
    except OSError as e:
        raise CaptureError(f"cannot load {name}: {e}") from e
    lib.kvcap_abi.restype = C.c_uint32
    lib.kvcap_version.restype = lib.kvcap_strerror.restype = C.c_char_p
    if {t: C.sizeof(t) for t in SIZES} != SIZES:
        raise CaptureError("structures have other sizes than ABI 1: this platform is not supported")
    if lib.kvcap_abi() != ABI:
        raise CaptureError(f"{name} has ABI {lib.kvcap_abi()}, this file needs {ABI}")
    handle = C.c_void_p
    lib.kvcap_open.argtypes = [C.POINTER(handle), C.POINTER(Params)]
    lib.kvcap_set_layer.argtypes = [handle, C.POINTER(Layer)]
    lib.kvcap_set_wo.argtypes = [handle, C.c_uint32, C.POINTER(View), C.c_void_p]
    lib.kvcap_prompt.argtypes = [handle, C.POINTER(C.c_int32), C.c_int64, C.c_int64]
    lib.kvcap_text.argtypes = [handle, C.c_int64, C.c_char_p, C.c_size_t]
    lib.kvcap_span.argtypes = [handle, C.c_int64, C.c_int64, C.c_int32]
    lib.kvcap_attn.argtypes = [handle, C.POINTER(AttnCall), C.c_void_p]
    lib.kvcap_token.argtypes = [handle, C.c_int32, C.c_void_p, C.c_void_p, C.c_int32, C.c_float]
    lib.kvcap_error.argtypes = [handle, C.c_char_p, C.c_size_t]
    lib.kvcap_close.argtypes = lib.kvcap_abort.argtypes = [C.POINTER(handle)]
    lib.kvcap_abort.restype = None
    return lib


def view(t, n_axes, dtype=None):
    """A view of a host tensor; the tensor must outlive the call it is passed to."""
    v = View(t.data_ptr(), DTYPE[t.dtype] if dtype is None else dtype, 1, 0, n_axes)
    v.shape[:n_axes] = t.shape
    v.stride[:n_axes] = t.stride()
    return v


# ------------------------------------------------------------------ tokens as bytes


def _byte_alphabet():
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(rest)}}


def token_bytes(tokenizer):
    """A function id -> exact bytes, for byte-level BPE and for byte-fallback tokenizers."""
    if not getattr(tokenizer, "is_fast", False):
        raise CaptureError("text=True needs a fast tokenizer: the bytes of single tokens of a slow one are not exact")
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    how = json.dumps([spec.get("pre_tokenizer"), spec.get("decoder")])
    added = {t["id"]: t["content"].encode() for t in spec.get("added_tokens", [])}
    alphabet = _byte_alphabet()

    def byte_level(i):
        token = tokenizer.convert_ids_to_tokens(i)
        return bytes(alphabet[c] for c in token)

    def byte_fallback(i):
        token = tokenizer.convert_ids_to_tokens(i)
        hexed = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
        return bytes([int(hexed[1], 16)]) if hexed else token.replace("\u2581", " ").encode()

    if '"ByteLevel"' in how:
        plain = byte_level
    elif '"ByteFallback"' in how or "\\u2581" in how:
        plain = byte_fallback
    else:
        raise CaptureError("text=True needs a byte-level or byte-fallback tokenizer; this one is neither")
    return lambda i: added[i] if i in added else plain(i)


def text_spans(tokenizer, text, add_special_tokens=False, wanted=()):
    """Token spans [(begin, end, kind)] of a prompt: the turns of ChatML markup, and for each
    {"kind": NAME, "find": TEXT} of `wanted` the first place where TEXT stands."""
    enc = tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
    offsets, n = enc["offset_mapping"], len(enc["input_ids"])

    def tokens(a, b):
        inside = [i for i, (s, e) in enumerate(offsets) if s < b and e > a]
        return (inside[0], inside[-1] + 1) if inside else (n, n)

    out = []
    turns = [(m.start(), m[1]) for m in re.finditer(r"<\|im_start\|>(system|user|assistant|tool)\n", text)]
    for (at, role), after in zip(turns, [t for t, _ in turns[1:]] + [None]):
        begin = tokens(at, at + 1)[0]
        out.append((begin, tokens(after, after + 1)[0] if after else None, SPAN[role]))
    for w in wanted:
        at = text.find(w["find"])
        if at < 0:
            raise CaptureError(f"the prompt does not contain {w['find']!r}")
        out.append((*tokens(at, at + len(w["find"])), SPAN[w["kind"]]))
    return out


# ------------------------------------------------------------------ what a model says of itself


def _attention_modules(model, n_layers):
    found = {}
    for name, m in model.named_modules():
        if type(m).__name__.endswith("Attention") and isinstance(getattr(m, "layer_idx", None), int):
            if m.layer_idx in found:
                raise CaptureError(
                    f"layer {m.layer_idx} has two attention modules ({name}): encoder-decoder and "
                    "multi-part models are not captured"
                )
            found[m.layer_idx] = m
    if sorted(found) != list(range(n_layers)):
        raise CaptureError(
            f"{len(found)} of {n_layers} layers have an attention module that goes through "
            "AttentionInterface: hybrid models (linear attention, Mamba) are not captured"
        )
    return [found[i] for i in range(n_layers)]


def _layer_shape(config, module):
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        raise CaptureError("the configuration has no num_attention_heads")
    kv = heads // getattr(module, "num_key_value_groups", 1)
    d_k = getattr(module, "qk_head_dim", None) or getattr(module, "head_dim", None) or config.hidden_size // heads
    d_v = getattr(module, "v_head_dim", None) or d_k
    return heads, kv, d_k, d_v


def _layer_mask(config, module):
    """(attn_type, window) of a layer."""
    types = getattr(config, "layer_types", None)
    window = getattr(module, "sliding_window", None)
    if types:
        kind = types[module.layer_idx]
        if kind == "full_attention":
            return FULL, -1
        if kind == "sliding_attention":
            return SLIDING, int(window or config.sliding_window)
        if kind == "chunked_attention":
            return CHUNKED, int(config.attention_chunk_size)
        raise CaptureError(f"layer {module.layer_idx} has attention of type {kind!r}, which is not captured")
    if window is None and getattr(config, "use_sliding_window", True):
        window = getattr(config, "sliding_window", None)
    return (SLIDING, int(window)) if window else (FULL, -1)


def _rotary(model, config, module):
    """inv_freq, attention_scaling, type of a layer's rotary embedding, or None."""
    if not getattr(module, "use_rope", True):
        return None
    kind = (getattr(config, "layer_types", None) or {module.layer_idx: ""})[module.layer_idx]
    found = {
        n.rsplit(".", 1)[-1]: m
        for n, m in model.named_modules()
        if any(b.endswith("inv_freq") for b, _ in m.named_buffers(recurse=False))
    }
    if not found:
        return None
    rot = found.get("rotary_emb_local") if kind == "sliding_attention" and "rotary_emb_local" in found else None
    rot = rot or found.get("rotary_emb") or next(iter(found.values()))
    freq = getattr(rot, f"{kind}_inv_freq", None)
    scaling = getattr(rot, f"{kind}_attention_scaling", None) if freq is not None else None
    freq = freq if freq is not None else getattr(rot, "inv_freq", None)
    if freq is None:
        raise CaptureError(f"layer {module.layer_idx}: no inv_freq for attention of type {kind!r}")
    rope_type = getattr(rot, "rope_type", "default")
    rope_type = rope_type.get(kind, "default") if isinstance(rope_type, dict) else rope_type
    if rope_type in ("dynamic", "longrope"):
        raise CaptureError(f"rotary embedding of type {rope_type!r} changes its frequencies with length: not captured")
    rope_config = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if isinstance(rope_config, dict) and "mrope_section" in rope_config:
        raise CaptureError("multi-axis rotary positions (M-RoPE) are not captured")
    return (
        freq.detach().double().cpu(),
        float(getattr(rot, "attention_scaling", 1.0) if scaling is None else scaling),
        rope_type,
    )


def _is_interleaved(module):
    """Does the model file rotate neighbouring channels? Checked against real keys later."""
    fn = getattr(sys.modules[type(module).__module__], "rotate_half", None)
    try:
        return fn is not None and "::2" in inspect.getsource(fn)
    except OSError:
        return False


def _output_projection(module, d_model, width):
    for name in ("o_proj", "out_proj", "dense", "wo"):
        weight = getattr(getattr(module, name, None), "weight", None)
        if weight is not None and tuple(weight.shape) == (d_model, width) and weight.dtype in DTYPE:
            return weight
    raise CaptureError(
        f"layer {module.layer_idx}: no output projection of shape {(d_model, width)} in f32, f16 or bf16 "
        "(packed weights?): dequantise the model, or pass wo=False to record without nu"
    )


def _driver():
    try:
        line = pathlib.Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
        hit = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", line)
        return hit[1] if hit else ""
    except OSError:
        return ""


def _pos_ids(ids):
    return struct.pack(f"<{len(ids)}i", *ids)


# ------------------------------------------------------------------ the hook

_active = None  # the capture that is recording, if any


def _record(base, module, query, key, value, attention_mask, kw):
    result = base(module, query, key, value, attention_mask, **kw)
    if _active is not None:
        _active._attention(module, query, key, value, attention_mask, result[0], kw)
    return result


def _kvcap_sdpa(module, query, key, value, attention_mask, **kw):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return _record(sdpa_attention_forward, module, query, key, value, attention_mask, kw)


def _kvcap_eager(module, query, key, value, attention_mask, **kw):
    base = sys.modules[type(module).__module__].eager_attention_forward
    return _record(base, module, query, key, value, attention_mask, kw)


# Without its own mask function a name gets no mask at all, not even for sliding layers.
AttentionInterface.register("kvcap_sdpa", _kvcap_sdpa)
AttentionMaskInterface.register("kvcap_sdpa", sdpa_mask)
AttentionInterface.register("kvcap_eager", _kvcap_eager)
AttentionMaskInterface.register("kvcap_eager", eager_mask)


class Capture:
    """One recording; made by capture(), used as a context manager. Leaving the block
    closes the file; leaving it by an exception keeps only path.part."""

    def __init__(
        self,
        model,
        tokenizer,
        path,
        *,
        window=128,
        text=False,
        values=True,
        stats=True,
        wo=True,
        strict=False,
        base="auto",
        library=None,
        cluster_id=None,
        sample_id=None,
        provenance=None,
    ):
        if isinstance(model, torch._dynamo.eval_frame.OptimizedModule) or getattr(model, "_compiled_call_impl", None):
            raise CaptureError("a model under torch.compile is not captured: pass the original model")
        if model.training:
            raise CaptureError("the model is in training mode: call model.eval() first")
        if text and tokenizer is None:
            raise CaptureError("text=True needs the tokenizer")
        self.model, self.tokenizer, self.path = model, tokenizer, os.fspath(path)
        self.config = model.config.get_text_config()
        self.window, self.stats, self.cluster_id, self.sample_id = window, stats, cluster_id, sample_id
        self.flags = (STORE_V if values else 0) | (STORE_TEXT if text else 0) | (STRICT if strict else 0)
        self.bytes_of = token_bytes(tokenizer) if text else None
        self.notes = dict(provenance or {})
        self.lib = load_library(library)
        self.modules = _attention_modules(model, self.config.num_hidden_layers)
        self.layers = [self._describe(m) for m in self.modules]
        soft = any(d["softcap"] or d["sinks"] is not None for d in self.layers)
        self.base = ("eager" if soft else "sdpa") if base == "auto" else base
        if self.base not in ("sdpa", "eager"):
            raise CaptureError(f"base={base!r}: this version wraps 'sdpa' and 'eager'")
        if self.base == "sdpa" and soft:
            raise CaptureError("sdpa cannot compute soft-capping or learned sinks: use base='eager'")
        self.wo = [
            _output_projection(m, self.config.hidden_size, d["heads"] * d["d_v"]) if wo else None
            for m, d in zip(self.modules, self.layers)
        ]
        self.handle, self.keep, self.seen, self.ids = None, [], [], []
        self.summary, self.passed, self.messages = "", False, []
        self._undo, self._pre_rope, self._pos = [], None, None

    # -------------------------------------------------------------- set-up

    def _describe(self, m):
        if getattr(m, "is_kv_shared_layer", False):
            raise CaptureError(f"layer {m.layer_idx} uses the cache of another layer: not captured")
        if not getattr(m, "is_causal", True):
            raise CaptureError(f"layer {m.layer_idx} is not causal: not captured")
        heads, kv, d_k, d_v = _layer_shape(self.config, m)
        kind, window = _layer_mask(self.config, m)
        softcap = getattr(m, "attn_logit_softcapping", None) or 0.0
        sinks = getattr(m, "sinks", None)
        return {
            "heads": heads,
            "kv": kv,
            "d_k": d_k,
            "d_v": d_v,
            "kind": kind,
            "window": window,
            "scale": float(getattr(m, "scaling", d_k**-0.5)),
            "softcap": float(softcap),
            "sinks": sinks.detach().float().cpu().contiguous() if sinks is not None else None,
            "rope": _rotary(self.model, self.config, m),
            "interleaved": _is_interleaved(m),
        }

    def __enter__(self):
        global _active
        if _active is not None:
            raise CaptureError("another capture is running: one at a time")
        before = self.model.config._attn_implementation
        name = f"kvcap_{self.base}"
        self.model.set_attn_implementation(name)
        if self.config._attn_implementation != name:
            self.model.set_attn_implementation(before)
            raise CaptureError(f"{type(self.model).__name__} does not dispatch attention through AttentionInterface")
        self._undo.append(lambda: self.model.set_attn_implementation(before))
        # The inner model: chunked prefill calls forward() of the outer one, which runs no hooks.
        inner = self.model.base_model
        self._undo.append(inner.register_forward_pre_hook(self._before_forward, with_kwargs=True).remove)
        first = self.modules[0]
        if (
            self.layers[0]["rope"]
            and hasattr(first, "k_proj")
            and not any(hasattr(first, n) for n in ("k_norm", "k_layernorm"))
        ):
            self._undo.append(
                first.k_proj.register_forward_hook(lambda m, a, out: setattr(self, "_pre_rope", out)).remove
            )
        _active = self
        return self

    def __exit__(self, kind, value, trace):
        global _active
        _active = None
        for undo in reversed(self._undo):
            undo()
        self._undo = []
        if self.handle is None:
            return False
        if kind is not None:
            self.lib.kvcap_abort(C.byref(self.handle))
            self.handle = None
            return False
        rc = self.lib.kvcap_close(C.byref(self.handle))
        self.handle = None
        self.summary = self.messages[-1] if self.messages else ""
        self.passed = "acceptance test passed" in self.summary
        if rc:
            raise CaptureError(self.summary or self.lib.kvcap_strerror(rc).decode())
        return False

    def _check(self, rc):
        if rc:
            text = C.create_string_buffer(512)
            self.lib.kvcap_error(self.handle, text, len(text))
            raise CaptureError(text.value.decode(errors="replace") or self.lib.kvcap_strerror(rc).decode())

    def _provenance(self, sampling):
        m = self.model
        cuda = m.device.type == "cuda"
        config = {k: v for k, v in json.loads(m.config.to_json_string(use_diff=False)).items() if k != "_name_or_path"}
        known = {
            "engine": "transformers",
            "engine_version": f"{transformers.__version__}, torch {torch.__version__}",
            "frontend": "kvcap_hf",
            "frontend_version": __version__,
            "model_name": os.path.basename(str(m.config._name_or_path).rstrip("/")),
            "model_revision": getattr(m.config, "_commit_hash", None),
            "model_arch": type(m).__name__,
            "weight_dtype": str(m.dtype).replace("torch.", ""),
            "compute_dtype": str(m.dtype).replace("torch.", ""),
            "kv_dtype": str(m.dtype).replace("torch.", ""),
            "attn_impl": self.base,
            "mask_impl": f"{self.base}_mask",
            "gpu": torch.cuda.get_device_name(m.device) if cuda else "",
            "driver": _driver() if cuda else "",
            "cuda_runtime": torch.version.cuda if cuda else "",
            "os": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]),
            "sampling": json.dumps(sampling, sort_keys=True, default=str),
            "decode_mode": "free",
            "prompt_sha256": hashlib.sha256(_pos_ids(self.ids)).hexdigest(),
            "config_json": json.dumps(config, indent=1, sort_keys=True),
        }
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            known["tokenizer_sha256"] = hashlib.sha256(backend.to_str().encode()).hexdigest()
        known.update(self.notes)
        return json.dumps({k: str(v) for k, v in known.items() if v not in (None, "")})

    def start(self, ids, max_tokens, *, question_start=None, spans=(), sampling=None):
        """Open the file for a prompt of these ids; then run the model (generate() does both).
        max_tokens: upper bound of prompt and generated tokens together."""
        if self.handle is not None:
            raise CaptureError("one capture records one sequence: open another one")
        self.ids = [int(i) for i in ids]
        self.log = LOG_FN(lambda level, text, user: self.messages.append(text.decode(errors="replace")))
        p = Params(C.sizeof(Params), ABI, self.path.encode(), self._provenance(sampling or {}).encode(), log=self.log)
        p.cluster_id, p.sample_id = ((x or "").encode() or None for x in (self.cluster_id, self.sample_id))
        p.n_layers, p.model_dim, p.vocab_size = len(self.layers), self.config.hidden_size, self.config.vocab_size
        p.window, p.max_tokens, p.flags = self.window, max_tokens, self.flags
        p.stat_flags = STAT_ALL if self.stats else 0
        handle = C.c_void_p()
        rc = self.lib.kvcap_open(C.byref(handle), C.byref(p))
        if rc:
            raise CaptureError(self.messages[-1] if self.messages else self.lib.kvcap_strerror(rc).decode())
        self.handle = handle
        for i in range(len(self.layers)):
            self._set_layer(i)
        n, question = len(self.ids), -1 if question_start is None else question_start
        self._check(self.lib.kvcap_prompt(handle, (C.c_int32 * n)(*self.ids), n, question))
        self.n_prompt, self.max_tokens = n, max_tokens
        self.seen = [0] * len(self.layers)
        for i, t in enumerate(self.ids):
            self._text(i, t)
        for begin, end, kind in spans:
            self._check(self.lib.kvcap_span(handle, begin, max_tokens if end is None else end, SPAN.get(kind, kind)))

    def _set_layer(self, i):
        d = self.layers[i]
        layer = Layer(C.sizeof(Layer), i, d["heads"], d["kv"], d["d_k"], d["d_v"], d["kind"], kv_layer=i)
        layer.scale, layer.softcap, layer.window = d["scale"], d["softcap"], d["window"]
        if d["sinks"] is not None:
            layer.sinks = d["sinks"].data_ptr()
        if d["rope"]:
            freq, scaling, kind = d["rope"]
            start = torch.zeros(1, dtype=torch.int64)
            rope = Rope(C.sizeof(Rope), pairing=2 if d["interleaved"] else 1, rotary_dim=2 * len(freq), n_segments=1)
            rope.attention_scaling, rope.type = scaling, kind.encode()
            rope.table_dtype, rope.angle_dtype = DTYPE.get(self.model.dtype, 0), 0
            rope.inv_freq, rope.segment_start = freq.data_ptr(), start.data_ptr()
            layer.rope = C.addressof(rope)
        self._check(self.lib.kvcap_set_layer(self.handle, C.byref(layer)))
        if self.wo[i] is not None:
            w = self.wo[i].detach().to("cpu").contiguous()
            v = view(w.view(w.shape[0], d["heads"], d["d_v"]).permute(1, 2, 0), 3)
            self.keep.append(w)  # read until the file is closed
            self._check(self.lib.kvcap_set_wo(self.handle, i, C.byref(v), None))

    def _text(self, token, i):
        if self.bytes_of:
            b = self.bytes_of(i)
            self._check(self.lib.kvcap_text(self.handle, token, b, len(b)))

    # -------------------------------------------------------------- running

    def generate(self, prompt, *, max_new_tokens=128, question_start=None, spans=(), add_special_tokens=True, **kw):
        """Tokenise (a str), start, and run model.generate(); greedy unless told otherwise.
        `prompt`: text or a list of ids. Returns the list of all ids."""
        ids = (
            self.tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
            if isinstance(prompt, str)
            else list(prompt)
        )
        sampling = {"do_sample": False, "num_beams": 1, **kw}
        if sampling["num_beams"] != 1:
            raise CaptureError("beam search runs several sequences: not captured")
        self.start(
            ids,
            len(ids) + max_new_tokens,
            question_start=question_start,
            spans=spans,
            sampling={**sampling, "max_new_tokens": max_new_tokens},
        )
        x = torch.tensor([ids], device=self.model.device)
        with torch.no_grad():
            out = self.model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=max_new_tokens, **sampling)
        return out[0].tolist()

    def _before_forward(self, module, args, kw):
        if self.handle is None:
            raise CaptureError("the model was called before cap.generate() or cap.start()")
        ids = kw.get("input_ids", args[0] if args else None)
        if ids is None:
            raise CaptureError("the model was called with embeddings instead of token ids: not captured")
        if ids.shape[0] != 1:
            raise CaptureError(f"a batch of {ids.shape[0]} sequences: one capture records one sequence (batch size 1)")
        mask = kw.get("attention_mask")
        if torch.is_tensor(mask) and mask.dim() == 2 and not bool(mask.all()):
            raise CaptureError("the attention mask hides tokens (padding): pass one sequence without padding")
        cache = kw.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            raise CaptureError(
                f"{type(cache).__name__} holds keys that are not tokens yet: use the default dynamic cache"
            )
        if torch.compiler.is_compiling():
            raise CaptureError("the model is being compiled: not captured")
        at, new = self.seen[0], [int(i) for i in ids[0].tolist()]
        self._pos = None
        if at + len(new) <= self.n_prompt:
            if new != self.ids[at : at + len(new)]:
                raise CaptureError(f"tokens {at}..{at + len(new) - 1} of this call are not those of the prompt")
            return
        if at < self.n_prompt or len(new) != 1:
            raise CaptureError(f"{len(new)} tokens in one step after token {at}: speculative decoding is not captured")
        self.ids.append(new[0])
        self._check(self.lib.kvcap_token(self.handle, new[0], None, None, 0, float("nan")))
        self._text(at, new[0])

    def _mask_view(self, call, mask, n_q, n_k):
        mask = mask.detach()[:, :, :, :n_k]
        if mask.shape[0] != 1 or mask.shape[1] != 1 or mask.shape[2] != n_q or mask.shape[3] != n_k:
            raise CaptureError(
                f"a mask of shape {tuple(mask.shape)}: expected [1, 1, {n_q}, {n_k}], the same for all heads"
            )
        if mask.dtype == torch.bool:
            host, kind = mask[0, 0].to("cpu").contiguous(), 1
            call.mask = view(host, 2, dtype=0)
        else:
            host, kind = mask[0, 0].to("cpu", torch.float32).contiguous(), 3
            call.mask = view(host, 2)
        call.mask_kind = kind
        return host

    def _check_call(self, module, layer, query, kw):
        d = self.layers[layer]
        if self.modules[layer] is not module:
            raise CaptureError(f"attention of a module that was not announced as layer {layer}")
        if query.shape[0] != 1:
            raise CaptureError(f"a batch of {query.shape[0]} sequences: one capture records one sequence")
        if kw.get("dropout"):
            raise CaptureError("attention dropout is active: not captured")
        scaling = kw.get("scaling")
        if scaling is not None and abs(float(scaling) - d["scale"]) > 1e-12:
            raise CaptureError(f"layer {layer} was called with scale {float(scaling)}, its module says {d['scale']}")
        window = kw.get("sliding_window")
        if d["kind"] != CHUNKED and "sliding_window" in kw and (window or -1) != d["window"]:
            raise CaptureError(
                f"layer {layer} was called with sliding_window={window}, its configuration says {d['window']}"
            )
        if float(kw.get("softcap") or 0.0) != d["softcap"]:
            raise CaptureError(
                f"layer {layer} was called with softcap={kw.get('softcap')}, its module says {d['softcap']}"
            )
        if (kw.get("s_aux") is not None) != (d["sinks"] is not None):
            raise CaptureError(f"layer {layer}: learned sinks in the call and in the module do not agree")
        if kw.get("position_bias") is not None:
            raise CaptureError(f"layer {layer} adds a position bias to its logits: not captured")

    def _attention(self, module, query, key, value, mask, out, kw):
        layer = module.layer_idx
        self._check_call(module, layer, query, kw)
        d, seen, n_q, n_k = self.layers[layer], self.seen[layer], query.shape[2], key.shape[2]
        key0 = seen + n_q - n_k
        need = (
            max(0, seen - d["window"] + 1)
            if d["kind"] == SLIDING
            else seen - seen % d["window"]
            if d["kind"] == CHUNKED
            else 0
        )
        if key0 < 0 or key0 > need:
            raise CaptureError(
                f"layer {layer} sees {n_k} keys after {seen + n_q} tokens: a static or bounded cache, or an "
                "earlier turn; start from an empty dynamic cache"
            )
        if self._pos is None:
            ids = kw.get("position_ids")
            self._pos = (
                ids.reshape(-1).to("cpu", torch.int32).contiguous()
                if ids is not None
                else torch.arange(seen, seen + n_q, dtype=torch.int32)
            )
            if self._pos.numel() != n_q:
                raise CaptureError(f"position_ids of shape {tuple(ids.shape)} for {n_q} tokens: not captured")
        host = lambda t: t.to("cpu") if t.stride(-1) == 1 else t.contiguous().to("cpu")
        q, k, v = (host(t.detach()[0, :, -n_q:]).transpose(0, 1) for t in (query, key, value))
        o = host(out.detach()[0])
        for name, t in (("query", q), ("key", k), ("value", v), ("output", o)):
            if t.dtype not in DTYPE:
                raise CaptureError(f"layer {layer}: {name} is {t.dtype}; f32, f16 and bf16 are captured")
        if layer == 0 and self._pre_rope is not None:
            self._check_rope(d, k[-1].float(), key.dtype)
        call = AttnCall(C.sizeof(AttnCall), layer, seen, self._pos.data_ptr(), view(q, 3), view(k, 3), view(v, 3))
        call.key0, call.out = key0, view(o, 3)
        keep = self._mask_view(call, mask, n_q, n_k) if mask is not None else None
        self._check(self.lib.kvcap_attn(self.handle, C.byref(call), None))
        del keep
        self.seen[layer] = seen + n_q

    def _check_rope(self, d, rotated, dtype):
        """Do the recorded frequencies turn the newest key before rotation into the key that
        the kernel got? A wrong table would make every un-rotation of the trace wrong."""
        raw = self._pre_rope.detach()[0, -1].float().cpu().view(d["kv"], -1)
        self._pre_rope = None
        freq, scaling, _ = d["rope"]
        n = len(freq)
        angle = self._pos[-1].float() * freq.float()
        cos, sin = ((f(angle) * scaling).to(self.model.dtype).float() for f in (torch.cos, torch.sin))
        a, b = (raw[:, 0 : 2 * n : 2], raw[:, 1 : 2 * n : 2]) if d["interleaved"] else (raw[:, :n], raw[:, n : 2 * n])
        x, y = a * cos - b * sin, b * cos + a * sin
        want = torch.stack((x, y), -1).flatten(1) if d["interleaved"] else torch.cat((x, y), -1)
        error = float((want - rotated[:, : 2 * n]).abs().max() / rotated.abs().max().clamp_min(1e-30))
        if error > {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]:
            raise CaptureError(
                f"the rotary table of the model does not reproduce its own keys (relative error {error:.2g}): "
                "pairing or frequencies are not what this file expects"
            )


def capture(model, tokenizer, path, **options):
    """A Capture to be used in a `with` block. `tokenizer` may be None when prompts are lists of
    ids. Options: window, text, values, stats, wo, strict, base ("auto", "sdpa", "eager"),
    library, cluster_id, sample_id, provenance (a dict of attributes that replace or add)."""
    return Capture(model, tokenizer, path, **options)


# ------------------------------------------------------------------ program


def load_model(directory, gguf=None, dtype="bf16", device="cpu"):
    """model, tokenizer; a GGUF file is dequantised to `dtype`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[dtype]
    extra = {"gguf_file": gguf} if gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(directory, **extra)
    if gguf and hasattr(transformers, "GgufConfig"):  # else some releases keep the weights packed
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=kind, **extra).to(device).eval()
    return model, tokenizer


def model_files(directory, gguf=None):
    """JSON list of the weight files with size and sha256."""
    root = pathlib.Path(directory)
    names = [gguf] if gguf else sorted(p.name for p in root.glob("*.safetensors"))
    files = []
    for name in names:
        h = hashlib.sha256()
        with open(root / name, "rb") as f:
            for block in iter(lambda: f.read(1 << 20), b""):
                h.update(block)
        files.append({"name": name, "bytes": str((root / name).stat().st_size), "sha256": h.hexdigest()})
    return json.dumps(files)


def main(argv=None):
    ap = argparse.ArgumentParser(
        prog="kvcap_hf", description="Record one generation of a transformers model into a kvtrace file."
    )
    ap.add_argument("--model", required=True, help="folder of the model (never a name to download)")
    ap.add_argument("--gguf", help="GGUF file inside that folder")
    ap.add_argument(
        "--prompt-file",
        required=True,
        help="UTF-8 text; chat markup in it is understood; a final newline is not part of the prompt",
    )
    ap.add_argument("--out", required=True, help="trace to write")
    ap.add_argument("--max-new-tokens", type=int, default=128)
    ap.add_argument("--min-new-tokens", type=int, default=0, help="suppress the end of text before that")
    ap.add_argument("--window", type=int, default=128, help="prompt rows of Q to keep")
    ap.add_argument("--prefill-chunk", type=int, help="prefill in pieces of this many tokens")
    ap.add_argument("--dtype", choices=["bf16", "f16", "f32"], default="bf16")
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--text", action="store_true", help="store the text of the tokens (it is private by default)")
    ap.add_argument(
        "--spans",
        help='JSON list of {"kind", "find"}: parts of the prompt to mark; "question" also sets question_start',
    )
    ap.add_argument("--temperature", type=float, default=0.0, help="0 = greedy")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--cluster-id", help="statistical unit: document or conversation")
    ap.add_argument("--sample-id", help="name of the sample inside its corpus")
    ap.add_argument("--library", help="libkvcap.so")
    ap.add_argument(
        "--note", action="append", default=[], metavar="NAME=TEXT", help="provenance attribute, may be repeated"
    )
    ap.add_argument("--print-text", action="store_true", help="print what was generated")
    a = ap.parse_args(argv)
    if not os.path.isdir(a.model):
        ap.error(f"--model {a.model}: not a folder")
    if any("=" not in n for n in a.note):
        ap.error("--note takes NAME=TEXT")
    try:
        text = pathlib.Path(a.prompt_file).read_text(encoding="utf-8").removesuffix("\n")
        wanted = json.loads(pathlib.Path(a.spans).read_text(encoding="utf-8")) if a.spans else []
    except (OSError, ValueError) as e:
        ap.error(f"cannot read the prompt or the spans: {e}")
    model, tokenizer = load_model(a.model, a.gguf, a.dtype, a.device)
    torch.manual_seed(a.seed)
    marked = any(text.startswith(t) for t in tokenizer.all_special_tokens)
    kw = {"do_sample": True, "temperature": a.temperature} if a.temperature > 0 else {}
    if a.min_new_tokens:
        kw["min_new_tokens"] = a.min_new_tokens
    if a.prefill_chunk:
        kw["prefill_chunk_size"] = a.prefill_chunk
    notes = {
        "command": " ".join(["kvcap_hf", *(os.path.basename(w) for w in (argv if argv is not None else sys.argv[1:]))]),
        "seed": str(a.seed),
        "model_files": model_files(a.model, a.gguf),
        **({"weight_dtype": f"{a.gguf} dequantised to {a.dtype}"} if a.gguf else {}),
        **dict(n.split("=", 1) for n in a.note),
    }
    try:
        spans = text_spans(tokenizer, text, not marked, wanted) if (wanted or marked) else []
        question = [b for b, _, kind in spans if kind == SPAN["question"]]
        with capture(
            model,
            tokenizer,
            a.out,
            window=a.window,
            text=a.text,
            library=a.library,
            provenance=notes,
            cluster_id=a.cluster_id,
            sample_id=a.sample_id,
        ) as cap:
            ids = cap.generate(
                text,
                max_new_tokens=a.max_new_tokens,
                add_special_tokens=not marked,
                spans=spans,
                question_start=question[0] if question else None,
                **kw,
            )
    except CaptureError as e:
        print(f"kvcap_hf: {e}", file=sys.stderr)
        return 1
    n, g = cap.n_prompt, max(0, len(ids) - cap.n_prompt - 1)
    print(f"{a.out}: {n} prompt tokens, {g} decode steps, {os.path.getsize(a.out)} bytes")
    print(cap.summary)
    if a.print_text:
        print("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in tokenizer.decode(ids[n:])))
    return 0 if cap.passed else 1


if __name__ == "__main__":
    sys.exit(main())
