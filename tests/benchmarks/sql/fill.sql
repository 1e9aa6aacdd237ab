-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- What the homeserver of the load is made of. :scale is 1 for some 2 GB; nothing is random, so the same scale gives the same rows.
--
-- Rooms are of very different sizes, the first by far the largest; users in them are ours ("local") or other servers', and what
-- happened in all rooms is interleaved in time. Each state event of a room begins a state group; every hundredth holds the
-- room's whole state, the others what is new and the way to the one before, as Synapse writes them.

-- members: who ever joined; state: how many state events; events: these and the messages.
CREATE UNLOGGED TABLE load_rooms AS
SELECT number, '!room-of-the-load-' || number || ':example.org' AS room_id, members, 8 + members * 5 / 4 AS state,
    8 + members * 5 / 4 + greatest(20, (30000 * :scale / number)::int) AS events,
    (hashint4(number)::bigint & 1023) / 1280.0 AS begun
FROM generate_series(1, greatest(20, (200 * :scale)::int * 10)) AS number,
    LATERAL (SELECT greatest(2, (20000 * :scale / number ^ 1.1)::int) AS members) AS sized;

CREATE FUNCTION load_user(room int, member int, members int) RETURNS text IMMUTABLE LANGUAGE sql RETURN
    CASE WHEN member <= 4 + members / 50 THEN '@local' || ((member * 7919 + room * 7907) % greatest(50, (500 * :scale)::int))::text
    ELSE '@remote' || ((member * 7919 + room * 7907) % greatest(400, (20000 * :scale)::int))::text END || ':example.org';

CREATE FUNCTION load_event(room int, place bigint) RETURNS text IMMUTABLE LANGUAGE sql RETURN
    '$' || translate(rtrim(encode(sha256((room::text || '.' || place::text)::bytea), 'base64'), '='), '+/', '-_');

-- place: the event's in its room, from 1; step: the state event that was the last one by then, or is this one.
CREATE UNLOGGED TABLE load_events AS
SELECT number, room_id, place, step, is_state, members, load_event(number, place) AS event_id,
    row_number() OVER (ORDER BY begun + (1 - begun) * place / events, number) AS stream,
    load_user(number, CASE WHEN NOT is_state OR step > 7 + members THEN (1 + ((hashint8(place * 65536 + number) & 1073741823)
        % greatest(1, least(members, step - 7))))::int WHEN step > 8 THEN (step - 7)::int ELSE 1 END, members) AS sender
FROM load_rooms, LATERAL generate_series(1::bigint, events) AS place,
    LATERAL (SELECT (place * state + events - 1) / events AS step,
        (place * state + events - 1) / events > ((place - 1) * state + events - 1) / events AS is_state) AS placed;

CREATE UNLOGGED TABLE load_state AS
SELECT *, row_number() OVER (ORDER BY stream) AS state_group,
    lead(step) OVER (PARTITION BY number, type, state_key ORDER BY step) AS replaced
FROM (
    SELECT *, coalesce((ARRAY['m.room.create', 'm.room.member', 'm.room.power_levels', 'm.room.join_rules',
            'm.room.history_visibility', 'm.room.guest_access', 'm.room.name', 'm.room.topic'])[step], 'm.room.member') AS type,
        CASE WHEN step = 2 OR step > 8 THEN sender ELSE '' END AS state_key
    FROM load_events WHERE is_state) AS typed;

CREATE UNIQUE INDEX ON load_state (number, step);

ANALYZE load_rooms, load_events, load_state;

-- Next: what Synapse's own tables hold.

INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
SELECT state_group, room_id, type, state_key, event_id FROM (
    SELECT state_group, room_id, type, state_key, event_id FROM load_state WHERE step % 100 <> 0
    UNION ALL
    SELECT whole.state_group, held.room_id, held.type, held.state_key, held.event_id
    FROM load_state AS whole, load_state AS held
    WHERE whole.step % 100 = 0 AND held.number = whole.number AND held.step <= whole.step
        AND (held.replaced IS NULL OR held.replaced > whole.step)) AS rows
ORDER BY state_group;

INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
SELECT event_id, room_id, '{"stream_ordering":' || stream || '}', json_build_object('auth_events', json_build_array(
    load_event(number, 1), load_event(number, 2)), 'prev_events', json_build_array(load_event(number, place - 1)),
    'type', 'm.room.message', 'room_id', room_id, 'sender', sender, 'depth', place, 'origin_server_ts', 1600000000000 + stream,
    'hashes', json_build_object('sha256', substr(event_id, 2)), 'signatures', json_build_object('example.org',
    json_build_object('ed25519:auto', substr(event_id, 2) || reverse(substr(event_id, 2)))), 'content', json_build_object(
    'msgtype', 'm.text', 'body', repeat(substr(event_id, 2, 20) || ' ', 1 + (place % 7)::int)), 'unsigned',
    json_build_object('age_ts', 1600000000000 + stream))::text, 3
FROM load_events ORDER BY stream;

INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts,
    sender, contains_url, instance_name, stream_ordering, state_key)
SELECT e.place, e.event_id, coalesce(s.type, 'm.room.message'), e.room_id, true, false, e.place, 1600000000000 + e.stream * 1000,
    1600000000100 + e.stream * 1000, e.sender, e.place % 20 = 0, 'master', e.stream, s.state_key
FROM load_events AS e LEFT JOIN load_state AS s USING (event_id) ORDER BY e.stream;

INSERT INTO event_search (event_id, room_id, sender, key, vector, origin_server_ts, stream_ordering)
SELECT event_id, room_id, sender, 'content.body', to_tsvector('english', words), 1600000000000 + stream, stream
FROM load_events, LATERAL (SELECT string_agg('word' || power(5000.0, (hashint8(stream * 12 + word) & 65535) / 65535.0::float8)::int, ' ')
    AS words FROM generate_series(1, 12) AS word) AS said
WHERE NOT is_state ORDER BY stream;

INSERT INTO event_edges (event_id, prev_event_id, is_state)
SELECT event_id, load_event(number, place - 1), false FROM load_events WHERE place > 1 ORDER BY stream;

INSERT INTO event_to_state_groups (event_id, state_group)
SELECT e.event_id, state_group FROM load_events AS e JOIN load_state USING (number, step) ORDER BY e.stream;

INSERT INTO event_auth (event_id, auth_id, room_id)
SELECT s.event_id, auth.event_id, s.room_id FROM load_state AS s JOIN load_state AS auth USING (number)
WHERE auth.step <= 4 AND s.step > 4 ORDER BY s.stream;

INSERT INTO event_push_actions (room_id, event_id, user_id, actions, topological_ordering, stream_ordering, notif, highlight,
    unread, thread_id)
SELECT room_id, event_id, load_user(number, 1 + (place % 4)::int, members), '', place, stream, 1, 0, 1, 'main'
FROM load_events WHERE NOT is_state AND place % 2 = 0 ORDER BY stream;

INSERT INTO state_events (event_id, room_id, type, state_key) SELECT event_id, room_id, type, state_key FROM load_state ORDER BY stream;

INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, display_name, event_stream_ordering)
SELECT event_id, state_key, sender, room_id, 'join', 'the name of ' || state_key, stream FROM load_state
WHERE type = 'm.room.member' ORDER BY stream;

INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
SELECT event_id, room_id, type, state_key, CASE type WHEN 'm.room.member' THEN 'join' END, stream FROM load_state
WHERE replaced IS NULL ORDER BY stream;

INSERT INTO state_groups (id, room_id, event_id) SELECT state_group, room_id, event_id FROM load_state ORDER BY state_group;

INSERT INTO state_group_edges (state_group, prev_state_group)
SELECT s.state_group, before.state_group FROM load_state AS s JOIN load_state AS before
    ON before.number = s.number AND before.step = s.step - 1
WHERE s.step % 100 <> 0 ORDER BY s.state_group;

INSERT INTO local_current_membership (room_id, user_id, event_id, membership, event_stream_ordering)
SELECT room_id, state_key, event_id, 'join', stream FROM load_state WHERE replaced IS NULL AND state_key LIKE '@local%' ORDER BY stream;

INSERT INTO receipts_linearized (stream_id, room_id, receipt_type, user_id, event_id, data, instance_name, event_stream_ordering)
SELECT row_number() OVER (), room_id, 'm.read', state_key, event_id, '{"ts":1600000000000}', 'master', stream FROM load_state
WHERE replaced IS NULL AND type = 'm.room.member';

INSERT INTO receipts_graph (room_id, receipt_type, user_id, event_ids, data)
SELECT room_id, 'm.read', state_key, '["' || event_id || '"]', '{"ts":1600000000000}' FROM load_state
WHERE replaced IS NULL AND type = 'm.room.member';

INSERT INTO event_forward_extremities (event_id, room_id) SELECT load_event(number, events), room_id FROM load_rooms;

INSERT INTO rooms (room_id, is_public, creator, room_version, has_auth_chain_index)
SELECT room_id, number % 3 = 1, load_user(number, 1, members), '10', true FROM load_rooms;

INSERT INTO room_depth (room_id, min_depth) SELECT room_id, 1 FROM load_rooms;

INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members, banned_members,
    local_users_in_room, completed_delta_stream_id, knocked_members)
SELECT room_id, 7 + members, members, 0, 0, 0, least(members, 4 + members / 50), 1, 0 FROM load_rooms;

INSERT INTO room_stats_state (room_id, name, canonical_alias, join_rules, history_visibility, guest_access, is_federatable, topic)
SELECT room_id, 'Room ' || number, '#' || number || ':example.org', CASE number % 3 WHEN 1 THEN 'public' ELSE 'invite' END,
    CASE number % 5 WHEN 0 THEN 'world_readable' ELSE 'shared' END, 'can_join', true, repeat('What is talked of here. ', 5)
FROM load_rooms;

INSERT INTO users (name, creation_ts) SELECT DISTINCT state_key, 1600000000 FROM load_state WHERE state_key LIKE '@local%';

-- Last: where Synapse goes on.

SELECT setval('events_stream_seq', (SELECT max(stream) FROM load_events)),
    setval('state_group_id_seq', (SELECT max(state_group) FROM load_state)),
    setval('receipts_sequence', (SELECT max(stream_id) FROM receipts_linearized));
