package jinja

import (
	"fmt"
	"strings"
	"time"
)

var probeTime = time.Date(2025, time.January, 2, 15, 4, 5, 0, time.UTC)

// strftimeLayouts are the directives of C's strftime in the C locale that have a form in package time. "%-d" drops the padding.
var strftimeLayouts = map[string]string{
	"Y": "2006", "y": "06", "m": "01", "B": "January", "b": "Jan", "h": "Jan", "d": "02", "e": "_2", "A": "Monday", "a": "Mon",
	"H": "15", "I": "03", "M": "04", "S": "05", "p": "PM", "Z": "MST", "z": "-0700", "F": "2006-01-02", "T": "15:04:05",
	"D": "01/02/06", "R": "15:04", "c": "Mon Jan _2 15:04:05 2006", "x": "01/02/06", "X": "15:04:05",
	"-d": "2", "-m": "1", "-I": "3", "-M": "4", "-S": "5",
}

// strftimeOther are the directives that package time lacks.
var strftimeOther = map[string]func(time.Time) string{
	"j":  func(t time.Time) string { return fmt.Sprintf("%03d", t.YearDay()) },
	"-j": func(t time.Time) string { return fmt.Sprint(t.YearDay()) },
	"-H": func(t time.Time) string { return fmt.Sprint(t.Hour()) },
	"f":  func(t time.Time) string { return fmt.Sprintf("%06d", t.Nanosecond()/1000) },
	"s":  func(t time.Time) string { return fmt.Sprint(t.Unix()) },
	"u":  func(t time.Time) string { return fmt.Sprint((int(t.Weekday())+6)%7 + 1) },
	"w":  func(t time.Time) string { return fmt.Sprint(int(t.Weekday())) },
	"%":  func(time.Time) string { return "%" },
	"n":  func(time.Time) string { return "\n" },
	"t":  func(time.Time) string { return "\t" },
}

func strftime(t time.Time, format string) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(format, "%")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		n := 1
		if strings.HasPrefix(after, "-") {
			n = 2
		}
		if len(after) < n {
			return "", failure(ErrUnsupported, "strftime: directive is not complete")
		}
		d := after[:n]
		if layout, ok := strftimeLayouts[d]; ok {
			b.WriteString(t.Format(layout))
		} else if f, ok := strftimeOther[d]; ok {
			b.WriteString(f(t))
		} else {
			return "", failure(ErrUnsupported, "strftime: unknown directive %q", "%"+d)
		}
		format = after[n:]
	}
}

func checkStrftime(format string) error {
	_, err := strftime(probeTime, format)
	return err
}
