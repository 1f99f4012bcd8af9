package semel

import (
	"testing"

	"github.com/semel-dev/semel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }
