//go:build race

package gateway_test

// raceDetector makes everything ten times slower; what is tried at random is
// tried less often.
const raceDetector = true
