#!/bin/bash
# What a new cluster gets, once: the control plane's login and its database, with the rights that docs/running.md lists and no more. Postgres' image
# runs it as the owner of the cluster, over a socket that nobody else reaches.
set -euo pipefail

# The password comes by a backquote of psql's, not as an argument: those are in everybody's list of processes.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<'SQL'
-- Should a statement fail, it is not told: it has a password.
SET log_min_error_statement = panic;
\set password `cat /run/secrets/postgres-password`
CREATE ROLE gateway LOGIN CREATEROLE PASSWORD :'password';
CREATE DATABASE gateway OWNER gateway;
REVOKE CONNECT ON DATABASE gateway FROM PUBLIC;
SQL
