package jinja

// Limits bounds one rendering. A zero field takes DefaultLimits' value.
type Limits struct {
	Steps  int // expressions and statements evaluated, items looked at, and 64-byte pieces of strings scanned
	Output int // bytes of rendered text
	Depth  int // macro calls inside one another
	Memory int // bytes of strings and slots of containers built, in total over the rendering
	Range  int // items of a range
}

// DefaultLimits lets the largest published templates render a conversation of some hundred thousand tokens.
var DefaultLimits = Limits{Steps: 5_000_000, Output: 16 << 20, Depth: 100, Memory: 256 << 20, Range: 100_000}

func (l Limits) orDefault() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Steps, DefaultLimits.Steps)
	def(&l.Output, DefaultLimits.Output)
	def(&l.Depth, DefaultLimits.Depth)
	def(&l.Memory, DefaultLimits.Memory)
	def(&l.Range, DefaultLimits.Range)
	return l
}

// spend takes n steps.
func (in *interp) spend(n int) error {
	if in.steps += n; in.steps > in.lim.Steps {
		return failure(ErrSteps, "more than %d", in.lim.Steps)
	}
	return nil
}

// scan pays for a pass over n bytes.
func (in *interp) scan(n int) error { return in.spend(n / 64) }

// alloc pays for n bytes of new strings or containers.
func (in *interp) alloc(n int) error {
	if in.memory += n; n < 0 || in.memory > in.lim.Memory || in.memory < 0 {
		return failure(ErrMemory, "more than %d bytes built", in.lim.Memory)
	}
	return in.scan(n)
}

// slots pays for a container of n items.
func (in *interp) slots(n int) error { return in.alloc(16 * n) }
