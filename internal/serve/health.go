package serve

import (
	"sync"
	"time"
)

// health remembers whether the large model answers. After several failures in a
// row it counts as offline for a while, so that queries do not wait for what will
// fail; then calls are let through again, and one more failure ends that at once.
type health struct {
	mu       sync.Mutex
	now      func() time.Time
	most     int
	cooldown time.Duration
	failures int
	until    time.Time
}

// longestCooldown bounds what a Retry-After can ask for.
const longestCooldown = 5 * time.Minute

func newHealth(most int, cooldown time.Duration, now func() time.Time) *health {
	return &health{most: most, cooldown: cooldown, now: now}
}

func (h *health) up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.now().Before(h.until)
}

func (h *health) good() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures, h.until = 0, time.Time{}
}

// bad counts a failure that says something about the large model, and not about
// one request.
func (h *health) bad(f *Failure) {
	switch f.Kind {
	case failCancelled, failRefused, failTooLong:
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures++; h.failures >= h.most || f.Kind == failBusy && f.RetryAfter > h.cooldown {
		h.until = h.now().Add(min(longestCooldown, max(h.cooldown, f.RetryAfter)))
	}
}
