DROP TABLE semel_counters;
DROP TABLE semel_tombstones;
DROP TABLE semel_followers;
DROP TABLE semel_queue;
DROP TABLE semel_events;
DROP TABLE semel_operations;
