-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- Somebody opens the directory of public rooms: the largest that everybody may join or read, and where the page after it begins.

SELECT r.room_id, s.name, s.topic, s.canonical_alias, s.avatar, s.history_visibility, s.guest_access, s.join_rules,
    c.joined_members
FROM rooms AS r JOIN room_stats_state AS s USING (room_id) JOIN room_stats_current AS c USING (room_id)
WHERE r.is_public AND c.joined_members > 0 AND (s.join_rules IN ('public', 'knock') OR s.history_visibility = 'world_readable')
    AND s.room_type IS NULL
ORDER BY c.joined_members DESC, r.room_id DESC LIMIT 50;

SELECT count(*) FROM rooms AS r JOIN room_stats_state AS s USING (room_id) JOIN room_stats_current AS c USING (room_id)
WHERE r.is_public AND c.joined_members > 0 AND (s.join_rules IN ('public', 'knock') OR s.history_visibility = 'world_readable');
