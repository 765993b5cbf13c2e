package routertrain

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// Figure is a figure that some data leave undefined: NaN or an infinity then,
// null in JSON. A zero would read as the worst of routers.
type Figure float64

// Defined reports whether there is a number.
func (f Figure) Defined() bool { return !math.IsNaN(float64(f)) && !math.IsInf(float64(f), 0) }

// String implements fmt.Stringer.
func (f Figure) String() string {
	if !f.Defined() {
		return "undefined"
	}
	return fmt.Sprintf("%.4f", float64(f))
}

// MarshalJSON implements json.Marshaler.
func (f Figure) MarshalJSON() ([]byte, error) {
	if !f.Defined() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(f))
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Figure) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*f = Figure(math.NaN())
		return nil
	}
	return json.Unmarshal(text, (*float64)(f))
}

// Undefined says why figures are undefined; empty when none of an evaluation's
// that were measured is.
func (d *Deferral) Undefined() string {
	var why []string
	if !d.AUROCPost.Defined() {
		kind := "wrong"
		if d.More.SmallQuality == 0 {
			kind = "right"
		}
		why = append(why, fmt.Sprintf("an AUROC compares wrong answers with right ones, and of these %d none is %s", d.More.N, kind))
	}
	if !d.GapClosed.Defined() {
		if d.More.SmallQuality == d.More.LargeQuality {
			why = append(why, "both models are equally good, so there is no gap to close")
		} else {
			why = append(why, "who knows both scores does no better than chance, so there is no gap to close")
		}
	}
	return strings.Join(why, "; ")
}
