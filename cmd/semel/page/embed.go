// Package page holds the demo's page: static files that need no build step and
// load nothing from elsewhere, so that they work under the content security
// policy "default-src 'self'". They talk to the demo server's own addresses,
// /demo, /bank and /naive, import the JavaScript client from /js, and must be served from its root.
package page

import "embed"

// Files are the page's files; index.html is the page itself.
//
//go:embed index.html style.css layout.css *.js favicon.svg
var Files embed.FS
