// Package js holds the JavaScript client for programs that serve it to
// browsers themselves. It is an ES module without dependencies and without a
// build step: a page imports semel.js, which imports the other files beside it.
// README.md and docs/javascript.md say how it is used.
package js

import "embed"

// Files are the modules for browsers; semel.js is the entry.
//
//go:embed errors.js exchange.js lead.js outcomes.js queue.js retry.js semel.js store.js stream.js
var Files embed.FS
