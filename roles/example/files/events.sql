-- "id SERIAL PRIMARY KEY" alone cannot be: each worker knows its own shards only, so a key can be unique over the
-- cluster only if it includes the column that the table is distributed by.
CREATE TABLE IF NOT EXISTS events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    user_id integer NOT NULL,
    event_type text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id)
)
