package deferral

// Router is a bundle's router section, decoded. It is immutable and shared.
type Router struct {
	table Table
	refs  []Reference
}

// Reference is the distribution of scores at one checkpoint over the
// certificate's queries, to notice drift against: Share[i] of them had a score
// below Edges[i] and not below Edges[i-1]; the last share has no upper edge.
type Reference struct {
	Checkpoint Checkpoint `json:"checkpoint"`
	Edges      []float32  `json:"edges"`
	Share      []float32  `json:"share"`
}

// Table is the certified table. It must not be changed.
func (r *Router) Table() *Table { return &r.table }

// Reference returns the scores' distribution at a checkpoint; ok is false when
// the router does not read there.
func (r *Router) Reference(c Checkpoint) (ref Reference, ok bool) {
	for _, ref := range r.refs {
		if ref.Checkpoint == c {
			return ref, true
		}
	}
	return Reference{}, false
}

// Reads reports whether the router has a head for the checkpoint.
func (r *Router) Reads(c Checkpoint) bool {
	_, ok := r.Reference(c)
	return ok
}
