#!/usr/bin/env python3
"""Writes the checkpoints of testdata/ in other programs' formats.

All but `odd` hold the weights of testdata/assistant-tiny (float16). Whatever
torch can write is written by torch.save itself. Needs torch and numpy (Debian
python3-torch, 1.13):

    python3 testdata/gen/checkpoints.py

Running it again gives the same bytes.
"""
import io
import json
import os
import pickle
import shutil
import struct
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TINY = os.path.join(ROOT, "assistant-tiny")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def read_safetensors(path):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    header.pop("__metadata__", None)
    out = OrderedDict()
    for name, t in header.items():
        assert t["dtype"] == "F16", name
        lo, hi = t["data_offsets"]
        out[name] = torch.from_numpy(np.frombuffer(data[lo:hi], "<f2").copy().reshape(t["shape"]))
    return out


def folder(name, links=TOKENIZER):
    """A fresh folder with links to the tokenizer of assistant-tiny."""
    path = os.path.join(ROOT, name)
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path)
    for link in links:
        os.symlink(os.path.join("..", "assistant-tiny", link), os.path.join(path, link))
    return path


def write_json(path, obj):
    with open(path, "w") as f:
        json.dump(obj, f, indent=2)
        f.write("\n")


def save_legacy(obj, path):
    """torch.save in the form before torch 1.6.

    That form names storages by their address and sorts them by it. Here the
    names become counters in the order of first use, so that the file depends
    on nothing but its content.
    """
    buf = io.BytesIO()
    torch.save(obj, buf, _use_new_zipfile_serialization=False)
    raw = buf.getvalue()
    buf.seek(0)
    for _ in range(3):  # magic number, protocol version, system
        pickle.load(buf)
    start, used = buf.tell(), OrderedDict()

    class Spy(pickle.Unpickler):
        def persistent_load(self, pid):
            _, cls, key, _, _, _ = pid
            used[key] = torch._utils._element_size(cls.dtype)

        def find_class(self, module, name):
            if name.endswith("Storage"):
                return super().find_class(module, name)
            return OrderedDict if name == "OrderedDict" else lambda *args: None

    Spy(buf).load()
    body = raw[start : buf.tell()]
    assert sorted(used) == pickle.load(buf)
    data = {}
    for key in sorted(used):
        at = buf.tell()
        (count,) = struct.unpack("<q", buf.read(8))
        data[key] = raw[at : at + 8 + count * used[key]]
        buf.seek(at + len(data[key]))
    assert buf.tell() == len(raw)
    names = {}
    for i, key in enumerate(used):
        names[key] = "%08d" % i
        old = b"X" + struct.pack("<I", len(key)) + key.encode()
        assert old in body, key
        body = body.replace(old, b"X" + struct.pack("<I", 8) + names[key].encode())
    with open(path, "wb") as f:
        f.write(raw[:start] + body + pickle.dumps(list(names.values()), protocol=2))
        for key in used:
            f.write(data[key])


def check_equal(path, want):
    got = torch.load(path, map_location="cpu")
    assert list(got) == list(want), path
    for name in want:
        assert torch.equal(got[name], want[name]), (path, name)


META_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleave(w, head):
    """Half-split RoPE rows to Meta's order: rows i and i+head/2 of a head
    become rows 2i and 2i+1 (the inverse of permute in transformers'
    convert_llama_weights_to_hf.py)."""
    rows, cols = w.shape
    return w.view(rows // head, 2, head // 2, cols).transpose(1, 2).reshape(rows, cols).contiguous()


def to_meta(state, config):
    """The weights under Meta's names, in the order of llama2.c's state dict."""
    found = {}
    for name, w in state.items():
        short = name.replace("model.layers.", "layers.")
        for old, new in META_NAMES.items():
            short = short.replace(old, new)
        if short.endswith(("wq.weight", "wk.weight")):
            w = interleave(w, config["head_dim"])
        found[short] = w
    order = ["tok_embeddings.weight"]
    for i in range(config["num_hidden_layers"]):
        for part in ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1",
                     "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"):
            order.append(f"layers.{i}.{part}.weight")
    order.append("norm.weight")
    assert sorted(order) == sorted(found)
    out = OrderedDict((name, found[name]) for name in order)
    out["output.weight"] = out["tok_embeddings.weight"]  # tied: one storage
    return out


def write_hugging_face(state, config):
    path = folder("assistant-tiny-pt")
    shutil.copyfile(os.path.join(TINY, "config.json"), os.path.join(path, "config.json"))
    torch.save(state, os.path.join(path, "pytorch_model.bin"))
    check_equal(os.path.join(path, "pytorch_model.bin"), state)

    path = folder("assistant-tiny-sharded")
    shutil.copyfile(os.path.join(TINY, "config.json"), os.path.join(path, "config.json"))
    names = list(state)
    cut = next(i for i, n in enumerate(names) if n.startswith("model.layers.2."))
    weight_map = {}
    for i, part in enumerate((names[:cut], names[cut:])):
        file = "pytorch_model-%05d-of-00002.bin" % (i + 1)
        shard = OrderedDict((n, state[n]) for n in part)
        torch.save(shard, os.path.join(path, file))
        check_equal(os.path.join(path, file), shard)
        weight_map.update({n: file for n in part})
    total = sum(w.numel() * w.element_size() for w in state.values())
    write_json(os.path.join(path, "pytorch_model.bin.index.json"), {"metadata": {"total_size": total}, "weight_map": weight_map})

    # As transformers wrote it in the days of that format: the tied head is
    # named too and shares the embedding's storage.
    path = folder("assistant-tiny-legacy")
    shutil.copyfile(os.path.join(TINY, "config.json"), os.path.join(path, "config.json"))
    tied = OrderedDict(state)
    tied["lm_head.weight"] = state["model.embed_tokens.weight"]
    save_legacy(tied, os.path.join(path, "pytorch_model.bin"))
    check_equal(os.path.join(path, "pytorch_model.bin"), tied)


def write_meta(meta, config):
    path = folder("assistant-tiny-meta", ("tokenizer.model",))
    params = {"dim": config["hidden_size"], "n_layers": config["num_hidden_layers"], "n_heads": config["num_attention_heads"],
              "n_kv_heads": config["num_key_value_heads"], "vocab_size": config["vocab_size"], "multiple_of": 16,
              "norm_eps": config["rms_norm_eps"], "rope_theta": config["rope_theta"]}
    write_json(os.path.join(path, "params.json"), params)
    flat = OrderedDict(meta)
    head = config["head_dim"]
    flat["rope.freqs"] = (1.0 / config["rope_theta"] ** (torch.arange(0, head, 2).float() / head)).half()  # Llama 2 ships them
    torch.save(flat, os.path.join(path, "consolidated.00.pth"))
    check_equal(os.path.join(path, "consolidated.00.pth"), flat)

    path = folder("assistant-tiny-llama2c", ("tokenizer.model",))
    args = {k: params[k] for k in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of")}
    args.update(max_seq_len=config["max_position_embeddings"], dropout=0.0)
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.full((2, 3), 0.5), "exp_avg_sq": torch.full((2, 3), 0.25)}
    checkpoint = {
        "model": OrderedDict(("_orig_mod." + k, v) for k, v in meta.items()),  # torch.compile's prefix
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 5e-4, "betas": (0.9, 0.95), "foreach": None, "params": [0]}]},
        "model_args": args,
        "iter_num": 3,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "learning_rate": 5e-4, "compile": True, "vocab_source": "custom", "big": 1 << 40},
    }
    torch.save(checkpoint, os.path.join(path, "ckpt.pt"))
    write_llama2c(meta, config, os.path.join(path, "model.bin"))


def write_llama2c(meta, config, path):
    """legacy_export of llama2.c's export.py, byte for byte."""
    layers = config["num_hidden_layers"]
    head, base, seq = config["head_dim"], config["rope_theta"], config["max_position_embeddings"]
    freqs = 1.0 / (base ** (torch.arange(0, head, 2).float() / head))
    angles = torch.outer(torch.arange(seq), freqs).float()
    with open(path, "wb") as f:
        f.write(struct.pack("7i", config["hidden_size"], config["intermediate_size"], layers, config["num_attention_heads"],
                            config["num_key_value_heads"], config["vocab_size"], seq))
        names = ["tok_embeddings.weight"]
        for part in ("attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo", "ffn_norm",
                     "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"):
            names += [f"layers.{i}.{part}.weight" for i in range(layers)]
        for w in [meta[n] for n in names + ["norm.weight"]] + [torch.cos(angles), torch.sin(angles)]:
            f.write(w.float().numpy().astype("<f4").tobytes())


def write_odd():
    """Small tensors in every form that a state dict may hold, and their
    values: views, shared storages, transposes, every element type."""
    path = folder("odd", ())
    base = torch.arange(60, dtype=torch.float32) / 8 - 3
    m = base.view(5, 12)
    cube = base.view(3, 4, 5)
    floats = OrderedDict(
        whole=m, transposed=m.t(), rows=m[1:4], columns=m[:, 2:7], every_third=m[:, ::3], last_column=m[:, 11],
        scalar=base[7], permuted=cube.permute(2, 0, 1), swapped=cube.transpose(1, 2)[1:], cut=cube[:, 1:3, ::2],
        empty=torch.zeros(0, 4), one=m[2:3, 4:5].t(), half=m.half().t(), bf16=m.bfloat16()[::2], f64=m.double().t()[3:9:2],
        parameter=torch.nn.Parameter(m[2]))
    others = OrderedDict(
        i64=torch.arange(3), i32=torch.arange(3, dtype=torch.int32), i16=torch.arange(3, dtype=torch.int16),
        i8=torch.arange(3, dtype=torch.int8), u8=torch.arange(3, dtype=torch.uint8), bool=torch.tensor([True, False]),
        c64=torch.zeros(2, dtype=torch.complex64))
    state = OrderedDict(list(floats.items()) + list(others.items()))
    state._metadata = OrderedDict([("", {"version": 1})])  # as Module.state_dict leaves it
    torch.save(state, os.path.join(path, "odd.pt"))
    save_legacy(state, os.path.join(path, "odd-legacy.pt"))
    torch.save(state, os.path.join(path, "odd-protocol4.pt"), pickle_protocol=4)
    want = {k: {"shape": list(v.shape), "values": v.detach().double().flatten().tolist()} for k, v in floats.items()}
    with open(os.path.join(path, "odd.json"), "w") as f:
        f.write("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in want.items()) + "\n}\n")
    meta = {"model": {"w": m}, "args": Namespace(dim=64, name="tiny", flag=True, nothing=None, rate=0.5, nested=[1, (2, 3)]),
            "dtype": torch.float16, "shape": m.shape, "device": torch.device("cpu")}
    torch.save(meta, os.path.join(path, "namespace.pt"))
    torch.save({"w": m, "x": np.float64(1.5)}, os.path.join(path, "numpy-scalar.pt"))


def main():
    state = read_safetensors(os.path.join(TINY, "model.safetensors"))
    with open(os.path.join(TINY, "config.json")) as f:
        config = json.load(f)
    write_hugging_face(state, config)
    write_meta(to_meta(state, config), config)
    write_odd()


if __name__ == "__main__":
    main()
