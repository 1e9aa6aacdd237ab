# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A homeserver.yaml as Synapse generates it: what stands before the database section, the section, what stands after it."""

SECTION = "database:\n  name: sqlite3\n  args:\n    database: /data/homeserver.db"
GENERATED = (
    """\
# Configuration file for Synapse.
#
# This is a YAML file: see [1] for a quick introduction. Note in particular
# that *indentation is important*: all the elements of a list or dictionary
# should have the same indentation.
#
# [1] https://docs.ansible.com/ansible/latest/reference_appendices/YAMLSyntax.html
server_name: "example.org"
pid_file: /data/homeserver.pid
listeners:
  - bind_addresses:
    - ::1
    - 127.0.0.1
    port: 8008
    resources:
    - compress: false
      names:
      - client
      - federation
    tls: false
    type: http
    x_forwarded: true
""",
    SECTION,
    """
log_config: "/data/example.org.log.config"
media_store_path: /data/media_store
registration_shared_secret: "I^u=eh#WY9*qYjf5p@~kWBimJ1Hs:+C=^_;b59l@v35TAAizKs"
report_stats: false
macaroon_secret_key: "mj:MBkRK3&mP4wYLxQpJF:V=5MiyO3:UVV00dkQQiYIxrTNzo@"
form_secret: "rwaMyD^ruVKNhM.0+TBB3mxYsrLwoTB-iB7vPKT_O8u;knE*~+"
signing_key_path: "/data/example.org.signing.key"
trusted_key_servers:
  - server_name: "matrix.org"


# vim:ft=yaml""",
)
