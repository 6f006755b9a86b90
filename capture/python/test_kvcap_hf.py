"""Acceptance tests of the transformers shim, on tiny models with random weights.

Run: KVCAP_LIB=.../libkvcap.so python test_kvcap_hf.py [-v]. Needs torch, transformers, h5py.
The traces stay in the current folder, so that `kvtrace verify` can be run on them.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import kvcap_hf

transformers.logging.set_verbosity_error()
LIB = os.environ.get("KVCAP_LIB")


def llama(dtype=torch.float32, layers=3, **kw):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        initializer_range=0.3,
        eos_token_id=None,
        pad_token_id=0,
        **kw,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def prompt(n, vocab=300):
    return np.random.default_rng(n).integers(1, vocab, n).tolist()


def plain(model, ids, new):
    x = torch.tensor([ids])
    with torch.no_grad():
        return model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=new, do_sample=False)[0].tolist()


def record(model, path, ids, new=12, window=32, tokenizer=None, **kw):
    options = {k: kw.pop(k) for k in ("text", "base", "stats", "wo", "values") if k in kw}
    with kvcap_hf.capture(model, tokenizer, path, window=window, library=LIB, **options) as cap:
        out = cap.generate(ids, max_new_tokens=new, **kw)
    return out, cap


def read(dataset):
    """f32 array of a dataset; bf16 is widened by hand (h5py converts it slowly)."""
    t = dataset.id.get_type()
    if t.get_size() == 2 and t.get_fields()[2] == 8:
        u = np.empty(dataset.shape, np.uint16)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, u, mtype=t)
        return (u.astype(np.uint32) << 16).view(np.float32)
    return dataset[...].astype(np.float32)


def rows(layer, index, head):
    """z, lse of every stored row of a query head: logits [R, T] with -inf where invisible."""
    q, k = read(layer["q"]).astype(np.float64), read(layer["k"]).astype(np.float64)
    z = layer.attrs["scale"] * q[head] @ k[head // (q.shape[0] // k.shape[0])].T
    if layer.attrs["softcap"] > 0:
        z = layer.attrs["softcap"] * np.tanh(z / layer.attrs["softcap"])
    p, j = np.asarray(index)[:, None], np.arange(k.shape[1])[None, :]
    seen = j <= p
    if layer.attrs["attn_type"] == b"sliding":
        seen &= p - j < layer.attrs["window"]
    return np.where(seen, z, -np.inf), read(layer["lse"])[head]


class Shim(unittest.TestCase):
    def check_rows(self, path):
        """Every stored row sums to 1, the learned sink's share included; the engine's output passed."""
        with h5py.File(path) as f:
            self.assertEqual(f.attrs["complete"], 1)
            self.assertEqual(f["verify"].attrs["passed"], 1)
            self.assertEqual(f["verify"].attrs["n_nonfinite"], 0)
            self.assertGreaterEqual(len({tuple(r) for r in f["verify/index"][...]}), 8)
            for layer in f["layers"].values():
                for h in range(layer.attrs["n_heads"]):
                    z, lse = rows(layer, f["queries/index"][...], h)
                    total = np.exp(z - lse[:, None]).sum(1)
                    if layer.attrs["has_sinks"]:
                        total += np.exp(layer["sinks"][h] - lse)
                    self.assertLess(np.abs(total - 1).max(), 2e-3)

    def test_tokens_are_the_same_with_and_without_capture(self):
        for dtype in (torch.float32, torch.bfloat16):
            model, ids = llama(dtype), prompt(70)
            want = plain(model, ids, 24)
            for chunk in (None, 16):
                kw = {"prefill_chunk_size": chunk} if chunk else {}
                path = f"tokens_{str(dtype)[6:]}_{chunk}.h5"
                got, cap = record(model, path, ids, 24, **kw)
                self.assertEqual(got, want)
                self.assertTrue(cap.passed, cap.summary)
                self.assertEqual(model.config._attn_implementation, "sdpa")
                self.check_rows(path)
                with h5py.File(path) as f:
                    self.assertEqual((f.attrs["n_prompt"], f.attrs["n_decode"]), (70, 23))
                    self.assertEqual(f["tokens/id"][...].tolist(), want[:-1])
            self.assertEqual(plain(model, ids, 24), want)

    def test_column_statistics_equal_brute_force(self):
        model, ids = llama(layers=1), prompt(512)
        record(model, "columns.h5", ids, 2, window=512)
        with h5py.File("columns.h5") as f:
            layer = f["layers/000"]
            for h in range(6):
                z, _ = rows(layer, f["queries/index"][...], h)
                z = z[:512, :512]
                a = np.exp(z - z.max(1, keepdims=True))
                a /= a.sum(1, keepdims=True)
                for name, want in (("sum", a.sum(0)), ("sumsq", (a * a).sum(0)), ("max", a.max(0))):
                    got = layer["stats"][name][h]
                    self.assertLess(np.abs(got - want).max() / want.max(), 1e-5, name)
                    self.assertLess((np.abs(got - want) / np.maximum(want, 1e-20)).max(), 1e-4, name)

    def test_nu_equals_brute_force(self):
        model, ids = llama(torch.bfloat16), prompt(40)
        record(model, "nu.h5", ids)
        with h5py.File("nu.h5") as f:
            for i, layer in enumerate(f["layers"].values()):
                v = read(layer["v"]).astype(np.float64)
                w = model.model.layers[i].self_attn.o_proj.weight.detach().double().numpy()
                for h in range(6):
                    want = np.abs(v[h // 3, :16] @ w[:, h * 16 : (h + 1) * 16].T).sum(1)
                    self.assertLess(np.abs(layer["nu"][h, :16] / want - 1).max(), 1e-3)

    def test_rope_metadata_undo_the_rotation(self):
        for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 4 * 3.2e-3)):
            model, ids, raw = llama(dtype), prompt(64), []
            hook = model.model.layers[1].self_attn.k_proj.register_forward_hook(lambda m, a, o: raw.append(o))
            record(model, "rope.h5", ids, 2)
            hook.remove()
            want = raw[0][0].float().numpy().reshape(64, 2, 16)
            with h5py.File("rope.h5") as f:
                layer, pos = f["layers/001"], torch.tensor(f["tokens/position"][:64])
                rope = layer["rope"]
                self.assertEqual(rope.attrs["pairing"], b"half")
                self.assertEqual(rope.attrs["table_dtype"], {4: b"f32", 2: b"bf16"}[dtype.itemsize])
                th = pos[:, None].float() * torch.tensor(rope["inv_freq"][0]).float()
                c, s = (fn(th).to(dtype).double().numpy() for fn in (torch.cos, torch.sin))
                k = read(layer["k"])[:, :64].astype(np.float64).transpose(1, 0, 2)
                a, b = k[..., :8], k[..., 8:]
                c, s = c[:, None], s[:, None]
                got = np.concatenate([(a * c + b * s) / (c * c + s * s), (b * c - a * s) / (c * c + s * s)], -1)
                error = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
                self.assertLess(error.max(), limit)

    def test_one_piece_and_chunks_give_the_same_trace(self):
        model, ids = llama(), prompt(90)
        record(model, "piece.h5", ids, 8)
        record(model, "chunks.h5", ids, 8, prefill_chunk_size=25)
        with h5py.File("piece.h5") as a, h5py.File("chunks.h5") as b:
            for name in ("n_prompt", "n_decode", "window"):
                self.assertEqual(a.attrs[name], b.attrs[name])
            self.assertEqual(a["tokens/id"][...].tolist(), b["tokens/id"][...].tolist())
            for layer in a["layers"]:
                for name in ("k", "v", "q", "lse", "nu", "stats/sum"):
                    x, y = read(a[f"layers/{layer}/{name}"]), read(b[f"layers/{layer}/{name}"])
                    self.assertLess(np.abs(x - y).max() / np.abs(x).max(), 1e-5, name)

    def test_other_attention(self):
        """Sliding windows, soft-capping, learned sinks: the acceptance test passes on each."""
        small = dict(
            vocab_size=300,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            initializer_range=0.3,
            eos_token_id=None,
            pad_token_id=0,
        )
        cases = [
            ("Mistral", dict(sliding_window=20), b"sliding", 0),
            (
                "Gemma2",
                dict(
                    sliding_window=20,
                    query_pre_attn_scalar=16,
                    attn_logit_softcapping=1.5,
                    final_logit_softcapping=None,
                ),
                b"sliding",
                0,
            ),
            ("Qwen3", dict(), b"full", 0),
            (
                "GptOss",
                dict(sliding_window=20, num_local_experts=2, num_experts_per_tok=1, rope_scaling=None),
                b"sliding",
                1,
            ),
        ]
        for name, extra, first_type, sinks in cases:
            with self.subTest(name):
                config = getattr(transformers, f"{name}Config")(**small, **extra)
                torch.manual_seed(2)
                model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
                for m in model.modules():
                    if hasattr(m, "sinks"):
                        torch.nn.init.normal_(m.sinks)
                base = {"base": "eager"} if sinks or "attn_logit_softcapping" in extra else {}
                model.set_attn_implementation(base.get("base", "sdpa"))
                ids = prompt(50)
                want = plain(model, ids, 10)
                for chunk in (None, 16):
                    got, cap = record(
                        model, f"{name.lower()}_{chunk}.h5", ids, 10, **({"prefill_chunk_size": chunk} if chunk else {})
                    )
                    self.assertTrue(cap.passed, cap.summary)
                    if chunk is None:
                        self.assertEqual(got, want)
                    self.check_rows(f"{name.lower()}_{chunk}.h5")
                    with h5py.File(f"{name.lower()}_{chunk}.h5") as f:
                        self.assertEqual(f["layers/000"].attrs["attn_type"], first_type)
                        self.assertEqual(f["layers/000"].attrs["has_sinks"], sinks)

    def refuse(self, word, run, path="refused.h5"):
        with self.assertRaises(kvcap_hf.CaptureError) as e:
            run()
        self.assertIn(word, str(e.exception))
        self.assertFalse(os.path.exists(path))
        self.assertIsNone(kvcap_hf._active)

    def test_what_cannot_be_recorded_is_refused(self):
        model, ids = llama(), prompt(20)

        def forward(**call):
            with kvcap_hf.capture(model, None, "refused.h5", library=LIB) as cap:
                cap.start(ids, 40)
                with torch.no_grad():
                    model(**call)

        x = torch.tensor([ids])
        padded = torch.ones_like(x)
        padded[0, :3] = 0
        self.refuse("batch of 2", lambda: forward(input_ids=x.repeat(2, 1)))
        self.refuse("padding", lambda: forward(input_ids=x, attention_mask=padded))
        self.refuse("embeddings", lambda: forward(inputs_embeds=model.model.embed_tokens(x)))
        self.refuse("not those of the prompt", lambda: forward(input_ids=x + 1))
        tree = torch.ones(1, 1, 20, 20, dtype=torch.bool).tril()
        tree[0, 0, 10, 4] = False
        self.refuse("query 10 and key 4", lambda: forward(input_ids=x, attention_mask=tree))
        self.refuse(
            "dynamic cache",
            lambda: record(model, "refused.h5", ids, cache_implementation="static", disable_compile=True),
        )
        self.refuse("beam search", lambda: record(model, "refused.h5", ids, num_beams=2))
        self.refuse("torch.compile", lambda: record(torch.compile(model), "refused.h5", ids))
        self.refuse("No such file", lambda: record(model, "no/such/folder/x.h5", ids))
        self.refuse("prefill was over", lambda: forward(input_ids=x[:, :10]))
        self.refuse("training", lambda: record(llama().train(), "refused.h5", ids))

        with kvcap_hf.capture(model, None, "scale.h5", library=LIB) as cap:
            model.model.layers[1].self_attn.scaling = 0.5
            with self.assertRaisesRegex(kvcap_hf.CaptureError, "scale 0.5"):
                cap.generate(ids, max_new_tokens=2)
            cap.lib.kvcap_abort(kvcap_hf.C.byref(cap.handle))
            cap.handle = None
        model.model.layers[1].self_attn.scaling = 0.25

        def wrong_rope():
            other = llama()
            with kvcap_hf.capture(other, None, "refused.h5", library=LIB) as cap:
                cap.layers[0]["rope"][0].mul_(1.7)
                cap.generate(ids, max_new_tokens=2)

        self.refuse("rotary table", wrong_rope)

    def test_text_is_exact_bytes_and_spans_are_tokens(self):
        from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers

        text = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
        text += "Le caf\u00e9 \u2615 cost 45 \u20ac, \u65e5\u672c \U0001f600?<|im_end|>\n<|im_start|>assistant\n"
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        tok.train_from_iterator(
            [text],
            trainers.BpeTrainer(
                vocab_size=300,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                special_tokens=["<|im_start|>", "<|im_end|>"],
            ),
        )
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tok)
        spans = kvcap_hf.text_spans(fast, text, False, [{"kind": "needle", "find": "45 \u20ac"}])
        model = llama()
        out, cap = record(model, "text.h5", text, tokenizer=fast, text=True, add_special_tokens=False, spans=spans)
        with h5py.File("text.h5") as f:
            raw, off, n = bytes(f["tokens/text_bytes"][...]), f["tokens/text_offset"][...], f.attrs["n_prompt"]
            self.assertEqual(raw[: off[n]].decode(), text)
            want = {1: "<|im_start|>system\nBe kind.<|im_end|>\n", 8: "45 \u20ac"}
            kinds = f["spans/kind"][...].tolist()
            self.assertEqual(sorted(kinds), [1, 2, 3, 8])
            for kind, piece in want.items():
                i = kinds.index(kind)
                self.assertIn(piece, raw[off[f["spans/begin"][i]] : off[f["spans/end"][i]]].decode())
            self.assertEqual(f["spans/end"][kinds.index(3)], len(f["tokens/id"]))
        record(model, "private.h5", text, tokenizer=fast, add_special_tokens=False)
        with h5py.File("private.h5") as f:
            self.assertNotIn("text_bytes", f["tokens"])
            for value in f["provenance"].attrs.values():
                self.assertNotIn(b"Be kind", bytes(value))

    def test_provenance_says_what_ran(self):
        record(llama(torch.bfloat16), "provenance.h5", prompt(20))
        with h5py.File("provenance.h5") as f:
            a = {k: bytes(v).decode() if isinstance(v, bytes) else v for k, v in f["provenance"].attrs.items()}
            self.assertEqual(a["engine"], "transformers")
            self.assertIn(transformers.__version__, a["engine_version"])
            self.assertIn(torch.__version__, a["engine_version"])
            self.assertEqual(
                (a["model_arch"], a["kv_dtype"], a["attn_impl"], a["decode_mode"]),
                ("LlamaForCausalLM", "bfloat16", "sdpa", "free"),
            )
            self.assertEqual(json.loads(a["sampling"])["do_sample"], False)
            self.assertEqual(json.loads(bytes(f["provenance/config_json"][...]))["num_attention_heads"], 6)

    def test_a_killed_run_leaves_no_file(self):
        code = (
            "import sys, torch, test_kvcap_hf as t\n"
            "m, ids = t.llama(), t.prompt(100)\n"
            "print('ready', flush=True)\n"
            "t.record(m, 'killed.h5', ids, 1500)\n"
        )
        env = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parent)}
        for wait in (0.0, 0.4, 1.1):
            for name in ("killed.h5", "killed.h5.part"):
                if os.path.exists(name):
                    os.remove(name)
            p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
            p.stdout.readline()
            time.sleep(wait)
            p.send_signal(signal.SIGKILL)
            p.wait()
            p.stdout.close()
            self.assertFalse(os.path.exists("killed.h5"))

    def test_a_failure_inside_the_block_keeps_only_the_part(self):
        model, ids = llama(), prompt(20)
        with self.assertRaises(ZeroDivisionError):
            with kvcap_hf.capture(model, None, "broken.h5", library=LIB) as cap:
                cap.generate(ids, max_new_tokens=4)
                1 / 0
        self.assertFalse(os.path.exists("broken.h5"))
        self.assertTrue(os.path.exists("broken.h5.part"))
        self.assertEqual(model.config._attn_implementation, "sdpa")
        os.remove("broken.h5.part")


if __name__ == "__main__":
    unittest.main()
