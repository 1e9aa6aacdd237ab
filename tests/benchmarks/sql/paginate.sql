-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- Somebody scrolls back: the events before a place in a room, and then these events whole, with what may redact or reject them.

\set number random_zipfian(1, :rooms, 1.1)

SELECT e.topological_ordering AS depth FROM event_forward_extremities AS x JOIN events AS e USING (event_id)
WHERE x.room_id = '!room-of-the-load-:number:example.org' LIMIT 1 \gset

\set past random(:depth / 2, :depth)

SELECT string_agg(event_id, ',') AS page, (array_agg(event_id))[1] AS one FROM (
    SELECT event_id FROM events WHERE room_id = '!room-of-the-load-:number:example.org' AND NOT outlier
        AND (topological_ordering, stream_ordering) < (:past, 9000000000)
    ORDER BY topological_ordering DESC, stream_ordering DESC LIMIT 50) AS before \gset

SELECT e.event_id, e.stream_ordering, j.internal_metadata, j.json, j.format_version, v.room_version, r.reason FROM events AS e
JOIN event_json AS j USING (event_id) LEFT JOIN rooms AS v ON v.room_id = e.room_id LEFT JOIN rejections AS r USING (event_id)
WHERE e.event_id = ANY ('{:page}'::text[]);

SELECT count(*) FROM redactions WHERE redacts = ANY ('{:page}'::text[]);

SELECT count(*) FROM event_relations WHERE relates_to_id = ANY ('{:page}'::text[]);
