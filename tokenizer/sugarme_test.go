package tokenizer

import (
	"bytes"
	"slices"
	"testing"

	"github.com/sugarme/tokenizer/pretrained"
)

// Decision 2 leaves sugarme/tokenizer out because it gives other ids than the
// reference even for WordPiece and word-level vocabularies. This keeps the
// reason true: the day that it gives the right ones, it may serve there.
func TestSugarmeStillDiffers(t *testing.T) {
	seen := 0
	for _, c := range components(t) {
		if !slices.Contains([]string{"bert", "bert cased", "word level"}, c.Name) {
			continue
		}
		seen++
		tok, err := pretrained.FromReader(bytes.NewReader(c.Tokenizer))
		if err != nil {
			t.Logf("%s: does not load: %v", c.Name, err)
			continue
		}
		wrong := 0
		for _, v := range c.Vectors {
			enc, err := tok.EncodeSingle(v.Text, true)
			if err != nil {
				wrong++
				continue
			}
			var ids []int32
			for _, id := range enc.GetIds() {
				ids = append(ids, int32(id))
			}
			if !slices.Equal(ids, v.IDs) {
				wrong++
			}
		}
		t.Logf("%s: %d of %d texts have other ids", c.Name, wrong, len(c.Vectors))
		if wrong == 0 {
			t.Errorf("%s: sugarme/tokenizer gives the reference's ids on all %d texts: let it serve, and revise decision 2", c.Name, len(c.Vectors))
		}
	}
	if seen == 0 {
		t.Fatal("no WordPiece or word-level component: names changed")
	}
}
