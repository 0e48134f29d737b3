package prismasim

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Prefixes of real databases that stand in for one while it is restored.
const (
	nextPrefix = "next_"
	lastPrefix = "last_"
)

// clone makes target, with its owner role, as a copy of database from: all that
// was from's, or of its logins, is target's. Sessions in from are ended, because
// Postgres copies only what nobody is connected to; clients reconnect.
func (p *realServer) clone(ctx context.Context, from, target, fromOwner string, fromLogins []string) error {
	if err := p.createOwner(ctx, target); err != nil {
		return err
	}
	return p.copyAs(ctx, from, target, fromOwner, target, fromLogins)
}

// snapshot keeps a copy of database from under name. What logins own in it is
// the owner's there, so that they can be dropped while the copy stays.
func (p *realServer) snapshot(ctx context.Context, from, name string, logins []string) error {
	if err := p.copyDatabase(ctx, from, name, p.admin); err != nil {
		return err
	}
	if err := p.closeDatabase(ctx, name); err != nil {
		return err
	}
	err := p.within(ctx, name, func(conn *pgx.Conn) error {
		for _, login := range logins {
			err := execAll(ctx, conn, "REASSIGN OWNED BY "+quote(login)+" TO "+quote(from), "DROP OWNED BY "+quote(login))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("hand the copy %s over: %w", name, err)
	}
	return nil
}

// restore gives target the content of the backup database from ("": nothing) in
// place: roles, and with them credentials, stay; sessions are ended.
func (p *realServer) restore(ctx context.Context, from, target, fromOwner string, fromLogins []string) error {
	next, last := nextPrefix+target, lastPrefix+target
	if err := p.drop(ctx, next, nil); err != nil { // of an attempt that was killed
		return err
	}
	var err error
	if from == "" {
		err = p.exec(ctx, "CREATE DATABASE "+quote(next)+" OWNER "+quote(target)+" TEMPLATE template0"+p.strategy)
		if err == nil {
			err = p.closeDatabase(ctx, next)
		}
	} else {
		err = p.copyAs(ctx, from, next, fromOwner, target, fromLogins)
	}
	if err != nil {
		return fmt.Errorf("make the content of %s: %w", target, err)
	}
	if err := p.replace(ctx, next, target, last); err != nil {
		return err
	}
	return p.drop(ctx, last, nil)
}

// replace puts database next in the place of target, which becomes last. The two
// renames are one transaction: a killed process leaves target as it was.
func (p *realServer) replace(ctx context.Context, next, target, last string) error {
	if err := p.shut(ctx, target); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		for _, statement := range []string{
			"ALTER DATABASE " + quote(target) + " RENAME TO " + quote(last),
			"ALTER DATABASE " + quote(next) + " RENAME TO " + quote(target),
		} {
			if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err //nolint:wrapcheck // wrapped once, below
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("replace database %s: %w", target, err), p.open(ctx, target))
	}
	return nil
}

// copyAs copies database from to the new database target and gives it, and all
// that fromOwner or fromLogins own in it, to owner.
func (p *realServer) copyAs(ctx context.Context, from, target, fromOwner, owner string, fromLogins []string) error {
	if err := p.copyDatabase(ctx, from, target, owner); err != nil {
		return err
	}
	if err := p.closeDatabase(ctx, target); err != nil {
		return err
	}
	if fromOwner == owner {
		return nil
	}
	err := p.within(ctx, target, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			return handOver(ctx, tx, fromOwner, owner, fromLogins)
		})
	})
	if err != nil {
		return fmt.Errorf("hand %s over to its owner: %w", target, err)
	}
	return nil
}

// handOver gives what the old owner and logins own in this database to owner.
// REASSIGN OWNED takes whole databases along, wherever they are, so those are
// given back before anybody can see it.
func handOver(ctx context.Context, tx pgx.Tx, fromOwner, owner string, fromLogins []string) error {
	rows, err := tx.Query(ctx, `SELECT datname FROM pg_database WHERE datdba = $1::regrole`, quote(fromOwner))
	if err != nil {
		return err //nolint:wrapcheck // callers say what was being done
	}
	kept, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err //nolint:wrapcheck // callers say what was being done
	}
	statements := []string{"REASSIGN OWNED BY " + quote(fromOwner) + " TO " + quote(owner)}
	for _, name := range kept {
		statements = append(statements, "ALTER DATABASE "+quote(name)+" OWNER TO "+quote(fromOwner))
	}
	for _, login := range fromLogins {
		statements = append(statements, "REASSIGN OWNED BY "+quote(login)+" TO "+quote(owner), "DROP OWNED BY "+quote(login))
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err //nolint:wrapcheck // callers say what was being done
		}
	}
	return nil
}

// copyDatabase copies database from, emptied of sessions meanwhile.
func (p *realServer) copyDatabase(ctx context.Context, from, target, owner string) error {
	if err := p.shut(ctx, from); err != nil {
		return err
	}
	err := p.exec(ctx, "CREATE DATABASE "+quote(target)+" OWNER "+quote(owner)+" TEMPLATE "+quote(from))
	if err != nil {
		err = fmt.Errorf("copy database %s: %w", from, err)
	}
	return errors.Join(err, p.open(context.WithoutCancel(ctx), from))
}

// shut lets nobody into a database and ends the sessions in it.
func (p *realServer) shut(ctx context.Context, name string) error {
	if err := p.exec(ctx, "ALTER DATABASE "+quote(name)+" ALLOW_CONNECTIONS false"); err != nil {
		return fmt.Errorf("shut database %s: %w", name, err)
	}
	_, err := p.pool.Exec(ctx, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1`, name)
	if err != nil {
		return errors.Join(fmt.Errorf("end the sessions in %s: %w", name, err), p.open(ctx, name))
	}
	return nil
}

// open undoes shut.
func (p *realServer) open(ctx context.Context, name string) error {
	if err := p.exec(ctx, "ALTER DATABASE "+quote(name)+" ALLOW_CONNECTIONS true"); err != nil {
		return fmt.Errorf("open database %s: %w", name, err)
	}
	return nil
}
