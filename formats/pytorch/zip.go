package pytorch

import (
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"

	"slmc/formats"
)

const (
	// maxDirectory bounds the central directory, from which archive/zip makes
	// objects of up to ten times its size. torch takes about 120 bytes a
	// storage: room for 30,000.
	maxDirectory = 4 << 20
	// entryBytes is the least that a directory entry takes.
	entryBytes = 46
)

// archive is a torch zip: the entries under its one folder, all stored.
type archive struct {
	file    *formats.File
	prefix  string // "archive/"
	entries map[string]span
}

// span is the place of an entry's data in the file.
type span struct{ offset, bytes int64 }

// openArchive reads and checks the directory of a torch zip.
func openArchive(f *formats.File) (*archive, error) {
	if err := checkDirectory(f); err != nil {
		return nil, err
	}
	limited := &limitedAt{r: f.Section(0, f.Size()), left: maxDirectory + 1<<18}
	z, err := zip.NewReader(limited, f.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names are checked below
		return nil, &formats.Error{File: f.Name(), Offset: -1, Kind: formats.ErrCorrupt, Msg: "zip directory", Err: err}
	}
	limited.left = f.Size() // local headers, 30 bytes an entry
	a := &archive{file: f, entries: make(map[string]span, len(z.File))}
	for _, e := range z.File {
		if err := a.add(e); err != nil {
			return nil, err
		}
	}
	if err := a.checkOverlap(); err != nil {
		return nil, err
	}
	return a, a.findPrefix()
}

// checkDirectory bounds what the end record announces, since archive/zip
// makes room for it before it reads an entry.
func checkDirectory(f *formats.File) error {
	tail := make([]byte, min(f.Size(), 65<<10))
	start := f.Size() - int64(len(tail))
	if err := f.ReadFull("", start, tail); err != nil {
		return err
	}
	at := strings.LastIndex(string(tail), "PK\x05\x06")
	if at < 0 || len(tail)-at < 22 {
		return formats.Corrupt(f.Name(), "", start, "no end of a zip directory in the last %d bytes: is the file complete?", len(tail))
	}
	records := uint64(binary.LittleEndian.Uint16(tail[at+10:]))
	size := uint64(binary.LittleEndian.Uint32(tail[at+12:]))
	if locator := at - 20; locator >= 0 && string(tail[locator:locator+4]) == "PK\x06\x07" {
		var end [56]byte
		where := binary.LittleEndian.Uint64(tail[locator+8:])
		if where > uint64(f.Size()) || uint64(f.Size())-where < uint64(len(end)) {
			return formats.Corrupt(f.Name(), "", start+int64(locator), "zip64 end record at byte %d of %d", where, f.Size())
		}
		if err := f.ReadFull("", int64(where), end[:]); err != nil {
			return err
		}
		records = max(records, binary.LittleEndian.Uint64(end[32:]))
		if size == 0xffffffff {
			size = 0
		}
		size = max(size, binary.LittleEndian.Uint64(end[40:]))
	}
	if records > maxDirectory/entryBytes || size > maxDirectory {
		return formats.Corrupt(f.Name(), "", start+int64(at), "zip directory of %d entries in %d bytes, at most %d bytes are read", records, size, maxDirectory)
	}
	return nil
}

// limitedAt fails once more than left bytes were read.
type limitedAt struct {
	r    io.ReaderAt
	left int64
}

func (l *limitedAt) ReadAt(p []byte, off int64) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, fmt.Errorf("zip directory of more than %d bytes", maxDirectory)
	}
	return l.r.ReadAt(p, off)
}

// add checks one entry. Only stored, plain entries are read, so that no
// ratio can make a file grow.
func (a *archive) add(e *zip.File) error {
	name := a.file.Name()
	at, err := e.DataOffset()
	if err != nil {
		return &formats.Error{File: name, Offset: -1, Kind: formats.ErrCorrupt, Msg: fmt.Sprintf("zip entry %.100q", e.Name), Err: err}
	}
	clean := strings.TrimSuffix(e.Name, "/")
	switch {
	case !fs.ValidPath(clean) || strings.ContainsAny(clean, "\\\x00:"):
		return formats.Corrupt(name, "", at, "zip entry %.100q does not stay in its folder", e.Name)
	case e.Flags&1 != 0:
		return formats.Unsupported(name, "", at, "zip entry %.100q is encrypted", e.Name)
	case e.Method == zip.Deflate:
		return formats.Unsupported(name, "", at, "zip entry %.100q is deflated; torch stores entries uncompressed", e.Name)
	case e.Method != zip.Store:
		return formats.Unsupported(name, "", at, "zip entry %.100q uses compression method %d; torch stores entries uncompressed", e.Name, e.Method)
	case e.CompressedSize64 != e.UncompressedSize64:
		return formats.Corrupt(name, "", at, "zip entry %.100q is stored, but its sizes are %d and %d", e.Name, e.CompressedSize64, e.UncompressedSize64)
	case at < 0 || at > a.file.Size() || e.UncompressedSize64 > uint64(a.file.Size()-at):
		return formats.Corrupt(name, "", at, "zip entry %.100q needs %d bytes, the file has %d", e.Name, e.UncompressedSize64, a.file.Size())
	}
	if _, twice := a.entries[clean]; twice {
		return formats.Corrupt(name, "", at, "zip entry %.100q appears twice", e.Name)
	}
	a.entries[clean] = span{at, int64(e.UncompressedSize64)}
	return nil
}

// checkOverlap refuses entries that share bytes.
func (a *archive) checkOverlap() error {
	type named struct {
		name string
		span
	}
	all := make([]named, 0, len(a.entries))
	for n, s := range a.entries {
		all = append(all, named{n, s})
	}
	sort.Slice(all, func(i, k int) bool {
		if all[i].offset != all[k].offset {
			return all[i].offset < all[k].offset
		}
		return all[i].name < all[k].name
	})
	for i := 1; i < len(all); i++ {
		before, e := all[i-1], all[i]
		if e.offset < before.offset+before.bytes {
			return formats.Corrupt(a.file.Name(), "", e.offset, "zip entries %.100q and %.100q overlap", before.name, e.name)
		}
	}
	return nil
}

// findPrefix finds the one folder that holds data.pkl and refuses archives
// that are something else.
func (a *archive) findPrefix() error {
	for n := range a.entries {
		folder, file, ok := strings.Cut(n, "/")
		if !ok || file != "data.pkl" {
			continue
		}
		if a.prefix != "" {
			return formats.Corrupt(a.file.Name(), "", -1, "two data.pkl in one archive")
		}
		a.prefix = folder + "/"
	}
	if a.prefix == "" {
		return formats.Unsupported(a.file.Name(), "", -1, "a zip file without FOLDER/data.pkl: not written by torch.save")
	}
	if _, ok := a.entries[a.prefix+"constants.pkl"]; ok {
		return formats.Unsupported(a.file.Name(), "", -1, "a TorchScript archive; save the module's state_dict with torch.save instead")
	}
	order, err := a.read("byteorder", 16)
	if err != nil {
		return err
	}
	if o := strings.TrimSpace(string(order)); o != "" && o != "little" {
		return formats.Unsupported(a.file.Name(), "", a.entries[a.prefix+"byteorder"].offset, "byte order %q, only little is read", o)
	}
	return nil
}

// read returns an entry of at most limit bytes; nil if there is none.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	e, ok := a.entries[a.prefix+name]
	if !ok {
		return nil, nil
	}
	if e.bytes > limit {
		return nil, formats.Corrupt(a.file.Name(), "", e.offset, "zip entry %q of %d bytes, at most %d are read", a.prefix+name, e.bytes, limit)
	}
	b := make([]byte, e.bytes)
	return b, a.file.ReadFull("", e.offset, b)
}

// load unpickles data.pkl and finds the data of every storage that it names.
func (a *archive) load() (any, error) {
	b, err := a.read("data.pkl", maxPickle)
	if err != nil {
		return nil, err
	}
	base := a.entries[a.prefix+"data.pkl"].offset
	r := newResolver(a.file.Name(), a.file.Size(), false)
	v, n, err := unpickle(a.file.Name(), b, base, r.resolve)
	if err != nil {
		return nil, err
	}
	if n != len(b) {
		return nil, formats.Corrupt(a.file.Name(), "", base+int64(n), "%d bytes after the pickle stream", len(b)-n)
	}
	for _, key := range r.order {
		s := r.byKey[key]
		e, ok := a.entries[a.prefix+"data/"+key]
		if !ok {
			return nil, formats.Corrupt(a.file.Name(), "", -1, "no zip entry %.100q for a storage of %d bytes", a.prefix+"data/"+key, s.elems*int64(s.elem.size))
		}
		if want := s.elems * int64(s.elem.size); e.bytes != want {
			return nil, formats.Corrupt(a.file.Name(), "", e.offset, "zip entry %.100q has %d bytes, %d elements of %s need %d", a.prefix+"data/"+key, e.bytes, s.elems, s.elem.name, want)
		}
		s.offset = e.offset
	}
	return v, nil
}
