package main

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// progress shows a bar with rate and time left, on a terminal only. The
// function it returns takes what is done; total must not change.
func progress(c *cli.Context, what string, total int64, unit string) (set func(done int64), finish func()) {
	f, ok := c.App.ErrWriter.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || total <= 0 {
		return func(int64) {}, func() {}
	}
	opts := []progressbar.Option{
		progressbar.OptionSetWriter(f),
		progressbar.OptionSetDescription(fmt.Sprintf("%-10s", what)),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetItsString(unit),
		progressbar.OptionClearOnFinish(),
	}
	if unit == "B" {
		opts = append(opts, progressbar.OptionShowBytes(true))
	}
	bar := progressbar.NewOptions64(total, opts...)
	return func(done int64) { _ = bar.Set64(done) }, func() { _ = bar.Finish() }
}

// bars shows one bar for each named step, one after the other.
type bars struct {
	c      *cli.Context
	step   string
	update func(int64)
	end    func()
}

func newBars(c *cli.Context) *bars {
	return &bars{c: c, update: func(int64) {}, end: func() {}}
}

// set moves the bar of a step, starting it if it is new.
func (b *bars) set(step string, done, total int64) {
	if step != b.step {
		b.end()
		unit := "B"
		if total < 1<<16 {
			unit = "it"
		}
		b.step = step
		b.update, b.end = progress(b.c, step, total, unit)
	}
	b.update(done)
}

func (b *bars) finish() { b.end() }
