// Command semel shows and serves a bank in which a withdrawal happens once.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
