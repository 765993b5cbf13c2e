package bundle

import (
	"io"
	"slices"

	"slmc/formats"
)

// Replace writes a bundle at path that is b with this content for one section,
// or without the section when bytes is nil, and with report added to what its
// stages told, in place of an earlier one of the same stage. Golden vectors stay
// as they are; a signature does not survive. b may lie at path.
func (b *Bundle) Replace(path string, d Data, report StageReport) (Digest, error) {
	if !slices.Contains([]string{SectionTokenizer, SectionTemplate, SectionGolden, SectionRouter}, d.Name) {
		return Digest{}, formats.Unsupported(b.name, "", -1, "section %q can't be replaced", d.Name)
	}
	spec := Spec{
		Manifest: *b.manifest, Formats: b.formats, MinTool: b.header.minTool,
		Required: b.header.required, Optional: b.header.optional,
		Weight: func(i int, dst io.Writer) error {
			return b.Guard(func() error {
				_, err := dst.Write(b.Weight(i))
				return err
			})
		},
	}
	reports := slices.DeleteFunc(slices.Clone(b.manifest.Provenance.Reports), func(r StageReport) bool { return r.Stage == report.Stage })
	if d.Bytes != nil {
		reports = append(reports, report)
	}
	spec.Manifest.Provenance.Reports = reports
	err := b.Guard(func() error {
		for _, s := range b.manifest.Sections {
			switch s.Name {
			case SectionWeights, SectionRope, SectionLeaves, d.Name:
				continue
			}
			spec.Sections = append(spec.Sections, Data{s.Name, s.Required, slices.Clone(b.Section(s.Name))})
		}
		return nil
	})
	if err != nil {
		return Digest{}, err
	}
	spec.Sections = append(spec.Sections, d)
	return Write(path, spec)
}
