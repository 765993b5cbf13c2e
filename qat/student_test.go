package qat

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"slmc/model"
	"slmc/quant"
)

// shared is m with its last block reading the block before.
func shared(t *testing.T, m *model.Model) *model.Model {
	t.Helper()
	last := len(m.Blocks) - 1
	g, kept, err := m.ShareKV(map[int]int{last: last - 1})
	if err != nil {
		t.Fatal(err)
	}
	var v values
	for _, i := range kept {
		x, err := m.Tensor(i)
		if err != nil {
			t.Fatal(err)
		}
		v = append(v, x)
	}
	return &model.Model{Graph: g, Values: v}
}

// A student that shares keys and values learns to do what its unshared teacher
// does, in float and in 2 bits, block-wise and end to end, and threads do not
// change a byte.
func TestSharedStudentLearns(t *testing.T) {
	m := llama(3, 32, 2, 1, 16, 48, 40)
	student := shared(t, m)
	for name, set := range map[string]func(c *Config){
		"end to end": func(c *Config) { c.Epochs, c.LR = 6, 5e-3 },
		"block-wise": func(c *Config) { c.Blocks, c.Epochs = BlockConfig{6, 64, 3e-3, 1e-3}, 0 },
	} {
		for _, float := range []bool{true, false} {
			var want []byte
			for _, threads := range []int{1, 2} {
				var out bytes.Buffer
				r := newRun(t, student, sequences(150, 20, 40), threads)
				r.Teacher, r.Student = m, student
				if float {
					r.KV8 = false
					for i := range r.Formats {
						r.Formats[i] = quant.F32
					}
				}
				set(&r.Config)
				rep, err := Train(context.Background(), r, collect(&out))
				if err != nil {
					t.Fatal(err)
				}
				before, after := rep.FirstLoss, rep.LastLoss
				if len(rep.Blocks) > 0 {
					// What is not shared is the teacher's to begin with.
					if float && rep.Blocks[0].Before != 0 {
						t.Errorf("%s: the first block is off by %g", name, rep.Blocks[0].Before)
					}
					last := rep.Blocks[len(rep.Blocks)-1]
					if before, after = last.Before, last.After; last.First != 1 || last.Last != 2 {
						t.Errorf("%s: the last unit is %+v", name, last)
					}
				}
				if before <= 0 || after > 0.8*before {
					t.Errorf("%s, float %v: the loss went from %g to %g only", name, float, before, after)
				}
				if want == nil {
					want = out.Bytes()
				} else if !bytes.Equal(want, out.Bytes()) {
					t.Errorf("%s: %d threads gave other bytes", name, threads)
				}
			}
		}
	}
	r := newRun(t, student, sequences(10, 20, 40), 1)
	r.Student, r.Teacher = student, llama(2, 32, 2, 1, 16, 48, 40)
	if _, err := Train(context.Background(), r, Sink{}); err == nil || !strings.Contains(err.Error(), "3 blocks, its teacher 32, 40 and 2") {
		t.Errorf("another depth gives %v", err)
	}
}
