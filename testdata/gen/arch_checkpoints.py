#!/usr/bin/env python3
"""Writes testdata/arch: a tiny random checkpoint of each architecture, and its
logits by arch_forward.py.

    python3 testdata/gen/arch_checkpoints.py

Weights are drawn from a seeded generator and rounded to the stored type, so
that the reference sees what slmc reads. Dimensions are off the kernels'
widths (but Qwen2's hidden size, which llama.cpp wants to be that of all heads),
sequences longer than the windows, rotary scaling set where it matters
within a few positions. Running it again gives the same bytes. Needs NumPy.
"""
import json
import os
import shutil
import struct
import zlib

import numpy as np

import arch_forward

ROOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "arch")
TOKENS = 24

# What all have in common: 4 query heads of 8 over 2 KV heads, a short last
# group everywhere.
BASE = dict(hidden_size=36, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=44,
            vocab_size=50, max_position_embeddings=128, rms_norm_eps=1e-5, torch_dtype="float16", bos_token_id=1, eos_token_id=2)

LLAMA = dict(BASE, model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu", rope_theta=10000.0)
QWEN = dict(BASE, hidden_act="silu", rope_theta=1000000.0, use_sliding_window=False, rms_norm_eps=1e-6)
GEMMA = dict(BASE, hidden_size=40, hidden_activation="gelu_pytorch_tanh", num_hidden_layers=4, sliding_window=8, query_pre_attn_scalar=8, rms_norm_eps=1e-6,
             torch_dtype="float32", attention_bias=False)
GEMMA2 = dict(GEMMA, model_type="gemma2", architectures=["Gemma2ForCausalLM"], hidden_act="gelu_pytorch_tanh", rope_theta=10000.0,
              attn_logit_softcapping=5.0, final_logit_softcapping=4.0)
GEMMA3 = dict(GEMMA, model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], rope_theta=1000000.0, rope_local_base_freq=10000.0)

CHECKPOINTS = {
    "llama": dict(LLAMA, tie_word_embeddings=False),
    "llama3": dict(LLAMA, tie_word_embeddings=True, rope_theta=500.0, torch_dtype="bfloat16",
                   rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama-linear": dict(LLAMA, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, rope_scaling=dict(type="linear", factor=4.0)),
    "mobilellm": dict(LLAMA, model_type="mobilellm", architectures=["MobileLLMForCausalLM"], share_embedding=True, tie_word_embeddings=False,
                      layer_sharing=False),
    "mobilellm-ls": dict(LLAMA, model_type="mobilellm", architectures=["MobileLLMForCausalLM"], share_embedding=True, tie_word_embeddings=False,
                         layer_sharing=True, num_hidden_layers=2),
    "qwen2": dict(QWEN, hidden_size=32, model_type="qwen2", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=True, sliding_window=64, max_window_layers=3,
                  torch_dtype="bfloat16"),
    "qwen2-window": dict(QWEN, hidden_size=32, model_type="qwen2", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=False, use_sliding_window=True,
                         sliding_window=5, max_window_layers=1),
    "qwen3": dict(QWEN, model_type="qwen3", architectures=["Qwen3ForCausalLM"], tie_word_embeddings=True, sliding_window=None, max_window_layers=3,
                  attention_bias=False),
    "gemma2": GEMMA2,
    "gemma2-bf16": dict(GEMMA2, torch_dtype="bfloat16", query_pre_attn_scalar=12),
    "gemma3": dict(GEMMA3, num_hidden_layers=6, rope_scaling=dict(rope_type="linear", factor=8.0), sliding_window_pattern=6),
    "gemma3-types": dict(GEMMA3, num_hidden_layers=3, layer_types=["full_attention", "sliding_attention", "full_attention"],
                         final_logit_softcapping=6.0),
}


def stored(x, dtype):
    """The bytes of x and their type: float16, to keep files small, unless the
    config says bfloat16."""
    if dtype == "bfloat16":
        bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes(), "BF16"
    return x.astype("<f2").tobytes(), "F16"


def shapes(c):
    """Name and shape of every tensor of a checkpoint, as transformers saves it."""
    D, F, E = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * E, c["num_key_value_heads"] * E
    gemma, kind = c["model_type"].startswith("gemma"), c["model_type"]
    yield "model.embed_tokens.weight", (c["vocab_size"], D)
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        bias = {"q_proj": kind == "qwen2", "k_proj": kind == "qwen2", "v_proj": kind == "qwen2", "o_proj": False}
        for name, shape in dict(q_proj=(q, D), k_proj=(kv, D), v_proj=(kv, D), o_proj=(D, q)).items():
            yield at + f"self_attn.{name}.weight", shape
            if bias[name] or c.get("attention_bias"):
                yield at + f"self_attn.{name}.bias", shape[:1]
        if kind in ("qwen3", "gemma3_text"):
            yield at + "self_attn.q_norm.weight", (E,)
            yield at + "self_attn.k_norm.weight", (E,)
        for name, shape in dict(gate_proj=(F, D), up_proj=(F, D), down_proj=(D, F)).items():
            yield at + f"mlp.{name}.weight", shape
            if c.get("mlp_bias"):
                yield at + f"mlp.{name}.bias", shape[:1]
        norms = ["input_layernorm", "post_attention_layernorm"]
        if gemma:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for name in norms:
            yield at + name + ".weight", (D,)
    yield "model.norm.weight", (D,)
    if not (gemma or c.get("tie_word_embeddings") or c.get("share_embedding")):
        yield "lm_head.weight", (c["vocab_size"], D)


def draw(rng, c, name, shape):
    x = rng.standard_normal(shape)
    if name.endswith("norm.weight"):
        return 0.3 * x + (0 if c["model_type"].startswith("gemma") else 1)
    if name.endswith(".bias"):
        return 0.3 * x
    if name == "model.embed_tokens.weight" and c["model_type"].startswith("gemma"):
        return 0.2 * x
    return x if name == "model.embed_tokens.weight" else 1.5 * x / np.sqrt(shape[-1])


def write(name, config):
    folder = os.path.join(ROOT, name)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    header, data = {}, b""
    for tensor, shape in shapes(config):
        raw, dtype = stored(draw(rng, config, tensor, shape), config["torch_dtype"])
        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    ids = rng.integers(0, config["vocab_size"], TOKENS).tolist()
    z = arch_forward.model(folder).logits(ids)
    with open(os.path.join(folder, "logits.json"), "w") as f:
        rows = ",\n".join("[" + ",".join(f"{v:.7g}" for v in row) + "]" for row in z)
        f.write('{"ids": %s,\n"logits": [\n%s]}\n' % (json.dumps(ids), rows))
    print(f"{name}: {len(data)} bytes, logits {z.min():.2f} to {z.max():.2f}")


if __name__ == "__main__":
    shutil.rmtree(ROOT, ignore_errors=True)
    for name, config in CHECKPOINTS.items():
        write(name, config)
