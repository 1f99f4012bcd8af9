package sqlite

import "testing"

func TestNetworkFileSystemsAreRefused(t *testing.T) {
	t.Parallel()
	for kind, ok := range map[int64]bool{
		0x6969: false, 0x517B: false, 0xFF534D42: false, 0xFE534D42: false, 0x01021997: false, 0x00C36400: false, 0x5346414F: false,
		int64(int32(-0x00ACB2BE)): false, // 0xFF534D42 as a 32-bit system gives it
		0xEF53:                    true, 0x65735546: true, 0x9123683E: true, 0x58465342: true, 0x01021994: true, 0: true,
	} {
		if err := checkKind("/data", kind); (err == nil) != ok {
			t.Errorf("file system %#x: %v", kind, err)
		}
	}
}
