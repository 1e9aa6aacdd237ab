-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- A message is persisted: what it follows, its notifications, then everything of the event in one transaction, its position,
-- and the receipt of a reader. A room has one writer at a time, as in Synapse: each client has rooms of its own.

\set number 10 * (random_zipfian(1, :rooms / 10, 1.1) - 1) + :client_id % 10 + 1

\set first random_zipfian(1, 5000, 1.1)

\set second random_zipfian(1, 5000, 1.1)

\set third random_zipfian(1, 5000, 1.1)

SELECT e.event_id AS newest, e.topological_ordering + 1 AS depth, g.state_group, e.sender
FROM event_forward_extremities AS x JOIN events AS e USING (event_id) JOIN event_to_state_groups AS g USING (event_id)
WHERE x.room_id = '!room-of-the-load-:number:example.org' LIMIT 1 \gset

SELECT nextval('events_stream_seq') AS stream \gset

SELECT '$' || translate(rtrim(encode(sha256('message :stream'), 'base64'), '='), '+/', '-_') AS event \gset

INSERT INTO event_push_actions_staging (event_id, user_id, actions, notif, highlight, unread, thread_id)
SELECT ':event', user_id, '', 1, 0, 1, 'main' FROM local_current_membership
WHERE room_id = '!room-of-the-load-:number:example.org' AND membership = 'join' LIMIT 20;

BEGIN ISOLATION LEVEL REPEATABLE READ;

DELETE FROM event_forward_extremities WHERE room_id = '!room-of-the-load-:number:example.org';

INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
VALUES (':event', '!room-of-the-load-:number:example.org', '{"stream_ordering": :stream}', '{"type":"m.room.message",'
    '"room_id":"!room-of-the-load-:number:example.org","sender":":sender","depth": :depth,"prev_events":[":newest"],'
    '"content":{"msgtype":"m.text","body":"' || repeat('word:first word:second word:third ', 4) || '"},"signatures":'
    '{"example.org":{"ed25519:auto":":event:newest"}},"hashes":{"sha256":":event"}}', 3);

INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts,
    sender, contains_url, instance_name, stream_ordering)
VALUES (:depth, ':event', 'm.room.message', '!room-of-the-load-:number:example.org', true, false, :depth,
    1600000000000 + :stream * 1000, 1600000000100 + :stream * 1000, ':sender', false, 'master', :stream);

INSERT INTO event_forward_extremities (event_id, room_id) VALUES (':event', '!room-of-the-load-:number:example.org');

INSERT INTO event_edges (event_id, prev_event_id, is_state) VALUES (':event', ':newest', false);

INSERT INTO event_to_state_groups (event_id, state_group) VALUES (':event', :state_group);

INSERT INTO event_search (event_id, room_id, sender, key, vector, origin_server_ts, stream_ordering)
VALUES (':event', '!room-of-the-load-:number:example.org', ':sender', 'content.body',
    to_tsvector('english', 'word:first word:second word:third'), 1600000000000 + :stream * 1000, :stream);

INSERT INTO event_push_actions (room_id, event_id, user_id, actions, topological_ordering, stream_ordering, notif, highlight,
    unread, thread_id)
SELECT '!room-of-the-load-:number:example.org', event_id, user_id, actions, :depth, :stream, notif, highlight, unread, thread_id
FROM event_push_actions_staging WHERE event_id = ':event';

DELETE FROM event_push_actions_staging WHERE event_id = ':event';

UPDATE room_depth SET min_depth = least(min_depth, :depth) WHERE room_id = '!room-of-the-load-:number:example.org';

COMMIT;

INSERT INTO stream_positions (stream_name, instance_name, stream_id) VALUES ('events', 'master', :stream)
ON CONFLICT (stream_name, instance_name) DO UPDATE SET stream_id = greatest(stream_positions.stream_id, excluded.stream_id);

BEGIN ISOLATION LEVEL REPEATABLE READ;

SELECT stream_ordering FROM events WHERE event_id = ':event';

DELETE FROM receipts_linearized WHERE room_id = '!room-of-the-load-:number:example.org' AND receipt_type = 'm.read'
    AND user_id = ':sender' AND thread_id IS NULL;

INSERT INTO receipts_linearized (stream_id, room_id, receipt_type, user_id, event_id, data, instance_name, event_stream_ordering)
VALUES (nextval('receipts_sequence'), '!room-of-the-load-:number:example.org', 'm.read', ':sender', ':event',
    '{"ts":1600000000000}', 'master', :stream);

COMMIT;
