package sqlite

import (
	"fmt"
	"syscall"
)

// networks are the file systems, by their number in statfs, on which neither
// SQLite's locks nor its shared memory can be relied on. FUSE is not among
// them: most of what uses it is local.
var networks = map[int64]string{
	0x6969:     "nfs",
	0x517B:     "smb",
	0xFF534D42: "cifs",
	0xFE534D42: "smb2",
	0x01021997: "9p",
	0x00C36400: "ceph",
	0x5346414F: "afs",
}

// checkFileSystem refuses a directory on a network.
func checkFileSystem(dir string) error {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("sqlite: file system of %q: %w", dir, err)
	}
	return checkKind(dir, int64(stat.Type))
}

func checkKind(dir string, kind int64) error {
	// On 32-bit systems the number is signed.
	if name, ok := networks[kind&0xFFFFFFFF]; ok {
		return fmt.Errorf("sqlite: %q is on a network file system (%s), where SQLite loses data: use a local disk", dir, name)
	}
	return nil
}
