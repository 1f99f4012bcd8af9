package bench

// A Ratio is what a figure is held to: Semel's speed over that of the code
// written by hand, or over HTTP over that in process.
type Ratio struct {
	What  string
	Value float64
	Bar   float64 // the least that the project accepts
}

// Ratios compares measures of one run. A ratio whose measures are not there is
// left out.
func Ratios(measures []Measure) []Ratio {
	speed := func(contender string, callers int) float64 {
		for _, m := range measures {
			if m.Contender == contender && m.Callers == callers {
				return m.PerSecond
			}
		}
		return 0
	}
	var ratios []Ratio
	for _, r := range []struct {
		what    string
		ours    string
		callers int
		against string
		waiting int
		bar     float64
	}{
		{"one transaction per operation by hand, 64 waiting callers", plain, 64, byHand, 64, 4},
		{"the same statements by hand, 64 to a transaction, nobody waiting", plain, 64, grouped, 1, 0.75},
		{"one transaction per operation by hand, 1 caller", plain, 1, byHand, 1, 0.9},
		{"the engine in process, when over HTTP, 64 callers", overHTTP, 64, plain, 64, 0.6},
	} {
		if ours, theirs := speed(r.ours, r.callers), speed(r.against, r.waiting); ours > 0 && theirs > 0 {
			ratios = append(ratios, Ratio{r.what, ours / theirs, r.bar})
		}
	}
	return ratios
}
