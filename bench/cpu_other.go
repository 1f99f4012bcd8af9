//go:build !unix

package bench

import "time"

// processorTime is not known here; the column shows 0.
func processorTime() time.Duration { return 0 }
