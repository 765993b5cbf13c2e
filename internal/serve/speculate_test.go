package serve_test

import (
	"regexp"
	"strings"
	"sync"
	"testing"

	"slmc/internal/serve"
	slmrt "slmc/runtime"
)

// A draft and a lookup change no token, greedy or sampled, of clients that come at
// once and of conversations that follow each other in one session; and they do
// propose tokens that are taken.
func TestSpeculationChangesNothing(t *testing.T) {
	noneLeft(t)
	m, draft := model(t), model(t)
	plain := start(t, m, nil)
	opened := 0
	fast := start(t, m, func(c *serve.Config) {
		c.Speculate = func() (*slmrt.Speculator, error) {
			opened++
			return slmrt.NewSpeculator(m, slmrt.Speculation{Draft: draft, Options: slmrt.Options{Threads: 1}, Lookup: 2})
		}
		c.Limits.Sessions = 1
	})
	qs := queries(t)[:12]
	same := func(fields map[string]any) {
		t.Helper()
		a, b := ask(t, plain, chatPath, fields), ask(t, fast, chatPath, fields)
		if a.status != 200 || a.text != b.text || a.finish != b.finish || a.usage != b.usage {
			t.Errorf("%v: %q (%s, %+v), with speculation %q (%s, %+v)", fields["messages"], a.text, a.finish, a.usage, b.text, b.finish, b.usage)
		}
	}
	var all sync.WaitGroup
	for i, q := range qs {
		all.Go(func() {
			same(chat("local", q, "stream", i%2 == 0))
			same(chat("local", q, "temperature", 1, "seed", i, "max_tokens", 24))
		})
	}
	all.Wait()
	_, body := get(t, fast.url+"/metrics", nil)
	if !regexp.MustCompile(`slmc_proposals_total\{result="accepted"\} [1-9]`).MatchString(body) {
		t.Error("no proposal was taken: the test shows nothing")
	}
	if _, body := get(t, plain.url+"/metrics", nil); strings.Contains(body, "slmc_proposals_total{") {
		t.Error("the plain server proposes")
	}
	if opened != 1 {
		t.Errorf("%d speculators for one session", opened)
	}
}
