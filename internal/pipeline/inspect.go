package pipeline

import (
	"encoding/hex"
	"fmt"
	"os"

	"slmc/internal/exec"
	"slmc/kvshare"
	"slmc/model"
)

// Inspection is what a SOURCE or a BUNDLE holds, by its headers.
type Inspection struct {
	Format          string        `json:"format"` // "slmb 1.0", or the checkpoint's form
	Architecture    string        `json:"architecture"`
	Parameters      int64         `json:"parameters"`
	FileBytes       int64         `json:"file_bytes"` // of all files
	BPW             float64       `json:"bpw"`        // of the weight data
	KVBytesPerToken int           `json:"kv_bytes_per_token"`
	Layers          int           `json:"layers"`
	Sections        []SectionInfo `json:"sections"`           // of a bundle; files of a checkpoint
	KV              string        `json:"kv"`                 // format that KVBytesPerToken counts
	ShareKV         string        `json:"share_kv,omitempty"` // blocks that read others' keys and values, kvshare.Plan
	Hidden          int           `json:"hidden"`
	Vocab           int           `json:"vocab"`
	Context         int           `json:"context"`
	Tokenizer       string        `json:"tokenizer"`
	ChatTemplate    bool          `json:"chat_template"`
	Digest          string        `json:"digest,omitempty"`
	SignedBy        string        `json:"signed_by,omitempty"` // public key in hexadecimal
	ToolVersion     string        `json:"tool_version,omitempty"`
	Formats         []FormatBytes `json:"formats"` // number formats of the weights
	Weights         []WeightInfo  `json:"weights,omitempty"`
}

// SectionInfo is a section of a bundle, or a file of a checkpoint.
type SectionInfo struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
}

// WeightInfo is one stored weight.
type WeightInfo struct {
	Name   string     `json:"name"`
	Role   model.Role `json:"role"`
	Shape  []int      `json:"shape"`
	Format string     `json:"format"`
	Bytes  int64      `json:"bytes"`
}

// Inspect describes the model without reading weights.
func (o *Opened) Inspect() (Inspection, error) {
	g := o.Graph()
	in := Inspection{
		Architecture: g.Arch, Parameters: int64(g.Parameters()), Layers: len(g.Blocks),
		Hidden: g.Hidden, Vocab: g.Vocab, Context: g.Context, Sections: []SectionInfo{}, Tokenizer: "none",
	}
	if o.Bundle != nil {
		o.inspectBundle(&in)
	} else if err := o.inspectCheckpoint(&in); err != nil {
		return in, err
	}
	in.ShareKV = kvshare.Of(g).String()
	in.KVBytesPerToken = exec.KVBytesPerToken(g, exec.KVFormat(in.KV))
	return in, nil
}

func (o *Opened) inspectBundle(in *Inspection) {
	b, m := o.Bundle, o.Bundle.Manifest()
	major, minor := b.Version()
	in.Format = fmt.Sprintf("slmb %d.%d", major, minor)
	in.FileBytes, in.BPW, in.Context, in.KV = b.Size(), m.BPW, m.Context, m.KVFormat
	in.Digest, in.ToolVersion = b.Digest().String(), m.ToolVersion
	if key := b.Signer(); key != nil {
		in.SignedBy = hex.EncodeToString(key)
	}
	if m.Tokenizer.Kind != "" {
		in.Tokenizer = m.Tokenizer.Kind
	}
	for _, s := range m.Sections {
		in.Sections = append(in.Sections, SectionInfo{s.Name, s.Offset, s.Length})
		in.ChatTemplate = in.ChatTemplate || s.Name == "template"
	}
	for i, w := range m.Graph.Weights {
		stored := m.Weights[i]
		in.Weights = append(in.Weights, WeightInfo{w.Name, w.Role, w.Shape, stored.Format, stored.Bytes})
		in.Formats = addFormat(in.Formats, stored.Format, stored.Bytes)
	}
}

func (o *Opened) inspectCheckpoint(in *Inspection) error {
	c := o.Checkpoint
	in.Format, in.KV = c.Form, string(exec.KVF16)
	for _, path := range c.Files {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		in.FileBytes += st.Size()
		in.Sections = append(in.Sections, SectionInfo{Name: st.Name(), Bytes: st.Size()})
	}
	var bytes int64
	for _, t := range c.Types {
		bytes += t.Bytes
		in.Formats = append(in.Formats, FormatBytes{t.Type, t.Tensors, t.Bytes})
	}
	in.BPW = 8 * float64(bytes) / float64(in.Parameters)
	switch {
	case c.Tokenizer.JSON != "":
		in.Tokenizer = "tokenizer.json"
	case c.Tokenizer.Model != "":
		in.Tokenizer = "tokenizer.model"
	case c.Tokenizer.GGUF != nil:
		in.Tokenizer = "gguf"
	}
	in.ChatTemplate = o.text.Template != nil
	for i, w := range c.Model.Weights {
		in.Weights = append(in.Weights, WeightInfo{w.Name, w.Role, w.Shape, c.Describe(i), 0})
	}
	return nil
}
