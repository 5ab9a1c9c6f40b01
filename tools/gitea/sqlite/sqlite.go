// Package sqlite3 takes the place of github.com/mattn/go-sqlite3, which needs a C
// compiler, in the Gitea that is built here: SQLite translated to Go, under the
// name and with the parameters that Gitea gives.
package sqlite3

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net/url"
	"strings"

	"modernc.org/sqlite"
)

func init() { sql.Register("sqlite3", &translated{}) }

type translated struct{ sqlite.Driver }

// Open implements [driver.Driver].
func (d *translated) Open(name string) (driver.Conn, error) {
	path, query, _ := strings.Cut(name, "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("sqlite3: the parameters of %s: %w", path, err)
	}
	// Who must wait for another connection to a shared cache gets an error, unless SQLite
	// was built to notify (Gitea's tag sqlite_unlock_notify), which this one was not;
	// otherwise they wait at the file, for as long as busy_timeout says.
	params.Del("cache")
	for _, pragma := range []string{"busy_timeout", "journal_mode"} {
		if value := params.Get("_" + pragma); value != "" {
			params.Del("_" + pragma)
			params.Add("_pragma", pragma+"("+value+")")
		}
	}
	return d.Driver.Open(path + "?" + params.Encode())
}
