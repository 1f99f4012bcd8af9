//go:build broken

package crashpoint

import "os"

// BrokenVariable names the step to do wrong.
const BrokenVariable = "SEMEL_BROKEN"

var step = os.Getenv(BrokenVariable)

// Broken reports whether a step is to be done wrong.
func Broken(name string) bool { return step == name }
