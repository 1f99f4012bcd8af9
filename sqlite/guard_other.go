//go:build !linux

package sqlite

// checkFileSystem does nothing where file systems cannot be recognised.
func checkFileSystem(string) error { return nil }
