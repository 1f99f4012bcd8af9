package gateway

import (
	_ "embed"
	"net/http"
)

// description is the contract: what the server does and this document does not
// say, or the other way round, fails a test.
//
//go:embed openapi.yaml
var description []byte

// describe answers GET /openapi.yaml, to anybody: it says how the gateway
// works, and nothing of what is behind it.
func describe(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	write(w, http.StatusOK, "application/yaml", description)
}
