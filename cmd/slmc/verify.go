package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"slmc/formats/bundle"
	slmrt "slmc/runtime"
)

func verifyCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "verify",
		Usage: "check every byte of a bundle and replay its golden vectors",
		Description: "Checks header, manifest, the digest of every section and 1 MiB leaf, and that this\n" +
			"machine computes the very logits that the build computed. logits_digest is the same on\n" +
			"every CPU, with every kernel and thread count. With --pubkey the bundle must be signed\n" +
			"by that key.",
		Flags: join([]cli.Flag{
			&cli.BoolFlag{Name: "quick", Usage: "check the digests only"},
			&cli.StringFlag{Name: "pubkey", Usage: "demand a signature by the key in `FILE`"},
			jsonFlag(),
		}, computeFlags()),
		Action: func(c *cli.Context) error {
			compute, err := computeOptions(c)
			if err != nil {
				return err
			}
			o := slmrt.VerifyOptions{Quick: c.Bool("quick"), Session: compute}
			if path := c.String("pubkey"); path != "" {
				key, err := bundle.ReadPublicKey(path)
				if err != nil {
					return err
				}
				o.Load.PublicKey = key
			}
			v, err := verifyPath(c, c.Args().First(), o)
			if c.Bool("json") {
				return printReported(c, v, err)
			}
			if err != nil {
				return err
			}
			if v.Golden == 0 && !o.Quick {
				return printf(c, "ok  %s  no golden vectors to replay: build makes them, quantize does not\n", v.Digest)
			}
			if v.LogitsDigest == "" {
				return printf(c, "ok  %s\n", v.Digest)
			}
			return printf(c, "ok  %s  logits %s\n", v.Digest, v.LogitsDigest)
		},
	}, "slmc verify assistant.slmb --json", "BUNDLE")
}

// verifyPath verifies with a progress bar.
func verifyPath(c *cli.Context, path string, o slmrt.VerifyOptions) (slmrt.Verified, error) {
	b := newBars(c)
	defer b.finish()
	o.Progress = b.set
	return slmrt.Verify(c.Context, path, o)
}

func keygenCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "keygen",
		Usage:       "make an Ed25519 key pair for signing bundles",
		Description: "Writes NAME.key (private, mode 0600) and NAME.pub; never overwrites.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write `NAME`.key and NAME.pub", Required: true}, jsonFlag()},
		Action: func(c *cli.Context) error {
			name := c.String("output")
			key, err := bundle.GenerateKey(nil)
			if err != nil {
				return err
			}
			if err := bundle.WriteKey(name+".key", name+".pub", key); err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c, map[string]string{"private": name + ".key", "public": name + ".pub"})
			}
			return printf(c, "wrote %s.key and %s.pub\n", name, name)
		},
	}, "slmc keygen -o release")
}

func signCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "sign",
		Usage:       "sign a bundle, in place",
		Description: "Checks every byte first. The digest of a bundle does not depend on its signature.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "key", Usage: "the private key `FILE`", Required: true}, jsonFlag()},
		Action: func(c *cli.Context) error {
			key, err := bundle.ReadPrivateKey(c.String("key"))
			if err != nil {
				return err
			}
			path := c.Args().First()
			v, err := verifyPath(c, path, slmrt.VerifyOptions{Quick: true})
			if err != nil {
				return fmt.Errorf("not signed: %w", err)
			}
			if err := bundle.Sign(path, key); err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c, map[string]string{"bundle": path, "digest": v.Digest})
			}
			return printf(c, "signed %s  %s\n", path, v.Digest)
		},
	}, "slmc sign assistant.slmb --key release.key", "BUNDLE")
}

func packCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "pack",
		Usage:       "compress a bundle for delivery",
		Description: "Writes seekable zstd frames that unpack to the identical bundle.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, DefaultText: "BUNDLE.zst", Usage: "write `FILE`"}, jsonFlag()},
		Action: func(c *cli.Context) error {
			src, dst := c.Args().First(), c.String("output")
			if dst == "" {
				dst = src + ".zst"
			}
			return deliver(c, "pack", src, dst, func(p func(done, total int64)) error {
				return bundle.Pack(c.Context, src, dst, p)
			})
		},
	}, "slmc pack assistant.slmb", "BUNDLE")
}

func unpackCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "unpack",
		Usage:       "restore a packed bundle and check it",
		Description: "Every digest is checked before the bundle appears under its name.",
		Flags: []cli.Flag{
			outputFlag("FILE.slmb"),
			&cli.StringFlag{Name: "pubkey", Usage: "demand a signature by the key in `FILE`"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			var o bundle.Options
			if path := c.String("pubkey"); path != "" {
				key, err := bundle.ReadPublicKey(path)
				if err != nil {
					return err
				}
				o.PublicKey = key
			}
			src, dst := c.Args().First(), c.String("output")
			return deliver(c, "unpack", src, dst, func(p func(done, total int64)) error {
				return bundle.Unpack(c.Context, src, dst, o, p)
			})
		},
	}, "slmc unpack assistant.slmb.zst -o assistant.slmb", "FILE.slmb.zst")
}

// deliver runs pack or unpack with a bar and prints both sizes.
func deliver(c *cli.Context, step, src, dst string, f func(progress func(done, total int64)) error) error {
	b := newBars(c)
	err := f(func(done, total int64) { b.set(step, done, total) })
	b.finish()
	if err != nil {
		return err
	}
	from, err := fileSize(src)
	if err != nil {
		return err
	}
	to, err := fileSize(dst)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, map[string]any{"output": dst, "source_bytes": from, "output_bytes": to})
	}
	return printf(c, "wrote %s: %s from %s\n", dst, megabytes(to), megabytes(from))
}
