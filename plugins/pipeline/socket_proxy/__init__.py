"""The way of Airflow's tasks to the Docker engine: only the calls of `pipeline.docker`, only for stages' containers.

The engine's socket equals root on its machine. This program alone has it, and answers 403 to all that the operator
does not ask for. What it passes on it has read, checked and written anew: request line, query and body. So the engine
never reads a text differently than the check did: duplicate keys, other spellings, a second request behind the first.

refusal     what a refused client is told
wire        HTTP/1.1 as far as it is needed: one request a connection
calls       the table of calls
creation    what a container may be created with
engine      connections to the engine's socket
server      one request: read, checked, passed on

Decision 34 says why.
"""
