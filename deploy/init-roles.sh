#!/bin/sh
# Run once by the Postgres image, when its data directory is new: makes the database,
# its owner and the role that the service runs as. The owner can create the remaining
# roles by itself, in the first migration. The simulator gets a role of its own: it
# makes databases and must not see this one.
set -eu

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
	--set owner_password="$CONNECT_OWNER_PASSWORD" \
	--set app_password="$CONNECT_APP_PASSWORD" \
	--set simulator_password="$SIMULATOR_PASSWORD" <<'SQL'
CREATE ROLE connect_owner LOGIN CREATEROLE PASSWORD :'owner_password';
CREATE ROLE connect_app LOGIN NOINHERIT PASSWORD :'app_password';
CREATE ROLE prisma_simulator LOGIN CREATEDB CREATEROLE PASSWORD :'simulator_password';
CREATE DATABASE connect_prisma OWNER connect_owner;
REVOKE CONNECT, TEMPORARY ON DATABASE connect_prisma FROM PUBLIC;
GRANT CONNECT ON DATABASE connect_prisma TO connect_app;
SQL
