package kernel

// What a core can do at most, measured where a model runs, for its figures to
// be compared with: a decode step reads its weights, a prompt multiplies them.

// int8Work is what one round of an implementation's Int8 does.
type int8Work struct {
	rounds func(n int)
	ops    int // multiplications and additions of 8-bit numbers in a round
}

// limits are the two measuring loops of an implementation.
type limits struct {
	read func(p *byte, blocks int) // loads blocks of 256 bytes
	int8 int8Work
}

// Read loads every byte of p but the last len(p)%256, with the widest loads of
// the implementation and does nothing with them.
func (f *Funcs) Read(p []byte) {
	if n := len(p) / 256; n > 0 {
		f.limits.read(&p[0], n)
	}
}

// Int8 runs the implementation's 8-bit multiply-add n times over 16
// independent accumulators or fewer, from registers, and returns the number of
// multiplications and additions.
func (f *Funcs) Int8(n int) (ops int64) {
	if n > 0 {
		f.limits.int8.rounds(n)
	}
	return int64(n) * int64(f.limits.int8.ops)
}
