package exec

import (
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
