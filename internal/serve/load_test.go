package serve_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"slmc/internal/serve"
	slmrt "slmc/runtime"
)

var (
	soak    = flag.Duration("soak", 0, "keep TestManyClients going for this long instead of a few requests a client")
	clients = flag.Int("clients", 200, "clients of TestManyClients")
)

// Clients at once, of a server whose large model fails in every way now and then:
// each answer is whole and comes once, nothing is left behind, and memory does not
// grow. go test -run ManyClients -soak 1m ./internal/serve is the long form.
func TestManyClients(t *testing.T) {
	noneLeft(t)
	m := model(t)
	qs := queries(t)
	want := answers(t, m, qs)
	know := map[string]string{}
	for i, q := range qs {
		know[q] = want[i]
	}
	patient := serve.Limits{Sessions: 2, Queue: 4096, QueueWait: time.Hour, Read: time.Hour, Write: time.Hour, Remote: 32, Requests: 4096}
	good := start(t, m, func(c *serve.Config) { c.Limits = patient })
	var mood atomic.Int64
	far := startProxy(t, good.addr, &mood)
	r := start(t, m, func(c *serve.Config) {
		c.Limits = patient
		c.Upstream = upstream(t, far, func(u *serve.UpstreamConfig) { u.FirstByte, u.Whole, u.Stall = time.Minute, time.Minute, time.Minute })
	})
	var before goruntime.MemStats
	var served, handed, broken atomic.Int64
	deadline := time.Now().Add(*soak)
	http := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *clients}}
	t.Cleanup(http.CloseIdleConnections)
	round := func(rounds int) {
		var all sync.WaitGroup
		for n := range *clients {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(n), 0))
				for i := 0; i < rounds || time.Now().Before(deadline); i++ {
					q := qs[rng.IntN(len(qs))]
					name := []string{"auto", "local", "auto", "auto"}[rng.IntN(4)]
					stream := rng.IntN(2) == 0
					a := askWith(t, http, r.url+chatPath, chat(name, q, "stream", stream), nil)
					served.Add(1)
					if a.slmc.Served == "remote" {
						handed.Add(1)
					}
					if a.slmc.RemoteError != "" {
						broken.Add(1)
					}
					if a.status != 200 || a.text != know[q] && !strings.HasPrefix(a.slmc.Served, "remote+") || a.finish != "stop" || a.done != stream {
						t.Errorf("%s, stream %v, %q: %+v, wanted %q", name, stream, q, a, know[q])
						return
					}
				}
			})
		}
		all.Wait()
	}
	deadline0 := deadline
	deadline = time.Time{}
	round(1) // connections and sessions are made once
	goruntime.GC()
	goruntime.ReadMemStats(&before)
	deadline = deadline0
	round(2)
	http.CloseIdleConnections()
	r.stop()
	r.log, r.slog = syncBuffer{}, syncBuffer{}
	goruntime.GC()
	var after goruntime.MemStats
	goruntime.ReadMemStats(&after)
	t.Logf("%d requests of %d clients, %d answered by the large model, %d failures of it; heap %d kB, then %d kB", served.Load(), *clients, handed.Load(), broken.Load(), before.HeapAlloc>>10, after.HeapAlloc>>10)
	if after.HeapAlloc > before.HeapAlloc+32<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before.HeapAlloc, after.HeapAlloc)
	}
	if handed.Load() == 0 || broken.Load() == 0 {
		t.Error("nothing was handed off, or nothing failed: the test shows nothing")
	}
}

// startProxy passes connections on to addr, and cuts some short: at once, within
// the head, within the answer.
func startProxy(t testing.TB, addr string, mood *atomic.Int64) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := mood.Add(1)
			all.Go(func() {
				defer c.Close()
				far, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer far.Close()
				stop := context.AfterFunc(ctx, func() { c.Close(); far.Close() })
				defer stop()
				// Each connection ends after so many bytes of answers, every second one soon.
				limit := 5000 + n*997%20_000
				if n%2 == 0 {
					limit = n * 37 % 3000
				}
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.Copy(far, c); far.Close() })
				_, _ = io.CopyN(c, far, limit)
				c.Close()
				far.Close()
				both.Wait()
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); all.Wait() })
	return "http://" + l.Addr().String()
}

// A client that never reads holds nothing for longer than the server allows, even
// if the large model never stops.
func TestClientThatNeverReads(t *testing.T) {
	noneLeft(t)
	piece := event(strings.Repeat("all work and no play ", 1000))
	var sent atomic.Int64
	far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
		fmt.Fprint(c, chunkedHead)
		for {
			n, err := fmt.Fprint(c, chunked(piece))
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	})
	r := start(t, model(t), func(c *serve.Config) {
		c.Limits.Write, c.Limits.Answer = 100*time.Millisecond, 1<<30
		c.Upstream = upstream(t, far.url, func(u *serve.UpstreamConfig) { u.MaxBytes = 1 << 30 })
	})
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := `{"model":"auto","stream":true,"messages":[{"role":"user","content":"x"}]}`
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", chatPath, len(body), body)
	for lines(r) == 0 { // it ends although the client does nothing
		time.Sleep(time.Millisecond)
	}
	if e := logged(t, r)[0]; e.Status != 499 || e.Error != "client_gone" {
		t.Errorf("log: %+v", e)
	}
	if n := sent.Load(); n > 256<<20 {
		t.Errorf("%d bytes went through for a client that reads nothing", n)
	}
}

// The longest answer has a limit, and so has what is held of it.
func TestEndlessAnswer(t *testing.T) {
	noneLeft(t)
	piece := event(strings.Repeat("x", 1000))
	far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
		fmt.Fprint(c, chunkedHead)
		for {
			if _, err := fmt.Fprint(c, chunked(piece)); err != nil {
				return
			}
		}
	})
	r := start(t, model(t), func(c *serve.Config) {
		c.Limits.Answer = 100_000
		c.Upstream = upstream(t, far.url, nil)
	})
	a := ask(t, r, chatPath, chat("remote", "x", "stream", true))
	if a.done || a.errors != "too_long" || len(a.text) > 100_000 || len(a.text) < 90_000 {
		t.Errorf("%d bytes, error %q, done %v", len(a.text), a.errors, a.done)
	}
	r = start(t, model(t), func(c *serve.Config) {
		c.Upstream = upstream(t, far.url, func(u *serve.UpstreamConfig) { u.MaxBytes = 50_000 })
	})
	if a := ask(t, r, chatPath, chat("remote", "x", "stream", true)); a.done || a.errors != "too_long" || len(a.text) > 50_000 {
		t.Errorf("%d bytes, error %q, done %v", len(a.text), a.errors, a.done)
	}
}

// A request that does not arrive, a head that does not end, a body that is too long.
func TestSlowRequests(t *testing.T) {
	noneLeft(t)
	r := start(t, model(t), func(c *serve.Config) { c.Limits.Read = 500 * time.Millisecond })
	for name, text := range map[string]string{
		"head": "POST " + chatPath + " HTTP/1.1\r\nHost: localhost\r\n",
		"body": "POST " + chatPath + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
	} {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, text)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil) // ends although we send nothing
		if name == "body" && (err != nil || resp.StatusCode != http.StatusRequestTimeout) {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
		c.Close()
	}
	// A slow answer is no slow request: it may take longer than Read.
	far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
		fmt.Fprint(c, streamHead+event("a"))
		time.Sleep(1500 * time.Millisecond)
		fmt.Fprint(c, event("b")+ended)
	})
	r = start(t, model(t), func(c *serve.Config) {
		c.Limits.Read, c.Limits.Write = time.Second, time.Second
		c.Upstream = upstream(t, far.url, nil)
	})
	if a := ask(t, r, chatPath, chat("auto", "x", "stream", true)); a.text != "ab" || !a.done {
		t.Errorf("%+v", a)
	}
}

// Beyond its limits a server says so at once, and lets nobody wait in vain.
func TestLimits(t *testing.T) {
	noneLeft(t)
	inside := make(chan bool, 8)
	release := make(chan bool)
	far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
		inside <- true
		<-release
		fmt.Fprint(c, streamHead+event("late")+ended)
	})
	r := start(t, model(t), func(c *serve.Config) {
		c.Limits.Requests, c.Limits.Remote, c.Limits.Queue, c.Limits.QueueWait = 3, 1, 1, time.Hour
		c.Upstream = upstream(t, far.url, func(u *serve.UpstreamConfig) { u.FirstByte = time.Hour })
	})
	var all sync.WaitGroup
	ok := func() {
		all.Go(func() {
			if a := ask(t, r, chatPath, chat("remote", "x", "stream", true)); a.text != "late" {
				t.Errorf("%+v", a)
			}
		})
	}
	ok() // has the large model
	<-inside
	ok() // waits for it
	for !strings.Contains(metricsWithRoom(t, r), "slmc_upstream_busy 1") || requestsBusy(t, r) < 2 {
		goruntime.Gosched()
	}
	// No room to wait is left for a third.
	if a := ask(t, r, chatPath, chat("remote", "x", "stream", true)); a.status != 429 || a.errors != "busy" || a.header.Get("Retry-After") == "" {
		t.Errorf("%+v", a)
	}
	full := start(t, model(t), func(c *serve.Config) {
		c.Limits.Requests = 1
		c.Upstream = upstream(t, far.url, func(u *serve.UpstreamConfig) { u.FirstByte = time.Hour })
	})
	all.Go(func() { ask(t, full, chatPath, chat("remote", "x", "stream", true)) })
	<-inside
	if a := ask(t, full, chatPath, chat("local", "x")); a.status != 429 || a.errors != "queue_full" {
		t.Errorf("one request too many: %+v", a)
	}
	if status, _ := get(t, full.url+"/healthz", nil); status != 200 {
		t.Errorf("a busy server's health has status %d", status)
	}
	close(release)
	all.Wait()
}

func metricsWithRoom(t testing.TB, r *running) string {
	_, body := get(t, r.url+"/metrics", nil)
	return body
}

// requestsBusy is how many requests a server has in hand, this question aside.
func requestsBusy(t testing.TB, r *running) int {
	t.Helper()
	var n int
	for line := range strings.Lines(metricsWithRoom(t, r)) {
		if _, err := fmt.Sscanf(line, "slmc_requests_busy %d", &n); err == nil {
			return n - 1
		}
	}
	t.Fatal("no slmc_requests_busy")
	return 0
}

// A stop lets answers end; those that take longer than it waits are told.
func TestShutdown(t *testing.T) {
	noneLeft(t)
	for _, patient := range []bool{true, false} {
		begun := make(chan bool, 1)
		release := make(chan bool)
		far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
			fmt.Fprint(c, streamHead+event("first "))
			begun <- true
			select {
			case <-release:
				fmt.Fprint(c, event("last")+ended)
			case <-closed(c):
			}
		})
		p := slmrt.DefaultPolicy()
		r := start(t, model(t), func(c *serve.Config) {
			c.Policy, c.Upstream = p, upstream(t, far.url, func(u *serve.UpstreamConfig) { u.Stall = time.Hour })
			c.Limits.Shutdown = time.Hour
			if !patient {
				c.Limits.Shutdown = 20 * time.Millisecond
			}
		})
		resp, err := http.Post(r.url+chatPath, "application/json", strings.NewReader(`{"stream":true,"messages":[{"role":"user","content":"x"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		in, head := bufio.NewReader(resp.Body), ""
		for !strings.Contains(head, `"first "`) {
			line, err := in.ReadString('\n')
			if head += line; err != nil {
				t.Fatalf("%v after %s", err, head)
			}
		}
		var all sync.WaitGroup
		all.Go(func() {
			defer resp.Body.Close()
			rest, err := io.ReadAll(in)
			switch text := string(rest); {
			case err != nil:
				t.Error(err)
			case patient && !(strings.Contains(text, `"last"`) && strings.Contains(text, "[DONE]")):
				t.Errorf("%s, wanted the rest of the answer", text)
			case !patient && !(strings.Contains(text, `"code":"shutdown"`) && !strings.Contains(text, "[DONE]")):
				t.Errorf("%s, wanted to be told of the stop", text)
			}
		})
		<-begun
		if patient {
			all.Go(r.stop)
			for {
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					break // nobody new gets in
				}
				c.Close()
			}
			close(release)
		} else {
			r.stop()
		}
		all.Wait()
		r.stop()
	}
}

// closed is closed when the other side ends the connection.
func closed(c net.Conn) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		hang(c)
		close(done)
	}()
	return done
}

// A client that leaves ends the work for it, here and at the large model.
func TestClientLeaves(t *testing.T) {
	noneLeft(t)
	left := make(chan bool, 1)
	far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
		fmt.Fprint(c, streamHead+event("first"))
		hang(c)
		left <- true
	})
	r := start(t, model(t), func(c *serve.Config) {
		c.Upstream = upstream(t, far.url, func(u *serve.UpstreamConfig) { u.Stall = time.Hour })
	})
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+chatPath, strings.NewReader(`{"stream":true,"messages":[{"role":"user","content":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	<-left
	for lines(r) == 0 {
		time.Sleep(time.Millisecond)
	}
	if e := logged(t, r)[0]; e.Status != 499 || e.RemoteError != "" {
		t.Errorf("log: %+v", e)
	}
}
