package routertrain

import (
	"fmt"
	"regexp"
)

// Redaction says what of a query's text a label file keeps.
type Redaction string

// The kinds of redaction. Whatever is left out, the query keeps its id, and
// training takes the text from the file of queries.
const (
	RedactNone Redaction = "none" // queries and answers as they are
	RedactMask Redaction = "mask" // addresses and numbers replaced
	RedactDrop Redaction = "drop" // no text at all
)

// ParseRedaction returns the kind of that name.
func ParseRedaction(name string) (Redaction, error) {
	switch r := Redaction(name); r {
	case RedactNone, RedactMask, RedactDrop:
		return r, nil
	}
	return "", fmt.Errorf("redaction %q is unknown; have none, mask, drop", name)
}

// masks replace what names a person or a thing of theirs, in this order.
var masks = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://\S+`), "<url>"},
	{regexp.MustCompile(`[\pL\pN._%+-]+@[\pL\pN-]+(?:\.[\pL\pN-]+)+`), "<email>"},
	{regexp.MustCompile(`(?:^|\B)@[\pL\pN_]{2,}`), "<handle>"},
	{regexp.MustCompile(`\pN(?:[\pN .,/:()-]*\pN)?`), "<number>"},
}

// Text is what is kept of a text.
func (r Redaction) Text(s string) string {
	switch r {
	case RedactDrop:
		return ""
	case RedactMask:
		for _, m := range masks {
			s = m.find.ReplaceAllString(s, m.with)
		}
	}
	return s
}
