// Package crash kills the real program and looks at what is left. It holds
// tests only.
//
// A driver plays many clients of a bank that "semel serve" runs as a child
// process. Before a command is sent for the first time it is written down with
// its key, and so is every answer. The child is killed with SIGKILL, at a named
// point of the code or at a random moment, and started again on the same file;
// what had no answer is sent again with the same key, and what had one as well.
// In the end the driver's journal and the data must tell the same story:
// nothing that was acknowledged is lost, nothing has happened twice, the same
// key gets the same bytes, and "semel verify" finds nothing.
//
// The journal is kept in the memory of the test's process. That process is not
// killed, so nothing more durable is needed.
//
// Each named point is shown to matter: a second program, built with the tag
// "broken", does one step wrong, and the same driver must find out. The tests
// fail if it does not, and also if a kill did not happen, or if too little was
// acknowledged, rejected, accepted or replayed around it.
//
// A longer run, for people:
//
//	go test ./internal/crash -run RandomKills -timeout 0 -v -crash.rounds 1000
//
// It prints its seed; -crash.seed repeats the choices of a run, though not the
// exact moments. -crash.results FILE writes what was counted as JSON.
package crash
