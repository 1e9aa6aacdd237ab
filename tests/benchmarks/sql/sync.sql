-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- A client opens its list of rooms: the user's memberships, the newest event of each room, what is unread, the latest receipts.

\set local random(0, :locals - 1)

SELECT string_agg(room_id, ',') AS mine FROM local_current_membership
WHERE user_id = '@local:local:example.org' AND membership = 'join' \gset

SELECT m.room_id, m.event_id, m.membership, e.instance_name, e.stream_ordering, r.room_version
FROM local_current_membership AS m JOIN events AS e USING (event_id) JOIN rooms AS r ON r.room_id = m.room_id
WHERE m.user_id = '@local:local:example.org' AND m.membership IN ('invite', 'join', 'knock');

SELECT mine.room_id, newest.event_id, newest.stream_ordering FROM unnest('{:mine}'::text[]) AS mine (room_id), LATERAL (
    SELECT event_id, stream_ordering FROM events WHERE room_id = mine.room_id AND NOT outlier
    ORDER BY stream_ordering DESC LIMIT 1) AS newest;

SELECT room_id, thread_id, count(*) FILTER (WHERE notif = 1), count(*) FILTER (WHERE highlight = 1) FROM event_push_actions
WHERE user_id = '@local:local:example.org' AND room_id = ANY ('{:mine}'::text[])
    AND stream_ordering > (SELECT max(stream_ordering) - 20000 FROM events) GROUP BY room_id, thread_id;

SELECT room_id, receipt_type, user_id, event_id, data FROM receipts_linearized
WHERE room_id = ANY ('{:mine}'::text[]) ORDER BY stream_id DESC LIMIT 500;
