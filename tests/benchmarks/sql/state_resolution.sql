-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- Two branches of a room meet: Synapse reads the whole state that each of them had, to compare them, and then the events that
-- authorised what differs. Sequential scans are off for the state, as Synapse has them.

\set number random_zipfian(1, :rooms, 1.1)

SELECT e.topological_ordering AS depth, g.state_group AS newest FROM event_forward_extremities AS x
JOIN events AS e USING (event_id) JOIN event_to_state_groups AS g USING (event_id)
WHERE x.room_id = '!room-of-the-load-:number:example.org' LIMIT 1 \gset

\set past random(:depth / 2, :depth)

SELECT g.state_group AS older FROM events AS e JOIN event_to_state_groups AS g USING (event_id)
WHERE e.room_id = '!room-of-the-load-:number:example.org' AND e.topological_ordering <= :past
ORDER BY e.topological_ordering DESC, e.stream_ordering DESC LIMIT 1 \gset

BEGIN ISOLATION LEVEL REPEATABLE READ;

SET LOCAL enable_seqscan = off;

WITH RECURSIVE chain (state_group) AS (
    SELECT :newest::bigint
    UNION ALL
    SELECT edge.prev_state_group FROM chain JOIN state_group_edges AS edge ON edge.state_group = chain.state_group)
SELECT DISTINCT ON (type, state_key) type, state_key, event_id FROM state_groups_state
WHERE state_group IN (SELECT state_group FROM chain) ORDER BY type, state_key, state_group DESC;

WITH RECURSIVE chain (state_group) AS (
    SELECT :older::bigint
    UNION ALL
    SELECT edge.prev_state_group FROM chain JOIN state_group_edges AS edge ON edge.state_group = chain.state_group)
SELECT DISTINCT ON (type, state_key) type, state_key, event_id FROM state_groups_state
WHERE state_group IN (SELECT state_group FROM chain) ORDER BY type, state_key, state_group DESC;

COMMIT;

SELECT string_agg(event_id, ',') AS differing FROM (
    SELECT event_id FROM events WHERE room_id = '!room-of-the-load-:number:example.org' AND topological_ordering <= :past
        AND state_key IS NOT NULL
    ORDER BY topological_ordering DESC, stream_ordering DESC LIMIT 30) AS states \gset

SELECT string_agg(DISTINCT auth_id, ',') AS auth FROM event_auth WHERE event_id = ANY ('{:differing}'::text[]) \gset

SELECT e.event_id, e.stream_ordering, j.internal_metadata, j.json, j.format_version, r.reason FROM events AS e
JOIN event_json AS j USING (event_id) LEFT JOIN rejections AS r USING (event_id)
WHERE e.event_id = ANY ('{:auth,:differing}'::text[]);
