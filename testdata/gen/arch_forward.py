#!/usr/bin/env python3
"""Independent forward passes of the architectures that slmc knows, in float64.

    arch_forward.py FOLDER ID [ID ...]      prints the logits of the last position as JSON

Each class below repeats what the published implementation does, function by
function, and shares with slmc neither code nor its description of a model:

    Llama      transformers models/llama/modeling_llama.py, modeling_rope_utils.py
    MobileLLM  facebookresearch/MobileLLM utils/modeling_llama.py
    Qwen2      transformers models/qwen2/{configuration,modeling}_qwen2.py
    Qwen3      transformers models/qwen3/modeling_qwen3.py
    Gemma2     transformers models/gemma2/modeling_gemma2.py (eager attention)
    Gemma3     transformers models/gemma3/modeling_gemma3.py (text model)

They have no cache: the whole sequence is one batch with a mask. Defaults of
absent keys are those of the configuration classes. Needs NumPy.
"""
import json
import math
import os
import struct
import sys

import numpy as np


def load(folder):
    """config.json and the tensors of model.safetensors as float64."""
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    header.pop("__metadata__", None)
    out = {}
    for name, t in header.items():
        raw = data[slice(*t["data_offsets"])]
        if t["dtype"] == "BF16":
            x = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[t["dtype"]])
        out[name] = x.astype(np.float64).reshape(t["shape"])
    return config, out


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_pytorch_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rotate_half(x):
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], -1)


def default_inv_freq(base, dim):
    return 1.0 / base ** (np.arange(0, dim, 2) / dim)


def scaled_inv_freq(base, dim, scaling):
    """ROPE_INIT_FUNCTIONS[rope_type] of modeling_rope_utils.py."""
    inv = default_inv_freq(base, dim)
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if kind == "default":
        return inv
    factor = scaling["factor"]
    if kind == "linear":
        return inv / factor
    assert kind == "llama3", kind
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    old = scaling["original_max_position_embeddings"]
    wavelen = 2 * math.pi / inv
    out = np.where(wavelen > old / low, inv / factor, inv)
    smooth = (old / wavelen - low) / (high - low)
    smoothed = (1 - smooth) * out / factor + smooth * out
    medium = ~(wavelen < old / high) & ~(wavelen > old / low)
    return np.where(medium, smoothed, out)


def cos_sin(inv, T):
    freqs = np.outer(np.arange(T), inv)
    emb = np.concatenate([freqs, freqs], -1)
    return np.cos(emb), np.sin(emb)


def causal_mask(T, window=None):
    q, k = np.arange(T)[:, None], np.arange(T)[None, :]
    seen = k <= q
    if window is not None:
        seen &= k > q - window
    return np.where(seen, 0.0, -np.inf)


class Llama:
    DEFAULTS = dict(rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
                    rope_scaling=None, head_dim=None, num_key_value_heads=None)

    def __init__(self, config, weights):
        self.c = {**self.DEFAULTS, **config}
        self.w = weights
        c = self.c
        self.heads = c["num_attention_heads"]
        self.kv = c["num_key_value_heads"] or self.heads
        self.dim = c["head_dim"] or c["hidden_size"] // self.heads
        self.scaling = self.dim**-0.5

    # modules

    def linear(self, name, x):
        y = x @ self.w[name + ".weight"].T
        if name + ".bias" in self.w:
            y = y + self.w[name + ".bias"]
        return y

    def rms_norm(self, name, x):
        variance = (x**2).mean(-1, keepdims=True)
        return self.w[name + ".weight"] * (x / np.sqrt(variance + self.c["rms_norm_eps"]))

    def act(self, x):
        return silu(x)

    def mlp(self, at, x):
        return self.linear(at + "down_proj", self.act(self.linear(at + "gate_proj", x)) * self.linear(at + "up_proj", x))

    def qk_norm(self, at, q, k):
        return q, k

    def rope(self, layer, T):
        return cos_sin(scaled_inv_freq(self.c["rope_theta"], self.dim, self.c["rope_scaling"]), T)

    def window(self, layer):
        return None

    def cap(self, scores):
        return scores

    def attention(self, layer, at, x):
        T = len(x)
        q = self.linear(at + "q_proj", x).reshape(T, self.heads, self.dim).transpose(1, 0, 2)
        k = self.linear(at + "k_proj", x).reshape(T, self.kv, self.dim).transpose(1, 0, 2)
        v = self.linear(at + "v_proj", x).reshape(T, self.kv, self.dim).transpose(1, 0, 2)
        q, k = self.qk_norm(at, q, k)
        cos, sin = self.rope(layer, T)
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        k, v = (np.repeat(a, self.heads // self.kv, 0) for a in (k, v))  # repeat_kv
        scores = self.cap(q @ k.transpose(0, 2, 1) * self.scaling)
        probs = softmax(scores + causal_mask(T, self.window(layer)))
        return self.linear(at + "o_proj", (probs @ v).transpose(1, 0, 2).reshape(T, -1))

    def decoder_layer(self, layer, x):
        at = f"model.layers.{layer}."
        x = x + self.attention(layer, at + "self_attn.", self.rms_norm(at + "input_layernorm", x))
        return x + self.mlp(at + "mlp.", self.rms_norm(at + "post_attention_layernorm", x))

    # model

    def embed(self, ids):
        return self.w["model.embed_tokens.weight"][ids]

    def run_layers(self, x):
        for layer in range(self.c["num_hidden_layers"]):
            x = self.decoder_layer(layer, x)
        return x

    def head(self, x):
        tied = self.c["tie_word_embeddings"]
        return x @ self.w["model.embed_tokens.weight" if tied else "lm_head.weight"].T

    def logits(self, ids):
        """Logits [T V] of the token ids [T]."""
        return self.head(self.rms_norm("model.norm", self.run_layers(self.embed(np.asarray(ids)))))


class MobileLLM(Llama):
    def run_layers(self, x):
        for layer in range(self.c["num_hidden_layers"]):
            x = self.decoder_layer(layer, x)
            if self.c["layer_sharing"]:
                x = self.decoder_layer(layer, x)
        return x

    def head(self, x):
        # F.linear(hidden_states, self.model.embed_tokens.weight)
        return x @ self.w["model.embed_tokens.weight"].T if self.c["share_embedding"] else super().head(x)


class Qwen2(Llama):
    DEFAULTS = {**Llama.DEFAULTS, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}

    def window(self, layer):
        if not self.c["use_sliding_window"] or layer < self.c["max_window_layers"]:
            return None
        return self.c["sliding_window"]


class Qwen3(Qwen2):
    def qk_norm(self, at, q, k):
        return self.rms_norm(at + "q_norm", q), self.rms_norm(at + "k_norm", k)


class Gemma2(Llama):
    DEFAULTS = {**Llama.DEFAULTS, "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096, "head_dim": 256,
                "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}

    def __init__(self, config, weights):
        super().__init__(config, weights)
        self.scaling = self.c["query_pre_attn_scalar"] ** -0.5

    def rms_norm(self, name, x):
        variance = (x**2).mean(-1, keepdims=True)
        return (1 + self.w[name + ".weight"]) * (x / np.sqrt(variance + self.c["rms_norm_eps"]))

    def act(self, x):
        return gelu_pytorch_tanh(x)

    def embed(self, ids):
        # normalizer = torch.tensor(hidden_size**0.5, dtype=hidden_states.dtype)
        normalizer = np.float32(self.c["hidden_size"] ** 0.5)
        if self.c["torch_dtype"] == "bfloat16":
            bits = int(normalizer.view(np.uint32))
            normalizer = np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
        return super().embed(ids) * np.float64(normalizer)

    def window(self, layer):
        return self.c["sliding_window"] if layer % 2 == 0 else None

    def cap(self, scores):
        limit = self.c["attn_logit_softcapping"]
        return scores if limit is None else np.tanh(scores / limit) * limit

    def decoder_layer(self, layer, x):
        at = f"model.layers.{layer}."
        h = self.attention(layer, at + "self_attn.", self.rms_norm(at + "input_layernorm", x))
        x = x + self.rms_norm(at + "post_attention_layernorm", h)
        h = self.mlp(at + "mlp.", self.rms_norm(at + "pre_feedforward_layernorm", x))
        return x + self.rms_norm(at + "post_feedforward_layernorm", h)

    def logits(self, ids):
        z, limit = super().logits(ids), self.c["final_logit_softcapping"]
        return z if limit is None else np.tanh(z / limit) * limit


class Gemma3(Gemma2):
    DEFAULTS = {**Gemma2.DEFAULTS, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6,
                "final_logit_softcapping": None, "attn_logit_softcapping": None}

    def is_sliding(self, layer):
        types = self.c.get("layer_types")
        if types is not None:
            return types[layer] == "sliding_attention"
        return bool((layer + 1) % self.c["sliding_window_pattern"])

    def window(self, layer):
        return self.c["sliding_window"] if self.is_sliding(layer) else None

    def rope(self, layer, T):
        if self.is_sliding(layer):
            return cos_sin(default_inv_freq(self.c["rope_local_base_freq"], self.dim), T)
        return super().rope(layer, T)

    def qk_norm(self, at, q, k):
        return self.rms_norm(at + "q_norm", q), self.rms_norm(at + "k_norm", k)


MODELS = dict(llama=Llama, mobilellm=MobileLLM, qwen2=Qwen2, qwen3=Qwen3, gemma2=Gemma2, gemma3_text=Gemma3)


def model(folder):
    config, weights = load(folder)
    return MODELS[config["model_type"]](config, weights)


if __name__ == "__main__":
    json.dump(model(sys.argv[1]).logits([int(a) for a in sys.argv[2:]])[-1].tolist(), sys.stdout)
