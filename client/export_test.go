package client

// Points are the places at which TestKills kills the child.
var Points = []string{pointBeforeWrite, pointBeforeSync, pointAfterSync, pointBeforeSend, pointAfterAnswer,
	pointAfterOutcome, pointBeforeRename, pointAfterRename, pointAfterTruncate}
