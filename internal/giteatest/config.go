package giteatest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/template"
)

// state is what must be the same when a server is started again.
type state struct {
	Port          int
	AdminPassword string
	// AdminMade says that the administrator exists.
	AdminMade bool
	// Secrets of the configuration.
	SecretKey, InternalToken, SigningSecret string
}

// loadState reads the state of a server, or makes that of a new one.
func loadState(path string) (state, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return state{AdminPassword: secret(), SecretKey: secret(), InternalToken: secret(), SigningSecret: secret()}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("giteatest: %w", err)
	}
	var s state
	if err := json.Unmarshal(content, &s); err != nil {
		return state{}, fmt.Errorf("giteatest: %s: %w", path, err)
	}
	return s, nil
}

func (s state) save(path string) error {
	content, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	return nil
}

// secret returns 32 random bytes in the encoding that Gitea has for its own.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// writeConfig writes app.ini.
func (s *Server) writeConfig(path string) error {
	var b bytes.Buffer
	err := config.Execute(&b, map[string]any{
		"Dir": s.opts.Dir, "StaticRoot": s.opts.StaticRoot, "URL": s.URL(), "TLS": s.opts.TLS, "FastQueues": s.opts.FastQueues,
		"Port": s.state.Port, "SecretKey": s.state.SecretKey, "InternalToken": s.state.InternalToken, "SigningSecret": s.state.SigningSecret,
	})
	if err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	return nil
}

// config is app.ini: loopback only, nothing that calls the outside, nothing that
// works in the background on what tests look at.
var config = template.Must(template.New("app.ini").Parse(`APP_NAME = Gitea
RUN_MODE = prod
WORK_PATH = {{.Dir}}

[server]
PROTOCOL = {{if .TLS}}https{{else}}http{{end}}
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {{.Port}}
DOMAIN = 127.0.0.1
ROOT_URL = {{.URL}}/
LOCAL_ROOT_URL = {{.URL}}/
{{- if .TLS}}
CERT_FILE = {{.Dir}}/cert.pem
KEY_FILE = {{.Dir}}/key.pem
{{- end}}
STATIC_ROOT_PATH = {{.StaticRoot}}
APP_DATA_PATH = {{.Dir}}/data
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = false
GRACEFUL_HAMMER_TIME = 10s

[database]
DB_TYPE = sqlite3
PATH = {{.Dir}}/data/gitea.db
SQLITE_JOURNAL_MODE = WAL
SQLITE_TIMEOUT = 20000

[security]
INSTALL_LOCK = true
SECRET_KEY = {{.SecretKey}}
INTERNAL_TOKEN = {{.InternalToken}}
PASSWORD_HASH_ALGO = pbkdf2$1$50

[oauth2]
ENABLED = false
JWT_SECRET = {{.SigningSecret}}

[service]
DISABLE_REGISTRATION = true
REGISTER_MANUAL_CONFIRM = false

[openid]
ENABLE_OPENID_SIGNIN = false
ENABLE_OPENID_SIGNUP = false

[repository]
ROOT = {{.Dir}}/repositories
SCRIPT_TYPE = sh
DEFAULT_BRANCH = main

[webhook]
ALLOWED_HOST_LIST = loopback
SKIP_TLS_VERIFY = false
{{- if .FastQueues}}

[queue]
TYPE = channel
{{- end}}

[indexer]
ISSUE_INDEXER_TYPE = db

[actions]
ENABLED = false

[packages]
ENABLED = false

[mirror]
ENABLED = false

[mailer]
ENABLED = false

[session]
PROVIDER = db

[log]
ROOT_PATH = {{.Dir}}/log
MODE = console
LEVEL = Info
COLORIZE = false

[cron]
ENABLED = false
RUN_AT_START = false
`))
