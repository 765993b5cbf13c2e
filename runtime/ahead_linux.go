package slmrt

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slmc/formats/bundle"
	"slmc/model"
)

// The system reads a mapped file as its pages are met, and somewhat ahead: 128
// KiB unless told otherwise, so that a first token waits for the disk again and
// again. Told what will be needed it keeps the disk busy while the manifest is
// still being decoded. What that gains, and loses where the system reads far
// ahead by itself, is in docs/experiments.md ("Speed: load").
const (
	aheadStep   = 512 << 10 // the system cuts what is longer than its device takes at once
	aheadEnough = 1 << 20   // bytes that a device reads ahead, from which it is left alone
)

// span is a stretch of a file.
type span struct{ at, n int64 }

// readAhead asks the system, beside the caller, to read a bundle's weights in
// the order of their use. It is advice: what fails is not reported.
func readAhead(path string, m *bundle.Manifest) {
	go func() {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || readsAhead("/sys", st.Dev) >= aheadEnough {
			return
		}
		_ = willNeed(f, weightSpans(m))
	}()
}

func willNeed(f *os.File, spans []span) error {
	for _, s := range spans {
		for end := s.at + s.n; s.at < end; s.at += aheadStep {
			if err := unix.Fadvise(int(f.Fd()), s.at, min(aheadStep, end-s.at), unix.FADV_WILLNEED); err != nil {
				return err
			}
		}
	}
	return nil
}

// weightSpans lists where a bundle's weights lie in the order of their use:
// blocks, then the head. An embedding that is not the head gives a token one
// row and is left out.
func weightSpans(m *bundle.Manifest) []span {
	base := m.Section(bundle.SectionWeights).Offset
	var spans []span
	add := func(i int) {
		w := span{base + m.Weights[i].Offset, m.Weights[i].Bytes}
		// Neighbours are padded to 64 bytes.
		if n := len(spans); n > 0 && w.at >= spans[n-1].at && w.at <= spans[n-1].at+spans[n-1].n+64 {
			spans[n-1].n = w.at + w.n - spans[n-1].at
			return
		}
		spans = append(spans, w)
	}
	for i, w := range m.Graph.Weights {
		if w.Role != model.RoleEmbed && w.Role != model.RoleHead {
			add(i)
		}
	}
	add(m.Graph.Head.W)
	return spans
}

// readsAhead is the number of bytes that a block device is read ahead by, 0
// where sysfs does not tell, as it does not tell an Android app.
func readsAhead(sys string, dev uint64) int {
	device := filepath.Join(sys, "dev/block", fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
	// A partition's queue is its disk's. The path is a link: .. must be the
	// system's, not filepath's.
	for _, queue := range []string{"/queue", "/../queue"} {
		if b, err := os.ReadFile(device + queue + "/read_ahead_kb"); err == nil {
			kb, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			return kb << 10
		}
	}
	return 0
}
