-- One row per command: idempotency record, inbox entry, status and dead letter
-- at once. A plain rowid table in order of acceptance: rows are appended, and
-- only the small index on the random id is written all over the place.
CREATE TABLE semel_operations (
  seq           INTEGER PRIMARY KEY,
  id            BLOB    NOT NULL UNIQUE,
  tenant        TEXT    NOT NULL,
  principal     TEXT    NOT NULL,
  name          TEXT    NOT NULL,
  key           TEXT    NOT NULL,
  subject       TEXT    NOT NULL,
  fingerprint   BLOB    NOT NULL,
  body          BLOB,
  correlation   TEXT,
  state         TEXT    NOT NULL CHECK (state IN ('accepted', 'running', 'waiting', 'executed', 'completed', 'rejected', 'failed', 'canceled')),
  attempts      INTEGER NOT NULL,
  epoch         INTEGER NOT NULL,
  holds         INTEGER NOT NULL,
  status        INTEGER NOT NULL,
  resource      TEXT    NOT NULL,
  result        BLOB,
  code          TEXT    NOT NULL,
  reason        TEXT    NOT NULL,
  disposition   TEXT    NOT NULL,
  events        INTEGER NOT NULL,
  position      INTEGER NOT NULL,
  done_position INTEGER NOT NULL,
  accepted_at   INTEGER, -- times are microseconds since 1970 UTC
  executed_at   INTEGER,
  done_at       INTEGER,
  due_at        INTEGER,
  expires_at    INTEGER
) STRICT;

-- A caller's outcomes in the order in which they became known.
CREATE INDEX semel_operations_outcomes ON semel_operations (tenant, principal, done_position) WHERE done_position > 0;
-- Operations without an outcome, oldest first: a caller's, and everybody's,
-- from which the due ones are claimed without sorting a long backlog.
-- Operations that are born with their outcome, which are most, never enter
-- these indexes nor the next ones.
CREATE INDEX semel_operations_open_of_caller ON semel_operations (tenant, principal, seq)
  WHERE done_position = 0;
CREATE INDEX semel_operations_open ON semel_operations (seq, due_at, name)
  WHERE done_position = 0;
CREATE INDEX semel_operations_due ON semel_operations (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX semel_operations_executed ON semel_operations (position) WHERE state = 'executed';
-- Dead letters, for who operates the system.
CREATE INDEX semel_operations_failed ON semel_operations (seq) WHERE state = 'failed';

CREATE TABLE semel_events (
  position    INTEGER PRIMARY KEY,
  tenant      TEXT    NOT NULL,
  operation   BLOB    NOT NULL,
  number      INTEGER NOT NULL,
  name        TEXT    NOT NULL,
  schema      TEXT    NOT NULL,
  subject     TEXT    NOT NULL,
  version     INTEGER NOT NULL,
  data        TEXT,
  correlation TEXT,
  publish     TEXT,
  at          INTEGER
) STRICT;

CREATE UNIQUE INDEX semel_events_stream ON semel_events (tenant, subject, version) WHERE version > 0;

-- Who waits behind whom: one row for each subject of each operation that holds.
CREATE TABLE semel_queue (
  tenant  TEXT    NOT NULL,
  subject TEXT    NOT NULL,
  seq     INTEGER NOT NULL,
  PRIMARY KEY (tenant, subject, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX semel_queue_seq ON semel_queue (seq);

CREATE TABLE semel_followers (
  name       TEXT    NOT NULL,
  generation INTEGER NOT NULL,
  position   INTEGER NOT NULL,
  live       INTEGER NOT NULL,
  PRIMARY KEY (name, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE semel_tombstones (
  id         BLOB    NOT NULL PRIMARY KEY,
  expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX semel_tombstones_expiry ON semel_tombstones (expires_at);

-- The highest seq that was ever given, written when operations are deleted, so
-- that no number is given twice.
CREATE TABLE semel_counters (
  name  TEXT    NOT NULL PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
