"""The tables of a store, as numbered migrations: script n brings a file from version n to n + 1.

A released script is never edited; a change is a new script. `PRAGMA user_version` counts them,
`PRAGMA application_id` marks a file as ours.

`event.payload` is the JSON text of the payload, or NULL when it is longer than `BLOB_BYTES`: then
`event.blob` names its SHA-256 in `blob`, where equal payloads are stored once. `event.status` is
that of a span's end. `thread.last` is the newest position ever given out in the thread;
`thread_message` is an index of events: it names `thread.no` and `event.no`, which took a third off
reading and linking against the texts.
"""

from __future__ import annotations

APPLICATION_ID = 0x4D41_4E42  # "MANB"
BLOB_BYTES = 64 * 1024

# `event` keeps its rowid: as a WITHOUT ROWID table every payload over 1 KB would spill into an
# overflow page of its own, up to four times its size.
MIGRATIONS = (
    """
    CREATE TABLE run (
        no INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        input TEXT NOT NULL,
        status TEXT NOT NULL,
        owner TEXT NOT NULL,
        fence INTEGER NOT NULL,
        lease_until REAL NOT NULL,
        key TEXT UNIQUE,
        thread TEXT,
        code_version TEXT NOT NULL,
        graph_hash TEXT NOT NULL,
        parent_run TEXT,
        fork_seq INTEGER,
        created REAL NOT NULL,
        updated REAL NOT NULL
    ) STRICT;
    CREATE INDEX run_created ON run (created);
    CREATE INDEX run_parent ON run (parent_run) WHERE parent_run IS NOT NULL;

    CREATE TABLE event (
        no INTEGER PRIMARY KEY,
        run TEXT NOT NULL,
        seq INTEGER NOT NULL,
        path TEXT NOT NULL,
        parent TEXT,
        attempt INTEGER,
        kind TEXT NOT NULL,
        status TEXT,
        fence INTEGER NOT NULL,
        payload TEXT,
        blob BLOB,
        at REAL NOT NULL,
        v INTEGER NOT NULL,
        UNIQUE (run, seq)
    ) STRICT;
    CREATE UNIQUE INDEX event_finished ON event (run, path) WHERE status = 'ok';
    CREATE INDEX event_blob ON event (blob) WHERE blob IS NOT NULL;

    CREATE TABLE blob (
        sha256 BLOB PRIMARY KEY,
        data BLOB NOT NULL
    ) STRICT;

    CREATE TABLE thread (
        no INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        resource TEXT NOT NULL,
        title TEXT NOT NULL,
        meta TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        last INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX thread_resource ON thread (resource);

    CREATE TABLE thread_message (
        thread INTEGER NOT NULL REFERENCES thread (no),
        pos INTEGER NOT NULL,
        event INTEGER NOT NULL REFERENCES event (no),
        PRIMARY KEY (thread, pos),
        UNIQUE (event, thread)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE doc (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        data TEXT NOT NULL,
        UNIQUE (kind, id)
    ) STRICT;
    """,
    # `vector.embedding` comes last: what is too long for its page spills over, and a filter never
    # has to read it. `change` is the index's own count of writes: a reader that has seen what is up
    # to one asks for the entries after it, and for those of `vector_gone`, and is in step; one from
    # before `forgotten` has to read everything. The words of index n are in `vector_words_n`.
    """
    ALTER TABLE run ADD COLUMN resource TEXT NOT NULL DEFAULT '';
    CREATE INDEX run_resource ON run (resource, created);
    CREATE INDEX run_thread ON run (thread, created) WHERE thread IS NOT NULL;

    CREATE TABLE vector_index (
        no INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        dimension INTEGER NOT NULL,
        metric TEXT NOT NULL,
        dtype TEXT NOT NULL,
        embedder TEXT NOT NULL,
        metadata_indexes TEXT NOT NULL,
        change INTEGER NOT NULL DEFAULT 0,
        forgotten INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL
    ) STRICT;

    CREATE TABLE vector (
        no INTEGER PRIMARY KEY AUTOINCREMENT,
        idx INTEGER NOT NULL REFERENCES vector_index (no),
        id TEXT NOT NULL,
        change INTEGER NOT NULL,
        metadata TEXT NOT NULL,
        text TEXT NOT NULL,
        embedding BLOB,
        UNIQUE (idx, id)
    ) STRICT;
    CREATE INDEX vector_change ON vector (idx, change);

    CREATE TABLE vector_gone (
        idx INTEGER NOT NULL REFERENCES vector_index (no),
        change INTEGER NOT NULL,
        no INTEGER NOT NULL,
        PRIMARY KEY (idx, change, no)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE embedding (
        no INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        digest BLOB NOT NULL,
        used REAL NOT NULL,
        vector BLOB NOT NULL,
        UNIQUE (model, digest)
    ) STRICT;
    CREATE INDEX embedding_used ON embedding (used);
    """,
    # What was spent is read without the events around it.
    """
    CREATE INDEX event_spent ON event (at)
        WHERE kind = 'span-ended' AND instr(payload, '"usage":') > 0;
    """,
)
