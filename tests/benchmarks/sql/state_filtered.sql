-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- May this user see, or do, something here? Synapse reads single entries of the state as it was at an event: the room's history
-- visibility and the user's membership, each from the newest group of the chain that has it.

\set number random_zipfian(1, :rooms, 1.1)

SELECT e.topological_ordering AS depth FROM event_forward_extremities AS x JOIN events AS e USING (event_id)
WHERE x.room_id = '!room-of-the-load-:number:example.org' LIMIT 1 \gset

\set past random(:depth / 2, :depth)

SELECT e.sender, g.state_group FROM events AS e JOIN event_to_state_groups AS g USING (event_id)
WHERE e.room_id = '!room-of-the-load-:number:example.org' AND e.topological_ordering <= :past
ORDER BY e.topological_ordering DESC, e.stream_ordering DESC LIMIT 1 \gset

BEGIN ISOLATION LEVEL REPEATABLE READ;

SET LOCAL enable_seqscan = off;

WITH RECURSIVE chain (state_group) AS (
    SELECT :state_group::bigint
    UNION ALL
    SELECT edge.prev_state_group FROM chain JOIN state_group_edges AS edge ON edge.state_group = chain.state_group)
(SELECT DISTINCT ON (type, state_key) type, state_key, event_id FROM state_groups_state JOIN chain USING (state_group)
    WHERE type = 'm.room.history_visibility' AND state_key = '' ORDER BY type, state_key, state_group DESC)
UNION
(SELECT DISTINCT ON (type, state_key) type, state_key, event_id FROM state_groups_state JOIN chain USING (state_group)
    WHERE type = 'm.room.member' AND state_key = ':sender' ORDER BY type, state_key, state_group DESC);

COMMIT;
