package slmrt

import (
	"context"
	"errors"

	"slmc/formats/bundle"
)

// VerifyOptions say how thoroughly a bundle is verified.
type VerifyOptions struct {
	Load    LoadOptions
	Quick   bool    // digests only, no replay
	Session Options // of the replay; none of it changes a digest
	// Progress is called with what is done of a named step; may be nil.
	Progress func(step string, done, total int64)
}

// Verified is the result of Verify. LogitsDigest is what this runtime computed
// for the golden vectors: equal digests mean equal bits.
type Verified struct {
	OK           bool   `json:"ok"`
	Digest       string `json:"digest"`
	LogitsDigest string `json:"logits_digest"`
	Golden       int    `json:"golden"` // prompts that the bundle holds to be replayed
	Error        string `json:"error"`
}

// Verify checks a bundle: header and manifest, the signature if a key is
// given, the digest of every section and leaf, and that the golden vectors
// replay to the same bits; a bundle that was made without any says so in
// Golden. The result is complete as far as it went, whatever the error.
func Verify(ctx context.Context, path string, o VerifyOptions) (Verified, error) {
	var v Verified
	err := verify(ctx, path, o, &v)
	if err != nil {
		v.Error = err.Error()
	}
	v.OK = err == nil
	return v, err
}

func verify(ctx context.Context, path string, o VerifyOptions, v *Verified) (err error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	b, err := bundle.Open(path, bundle.Options{PublicKey: o.Load.PublicKey})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	v.Digest = b.Digest().String()
	if err := b.Check(ctx, func(done, total int64) { o.Progress("check", done, total) }); err != nil {
		return err
	}
	if o.Quick {
		return nil
	}
	g, err := b.Golden()
	if err != nil {
		return err
	}
	if g == nil || len(g.Prompts) == 0 {
		return nil // Verified.Golden says so
	}
	v.Golden = len(g.Prompts)
	m, err := FromBundle(b)
	if err != nil {
		return err
	}
	if o.Session.Context == 0 {
		o.Session.Context = goldenRoom(g)
	}
	s, err := m.NewSession(o.Session)
	if err != nil {
		return err
	}
	defer s.Close()
	sum, err := s.ReplayGolden(ctx, g, func(done, total int) { o.Progress("replay", int64(done), int64(total)) })
	if sum != (bundle.Digest{}) {
		v.LogitsDigest = sum.String()
	}
	return err
}

// goldenRoom is the number of positions that a replay needs.
func goldenRoom(g *bundle.Golden) int {
	n := 1
	for _, p := range g.Prompts {
		n = max(n, len(p.IDs)+len(p.Greedy))
	}
	return n
}
