package kernel

import "testing"

func TestLimits(t *testing.T) {
	for _, im := range Impls() {
		if !im.OK {
			continue
		}
		im.Read(nil)
		im.Read(guarded[byte](t, 4096)) // a load beyond would fault
		if got := im.Int8(0); got != 0 {
			t.Errorf("%s: no rounds make %d operations", im.Name, got)
		}
		if a, b := im.Int8(10), im.Int8(20); a <= 0 || b != 2*a {
			t.Errorf("%s: 10 and 20 rounds make %d and %d operations", im.Name, a, b)
		}
	}
}
