//go:build unix

package main

import (
	"errors"
	"image/color"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// panels are the parts of the chart.
var panels = []struct {
	title, workload, figure string
	logarithmic             bool // for what differs by orders of magnitude
}{
	{"Requests/s, 16 connections: more is better", "json-16", perSecond, false},
	{"Requests/s, 64 connections: more is better", "json-64", perSecond, false},
	{"CPU time per request, µs: less is better", "json-16", cpuPerRequest, false},
	{"Refusals/s, no token: more is better", "refuse-missing", perSecond, false},
	{"First event of 1000 streams, ms (log scale): less is better", "sse-1000", firstEvent + "_p50", true},
	{"Memory with 2000 streams, MiB: less is better", "sse-2000", rssPeak, false},
}

const panelsPerRow = 2

var (
	colorOfOurs   = color.RGBA{0x1f, 0x7a, 0x8c, 0xff}
	colorOfOthers = color.RGBA{0xa8, 0xb2, 0xbd, 0xff}
)

// bar is one peer's in a panel.
type bar struct {
	peer  string
	value float64
}

// chart draws what was measured of the panels, as SVG.
func (r report) chart(path string) error {
	var plots []*plot.Plot
	for _, panel := range panels {
		var bars []bar
		for _, p := range r.peers {
			if value, ok := r.results.median(panel.workload, p.name, panel.figure); ok && p.name != "direct" && value > 0 {
				bars = append(bars, bar{p.name, value})
			}
		}
		if len(bars) == 0 {
			continue
		}
		p, err := drawPanel(panel.title, bars, panel.logarithmic)
		if err != nil {
			return err
		}
		plots = append(plots, p)
	}
	return writePlots(path, plots)
}

// drawPanel draws a panel: a bar for each peer, with its value in figures.
func drawPanel(title string, bars []bar, logarithmic bool) (*plot.Plot, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	slices.Reverse(bars) // the axis goes upwards
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(11)
	p.Title.Padding = vg.Points(4)
	p.BackgroundColor = color.White
	p.HideX()
	var names, values []string
	var ends plotter.XYs
	least, most := math.Inf(1), 0.0
	for _, b := range bars {
		least, most = min(least, b.value), max(most, b.value)
	}
	for n, b := range bars {
		length := b.value
		if logarithmic {
			length = math.Log10(b.value/least) + 0.1
		}
		drawn, err := plotter.NewBarChart(plotter.Values{length}, vg.Points(13))
		if err != nil {
			return nil, err
		}
		drawn.Horizontal, drawn.XMin, drawn.Color, drawn.LineStyle.Width = true, float64(n), colorOfOthers, 0
		if slices.Contains(ours, b.peer) {
			drawn.Color = colorOfOurs
		}
		p.Add(drawn)
		names, values = append(names, b.peer), append(values, " "+number(b.value))
		ends = append(ends, plotter.XY{X: length, Y: float64(n)})
	}
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: ends, Labels: values})
	if err != nil {
		return nil, err
	}
	for n := range labels.TextStyle {
		labels.TextStyle[n].YAlign = draw.YCenter
	}
	p.Add(labels)
	p.NominalY(names...)
	p.X.Min = 0
	if p.X.Max = most * 1.2; logarithmic {
		p.X.Max = (math.Log10(most/least) + 0.1) * 1.2
	}
	return p, nil
}

func writePlots(path string, plots []*plot.Plot) (err error) {
	rows := (len(plots) + panelsPerRow - 1) / panelsPerRow
	canvas := vgsvg.New(vg.Points(860), vg.Points(float64(max(rows, 1))*200+20))
	all := draw.New(canvas)
	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())
	tiles := draw.Tiles{Rows: max(rows, 1), Cols: panelsPerRow, PadX: vg.Points(24), PadY: vg.Points(16), PadTop: 8, PadBottom: 8, PadLeft: 8, PadRight: 8}
	for n, p := range plots {
		p.Draw(tiles.At(all, n%panelsPerRow, n/panelsPerRow))
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = canvas.WriteTo(file)
	return err
}
