package slmrt

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"time"
)

// SoakOptions say how long a soak lasts.
type SoakOptions struct {
	Steps   int    // tokens to decode, over all sessions
	Session int    // tokens of a session: it is made, fed and closed
	Seed    uint64 // of the random tokens
}

// SoakResult tells whether memory stayed flat over many short sessions. Resident
// is the memory in use after each tenth of the steps, Heap what the garbage
// collector then held.
type SoakResult struct {
	Steps    int     `json:"steps"`
	Sessions int     `json:"sessions"`
	Seconds  float64 `json:"seconds"`
	Resident []int64 `json:"resident_bytes"`
	Heap     []int64 `json:"heap_bytes"`
	Threads  int     `json:"goroutines_left"` // above those at the start
	// Growth is the change of resident bytes from the third tenth on, by when
	// everything has been used once: the mean of the last three tenths less
	// that of the three from the third on.
	Growth int64 `json:"growth_bytes"`
}

// Soak decodes many tokens in many short sessions.
func (m *Model) Soak(ctx context.Context, o Options, s SoakOptions) (SoakResult, error) {
	if s.Steps < 10 || s.Session < 1 {
		return SoakResult{}, fmt.Errorf("a soak of %d steps in sessions of %d; want at least 10 and 1", s.Steps, s.Session)
	}
	if o.Context == 0 {
		o.Context = min(s.Session, m.Context)
	}
	begin, routines := time.Now(), goruntime.NumGoroutine()
	var res SoakResult
	r := rand.New(rand.NewPCG(s.Seed, 0))
	id := make([]int32, 1)
	for res.Steps < s.Steps {
		session, err := m.NewSession(o)
		if err != nil {
			return res, err
		}
		for range min(s.Session, s.Steps-res.Steps) {
			id[0] = int32(r.IntN(m.Graph.Vocab))
			if _, err := session.Feed(ctx, id); err != nil {
				session.Close()
				return res, err
			}
			res.Steps++
			if res.Steps*10/s.Steps > (res.Steps-1)*10/s.Steps {
				resident, heap := memoryNow()
				res.Resident, res.Heap = append(res.Resident, resident), append(res.Heap, heap)
			}
		}
		session.Close()
		res.Sessions++
	}
	for range 100 {
		if res.Threads = goruntime.NumGoroutine() - routines; res.Threads <= 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	res.Seconds = time.Since(begin).Seconds()
	mean := func(x []int64) int64 { return (x[0] + x[1] + x[2]) / 3 }
	res.Growth = mean(res.Resident[7:]) - mean(res.Resident[2:])
	return res, nil
}

// memoryNow returns the resident bytes of the process, 0 where the system does
// not say, and those of live objects.
func memoryNow() (resident, heap int64) {
	goruntime.GC()
	var s goruntime.MemStats
	goruntime.ReadMemStats(&s)
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			var pages int64
			if _, err := fmt.Sscan(f[1], &pages); err == nil {
				resident = pages * int64(os.Getpagesize())
			}
		}
	}
	return resident, int64(s.HeapAlloc)
}

// String is the result for people.
func (r SoakResult) String() string {
	return fmt.Sprintf("%d steps in %d sessions, %.0f s: %.1f to %.1f MB resident, %+.2f MB from the third tenth on; heap %.2f to %.2f MB; %d goroutines left\n",
		r.Steps, r.Sessions, r.Seconds, float64(slices.Min(r.Resident))/1e6, float64(slices.Max(r.Resident))/1e6, float64(r.Growth)/1e6,
		float64(slices.Min(r.Heap))/1e6, float64(slices.Max(r.Heap))/1e6, r.Threads)
}
