package bundle

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestCanonicalVectors holds to the examples of RFC 8785, sections 3.2.2 and
// 3.2.3.
func TestCanonicalVectors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{
			`{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
			"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		},
		{
			`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
			"\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\"," +
				"\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		},
	} {
		got, err := canonical(json.RawMessage(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("got %s, %v, wanted %s", got, err, c.want)
		}
		if at, err := checkCanonical(got); err != nil {
			t.Errorf("%s is refused at byte %d: %v", got, at, err)
		}
	}
}

// TestCanonicalNumbers holds to RFC 8785, appendix B.
func TestCanonicalNumbers(t *testing.T) {
	for bits, want := range map[uint64]string{
		0x0000000000000000: "0",
		0x8000000000000000: "0",
		0x0000000000000001: "5e-324",
		0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992",
		0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22",
		0x44b52d02c7e14af6: "1e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000",
		0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7",
		0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332",
		0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333",
		0x43143ff3c1cb0959: "1424953923781206.2",
	} {
		text := strconv.FormatFloat(math.Float64frombits(bits), 'e', 20, 64)
		if got, err := appendNumber(nil, text); err != nil || string(got) != want {
			t.Errorf("%#x: got %s, %v, wanted %s", bits, got, err, want)
		}
	}
	if _, err := appendNumber(nil, "9007199254740993"); err == nil {
		t.Error("an integer was rounded")
	}
}

// TestFloat32Canonical: the text of a float32 is canonical and gives it back.
func TestFloat32Canonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := math.Float32frombits(rapid.Uint32().Draw(t, "bits"))
		if v != v || v-v != 0 {
			return
		}
		text, err := canonical(v)
		if err != nil {
			t.Fatal(err)
		}
		if at, err := checkCanonical(text); err != nil {
			t.Errorf("%s at %d: %v", text, at, err)
		}
		var back float32
		if err := json.Unmarshal(text, &back); err != nil || back != v {
			t.Errorf("%s gives %g, %v, wanted %g", text, back, err, v)
		}
	})
}

func TestCanonicalRefuses(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2)
	long := "[" + strings.Repeat("0,", maxElements) + "0]"
	for _, c := range []struct {
		text string
		at   int
	}{
		{"", 0}, {" {}", 0}, {"{} ", 2}, {"{}\n", 2}, {"[1, 2]", 3}, {`{"a" :1}`, 4}, {"{}{}", 2},
		{`{"b":1,"a":2}`, 7}, {`{"a":1,"a":2}`, 7}, {`{"a":1,}`, 7}, {"[1,]", 3}, {"[", 1}, {`{"a`, 3}, {`{"a"`, 4}, {`{"a":`, 5},
		{"1.0", 0}, {"01", 0}, {"-0", 0}, {"1e5", 0}, {"1E+30", 0}, {"0.0000001", 0}, {"+1", 0}, {".5", 0}, {"1.", 0}, {"-", 0},
		{"9007199254740993", 0}, {"1e999", 0}, {"0x10", 1}, {"NaN", 0}, {"1_0", 1},
		{`"\u0041"`, 1}, {`"\/"`, 1}, {`"\u000A"`, 1}, {`"\u00e9"`, 1}, {`"\ud83d\ude00"`, 1}, {`"\u000f`, 7}, {`"\u00`, 1}, {`"\`, 1},
		{"\"\x01\"", 1}, {"\"\xff\"", 1}, {"\"\xed\xa0\x80\"", 1}, {"tru", 0}, {"nulll", 4},
		{deep, maxDepth + 1}, {long, 1 + 2*maxElements},
	} {
		at, err := checkCanonical([]byte(c.text))
		if err == nil || at != c.at {
			t.Errorf("%.60q: byte %d: %v, wanted an error at byte %d", c.text, at, err, c.at)
		}
	}
}

// FuzzCanonical compares the scanner with the encoder: a text is canonical
// exactly when encoding what it means gives the same text.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,-1e-7],"b":"\n\u0001€"}`, `{"a":1,"a":1}`, `[null,true,false,{}]`, `1e+21`, `"\ud800"`, `"<>&\u2028"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		at, bad := checkCanonical(text)
		if at < 0 || at > len(text) {
			t.Fatalf("byte %d of %d", at, len(text))
		}
		var want []byte
		tree, err := decodeTree(text)
		if err == nil {
			want, err = appendValue(nil, tree)
		}
		same := err == nil && string(want) == string(text)
		if bad == nil && !same {
			t.Errorf("%q is accepted, its canonical form is %q, %v", text, want, err)
		}
		bounded := bad != nil && (strings.Contains(bad.Error(), "nested deeper") || strings.Contains(bad.Error(), "more than"))
		if bad != nil && same && !bounded {
			t.Errorf("%q is refused: %v", text, bad)
		}
	})
}
