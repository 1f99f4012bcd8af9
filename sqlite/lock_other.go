//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package sqlite

import (
	"fmt"
	"os"
	"runtime"
)

// lockFile refuses to open a store that it cannot keep to one process.
func lockFile(path string) (*os.File, error) {
	return nil, fmt.Errorf("sqlite: locking %q: not supported on %s", path, runtime.GOOS)
}
