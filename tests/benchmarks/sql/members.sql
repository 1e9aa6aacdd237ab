-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- Who is in this room? Synapse asks it for every room that a message is delivered in, and keeps the answer for some time.

\set number random_zipfian(1, :rooms, 1.1)

SELECT c.state_key, m.display_name, m.avatar_url FROM current_state_events AS c JOIN room_memberships AS m USING (event_id)
WHERE c.type = 'm.room.member' AND c.room_id = '!room-of-the-load-:number:example.org' AND c.membership = 'join';

SELECT count(*) FROM current_state_events
WHERE type = 'm.room.member' AND room_id = '!room-of-the-load-:number:example.org' AND membership = 'join';
