package exec

import (
	"runtime/debug"
	"sync"
)

// Pool runs loops on a fixed number of goroutines. Splitting never changes a
// result: every element is computed by one goroutine, whole.
type Pool struct {
	threads int
	jobs    chan job
}

type job struct {
	f      func(lo, hi int)
	lo, hi int
	done   *sync.WaitGroup
	failed *any
	mu     *sync.Mutex
}

// NewPool starts threads-1 workers, to run beside the caller; Close ends them.
func NewPool(threads int) *Pool {
	p := &Pool{threads: max(threads, 1), jobs: make(chan job)}
	for range p.threads - 1 {
		go p.work()
	}
	return p
}

// Threads is the number of goroutines that Run uses.
func (p *Pool) Threads() int { return p.threads }

// Close ends the workers. Run must not be called afterwards.
func (p *Pool) Close() { close(p.jobs) }

func (p *Pool) work() {
	// Weights may be a mapped file that somebody truncates: the fault must
	// become an error of the caller, not the end of the process.
	debug.SetPanicOnFault(true)
	for j := range p.jobs {
		j.run()
	}
}

func (j job) run() {
	defer j.done.Done()
	defer func() {
		if r := recover(); r != nil {
			j.mu.Lock()
			*j.failed = r
			j.mu.Unlock()
		}
	}()
	j.f(j.lo, j.hi)
}

// Run calls f on consecutive ranges that cover [0, n), at least grain long if
// n allows, and returns, or panics, when all are done. A panic in a worker is
// raised again here.
func (p *Pool) Run(n, grain int, f func(lo, hi int)) {
	parts := min(p.threads, n/max(grain, 1))
	if parts <= 1 {
		f(0, n)
		return
	}
	var (
		done   sync.WaitGroup
		mu     sync.Mutex
		failed any
	)
	done.Add(parts - 1)
	for i := 1; i < parts; i++ {
		p.jobs <- job{f, i * n / parts, (i + 1) * n / parts, &done, &failed, &mu}
	}
	func() {
		defer done.Wait() // when f panics here too: no worker outlives the call
		f(0, n/parts)
	}()
	if failed != nil {
		panic(failed)
	}
}
