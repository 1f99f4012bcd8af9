package sqlite

import (
	"fmt"
	"strconv"
	"strings"
)

// oldest is the first library without the WAL-reset bug, which could corrupt a
// database when two connections checkpoint and commit at the same moment.
const oldest = "3.51.3"

// checkLibrary refuses a SQLite library that is too old to be trusted.
func checkLibrary(version string) error {
	have, err := parseVersion(version)
	if err != nil {
		return err
	}
	want, err := parseVersion(oldest)
	if err != nil {
		return err
	}
	for i := range want {
		if have[i] != want[i] {
			if have[i] < want[i] {
				return fmt.Errorf("SQLite library %s is too old, want at least %s", version, oldest)
			}
			return nil
		}
	}
	return nil
}

// parseVersion reads "3.51.3"; a fourth number, of a branch, is ignored.
func parseVersion(version string) (numbers [3]int, err error) {
	parts := strings.Split(version, ".")
	if len(parts) < 2 || len(parts) > 4 {
		return numbers, fmt.Errorf("SQLite library version %q: want numbers like %s", version, oldest)
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return numbers, fmt.Errorf("SQLite library version %q: want numbers like %s", version, oldest)
		}
		if i < len(numbers) {
			numbers[i] = n
		}
	}
	return numbers, nil
}
