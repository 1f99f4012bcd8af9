package judge

import (
	"errors"
	"fmt"
	"io"
)

// mostShown keeps a broken bank from filling the screen; the number of all
// problems is always told.
const mostShown = 50

// Print writes what was looked at and what is wrong with it, and returns an
// error if anything is.
func Print(w io.Writer, found []Finding) error {
	var problems []string
	for _, f := range found {
		word := "ok   "
		if len(f.Problems) > 0 {
			word = "WRONG"
		}
		fmt.Fprintf(w, "%s %8d  %s\n", word, f.Checked, f.What)
		problems = append(problems, f.Problems...)
	}
	for i, p := range problems {
		if i == mostShown {
			fmt.Fprintf(w, "  … and %d more\n", len(problems)-mostShown)
			break
		}
		fmt.Fprintln(w, "  "+p)
	}
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return errors.New("1 thing is wrong")
	}
	return fmt.Errorf("%d things are wrong", len(problems))
}
