package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// EncodePanel is Encode and Pack of up to 16 rows of K weights in one pass over
// the kernel's rounding: the same bytes, some ten times as fast, which is what
// the conversion of a large checkpoint takes its time from. x is [rows K],
// scales [rows Groups(f, K)]. A NaN or Inf in x or in scales is an error that
// names its index.
func (f W8) EncodePanel(k *kernel.Funcs, panel []byte, x []float32, K int, scales []tensor.Half) error {
	rows, groups := len(x)/K, Groups(f, K)
	if len(x) != rows*K || rows > kernel.Rows || len(scales) != rows*groups {
		panic(fmt.Sprintf("quant.W8.EncodePanel: %d weights and %d scales for rows of %d", len(x), len(scales), K))
	}
	if !(k.AbsMax(x) <= math.MaxFloat32) {
		return notFinite(x)
	}
	panel = panel[:f.PanelBytes(K)]
	if rows < kernel.Rows || K%4 != 0 {
		clear(panel)
	}
	var codes [128]int8
	at := 0
	for g := range groups {
		lo := g * f.GroupSize
		n := min(f.GroupSize, K-lo)
		blocks := ceil(n, 4) * 64
		for r := range rows {
			s := scales[r*groups+g]
			if s&0x7c00 == 0x7c00 {
				return fmt.Errorf("scale of row %d, group %d is %g: %w", r, g, s.Float32(), ErrNotFinite)
			}
			binary.LittleEndian.PutUint16(panel[at+blocks+2*r:], uint16(s))
			k.QuantizeKV8(codes[:n], x[r*K+lo:][:n], s.Float32())
			placeCodes(panel[at+4*r:at+blocks], codes[:n])
		}
		at += blocks + 2*kernel.Rows
	}
	return nil
}

// placeCodes writes a row's signed codes, biased, into every 64th byte's four.
func placeCodes(panel []byte, codes []int8) {
	b := 0
	for ; len(codes) >= 4; codes, b = codes[4:], b+64 {
		v := uint32(uint8(codes[0])) | uint32(uint8(codes[1]))<<8 | uint32(uint8(codes[2]))<<16 | uint32(uint8(codes[3]))<<24
		binary.LittleEndian.PutUint32(panel[b:], v^0x80808080)
	}
	for i, c := range codes {
		panel[b+i] = uint8(c) ^ 0x80
	}
}
