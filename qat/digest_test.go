package qat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// sameOnEveryCPU is the digest of the weights that the run below trains, made
// on amd64. Any CPU and any kernel must give it.
const sameOnEveryCPU = "809ad9b4d252e31920c73e25c5590a13c851873c2f9547472cd78da8b1632367"

func TestSameOnEveryCPU(t *testing.T) {
	m := llama(2, 32, 2, 1, 16, 48, 40)
	m.Ropes[0].InvFreq = []float32{1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125}
	r := newRun(t, m, sequences(60, 20, 40), 2)
	r.Config.Blocks = BlockConfig{Epochs: 1, BatchTokens: 64, LR: 1e-3, ScaleLR: 2e-4}
	var out bytes.Buffer
	if _, err := Train(context.Background(), r, collect(&out)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(out.Bytes())
	if got := hex.EncodeToString(sum[:]); got != sameOnEveryCPU {
		t.Errorf("trained weights have digest %s, on amd64 %s", got, sameOnEveryCPU)
	}
}
