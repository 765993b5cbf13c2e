package exec

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Pool runs loops on a fixed number of goroutines. Splitting never changes a
// result: every element is computed by one goroutine, whole.
//
// A decode step is some hundred loops of a few microseconds each, so handing
// one out must cost less than a microsecond: workers watch for the next loop
// for a while before they sleep, and all threads claim parts of the loop from
// one counter, so that a slow core (of a big.LITTLE system, or one that is busy
// with other work) takes fewer. The caller never waits for a worker that has
// not begun. A Run allocates nothing.
type Pool struct {
	threads int
	spins   int // how long a worker watches, in pauses

	// state is the number of the loop, whether it takes part-takers, and how
	// many workers are in it. Only the caller of Run opens and closes.
	state atomic.Uint64
	_     [56]byte
	next  atomic.Int64 // first index that nobody has claimed
	_     [56]byte

	// Of the running loop: written by Run before state opens, read by workers
	// between entering and leaving.
	f        func(lo, hi int)
	n, grain int

	busy     atomic.Bool  // a Run is under way
	sleepers atomic.Int32 // workers that wait for wake, or are about to
	wake     chan struct{}
	closed   atomic.Bool

	mu     sync.Mutex
	failed any // the panic of a worker
}

const (
	poolOpen   = 1 << 16      // the loop can be entered
	poolNumber = 1 << 17      // one loop further
	poolInside = poolOpen - 1 // the number of workers in the loop
	watch      = 1000         // pauses before a worker sleeps: some 50 us
	settle     = 200          // pauses before the caller lets others run
	shares     = 2            // a claim is 1/shares of a thread's equal part of the rest
)

// NewPool starts threads-1 workers, to run beside the caller; Close ends them.
func NewPool(threads int) *Pool {
	p := &Pool{threads: max(threads, 1)}
	p.wake = make(chan struct{}, p.threads)
	if p.threads <= runtime.GOMAXPROCS(0) {
		p.spins = watch // else watching would keep a worker from working
	}
	for range p.threads - 1 {
		go p.work()
	}
	return p
}

// Threads is the number of goroutines that Run uses.
func (p *Pool) Threads() int { return p.threads }

// Close ends the workers. Run must not be called afterwards.
func (p *Pool) Close() {
	p.closed.Store(true)
	p.state.Add(poolNumber)
	close(p.wake)
}

// work enters one loop after the other until Close.
func (p *Pool) work() {
	// Weights may be a mapped file that somebody truncates: the fault must
	// become an error of the caller, not the end of the process.
	debug.SetPanicOnFault(true)
	for seen := uint64(0); ; {
		p.await(seen)
		if p.closed.Load() {
			return
		}
		s := p.state.Load()
		switch {
		case s&poolOpen == 0:
			seen = s / poolNumber // over before it began here
		case p.state.CompareAndSwap(s, s+1):
			seen = s / poolNumber
			p.join()
			p.state.Add(^uint64(0))
		}
	}
}

// await returns when the loop's number is no longer seen or the pool is
// closed. It watches for a while, then sleeps.
func (p *Pool) await(seen uint64) {
	for range p.spins {
		if p.state.Load()/poolNumber != seen {
			return
		}
		pause()
	}
	p.sleepers.Add(1)
	if p.state.Load()/poolNumber != seen && p.takeSleeper() {
		return // and nobody will wake this one
	}
	<-p.wake
}

// takeSleeper takes one off the sleepers, if there is one.
func (p *Pool) takeSleeper() bool {
	for {
		n := p.sleepers.Load()
		if n == 0 {
			return false
		}
		if p.sleepers.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// join computes parts of the loop until none is left, and keeps a panic.
func (p *Pool) join() {
	defer func() {
		if r := recover(); r != nil {
			p.next.Store(int64(p.n)) // nobody need begin another part
			p.mu.Lock()
			p.failed = r
			p.mu.Unlock()
		}
	}()
	p.claim()
}

// claim takes parts that become smaller towards the end, so that threads of
// different speed end together; whole grains, so that kernels get the sizes
// they are made for.
func (p *Pool) claim() {
	f, n, grain := p.f, int64(p.n), int64(p.grain)
	for {
		lo := p.next.Load()
		if lo >= n {
			return
		}
		size := (n - lo) / int64(shares*p.threads) / grain * grain
		hi := min(n, lo+max(size, grain))
		if p.next.CompareAndSwap(lo, hi) {
			f(int(lo), int(hi))
		}
	}
}

// Run calls f on consecutive ranges that cover [0, n), multiples of grain long
// but for the last, and returns, or panics, when all are done. A panic in a
// worker is raised again here. A Run while another is under way, from f or
// from another goroutine, computes everything itself.
func (p *Pool) Run(n, grain int, f func(lo, hi int)) {
	grain = max(grain, 1)
	if p.threads == 1 || n < 2*grain || !p.busy.CompareAndSwap(false, true) {
		if n > 0 {
			f(0, n)
		}
		return
	}
	p.f, p.n, p.grain = f, n, grain
	p.next.Store(0)
	p.state.Store((p.state.Load()/poolNumber+1)*poolNumber | poolOpen)
	for range min(p.threads-1, (n-1)/grain) {
		if !p.takeSleeper() {
			break
		}
		p.wake <- struct{}{}
	}
	defer p.end()
	p.claim()
}

// end closes the loop, waits for the workers in it, and raises their panic. It
// is deferred: when the caller's part panics, no worker outlives the call.
func (p *Pool) end() {
	p.next.Store(int64(p.n))
	p.state.And(^uint64(poolOpen))
	for i := 0; p.state.Load()&poolInside != 0; i++ {
		if i < settle {
			pause()
		} else {
			runtime.Gosched()
		}
	}
	p.f = nil
	p.busy.Store(false)
	// No lock: all workers have left.
	if r := p.failed; r != nil {
		p.failed = nil
		panic(r)
	}
}
