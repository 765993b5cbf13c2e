// Command serve sends the queries of a task to a running slmc serve and says how
// they were answered: how many right, how many by the large model, how fast.
//
//	go run ./bench/serve -url http://127.0.0.1:8080 -task test_public.jsonl -clients 8
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

type row struct{ Source, Query, Call string }

// result is what came of one query.
type result struct {
	Outcome, Reason, Served string
	Right, Certified        bool
	MS                      float64
	Err                     string
}

// figures are printed as one JSON object.
type figures struct {
	Queries      int            `json:"queries"`
	Errors       int            `json:"errors"`
	FirstError   string         `json:"first_error,omitempty"`
	ExactMatch   float64        `json:"exact_match"`
	DeferralRate float64        `json:"deferral_rate"`
	Certified    float64        `json:"certified"`
	Outcomes     map[string]int `json:"outcomes"`
	Reasons      map[string]int `json:"reasons"`
	Served       map[string]int `json:"served"`
	MedianMS     float64        `json:"median_ms"`
	P99MS        float64        `json:"p99_ms"`
	PerSecond    float64        `json:"requests_per_second"`
}

func main() {
	url := flag.String("url", "http://127.0.0.1:8080", "the server")
	task := flag.String("task", "", "JSONL rows with query and call")
	model := flag.String("model", "auto", "ask for this model")
	clients := flag.Int("clients", 8, "clients at once")
	limit := flag.Int("limit", 0, "take the first rows only")
	flag.Parse()
	if err := run(*url, *task, *model, *clients, *limit); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(url, task, model string, clients, limit int) error {
	rows, err := read(task)
	if err != nil {
		return err
	}
	if limit > 0 {
		rows = rows[:min(limit, len(rows))]
	}
	results := make([]result, len(rows))
	next := make(chan int)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	var all sync.WaitGroup
	start := time.Now()
	for range clients {
		all.Go(func() {
			for i := range next {
				begin := time.Now()
				results[i] = ask(client, url, model, rows[i])
				results[i].MS = float64(time.Since(begin).Microseconds()) / 1000
			}
		})
	}
	for i := range rows {
		next <- i
	}
	close(next)
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(sum(results, time.Since(start)))
}

func read(path string) ([]row, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rows []row
	for line := range bytes.Lines(data) {
		var r row
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, len(rows)+1, err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// ask streams one answer and puts it together.
func ask(c *http.Client, url, model string, r row) (out result) {
	body, err := json.Marshal(map[string]any{"model": model, "stream": true, "messages": []any{map[string]string{"role": "user", "content": r.Query}}})
	if err != nil {
		return result{Err: err.Error()}
	}
	resp, err := c.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		return result{Err: err.Error()}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return result{Err: fmt.Sprintf("status %d: %s", resp.StatusCode, text)}
	}
	text, done := "", false
	in := bufio.NewScanner(resp.Body)
	for in.Scan() {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if data == "[DONE]" {
			done = true
			continue
		}
		if !ok {
			continue
		}
		var chunk struct {
			Choices []struct{ Delta struct{ Content string } }
			Slmc    *struct {
				Outcome, Reason, Served string
				Certified               bool
			}
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return result{Err: err.Error()}
		}
		for _, x := range chunk.Choices {
			text += x.Delta.Content
		}
		if s := chunk.Slmc; s != nil {
			out.Outcome, out.Reason, out.Served, out.Certified = s.Outcome, s.Reason, s.Served, s.Certified
		}
	}
	if !done {
		out.Err = "the stream breaks off"
	}
	out.Right = strings.TrimSpace(text) == r.Call
	return out
}

func sum(results []result, took time.Duration) figures {
	f := figures{Queries: len(results), Outcomes: map[string]int{}, Reasons: map[string]int{}, Served: map[string]int{}}
	var times []float64
	n := float64(len(results))
	for _, r := range results {
		if r.Err != "" {
			if f.Errors++; f.Errors == 1 {
				f.FirstError = r.Err
			}
			continue
		}
		times = append(times, r.MS)
		f.Outcomes[r.Outcome]++
		f.Reasons[r.Reason]++
		f.Served[r.Served]++
		if r.Right {
			f.ExactMatch += 1 / n
		}
		if r.Certified {
			f.Certified += 1 / n
		}
	}
	f.DeferralRate = float64(f.Outcomes["DEFER"]) / n
	f.PerSecond = n / took.Seconds()
	if len(times) > 0 {
		slices.Sort(times)
		f.MedianMS, f.P99MS = times[len(times)/2], times[len(times)*99/100]
	}
	return f
}
