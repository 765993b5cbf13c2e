package model

import (
	"strings"
	"testing"

	"slmc/quant"
)

const tinyLlama = `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 48, "num_attention_heads": 3,
	"num_key_value_heads": 1, "intermediate_size": 80, "vocab_size": 66, "num_hidden_layers": 4, "tie_word_embeddings": false}`

func TestPreset(t *testing.T) {
	g := mustBuild(t, tinyLlama)
	for _, c := range []struct {
		weights, embeddings, wantWeights, wantEmbed string
	}{
		{"w8", "", "w8g32", "w8g32"}, {"w4", "", "w4g32", "w4g32"}, {"w2", "", "w2g64", "w4g32"}, {"f16", "", "f16", "f16"},
		{"w2g128", "w8", "w2g128", "w8g32"}, {"w8", "f16", "w8g32", "f16"},
	} {
		r, err := Preset(c.weights, c.embeddings)
		if err != nil {
			t.Fatal(err)
		}
		f, err := r.Formats(g)
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range g.Weights {
			want := c.wantWeights
			if !w.Role.Matrix() {
				want = "f32"
			} else if w.Role == RoleEmbed || w.Role == RoleHead {
				want = c.wantEmbed
			}
			if f[i].Name() != want {
				t.Errorf("%s %s: %s is %s, want %s", c.weights, c.embeddings, w.Name, f[i].Name(), want)
			}
		}
	}
	for _, bad := range [][2]string{{"w3", ""}, {"w8", "w5"}, {"", ""}, {"w8g31", ""}} {
		if r, err := Preset(bad[0], bad[1]); err == nil {
			t.Errorf("Preset(%q) = %v", bad, r)
		}
	}
}

func TestRecipeRules(t *testing.T) {
	g := mustBuild(t, tinyLlama)
	r := Recipe{Name: "mixed", Rules: []Rule{
		{Format: "w2", GroupSize: 128},
		{Roles: []Role{RoleDown, RoleAttnO}, Blocks: []int{1, 2}, Format: "w4"},
		{Weight: "blk.3.attn_k.weight", Format: "w8"},
	}}
	f, err := r.Formats(g)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]quant.Format{
		"blk.0.ffn_down.weight": quant.W2{GroupSize: 128}, "blk.1.ffn_down.weight": quant.W4{GroupSize: 32},
		"blk.2.attn_output.weight": quant.W4{GroupSize: 32}, "blk.3.ffn_down.weight": quant.W2{GroupSize: 128},
		"blk.3.attn_k.weight": quant.W8{GroupSize: 32}, "output_norm.weight": quant.F32,
	} {
		if f[g.Index(name)] != want {
			t.Errorf("%s is %s, want %s", name, f[g.Index(name)].Name(), want.Name())
		}
	}
	for _, c := range []struct {
		rules []Rule
		want  string
	}{
		{[]Rule{{Format: "w8"}, {Weight: "blk.9.attn_k.weight", Format: "w4"}}, "matches no weight"},
		{[]Rule{{Format: "w8"}, {Blocks: []int{4, 9}, Format: "w4"}}, "matches no weight"},
		{[]Rule{{Roles: []Role{RoleDown}, Format: "w8"}}, "no rule matches weight"},
		{[]Rule{{Roles: []Role{"mlp"}, Format: "w8"}}, "unknown"},
		{[]Rule{{Roles: []Role{RoleNorm}, Format: "w8"}}, "float32"},
		{[]Rule{{Blocks: []int{3}, Format: "w8"}}, "blocks"},
		{[]Rule{{Blocks: []int{3, 1}, Format: "w8"}}, "blocks"},
		{[]Rule{{Format: "w8", GroupSize: 48}}, "GroupSize"},
		{[]Rule{{Format: "f16", GroupSize: 32}}, "unknown"},
	} {
		if _, err := (Recipe{Rules: c.rules}).Formats(g); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want an error with %q", c.rules, err, c.want)
		}
	}
}
