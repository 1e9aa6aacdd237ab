-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- Somebody changes the own membership (joins, or takes another name): an event as a message is, and a new state group with this
-- one difference to the one before; the room's current state, its history of changes and its figures follow.

\set number 10 * (random(1, :rooms / 10) - 1) + :client_id % 10 + 1

SELECT e.event_id AS newest, e.topological_ordering + 1 AS depth, g.state_group AS before, e.sender
FROM event_forward_extremities AS x JOIN events AS e USING (event_id) JOIN event_to_state_groups AS g USING (event_id)
WHERE x.room_id = '!room-of-the-load-:number:example.org' LIMIT 1 \gset

SELECT nextval('events_stream_seq') AS stream, nextval('state_group_id_seq') AS state_group \gset

SELECT '$' || translate(rtrim(encode(sha256('member :stream'), 'base64'), '='), '+/', '-_') AS event \gset

BEGIN ISOLATION LEVEL REPEATABLE READ;

INSERT INTO state_groups (id, room_id, event_id) VALUES (:state_group, '!room-of-the-load-:number:example.org', ':event');

INSERT INTO state_group_edges (state_group, prev_state_group) VALUES (:state_group, :before);

INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
VALUES (:state_group, '!room-of-the-load-:number:example.org', 'm.room.member', ':sender', ':event');

COMMIT;

BEGIN ISOLATION LEVEL REPEATABLE READ;

DELETE FROM event_forward_extremities WHERE room_id = '!room-of-the-load-:number:example.org';

INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
VALUES (':event', '!room-of-the-load-:number:example.org', '{"stream_ordering": :stream}', '{"type":"m.room.member",'
    '"room_id":"!room-of-the-load-:number:example.org","sender":":sender","state_key":":sender","depth": :depth,'
    '"prev_events":[":newest"],"content":{"membership":"join","displayname":"another name"},"signatures":'
    '{"example.org":{"ed25519:auto":":event:newest"}},"hashes":{"sha256":":event"}}', 3);

INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts,
    sender, contains_url, instance_name, stream_ordering, state_key)
VALUES (:depth, ':event', 'm.room.member', '!room-of-the-load-:number:example.org', true, false, :depth,
    1600000000000 + :stream * 1000, 1600000000100 + :stream * 1000, ':sender', false, 'master', :stream, ':sender');

INSERT INTO event_forward_extremities (event_id, room_id) VALUES (':event', '!room-of-the-load-:number:example.org');

INSERT INTO event_edges (event_id, prev_event_id, is_state) VALUES (':event', ':newest', false);

INSERT INTO event_to_state_groups (event_id, state_group) VALUES (':event', :state_group);

INSERT INTO event_auth (event_id, auth_id, room_id)
SELECT ':event', event_id, room_id FROM current_state_events WHERE room_id = '!room-of-the-load-:number:example.org'
    AND type IN ('m.room.create', 'm.room.power_levels', 'm.room.join_rules') AND state_key = '';

INSERT INTO state_events (event_id, room_id, type, state_key)
VALUES (':event', '!room-of-the-load-:number:example.org', 'm.room.member', ':sender');

INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, display_name, event_stream_ordering)
VALUES (':event', ':sender', ':sender', '!room-of-the-load-:number:example.org', 'join', 'another name', :stream);

INSERT INTO current_state_delta_stream (stream_id, room_id, type, state_key, event_id, prev_event_id, instance_name)
SELECT :stream, room_id, type, state_key, ':event', event_id, 'master' FROM current_state_events
WHERE room_id = '!room-of-the-load-:number:example.org' AND type = 'm.room.member' AND state_key = ':sender';

DELETE FROM current_state_events
WHERE room_id = '!room-of-the-load-:number:example.org' AND type = 'm.room.member' AND state_key = ':sender';

INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
VALUES (':event', '!room-of-the-load-:number:example.org', 'm.room.member', ':sender', 'join', :stream);

INSERT INTO local_current_membership (room_id, user_id, event_id, membership, event_stream_ordering)
SELECT '!room-of-the-load-:number:example.org', ':sender', ':event', 'join', :stream WHERE ':sender' LIKE '@local%'
ON CONFLICT (user_id, room_id) DO UPDATE SET event_id = excluded.event_id, membership = excluded.membership,
    event_stream_ordering = excluded.event_stream_ordering;

COMMIT;

INSERT INTO stream_positions (stream_name, instance_name, stream_id) VALUES ('events', 'master', :stream)
ON CONFLICT (stream_name, instance_name) DO UPDATE SET stream_id = greatest(stream_positions.stream_id, excluded.stream_id);

UPDATE room_stats_current SET completed_delta_stream_id = :stream WHERE room_id = '!room-of-the-load-:number:example.org';
