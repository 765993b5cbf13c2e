// Package deps holds the house rules that a compiler and a linter lack, as
// tests over the source. It parses the files itself: a test that asked the go
// command would answer from the test cache after a forbidden import was added.
package deps

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// order lists the packages of slmc by line: a package imports only packages of
// lines above its own (docs/architecture.md).
var order = [][]string{
	{"tensor", "internal/kernel", "internal/origin", "tokenizer", "tokenizer/jinja"},
	{"quant"},
	{"formats"},
	{"formats/safetensors", "formats/pytorch", "formats/llama2c", "formats/gguf", "model"},
	{"formats/bundle", "internal/exec", "internal/train"},
	{"internal/eval", "internal/deferral"},
	{"convert", "calibrate", "qat", "kvshare", "runtime"},
	{"router_train", "internal/audit"},
	{"internal/pipeline", "internal/serve", "internal/phone"},
	{"cmd/slmc", "cmd/slmrt", "cmd/libslmrt"},
}

// outside lists folders that are no part of the program: generators and what
// only tests import.
var outside = []string{"testdata/gen", "bench", "internal/golden", "internal/testbundle", "internal/deps", "internal/kernel/asm", "internal/train/oracle", "formats/bundle/testdata"}

// forbidden lists what a package must not reach, even indirectly.
var forbidden = map[string][]string{
	"runtime":      {"internal/train", "formats/safetensors", "formats/pytorch", "formats/llama2c", "formats/gguf", "convert"},
	"cmd/slmrt":    {"internal/train", "formats/safetensors", "formats/pytorch", "formats/llama2c", "formats/gguf", "convert", "internal/pipeline", "go:net/http"},
	"cmd/libslmrt": {"internal/train", "formats/safetensors", "formats/pytorch", "formats/llama2c", "formats/gguf", "convert", "internal/pipeline", "go:net/http"},
}

// mathNames are what the packages that a runtime is made of may use of package
// math: operations whose result IEEE 754 fixes, and constants. The rest may
// differ between CPUs.
var mathNames = []string{"Sqrt", "FMA", "Float32bits", "Float32frombits", "Float64bits", "Float64frombits",
	"Abs", "Copysign", "Signbit", "Floor", "Ceil", "Trunc", "RoundToEven", "Mod",
	"Inf", "NaN", "IsNaN", "IsInf", "MaxFloat32", "SmallestNonzeroFloat32", "MaxFloat64", "Pi", "Ln2", "Sqrt2",
	"MaxInt", "MinInt", "MaxInt8", "MinInt8", "MaxInt16", "MinInt16", "MaxInt32", "MinInt32", "MaxInt64", "MinInt64",
	"MaxUint8", "MaxUint16", "MaxUint32", "MaxUint64"}

// mathExceptions are uses that never meet a weight or an activation.
var mathExceptions = map[string]string{
	"tokenizer/jinja": "Pow", // arithmetic that a chat template writes out
}

const root = "../.."

// file is one parsed source file without its tests.
type file struct {
	path string
	ast  *ast.File
}

type source struct {
	fset  *token.FileSet
	files map[string][]file // by package folder
}

func load(t *testing.T) source {
	t.Helper()
	s := source{token.NewFileSet(), map[string][]file{}}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || slices.Contains(outside, rel)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(s.fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		s.files[path.Dir(rel)] = append(s.files[path.Dir(rel)], file{rel, f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.files) < 10 {
		t.Fatalf("only %d packages found: the walk is broken", len(s.files))
	}
	return s
}

// imports returns the imports of a package: slmc's own by folder, the standard
// library's and others' as "go:" and their path.
func (s source) imports(pkg string) []string {
	var out []string
	for _, f := range s.files[pkg] {
		for _, i := range f.ast.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				continue
			}
			if own, ok := strings.CutPrefix(p, "slmc/"); ok {
				out = append(out, own)
			} else {
				out = append(out, "go:"+p)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func line(pkg string) int {
	return slices.IndexFunc(order, func(l []string) bool { return slices.Contains(l, pkg) })
}

func TestImportsPointOneWay(t *testing.T) {
	s := load(t)
	for pkg := range s.files {
		if line(pkg) < 0 {
			t.Errorf("package %s is on no line of the order", pkg)
		}
		for _, i := range s.imports(pkg) {
			if line(i) >= 0 && line(i) >= line(pkg) {
				t.Errorf("%s imports %s, which is not above it", pkg, i)
			}
			if slices.Contains(outside, i) {
				t.Errorf("%s imports %s, which is for tests", pkg, i)
			}
		}
	}
}

// reach is the set of packages that pkg imports, directly or not, itself
// included.
func (s source) reach(pkg string) map[string]bool {
	seen := map[string]bool{}
	var visit func(string)
	visit = func(p string) {
		if !seen[p] {
			seen[p] = true
			for _, i := range s.imports(p) {
				visit(i)
			}
		}
	}
	visit(pkg)
	return seen
}

func TestForbiddenReach(t *testing.T) {
	s := load(t)
	for pkg, list := range forbidden {
		seen := s.reach(pkg)
		if len(s.files[pkg]) == 0 {
			t.Errorf("package %s is gone", pkg)
		}
		for _, f := range list {
			if seen[f] {
				t.Errorf("%s reaches %s", pkg, f)
			}
		}
	}
}

func TestNoBlankImports(t *testing.T) {
	for _, files := range load(t).files {
		for _, f := range files {
			for _, i := range f.ast.Imports {
				if i.Name != nil && i.Name.Name == "_" && i.Path.Value != `"embed"` {
					t.Errorf("%s imports %s for its side effects", f.path, i.Path.Value)
				}
			}
		}
	}
}

// uses calls f for every selector x.y in which x names the import of path.
func uses(files []file, importPath string, f func(file, *ast.SelectorExpr)) {
	for _, src := range files {
		name := ""
		for _, i := range src.ast.Imports {
			if i.Path.Value == strconv.Quote(importPath) {
				name = path.Base(importPath)
				if i.Name != nil {
					name = i.Name.Name
				}
			}
		}
		if name == "" {
			continue
		}
		ast.Inspect(src.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == name && x.Obj == nil {
					f(src, sel)
				}
			}
			return true
		})
	}
}

func TestRuntimeMathIsExact(t *testing.T) {
	s := load(t)
	for pkg := range s.reach("cmd/slmrt") {
		uses(s.files[pkg], "math", func(f file, sel *ast.SelectorExpr) {
			if !slices.Contains(mathNames, sel.Sel.Name) && mathExceptions[pkg] != sel.Sel.Name {
				t.Errorf("%s: math.%s may differ between CPUs", s.fset.Position(sel.Pos()), sel.Sel.Name)
			}
		})
	}
}

func TestPackagesDoNotPrintOrReadTheEnvironment(t *testing.T) {
	s := load(t)
	for pkg, files := range s.files {
		if strings.HasPrefix(pkg, "cmd/") {
			continue
		}
		uses(files, "fmt", func(f file, sel *ast.SelectorExpr) {
			if strings.HasPrefix(sel.Sel.Name, "Print") {
				t.Errorf("%s: a package never prints", s.fset.Position(sel.Pos()))
			}
		})
		uses(files, "os", func(f file, sel *ast.SelectorExpr) {
			if slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Stdout", "Stderr", "Stdin"}, sel.Sel.Name) {
				t.Errorf("%s: os.%s inside a package", s.fset.Position(sel.Pos()), sel.Sel.Name)
			}
		})
	}
}

func TestNoJunkDrawers(t *testing.T) {
	for pkg, files := range load(t).files {
		for _, f := range files {
			for _, bad := range []string{"util", "utils", "common", "helper", "helpers", "misc"} {
				if path.Base(pkg) == bad || strings.TrimSuffix(path.Base(f.path), ".go") == bad {
					t.Errorf("%s: name it by what a reader looks for", f.path)
				}
			}
		}
	}
}
