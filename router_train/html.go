package routertrain

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"image/color"

	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	draw2d "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"slmc/internal/deferral"
)

//go:embed report.html
var reportPage string

// line is one curve of a plot, [x, y] points.
type line struct {
	name   string
	points plotter.XYs
	color  color.RGBA
	dashes bool
}

var (
	black  = color.RGBA{0, 0, 0, 255}
	grey   = color.RGBA{140, 140, 140, 255}
	blue   = color.RGBA{0, 90, 181, 255}
	orange = color.RGBA{220, 90, 0, 255}
)

// costQualityPlot draws quality against calls as SVG: the router's score after
// and before generation, the random line, the oracle.
func costQualityPlot(rows []Scored) ([]byte, error) {
	v := newVectors(rows)
	return drawPlot("Quality against calls to the large model", "queries sent on, %", "quality, %", []line{
		{"oracle", curvePoints100(Oracle(v.small, v.large)), black, true},
		{"after the answer", curvePoints100(NewCurve(v.score(deferral.Post), v.small, v.large)), blue, false},
		{"before it", curvePoints100(NewCurve(v.score(deferral.Pre), v.small, v.large)), orange, false},
		{"random", curvePoints100(Random(v.small, v.large)), grey, true},
	})
}

func curvePoints100(c Curve) plotter.XYs {
	n := len(c.Quality) - 1
	step := max(1, n/400)
	var out plotter.XYs
	for k := 0; k <= n; k += step {
		out = append(out, plotter.XY{X: 100 * float64(k) / float64(n), Y: 100 * c.Quality[k]})
	}
	return append(out, plotter.XY{X: 100, Y: 100 * c.Quality[n]})
}

// reliabilityPlot draws the share of wrong answers against the probability said.
func reliabilityPlot(rows []Scored) ([]byte, error) {
	v := newVectors(rows)
	const bins = 15
	var pts plotter.XYs
	var said, seen, n [bins]float64
	for i, p := range v.at(deferral.Post) {
		b := min(bins-1, int(p*bins))
		said[b], seen[b], n[b] = said[b]+p, seen[b]+v.wrong[i], n[b]+1
	}
	for b := range n {
		if n[b] > 0 {
			pts = append(pts, plotter.XY{X: said[b] / n[b], Y: seen[b] / n[b]})
		}
	}
	return drawPlot("Calibration of P(wrong) after the answer", "probability said", "share of wrong answers", []line{
		{"even", plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}, grey, true}, {"router", pts, blue, false},
	})
}

func drawPlot(title, x, y string, lines []line) ([]byte, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Legend.Left, p.Legend.Top = false, false
	p.Add(plotter.NewGrid())
	for _, l := range lines {
		if len(l.points) == 0 {
			continue
		}
		drawn, err := plotter.NewLine(l.points)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", l.name, err)
		}
		drawn.Color, drawn.Width = l.color, vg.Points(1.5)
		if l.dashes {
			drawn.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		}
		p.Add(drawn)
		p.Legend.Add(l.name, drawn)
	}
	c := vgsvg.New(14*vg.Centimeter, 10*vg.Centimeter)
	p.Draw(draw2d.New(c))
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// HTML is a page with everything that a training run tells: no script, nothing
// loaded from elsewhere. The figures are of the test part, or of the part that
// was certified on when nothing is left for testing.
func HTML(t *Trained) ([]byte, error) {
	part := Test
	rows := t.of(Test)
	if len(rows) < minTrain {
		part, rows = Calibrate, t.of(Calibrate)
	}
	return page(t.Report, rows, string(part), t.Router.Table())
}

func (t *Trained) of(p Part) (out []Scored) {
	for i := range t.Scored {
		if t.Parts[i] == p {
			out = append(out, t.Scored[i])
		}
	}
	return out
}

func page(r Report, rows []Scored, part string, table *deferral.Table) ([]byte, error) {
	cost, err := costQualityPlot(rows)
	if err != nil {
		return nil, err
	}
	reliable, err := reliabilityPlot(rows)
	if err != nil {
		return nil, err
	}
	data := struct {
		Report            Report
		Part              string
		N, MidEvery       int
		Cost, Reliability template.HTML
		Figures           *Deferral
		Rows              []deferral.Row
	}{Report: r, Part: part, N: len(rows), MidEvery: deferral.MidEvery, Cost: svg(cost), Reliability: svg(reliable), Rows: table.Rows}
	if d, err := Evaluate(rows, table, r.Config.Certify.Limit); err == nil {
		data.Figures = &d
	}
	tmpl, err := template.New("report").Funcs(template.FuncMap{
		"percent": func(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) },
		"four": func(x any) string {
			if f, ok := x.(Figure); ok {
				return f.String()
			}
			return fmt.Sprintf("%.4f", x)
		},
		"rest": func(x float64) string { return fmt.Sprintf("%.1f %%", 100*(1-x)) },
		"never": func(x float32) string {
			return map[bool]string{true: "never", false: fmt.Sprintf("%.4f", x)}[x >= deferral.Never]
		},
	}).Parse(reportPage)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// svg is a plot to stand in a page. Its text is the plotting library's and the
// constants of this file: nothing of a query's.
func svg(text []byte) template.HTML {
	s := string(text)
	if i := strings.Index(s, "<svg"); i > 0 {
		s = s[i:]
	}
	return template.HTML(s)
}
