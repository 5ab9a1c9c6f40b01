package forge_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"capstan.dev/capstan/internal/forge"
)

var update = flag.Bool("update", false, "write what the deliveries in testdata are read as")

// deliveries are those of testdata, by name, with what they are to be read as.
func deliveries(t testing.TB) map[string]struct {
	delivery
	want forge.Event
} {
	t.Helper()
	files, err := filepath.Glob("testdata/webhooks/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no deliveries: %v", err)
	}
	all := map[string]struct {
		delivery
		want forge.Event
	}{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := all[file]
		for i, f := range archive.Files {
			switch f.Name {
			case "header":
				header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(f.Data, '\n')))).ReadMIMEHeader()
				if err != nil {
					t.Fatal(err)
				}
				d.header = http.Header(header)
			case "body.json":
				d.body = f.Data
			case "event.json":
				if err := json.Unmarshal(f.Data, &d.want); err != nil {
					t.Fatal(err)
				}
				archive.Files = archive.Files[:i]
			}
		}
		all[file] = d
		if *update {
			event, err := forge.Parse(d.header, d.body)
			if err != nil {
				t.Fatal(err)
			}
			content, err := json.MarshalIndent(event, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			archive.Files = append(archive.Files[:2:2], txtar.File{Name: "event.json", Data: append(content, '\n')})
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

func TestParse(t *testing.T) {
	for name, d := range deliveries(t) {
		event, err := forge.Parse(d.header, d.body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := gocmp.Diff(d.want, event); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const commit = `"1234567812345678123456781234567812345678"`
	push := func(event string) http.Header {
		return http.Header{"Content-Type": {"application/json"}, "X-Gitea-Event": {event}}
	}
	with := func(h http.Header, key string, values ...string) http.Header {
		h = h.Clone()
		h[key] = values
		return h
	}
	const repository = `"repository": {"full_name": "acme/fleet"}`
	for name, tt := range map[string]struct {
		header http.Header
		body   string
		want   string
	}{
		"a form":              {with(push("push"), "Content-Type", "application/x-www-form-urlencoded"), "payload={}", "choose the content type application/json"},
		"text":                {with(push("push"), "Content-Type", "text/plain"), "{}", "must be application/json"},
		"no content type":     {with(push("push"), "Content-Type"), "{}", "must be application/json"},
		"no event":            {with(push("push"), "X-Gitea-Event"), "{}", "names no event"},
		"two events":          {with(push("push"), "X-Github-Event", "ping"), "{}", "two events"},
		"two events at once":  {with(push("push"), "X-Gitea-Event", "push", "ping"), "{}", "two events"},
		"two types":           {with(with(push("push"), "X-Gitea-Event-Type", "push"), "X-Forgejo-Event-Type", "ping"), "{}", "two types"},
		"nothing":             {push("push"), "", "not JSON"},
		"cut off":             {push("push"), `{"ref": "refs/heads/m`, "not JSON"},
		"two values":          {push("push"), `{} {}`, "not JSON"},
		"null":                {push("push"), "null", "not a JSON object"},
		"a list":              {push("push"), "[]", "the whole is a JSON array"},
		"a wrong type":        {push("push"), `{"ref": 5}`, "ref is a JSON number"},
		"a wrong type within": {push("push"), `{"commits": [{"added": "x"}]}`, "commits.added is a JSON string"},
		"no repository":       {push("push"), `{"ref": "refs/heads/main"}`, "names no repository"},
		"a repository path":   {push("push"), `{"repository": {"full_name": "acme/../x"}}`, "names no repository"},
		"no ref":              {push("push"), `{` + repository + `}`, "names no ref"},
		"a ref that is none":  {push("push"), `{"ref": "main", ` + repository + `}`, "names no ref"},
		"no commit":           {push("push"), `{"ref": "refs/heads/main", "before": ` + commit + `, ` + repository + `}`, "names no commit"},
		"a short commit":      {push("push"), `{"ref": "refs/heads/main", "before": "123", "after": ` + commit + `, ` + repository + `}`, `"123"`},
		"no number": {push("pull_request"), `{"action": "opened", "pull_request": {"head": {"sha": ` + commit + `}, "base": {"sha": ` + commit + `, "ref": "main"}}, ` + repository + `}`,
			"has the number 0"},
		"no head":           {push("pull_request"), `{"action": "opened", "number": 1, ` + repository + `}`, "names no commit"},
		"no base":           {push("pull_request"), `{"action": "opened", "number": 1, "pull_request": {"head": {"sha": ` + commit + `}, "base": {"sha": ` + commit + `}}, ` + repository + `}`, "names no branch"},
		"a ping of nothing": {push("ping"), "nothing", "not JSON"},
	} {
		event, err := forge.Parse(tt.header, []byte(tt.body))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want %q", name, event, err, tt.want)
		}
	}
}

func sum(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestVerify(t *testing.T) {
	const body, secret, old = `{"a": 1}`, "a long secret", "an older secret"
	good, byOld, wrong := sum(secret, body), sum(old, body), sum("no secret", body)
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(body))
	weak := "sha1=" + hex.EncodeToString(mac.Sum(nil))
	both := []string{secret, old}
	for name, tt := range map[string]struct {
		header  map[string]string
		secrets []string
		want    string // in the error; none if empty
	}{
		"GitHub":             {map[string]string{"X-Hub-Signature-256": "sha256=" + good}, both, ""},
		"Gitea":              {map[string]string{"X-Gitea-Signature": good, "X-Hub-Signature-256": "sha256=" + good, "X-Gogs-Signature": good, "X-Hub-Signature": weak}, both, ""},
		"Forgejo":            {map[string]string{"X-Forgejo-Signature": good, "X-Gitea-Signature": good}, both, ""},
		"only Gitea's own":   {map[string]string{"X-Gitea-Signature": good}, both, ""},
		"capital letters":    {map[string]string{"X-Gitea-Signature": strings.ToUpper(good)}, both, ""},
		"the other secret":   {map[string]string{"X-Gitea-Signature": byOld}, both, ""},
		"one secret each":    {map[string]string{"X-Gitea-Signature": good, "X-Hub-Signature-256": "sha256=" + byOld}, both, "not by a known secret"},
		"one is wrong":       {map[string]string{"X-Gitea-Signature": good, "X-Hub-Signature-256": "sha256=" + wrong}, both, "not by a known secret"},
		"the last is wrong":  {map[string]string{"X-Gitea-Signature": good, "X-Gogs-Signature": wrong}, both, "not by a known secret"},
		"wrong":              {map[string]string{"X-Gitea-Signature": wrong}, both, "not by a known secret"},
		"none":               {nil, both, "not signed"},
		"SHA-1":              {map[string]string{"X-Hub-Signature": weak}, both, "SHA-1"},
		"SHA-1 as SHA-256":   {map[string]string{"X-Hub-Signature-256": weak}, both, "malformed"},
		"Gitea, no secret":   {map[string]string{"X-Gitea-Signature": "", "X-Hub-Signature-256": "sha256=", "X-Gogs-Signature": "", "X-Hub-Signature": "sha1="}, both, "not signed"},
		"one is empty":       {map[string]string{"X-Gitea-Signature": "", "X-Hub-Signature-256": "sha256=" + good}, both, "not signed"},
		"cut off":            {map[string]string{"X-Gitea-Signature": good[:62]}, both, "malformed"},
		"no prefix":          {map[string]string{"X-Hub-Signature-256": good}, both, "malformed"},
		"no hex":             {map[string]string{"X-Gitea-Signature": strings.Repeat("x", 64)}, both, "malformed"},
		"no secrets":         {map[string]string{"X-Gitea-Signature": sum("", body)}, nil, "no webhook secret"},
		"an empty secret":    {map[string]string{"X-Gitea-Signature": sum("", body)}, []string{""}, "no webhook secret"},
		"a blank secret":     {map[string]string{"X-Gitea-Signature": sum(" \n", body)}, []string{" \n"}, "no webhook secret"},
		"empty beside a set": {map[string]string{"X-Gitea-Signature": sum("", body)}, []string{"", secret}, "not by a known secret"},
	} {
		header := http.Header{}
		for key, value := range tt.header {
			header.Set(key, value)
		}
		var secrets [][]byte
		for _, s := range tt.secrets {
			secrets = append(secrets, []byte(s))
		}
		err := forge.Verify(header, []byte(body), secrets)
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		case err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), good)):
			t.Errorf("%s: %q has a secret", name, err)
		}
	}
	twice := http.Header{"X-Gitea-Signature": {good, wrong}}
	if forge.Verify(twice, []byte(body), [][]byte{[]byte(secret)}) == nil {
		t.Error("a second signature that is wrong is accepted")
	}
}

// FuzzParse checks that no body is read as more than it may say.
func FuzzParse(f *testing.F) {
	for _, d := range deliveries(f) {
		f.Add(d.header.Get("X-Github-Event"), d.header.Get("X-Gitea-Event-Type"), d.body)
	}
	f.Add("push", "", []byte(`{"commits":[null],"repository":null}`))
	f.Fuzz(func(t *testing.T, name, kind string, body []byte) {
		header := http.Header{"Content-Type": {"application/json"}, "X-Github-Event": {name}, "X-Gitea-Event-Type": {kind}}
		e, err := forge.Parse(header, body)
		switch {
		case err != nil:
			if e.Kind != "" || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%+v, %q", e, err)
			}
		case e.Kind == forge.PushEvent:
			if !strings.HasPrefix(e.Ref, "refs/") || len(e.Before) < 40 || len(e.After) < 40 || !strings.Contains(e.Repository, "/") {
				t.Errorf("%+v", e)
			}
		case e.Kind == forge.PullRequestEvent:
			if e.Number < 1 || len(e.Head) < 40 || e.Base == "" || e.Action == "" || !strings.Contains(e.Repository, "/") {
				t.Errorf("%+v", e)
			}
		case e.Kind == forge.IgnoredEvent:
			if e.Reason == "" || strings.ContainsAny(e.Reason, "\n\x1b") {
				t.Errorf("%+v", e)
			}
		case e.Kind != forge.PingEvent:
			t.Errorf("%+v", e)
		}
	})
}

// FuzzVerify checks that only the right signature is accepted.
func FuzzVerify(f *testing.F) {
	const secret = "a long secret"
	f.Add([]byte("{}"), sum(secret, "{}"), "sha256="+sum(secret, "{}"))
	f.Add([]byte("{}"), sum("", "{}"), "")
	f.Fuzz(func(t *testing.T, body []byte, gitea, hub string) {
		header := http.Header{"X-Gitea-Signature": {gitea}}
		if hub != "" {
			header["X-Hub-Signature-256"] = []string{hub}
		}
		right := sum(secret, string(body))
		want := strings.EqualFold(gitea, right) && (hub == "" || strings.EqualFold(hub, "sha256="+right) && strings.HasPrefix(hub, "sha256="))
		if err := forge.Verify(header, body, [][]byte{{}, []byte(secret)}); (err == nil) != want {
			t.Errorf("%q, %q: %v", gitea, hub, err)
		}
	})
}
