package pytorch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"slmc/formats"
)

// entry is one file of a zip made for a test.
type entry struct {
	name   string
	data   []byte
	method uint16
}

func makeZip(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: e.method}
		if e.method == zip.Store {
			h.CRC32, h.CompressedSize64, h.UncompressedSize64 = crc32.ChecksumIEEE(e.data), uint64(len(e.data)), uint64(len(e.data))
		}
		var out interface{ Write([]byte) (int, error) }
		var err error
		if e.method == zip.Store {
			out, err = w.CreateRaw(h)
		} else {
			out, err = w.CreateHeader(h)
		}
		if err == nil {
			_, err = out.Write(e.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// torchZip is the archive of one pickle and one storage "0" of 16 bytes.
func torchZip(t testing.TB, pickle string, more ...entry) []byte {
	return makeZip(t, append([]entry{{"a/data.pkl", []byte(pickle), zip.Store}, {"a/data/0", make([]byte, 16), zip.Store}}, more...)...)
}

func open(b []byte) (*File, error) {
	return New(formats.NewFile("x.pt", bytes.NewReader(b), int64(len(b))))
}

// Pieces of pickles, in the opcodes that torch writes.
func str(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}
func num(n int32) string { return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }

func tuple(items ...string) string { return "(" + strings.Join(items, "") + "t" }

func persistent(class, key string, n int32) string {
	return tuple(str("storage"), "ctorch\n"+class+"\n", str(key), str("cpu"), num(n)) + "Q"
}

// stored is a tensor over a storage.
func stored(storage string, off int32, size, stride string) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n" + tuple(storage, num(off), size, stride, "\x89", "ccollections\nOrderedDict\n)R") + "R"
}

// dict is a whole stream: a dict of keys and values.
func dict(items ...string) string { return "\x80\x02}(" + strings.Join(items, "") + "u." }

func floats(size, stride string, off int32) string {
	return dict(str("w"), stored(persistent("FloatStorage", "0", 4), off, size, stride))
}

func bytes8(op string, n uint64) string {
	return "\x80\x05" + op + string(binary.LittleEndian.AppendUint64(nil, n))
}

// cost runs f and returns its time and the bytes that it allocated in all,
// freed or not.
func cost(f func()) (time.Duration, uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	return took, after.TotalAlloc - before.TotalAlloc
}

// hostilePickles are streams that must be refused, with what the message says.
var hostilePickles = []struct {
	name, pickle string
	kind         error
	want         string
}{
	{"BINBYTES8 bomb", bytes8("\x8e", 64<<30), formats.ErrCorrupt, "BINBYTES8 wants"},
	{"BINBYTES8 of 2^64-1", bytes8("\x8e", 1<<64-1), formats.ErrCorrupt, "BINBYTES8 wants"},
	{"BINUNICODE8 bomb", bytes8("\x8d", 64<<30), formats.ErrCorrupt, "BINUNICODE8 wants"},
	{"BYTEARRAY8 bomb", bytes8("\x96", 64<<30), formats.ErrUnsupported, "BYTEARRAY8"},
	{"FRAME bomb", bytes8("\x95", 64<<30), formats.ErrCorrupt, "FRAME of"},
	{"BINUNICODE bomb", "\x80\x02X\xff\xff\xff\xffa", formats.ErrCorrupt, "BINUNICODE wants"},
	{"BINBYTES bomb", "\x80\x03B\xff\xff\xff\x7fa", formats.ErrCorrupt, "BINBYTES wants"},
	{"LONG4 bomb", "\x80\x02\x8b\xff\xff\xff\x7f", formats.ErrCorrupt, "LONG4 of"},
	{"LONG4 negative", "\x80\x02\x8b\xff\xff\xff\xff", formats.ErrCorrupt, "LONG4 of"},
	{"LONG1 empty", "\x80\x02\x8a\x00.", formats.ErrCorrupt, "LONG1 of 0"},

	{"os.system by REDUCE", "\x80\x02cos\nsystem\n" + tuple(str("id")) + "R.", formats.ErrUnsupported, `"os.system"`},
	{"posix.system", "\x80\x02cposix\nsystem\n.", formats.ErrUnsupported, `"posix.system"`},
	{"eval by REDUCE", "\x80\x02c__builtin__\neval\n" + tuple(str("1")) + "R.", formats.ErrUnsupported, `"__builtin__.eval"`},
	{"eval by STACK_GLOBAL", "\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", formats.ErrUnsupported, `"builtins.eval"`},
	{"exec through a tensor", "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(cbuiltins\nexec\n" + str("1") + "tR.", formats.ErrUnsupported, `"builtins.exec"`},
	{"os.system by INST", "(" + str("id") + "ios\nsystem\n.", formats.ErrUnsupported, "INST"},
	{"os.system by OBJ", "\x80\x02(cos\nsystem\n" + str("id") + "o.", formats.ErrUnsupported, "OBJ"},
	{"OBJ of an allowed class", "\x80\x02(ctorch\nSize\n)o.", formats.ErrUnsupported, "OBJ"},
	{"os.system by NEWOBJ", "\x80\x02cos\nsystem\n" + tuple(str("id")) + "\x81.", formats.ErrUnsupported, `"os.system"`},
	{"NEWOBJ of a function", "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.", formats.ErrCorrupt, "NEWOBJ"},
	{"NEWOBJ_EX", "\x80\x04cos\nsystem\n)}\x92.", formats.ErrUnsupported, "NEWOBJ_EX"},
	{"BUILD of a class", "\x80\x02csubprocess\nPopen\n)\x81}(" + str("a") + "K\x01ub.", formats.ErrUnsupported, `"subprocess.Popen"`},
	{"BUILD of a tensor", dict(str("w"), stored(persistent("FloatStorage", "0", 4), 0, "K\x04\x85", "K\x01\x85")+"}("+str("a")+"K\x01ub"), formats.ErrCorrupt, "BUILD"},
	{"__setstate__ of a pickled object", "\x80\x02c__main__\nEvil\n)\x81}b.", formats.ErrUnsupported, `"__main__.Evil"`},
	{"_reconstructor of a class", "\x80\x02ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.", formats.ErrUnsupported, `"os.system"`},
	{"_load_from_bytes", "\x80\x02ctorch.storage\n_load_from_bytes\n" + tuple("C\x01a") + "R.", formats.ErrUnsupported, "_load_from_bytes"},
	{"getattr", "\x80\x02cbuiltins\ngetattr\n.", formats.ErrUnsupported, "builtins.getattr"},
	{"a storage class of another module", "\x80\x02cevil\nFloatStorage\n.", formats.ErrUnsupported, "evil.FloatStorage"},
	{"EXT1", "\x80\x02\x82\x01.", formats.ErrUnsupported, "EXT1"},
	{"EXT2", "\x80\x02\x83\x01\x01.", formats.ErrUnsupported, "EXT2"},
	{"EXT4", "\x80\x02\x84\x01\x01\x01\x01.", formats.ErrUnsupported, "EXT4"},
	{"PERSID", "P0\n.", formats.ErrUnsupported, "PERSID"},
	{"NEXT_BUFFER", "\x80\x05\x97.", formats.ErrUnsupported, "NEXT_BUFFER"},
	{"sets", "\x80\x04\x8f(]\x90.", formats.ErrUnsupported, "EMPTY_SET"},
	{"opcode 0xff", "\x80\x02\xff.", formats.ErrCorrupt, "0xff"},
	{"protocol 9", "\x80\x09}.", formats.ErrCorrupt, "protocol"},

	{"no STOP", "\x80\x02}", formats.ErrCorrupt, "without STOP"},
	{"nothing", "", formats.ErrCorrupt, "without STOP"},
	{"bytes after STOP", dict() + "}.", formats.ErrCorrupt, "after the pickle"},
	{"odd SETITEMS", "\x80\x02}(Nu.", formats.ErrCorrupt, "wanted pairs"},
	{"odd DICT", "\x80\x02(Nd.", formats.ErrCorrupt, "wanted pairs"},
	{"pop of an empty stack", "\x80\x02a.", formats.ErrCorrupt, "APPEND takes 2"},
	{"TUPLE without MARK", "\x80\x02t.", formats.ErrCorrupt, "without a MARK"},
	{"values across a MARK", "\x80\x02NN(\x86.", formats.ErrCorrupt, "TUPLE2 takes 2"},
	{"memo never stored", "\x80\x02h\x07.", formats.ErrCorrupt, "memo 7"},
	{"memo 2^32-1", "\x80\x02j\xff\xff\xff\xff.", formats.ErrCorrupt, "memo 4294967295"},
	{"a million MARKs", "\x80\x02" + strings.Repeat("(", 1<<20) + ".", formats.ErrCorrupt, "nested MARKs"},
	{"a million values", "\x80\x02" + strings.Repeat("N", 1<<20) + ".", formats.ErrCorrupt, "values on the stack"},
	{"memory in small steps", "\x80\x02](" + strings.Repeat(strings.Repeat("}", 1000)+"e(", 1000) + ".", formats.ErrCorrupt, "of memory"},
	{"a dict as key", dict("}", "N"), formats.ErrUnsupported, "key of a dict"},
	{"bytes as key of an ordered dict", "\x80\x03ccollections\nOrderedDict\n)R(C\x01aNu.", formats.ErrCorrupt, "pickle"},
	{"names that double", doubling(), formats.ErrCorrupt, "values in the checkpoint"},
	{"a list in itself", dict(str("w"), "]q\x00h\x00a"), formats.ErrCorrupt, "nested deeper"},
	{"not a dict", "\x80\x02].", formats.ErrUnsupported, "wanted a dict"},
	{"a tensor twice", dict(str("w"), one, str("w"), one), formats.ErrCorrupt, "appears twice"},

	{"storage that is not there", dict(str("w"), stored(persistent("FloatStorage", "../../1", 4), 0, "K\x04\x85", "K\x01\x85")), formats.ErrCorrupt, `"a/data/../../1"`},
	{"storage too small", dict(str("w"), stored(persistent("DoubleStorage", "0", 4), 0, "K\x04\x85", "K\x01\x85")), formats.ErrCorrupt, "16 bytes"},
	{"storage of 2^31-1", dict(str("w"), stored(persistent("FloatStorage", "0", 1<<31-1), 0, "K\x04\x85", "K\x01\x85")), formats.ErrCorrupt, "the file"},
	{"storage of negative size", dict(str("w"), stored(persistent("FloatStorage", "0", -1), 0, "K\x04\x85", "K\x01\x85")), formats.ErrCorrupt, "-1 elements"},
	{"storage of two types", dict(str("w"), one, str("v"), stored(persistent("IntStorage", "0", 4), 0, "K\x04\x85", "K\x01\x85")), formats.ErrCorrupt, "before"},
	{"a module", dict(str("w"), tuple(str("module"), "N", "N", "N")+"Q"), formats.ErrUnsupported, "whole module"},
	{"untyped storage", dict(str("w"), stored(persistent("UntypedStorage", "0", 16), 0, "K\x04\x85", "K\x01\x85")), formats.ErrCorrupt, "no element type"},
	{"offset beyond the storage", floats("K\x04\x85", "K\x01\x85", 1), formats.ErrCorrupt, "leaves the storage"},
	{"negative offset", floats("K\x04\x85", "K\x01\x85", -1), formats.ErrCorrupt, "offset"},
	{"scalar beyond the storage", floats(")", ")", 4), formats.ErrCorrupt, "element 4"},
	{"negative stride", floats("K\x04\x85", num(-1)+"\x85", 3), formats.ErrCorrupt, "negative stride"},
	{"negative size", floats(num(-4)+"\x85", "K\x01\x85", 0), formats.ErrCorrupt, "negative dimension"},
	{"stride beyond the storage", floats("K\x02\x85", "K\x04\x85", 0), formats.ErrCorrupt, "leaves the storage"},
	{"stride that overflows", floats("K\x02K\x02\x86", strings.Repeat("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", 2)+"\x86", 0), formats.ErrCorrupt, "leaves the storage"},
	{"size that overflows", floats(strings.Repeat(num(1<<30), 3)+"\x87", strings.Repeat("K\x01", 3)+"\x87", 0), formats.ErrCorrupt, "2^48"},
	{"expanded view", floats(num(1<<30)+"\x85", "K\x00\x85", 0), formats.ErrCorrupt, "expanded"},
	{"overlapping view", floats("K\x03K\x02\x86", "K\x01K\x01\x86", 0), formats.ErrCorrupt, "overlapping"},
	{"stride of another rank", floats("K\x04\x85", ")", 0), formats.ErrCorrupt, "differ in length"},
	{"size of strings", floats(str("a")+"\x85", "K\x01\x85", 0), formats.ErrCorrupt, "wanted integers"},
	{"too few arguments", dict(str("w"), "ctorch._utils\n_rebuild_tensor_v2\n)R"), formats.ErrCorrupt, "wanted 6 or 7"},
	{"conjugate bit", dict(str("w"), strings.Replace(one, "tR", "}("+str("conj")+"\x88utR", 1)), formats.ErrCorrupt, "metadata"},
}

var one = stored(persistent("FloatStorage", "0", 4), 0, "K\x04\x85", "K\x01\x85")

// doubling is a tree of 2^40 leaves in 200 bytes: tuples that hold the one
// before twice.
func doubling() string {
	s := "N"
	for i := range 25 {
		s += fmt.Sprintf("q%c0h%ch%c\x86", i, i, i)
	}
	return dict(str("w"), s)
}

func TestHostilePickles(t *testing.T) {
	if _, err := open(torchZip(t, dict(str("w"), one))); err != nil {
		t.Fatal(err)
	}
	for _, c := range hostilePickles {
		t.Run(c.name, func(t *testing.T) {
			b := torchZip(t, c.pickle)
			var err error
			took, mem := cost(func() { _, err = open(b) })
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "x.pt") {
				t.Errorf("%v; wanted %v and %q", err, c.kind, c.want)
			}
			if took > time.Second || mem > 100<<20 {
				t.Errorf("took %v and %d bytes", took, mem)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("message of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestHostileZips(t *testing.T) {
	pkl := entry{"a/data.pkl", []byte(dict(str("w"), one)), zip.Store}
	data := entry{"a/data/0", make([]byte, 16), zip.Store}
	with := func(more ...entry) []byte { return makeZip(t, append([]entry{pkl, data}, more...)...) }
	patch := func(b []byte, f func(b []byte, end int)) []byte {
		f(b, bytes.LastIndex(b, []byte("PK\x05\x06")))
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		kind error
		want string
	}{
		{"path traversal", with(entry{"a/../../etc/passwd", nil, zip.Store}), formats.ErrCorrupt, "does not stay in its folder"},
		{"leading parent", with(entry{"../x", nil, zip.Store}), formats.ErrCorrupt, "does not stay in its folder"},
		{"absolute path", with(entry{"/etc/passwd", nil, zip.Store}), formats.ErrCorrupt, "does not stay in its folder"},
		{"backslashes", with(entry{`a\..\x`, nil, zip.Store}), formats.ErrCorrupt, "does not stay in its folder"},
		{"drive", with(entry{"c:/x", nil, zip.Store}), formats.ErrCorrupt, "does not stay in its folder"},
		{"deflated entry", with(entry{"a/data/1", make([]byte, 1<<20), zip.Deflate}), formats.ErrUnsupported, "deflated"},
		{"entry twice", with(data), formats.ErrCorrupt, "appears twice"},
		{"two archives in one", with(entry{"b/data.pkl", nil, zip.Store}), formats.ErrCorrupt, "two data.pkl"},
		{"no data.pkl", makeZip(t, data), formats.ErrUnsupported, "not written by torch.save"},
		{"empty zip", makeZip(t), formats.ErrUnsupported, "not written by torch.save"},
		{"TorchScript", with(entry{"a/constants.pkl", nil, zip.Store}), formats.ErrUnsupported, "TorchScript"},
		{"big-endian", with(entry{"a/byteorder", []byte("big"), zip.Store}), formats.ErrUnsupported, `"big"`},
		{"long byte order", with(entry{"a/byteorder", make([]byte, 1<<20), zip.Store}), formats.ErrCorrupt, "at most 16"},
		{"data.pkl over 16 MiB", makeZip(t, entry{"a/data.pkl", make([]byte, maxPickle+1), zip.Store}), formats.ErrCorrupt, "at most"},
		{"storage entry too long", makeZip(t, pkl, entry{"a/data/0", make([]byte, 17), zip.Store}), formats.ErrCorrupt, "has 17 bytes"},
		{"65535 records", patch(with(), func(b []byte, end int) { binary.LittleEndian.PutUint16(b[end+10:], 65535) }), formats.ErrCorrupt, "zip directory"},
		{"directory of 4 GB", patch(with(), func(b []byte, end int) { binary.LittleEndian.PutUint32(b[end+12:], 1<<32-2) }), formats.ErrCorrupt, "zip directory"},
		{"directory elsewhere", patch(with(), func(b []byte, end int) { binary.LittleEndian.PutUint32(b[end+16:], 1<<31) }), formats.ErrCorrupt, "zip"},
		{"entry beyond the file", patch(with(), func(b []byte, end int) {
			at := bytes.Index(b, []byte("PK\x01\x02"))
			binary.LittleEndian.PutUint32(b[at+20:], 1<<31)
			binary.LittleEndian.PutUint32(b[at+24:], 1<<31)
		}), formats.ErrCorrupt, "needs 2147483648 bytes"},
		{"two sizes", patch(with(), func(b []byte, end int) {
			binary.LittleEndian.PutUint32(b[bytes.Index(b, []byte("PK\x01\x02"))+24:], 1<<31)
		}), formats.ErrCorrupt, "its sizes are"},
		{"encrypted", patch(with(), func(b []byte, end int) { b[bytes.Index(b, []byte("PK\x01\x02"))+8] |= 1 }), formats.ErrUnsupported, "encrypted"},
		{"overlap", patch(with(), func(b []byte, end int) { // the second entry's header is the first's
			at := bytes.LastIndex(b, []byte("PK\x01\x02"))
			copy(b[at+42:at+46], []byte{0, 0, 0, 0})
		}), formats.ErrCorrupt, "overlap"},
		{"tar", append(append(make([]byte, 257), "ustar\x00"...), make([]byte, 1000)...), formats.ErrUnsupported, "tar form"},
		{"empty file", nil, formats.ErrCorrupt, "neither"},
		{"text", []byte("hello"), formats.ErrCorrupt, "neither"},
		{"a pickle of something else", []byte("\x80\x02}."), formats.ErrUnsupported, "magic number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			took, mem := cost(func() { _, err = open(c.b) })
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "x.pt") {
				t.Errorf("%v; wanted %v and %q", err, c.kind, c.want)
			}
			if took > time.Second || mem > 100<<20 {
				t.Errorf("took %v and %d bytes", took, mem)
			}
		})
	}
}

// A directory that announces a record for every 30 bytes of a huge file must
// not make room for them.
func TestZipRecordsOfSparseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pt")
	const size = 32 << 30
	b := append([]byte("PK\x06\x06"), make([]byte, 52)...)
	binary.LittleEndian.PutUint64(b[4:], 44)
	binary.LittleEndian.PutUint64(b[24:], size/40)
	binary.LittleEndian.PutUint64(b[32:], size/40)
	b = binary.LittleEndian.AppendUint64(append(b, "PK\x06\x07\x00\x00\x00\x00"...), size)
	b = append(b, 1, 0, 0, 0)
	b = append(append(b, "PK\x05\x06"...), "\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00"...)
	if err := os.WriteFile(path, []byte("PK\x03\x04"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.WriteAt(b, size); errors.Join(err, f.Close()) != nil {
		t.Skipf("no sparse file of 32 GiB here: %v", err)
	}
	took, mem := cost(func() { _, err = Open(path) })
	if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprintf("%d entries", size/40)) {
		t.Errorf("%v", err)
	}
	if took > time.Second || mem > 10<<20 {
		t.Errorf("took %v and %d bytes", took, mem)
	}
}
