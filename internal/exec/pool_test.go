package exec

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestPoolCovers(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 8} {
		p := NewPool(threads)
		for _, n := range []int{0, 1, 2, 7, 100} {
			for _, grain := range []int{0, 1, 3, 1000} {
				seen := make([]atomic.Int32, n)
				p.Run(n, grain, func(lo, hi int) {
					for i := lo; i < hi; i++ {
						seen[i].Add(1)
					}
				})
				for i := range seen {
					if seen[i].Load() != 1 {
						t.Fatalf("threads %d n %d grain %d: index %d ran %d times", threads, n, grain, i, seen[i].Load())
					}
				}
			}
		}
		p.Close()
	}
}

// A panic in the caller's part waits for the workers: they use the caller's
// memory.
func TestPoolWaitsWhenCallerPanics(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	started, finish := make(chan bool), make(chan bool)
	var ended atomic.Bool
	func() {
		defer func() {
			if r := recover(); r != "caller" {
				t.Errorf("recovered %v", r)
			}
		}()
		p.Run(2, 1, func(lo, hi int) {
			if lo == 0 {
				<-started
				close(finish)
				panic("caller")
			}
			close(started)
			<-finish
			time.Sleep(10 * time.Millisecond)
			ended.Store(true)
		})
	}()
	if !ended.Load() {
		t.Error("Run ended before its worker")
	}
}

func TestPoolRaisesPanic(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	defer func() {
		if r := recover(); r != "worker" {
			t.Errorf("recovered %v", r)
		}
	}()
	p.Run(2, 1, func(lo, hi int) {
		if lo == 1 {
			panic("worker")
		}
	})
}

// Short loops one after the other, with workers asleep, awake and on their way
// to sleep: every index is computed once, by whoever takes it.
func TestPoolManyLoops(t *testing.T) {
	for _, threads := range []int{2, 3, 5} {
		p := NewPool(threads)
		var sum atomic.Int64
		f := func(lo, hi int) {
			for i := lo; i < hi; i++ {
				sum.Add(int64(i))
			}
		}
		for i := range 20000 {
			sum.Store(0)
			p.Run(31, 2, f)
			if got := sum.Load(); got != 31*30/2 {
				t.Fatalf("threads %d, loop %d: indices add up to %d, want %d", threads, i, got, 31*30/2)
			}
			if i%4000 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		p.Close()
	}
}

// A loop within a loop, and loops of two goroutines, do not wait for each
// other.
func TestPoolNested(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	var n atomic.Int64
	inner := func(lo, hi int) { n.Add(int64(hi - lo)) }
	outer := func(lo, hi int) {
		for range hi - lo {
			p.Run(10, 1, inner)
		}
	}
	done := make(chan bool)
	go func() { p.Run(50, 1, outer); close(done) }()
	p.Run(50, 1, outer)
	<-done
	if n.Load() != 1000 {
		t.Errorf("%d indices ran, want 1000", n.Load())
	}
}

func TestPoolAllocatesNothing(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	f := func(lo, hi int) {}
	if n := testing.AllocsPerRun(1000, func() { p.Run(100, 1, f) }); n != 0 {
		t.Errorf("a loop makes %g allocations, want none", n)
	}
}

// After Close no worker is left.
func TestPoolCloses(t *testing.T) {
	before := runtime.NumGoroutine()
	for i := range 20 {
		p := NewPool(4)
		if i%2 == 0 {
			p.Run(8, 1, func(lo, hi int) {})
		}
		p.Close()
	}
	for i := 0; runtime.NumGoroutine() > before; i++ {
		if i == 1000 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		time.Sleep(time.Millisecond)
	}
}

func BenchmarkPool(b *testing.B) {
	p := NewPool(2)
	defer p.Close()
	f := func(lo, hi int) {}
	for b.Loop() {
		p.Run(64, 1, f)
	}
}
