package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/migrations"
)

const (
	devDatabase  = "connect_prisma_dev"
	devOwnerRole = "connect_owner"
	devAppRole   = "connect_app"
)

// devDatabases are the roads into the development server.
type devDatabases struct {
	Admin string // who may create databases and roles; for the simulator
	Owner string // migrations
	App   string // the service
	stop  func()
}

// openDevDatabase starts a private Postgres, or takes the server that
// DATABASE_URL names, and brings this installation's database there up to date.
// The three roles are the ones of production: nothing runs with more rights in
// development.
func openDevDatabase(ctx context.Context, c *console, dataDir string, state devState, log *slog.Logger) (*devDatabases, error) {
	db := &devDatabases{Admin: c.getenv("DATABASE_URL"), stop: func() {}}
	if db.Admin == "" {
		server, err := devpg.Start(ctx, devpg.Config{Dir: filepath.Join(dataDir, "postgres"), Logger: log})
		if err != nil {
			return nil, err
		}
		db.Admin, db.stop = server.URL("postgres"), func() { stopPostgres(ctx, server, log) }
	}
	if err := db.prepare(ctx, state); err != nil {
		db.stop()
		return nil, err
	}
	return db, nil
}

func (db *devDatabases) prepare(ctx context.Context, state devState) error {
	var err error
	if db.Owner, err = as(db.Admin, devOwnerRole, state.OwnerPassword); err != nil {
		return err
	}
	if db.App, err = as(db.Admin, devAppRole, state.AppPassword); err != nil {
		return err
	}
	if err := db.makeDatabase(ctx, state); err != nil {
		return err
	}
	if err := migrations.Up(ctx, db.Owner, migrations.Options{Environment: environmentDevelopment}); err != nil {
		return err
	}
	// As the owner: who made a role may set its password, also on Postgres 16.
	return withConn(ctx, db.Owner, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "ALTER ROLE "+devAppRole+" PASSWORD '"+state.AppPassword+"'"); err != nil {
			return fmt.Errorf("set the password of %s: %w", devAppRole, err)
		}
		// The simulator makes roles for its databases on the same server; none of them
		// has any business here.
		_, err := conn.Exec(ctx, "REVOKE CONNECT, TEMPORARY ON DATABASE "+devDatabase+" FROM PUBLIC; "+
			"GRANT CONNECT ON DATABASE "+devDatabase+" TO "+devAppRole)
		return err
	})
}

// makeDatabase makes the owner role and the database. Passwords are letters and
// digits of our own making, so there is nothing to escape; DDL takes no
// parameters.
func (db *devDatabases) makeDatabase(ctx context.Context, state devState) error {
	return withConn(ctx, db.Admin, func(conn *pgx.Conn) error {
		var able bool
		err := conn.QueryRow(ctx, `
			SELECT rolsuper OR rolcreatedb AND rolcreaterole FROM pg_roles WHERE rolname = current_user`).Scan(&able)
		if err != nil {
			return fmt.Errorf("look at the database role: %w", err)
		}
		if !able {
			return errors.New("DATABASE_URL: the role needs CREATEDB and CREATEROLE")
		}
		var foreign bool
		err = conn.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AND NOT EXISTS (SELECT FROM pg_database WHERE datname = $2)`,
			devAppRole, devDatabase).Scan(&foreign)
		if err != nil {
			return fmt.Errorf("look for another installation: %w", err)
		}
		if foreign { // roles belong to the whole server, and dev sets their passwords
			return fmt.Errorf("DATABASE_URL: another installation uses the role %s on this server; give dev a server of its own", devAppRole)
		}
		_, err = conn.Exec(ctx, "CREATE ROLE "+devOwnerRole+" LOGIN CREATEROLE")
		if err != nil && postgres.SQLSTATE(err) != "42710" { // it exists
			return fmt.Errorf("create role %s: %w", devOwnerRole, err)
		}
		_, err = conn.Exec(ctx, "ALTER ROLE "+devOwnerRole+" PASSWORD '"+state.OwnerPassword+"'")
		if err != nil {
			return fmt.Errorf("set the password of %s: %w", devOwnerRole, err)
		}
		// Without superuser, only a member of a role may give it a database.
		if _, err := conn.Exec(ctx, "GRANT "+devOwnerRole+" TO CURRENT_USER"); err != nil {
			return fmt.Errorf("join %s: %w", devOwnerRole, err)
		}
		_, err = conn.Exec(ctx, "CREATE DATABASE "+devDatabase+" OWNER "+devOwnerRole)
		if err != nil && postgres.SQLSTATE(err) != "42P04" { // it exists
			return fmt.Errorf("create database: %w", err)
		}
		return nil
	})
}

// as is the way into the development database as another role of the same server.
func as(adminURL, role, password string) (string, error) {
	u, err := url.Parse(adminURL)
	if err != nil || u.Host == "" {
		return "", errors.New("DATABASE_URL must be a postgres:// URL with a host")
	}
	u.User, u.Path = url.UserPassword(role, password), "/"+devDatabase
	return u.String(), nil
}

func withConn(ctx context.Context, databaseURL string, fn func(conn *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	return errors.Join(fn(conn), conn.Close(context.WithoutCancel(ctx)))
}

// advance moves the time that the service's SQL sees; only development and test
// databases take it.
func (db *devDatabases) advance(ctx context.Context, by time.Duration) error {
	return withConn(ctx, db.Owner, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `UPDATE app.deployment SET clock_offset = clock_offset + $1::interval`, by)
		return err
	})
}
