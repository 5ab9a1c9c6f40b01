package forge_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"capstan.dev/capstan/internal/forge"
)

// githubSetup is how the fake is reached and logged in to.
type githubSetup struct{ app, enterprise bool }

// githubFake is a repository acme/fleet on something that checks requests against GitHub's
// documented API. What a client must not do fails the test, with the page that says so;
// what a client can't know is answered as documented.
type githubFake struct {
	t     *testing.T
	setup githubSetup
	http  *httptest.Server
	key   *rsa.PrivateKey

	mu sync.Mutex
	// tokens are what is good to log in with, and until when; weak ones only read.
	tokens map[string]time.Time
	weaks  map[string]bool
	// lifetime is how long tokens of the App are good.
	lifetime time.Duration
	// logins are how many of those were made.
	logins int
	// limited is what to answer instead, if set.
	limited func(w http.ResponseWriter)

	commits  map[string]bool
	posted   map[string][]githubStatus // by commit, the last one last
	requests []*githubPull
	talk     map[int64]*githubComment
	lastID   int64
}

type githubStatus struct {
	Context     string  `json:"context"`
	State       string  `json:"state"`
	Description *string `json:"description"`
	TargetURL   *string `json:"target_url"`
	ID          int64   `json:"id"`
}

type githubPull struct {
	forge.PullRequest
	updated int
}

type githubComment struct {
	ID     int64  `json:"id"`
	Body   string `json:"body"`
	number int
}

const (
	fakeAppID, fakeInstallation = 12345, 67890

	docsStart     = "docs.github.com/rest/using-the-rest-api/getting-started-with-the-rest-api"
	docsVersions  = "docs.github.com/rest/about-the-rest-api/api-versions"
	docsPages     = "docs.github.com/rest/using-the-rest-api/using-pagination-in-the-rest-api"
	docsLimits    = "docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api"
	docsAuth      = "docs.github.com/rest/authentication/authenticating-to-the-rest-api"
	docsJWT       = "docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app"
	docsToken     = "docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app"
	docsStatuses  = "docs.github.com/rest/commits/statuses#create-a-commit-status"
	docsPulls     = "docs.github.com/rest/pulls/pulls#list-pull-requests"
	docsComments  = "docs.github.com/rest/issues/comments"
	docsServer    = "docs.github.com/enterprise-server/rest/using-the-rest-api/getting-started-with-the-rest-api"
	commentLength = 65536
)

// fakeKey is the App's key: to make one takes long.
var fakeKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newGitHubFake(t *testing.T, s githubSetup) *githubFake {
	g := &githubFake{t: t, setup: s, key: fakeKey(), lifetime: time.Hour, tokens: map[string]time.Time{}, weaks: map[string]bool{},
		commits: map[string]bool{}, posted: map[string][]githubStatus{}, talk: map[int64]*githubComment{}, lastID: 1000}
	g.commits[g.main()] = true
	g.http = httptest.NewTLSServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.http.Close)
	return g
}

func (g *githubFake) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.http.Certificate().Raw})
}

// options reach github.com by a transport that finds it here, and Enterprise as it is.
func (g *githubFake) options(t *testing.T) forge.Options {
	t.Helper()
	o := forge.Options{Kind: forge.GitHub, Owner: "acme", Repository: "fleet"}
	if g.setup.app {
		o.Credentials = forge.Credentials{AppID: fakeAppID, InstallationID: fakeInstallation,
			PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(g.key)})}
	} else {
		o.Credentials = forge.Credentials{Token: g.token(time.Hour, false)}
	}
	if g.setup.enterprise {
		o.URL, o.Credentials.CA = g.http.URL, g.ca()
		return o
	}
	pool := x509.NewCertPool()
	pool.AddCert(g.http.Certificate())
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}, // the name in httptest's certificate
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "api.github.com:443" {
				g.t.Errorf("a connection to %s; the API is at api.github.com: %s", address, docsStart)
			}
			return new(net.Dialer).DialContext(ctx, network, g.http.Listener.Addr().String())
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	o.Transport = transport
	return o
}

func (g *githubFake) token(lifetime time.Duration, weak bool) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	token := "ghs_" + rand.Text()
	g.tokens[token], g.weaks[token] = time.Now().Add(lifetime), weak
	return token
}

func (g *githubFake) weak(t *testing.T) forge.Credentials {
	return forge.Credentials{Token: g.token(time.Hour, true), CA: g.options(t).Credentials.CA}
}

func (g *githubFake) main() string { return strings.Repeat("a1b2", 10) }

func (g *githubFake) statuses(_ *testing.T, commit string) []forge.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	latest := map[string]forge.Status{}
	for _, s := range g.posted[commit] {
		latest[s.Context] = forge.Status{Commit: commit, Context: s.Context, State: forge.State(s.State),
			Description: deref(s.Description), TargetURL: deref(s.TargetURL)}
	}
	var all []forge.Status
	for _, s := range latest {
		all = append(all, s)
	}
	return all
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (g *githubFake) pulls(_ *testing.T, count int, base string, fork bool) []forge.PullRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	var prs []forge.PullRequest
	for range count {
		n := len(g.requests) + 1
		head := fmt.Sprintf("%x", sha1.Sum([]byte{byte(n), byte(n >> 8)}))
		g.commits[head] = true
		pr := forge.PullRequest{Number: n, Title: fmt.Sprintf("change %d", n), Author: "octocat", Head: head, Base: base,
			Fork: fork, Open: true, Draft: true, Ref: fmt.Sprintf("refs/pull/%d/head", n)}
		g.requests = append(g.requests, &githubPull{pr, n})
		prs = append(prs, pr)
	}
	return prs
}

func (g *githubFake) close(_ *testing.T, number int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests[number-1].Open = false
}

func (g *githubFake) comment(_ *testing.T, number int, body string) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addComment(number, body).ID
}

func (g *githubFake) addComment(number int, body string) *githubComment {
	g.lastID++
	g.talk[g.lastID] = &githubComment{g.lastID, body, number}
	return g.talk[g.lastID]
}

func (g *githubFake) comments(_ *testing.T, number int) map[int64]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := map[int64]string{}
	for id, c := range g.talk {
		if c.number == number {
			all[id] = c.Body
		}
	}
	return all
}

func (g *githubFake) deleteComment(_ *testing.T, id int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.talk, id)
}

// must fails the test of who sends what is not documented.
func (g *githubFake) must(ok bool, r *http.Request, docs, format string, args ...any) {
	if !ok {
		g.t.Errorf("%s %s: %s: see https://%s", r.Method, r.URL, fmt.Sprintf(format, args...), docs)
	}
}

func (g *githubFake) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (g *githubFake) refuse(w http.ResponseWriter, status int, message, docs string, errs ...map[string]string) {
	body := map[string]any{"message": message, "documentation_url": "https://" + docs, "status": strconv.Itoa(status)}
	if len(errs) > 0 {
		body["errors"] = errs
	}
	g.answer(w, status, body)
}

func (g *githubFake) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	path := r.URL.Path
	if g.setup.enterprise {
		var ok bool
		path, ok = strings.CutPrefix(path, "/api/v3")
		g.must(ok, r, docsServer, "the API of a server is at /api/v3")
	} else {
		g.must(r.Host == "api.github.com", r, docsStart, "the host is %q", r.Host)
	}
	g.must(r.Header.Get("User-Agent") != "", r, docsStart, "there is no User-Agent")
	accept := r.Header.Get("Accept")
	g.must(strings.Contains(accept, "application/vnd.github+json"), r, docsStart, "Accept is %q", accept)
	if r.Method != http.MethodGet && r.ContentLength != 0 {
		g.must(strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"), r, docsStart, "Content-Type is %q", r.Header.Get("Content-Type"))
	}
	w.Header().Set("X-Ratelimit-Limit", "5000")
	w.Header().Set("X-Ratelimit-Remaining", "4321")
	w.Header().Set("X-Ratelimit-Reset", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10))
	if g.limited != nil {
		g.limited(w)
		return
	}
	if path == fmt.Sprintf("/app/installations/%d/access_tokens", fakeInstallation) {
		g.login(w, r)
		return
	}
	g.must(r.Header.Get("X-GitHub-Api-Version") == "2022-11-28", r, docsVersions, "X-GitHub-Api-Version is %q", r.Header.Get("X-GitHub-Api-Version"))
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	g.must(token != "" && (scheme == "Bearer" || scheme == "token"), r, docsAuth, "there is no token")
	if until, ok := g.tokens[token]; !ok || time.Now().After(until) {
		g.refuse(w, http.StatusUnauthorized, "Bad credentials", docsAuth)
		return
	}
	rest, ok := strings.CutPrefix(path, "/repos/acme/fleet/")
	if !ok {
		g.must(strings.HasPrefix(path, "/repos/acme/nothing/"), r, docsStart, "there is no such endpoint")
		g.refuse(w, http.StatusNotFound, "Not Found", docsStart)
		return
	}
	if g.weaks[token] && r.Method != http.MethodGet {
		w.Header().Set("X-Accepted-Github-Permissions", map[bool]string{true: "statuses=write", false: "issues=write; pull_requests=write"}[strings.HasPrefix(rest, "statuses/")])
		g.refuse(w, http.StatusForbidden, "Resource not accessible by personal access token", docsAuth)
		return
	}
	parts := strings.Split(rest, "/")
	switch number := func(i int) int { n, _ := strconv.Atoi(parts[i]); return n }; {
	case len(parts) == 2 && parts[0] == "statuses" && r.Method == http.MethodPost:
		g.postStatus(w, r, parts[1])
	case len(parts) == 1 && parts[0] == "pulls" && r.Method == http.MethodGet:
		g.listPulls(w, r)
	case len(parts) == 2 && parts[0] == "pulls" && r.Method == http.MethodGet:
		if n := number(1); n < 1 || n > len(g.requests) {
			g.refuse(w, http.StatusNotFound, "Not Found", docsPulls)
		} else {
			g.answer(w, http.StatusOK, g.requests[n-1].json())
		}
	case len(parts) == 3 && parts[0] == "issues" && parts[2] == "comments":
		if n := number(1); n < 1 || n > len(g.requests) {
			g.refuse(w, http.StatusNotFound, "Not Found", docsComments)
		} else if r.Method == http.MethodGet {
			g.listComments(w, r, n)
		} else {
			g.must(r.Method == http.MethodPost, r, docsComments, "no such method")
			if body, ok := g.commentBody(w, r); ok {
				g.answer(w, http.StatusCreated, g.addComment(n, body))
			}
		}
	case len(parts) == 3 && parts[0] == "issues" && parts[1] == "comments" && r.Method == http.MethodPatch:
		c := g.talk[int64(number(2))]
		if c == nil {
			g.refuse(w, http.StatusNotFound, "Not Found", docsComments)
		} else if body, ok := g.commentBody(w, r); ok {
			c.Body = body
			g.answer(w, http.StatusOK, c)
		}
	default:
		g.must(false, r, docsStart, "there is no such endpoint")
		g.refuse(w, http.StatusNotFound, "Not Found", docsStart)
	}
}

// read reads a body that may have only the fields of v.
func (g *githubFake) read(w http.ResponseWriter, r *http.Request, docs string, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		g.must(false, r, docs, "the body: %v", err)
		g.refuse(w, http.StatusBadRequest, "Problems parsing JSON", docsStart)
		return false
	}
	return true
}

func (g *githubFake) login(w http.ResponseWriter, r *http.Request) {
	g.must(r.Method == http.MethodPost, r, docsToken, "no such method")
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if why := g.checkJWT(token); why != "" {
		g.refuse(w, http.StatusUnauthorized, why, docsJWT)
		return
	}
	var want struct {
		Repositories []string          `json:"repositories"`
		IDs          []int64           `json:"repository_ids"`
		Permissions  map[string]string `json:"permissions"`
	}
	if !g.read(w, r, docsToken, &want) {
		return
	}
	for _, name := range want.Repositories {
		if name != "fleet" {
			g.refuse(w, http.StatusUnprocessableEntity, "There is at least one repository that does not exist or is not accessible to the parent installation.", docsToken)
			return
		}
	}
	issued := "ghs_" + rand.Text()
	until := time.Now().Add(g.lifetime)
	g.tokens[issued] = until
	g.logins++
	g.answer(w, http.StatusCreated, map[string]any{"token": issued, "expires_at": until.UTC().Format(time.RFC3339),
		"permissions": map[string]string{"statuses": "write", "pull_requests": "write", "metadata": "read"}, "repository_selection": "selected"})
}

// checkJWT says what is wrong with the token that the App signs itself.
func (g *githubFake) checkJWT(token string) string {
	const undecodable = "A JSON web token could not be decoded"
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return undecodable
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return undecodable
		}
	}
	var head struct{ Alg string }
	var claims struct {
		Iss      any
		Iat, Exp int64
	}
	if json.Unmarshal(decoded[0], &head) != nil || json.Unmarshal(decoded[1], &claims) != nil || head.Alg != "RS256" {
		return undecodable
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(&g.key.PublicKey, crypto.SHA256, sum[:], decoded[2]) != nil {
		return undecodable
	}
	now := time.Now().Unix()
	switch {
	case fmt.Sprint(claims.Iss) != strconv.Itoa(fakeAppID):
		return "'Issuer' claim ('iss') must be an Integer"
	case claims.Iat > now:
		return "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
	case claims.Exp <= now || claims.Exp > now+600:
		return "'Expiration time' claim ('exp') is too far in the future"
	}
	return ""
}

func (g *githubFake) postStatus(w http.ResponseWriter, r *http.Request, commit string) {
	var s githubStatus
	if !g.read(w, r, docsStatuses, &struct {
		Context     *string  `json:"context"`
		State       *string  `json:"state"`
		Description **string `json:"description"`
		TargetURL   **string `json:"target_url"`
	}{&s.Context, &s.State, &s.Description, &s.TargetURL}) {
		return
	}
	invalid := func(field, message string) {
		g.refuse(w, http.StatusUnprocessableEntity, "Validation Failed", docsStatuses, map[string]string{
			"resource": "Status", "code": "custom", "field": field, "message": message})
	}
	g.must(slices.Contains([]string{"error", "failure", "pending", "success"}, s.State), r, docsStatuses, "the state is %q", s.State)
	g.must(s.TargetURL == nil || strings.HasPrefix(*s.TargetURL, "http"), r, docsStatuses, "the target is %q", deref(s.TargetURL))
	_, err := hex.DecodeString(commit)
	same := 0
	for _, other := range g.posted[commit] {
		if strings.EqualFold(other.Context, s.Context) {
			same++
		}
	}
	switch {
	case err != nil || !g.commits[commit]:
		g.refuse(w, http.StatusUnprocessableEntity, "No commit found for SHA: "+commit, docsStatuses)
	case utf8.RuneCountInString(deref(s.Description)) > 140:
		g.must(false, r, docsStatuses, "the description is too long")
		invalid("description", "description is too long (maximum is 140 characters)")
	case strings.ContainsFunc(deref(s.Description), func(c rune) bool { return c > 0xffff }):
		g.must(false, r, docsStatuses, "the description has characters of 4 bytes")
		invalid("description", "description doesn't accept 4-byte Unicode")
	case same >= 1000:
		invalid("base", "This SHA and context has reached the maximum number of statuses.")
	default:
		g.lastID++
		s.ID = g.lastID
		g.posted[commit] = append(g.posted[commit], s)
		g.answer(w, http.StatusCreated, s)
	}
}

// paged answers one page of a list and says where the others are.
func paged[T any](g *githubFake, w http.ResponseWriter, r *http.Request, list []T, parameters ...string) {
	q := r.URL.Query()
	for name := range q {
		g.must(slices.Contains(parameters, name) || name == "page" || name == "per_page", r, docsPages, "there is no parameter %s", name)
	}
	per, page := 30, 1
	if v := q.Get("per_page"); v != "" {
		per, _ = strconv.Atoi(v)
		g.must(per >= 1 && per <= 100, r, docsPages, "per_page is %s", v)
		per = min(max(per, 1), 100)
	}
	if v := q.Get("page"); v != "" {
		page, _ = strconv.Atoi(v)
		g.must(page >= 1, r, docsPages, "page is %s", v)
		page = max(page, 1)
	}
	from := min((page-1)*per, len(list))
	to := min(from+per, len(list))
	if to < len(list) {
		link := func(n int) string {
			q.Set("page", strconv.Itoa(n))
			return (&url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawQuery: q.Encode()}).String()
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next", <%s>; rel="last"`, link(page+1), link((len(list)+per-1)/per)))
	}
	out := make([]any, 0, per)
	for _, item := range list[from:to] {
		if pr, ok := any(item).(*githubPull); ok {
			out = append(out, pr.json())
		} else {
			out = append(out, item)
		}
	}
	g.answer(w, http.StatusOK, out)
}

func (g *githubFake) listPulls(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name, values := range map[string][]string{"state": {"", "open", "closed", "all"}, "direction": {"", "asc", "desc"},
		"sort": {"", "created", "updated", "popularity", "long-running"}} {
		g.must(slices.Contains(values, q.Get(name)), r, docsPulls, "%s is %q", name, q.Get(name))
	}
	list := slices.DeleteFunc(slices.Clone(g.requests), func(pr *githubPull) bool {
		return q.Get("base") != "" && pr.Base != q.Get("base") || q.Get("state") != "all" && pr.Open == (q.Get("state") == "closed")
	})
	slices.SortStableFunc(list, func(a, b *githubPull) int {
		if q.Get("direction") == "asc" {
			return a.updated - b.updated
		}
		return b.updated - a.updated
	})
	paged(g, w, r, list, "state", "head", "base", "sort", "direction")
}

func (pr *githubPull) json() map[string]any {
	state, home := "closed", map[string]any{"id": 1, "full_name": "acme/fleet"}
	if pr.Open {
		state = "open"
	}
	head := home
	if pr.Fork {
		head = map[string]any{"id": 2, "full_name": pr.Author + "/fleet"}
	}
	return map[string]any{"id": 5000 + pr.Number, "number": pr.Number, "title": pr.Title, "state": state, "draft": pr.Draft,
		"user": map[string]any{"login": pr.Author},
		"head": map[string]any{"ref": "change", "sha": pr.Head, "repo": head},
		"base": map[string]any{"ref": pr.Base, "sha": strings.Repeat("a1b2", 10), "repo": home}}
}

func (g *githubFake) listComments(w http.ResponseWriter, r *http.Request, number int) {
	var list []*githubComment
	for _, c := range g.talk {
		if c.number == number {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *githubComment) int { return int(a.ID - b.ID) })
	paged(g, w, r, list, "since")
}

func (g *githubFake) commentBody(w http.ResponseWriter, r *http.Request) (string, bool) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		g.t.Error(err)
	}
	r.Body = io.NopCloser(strings.NewReader(string(content)))
	var c struct {
		Body *string `json:"body"`
	}
	if !g.read(w, r, docsComments, &c) {
		return "", false
	}
	g.must(c.Body != nil, r, docsComments, "there is no body")
	if c.Body == nil || utf8.RuneCountInString(*c.Body) > commentLength {
		g.must(c.Body == nil, r, docsComments, "the body is too long")
		g.refuse(w, http.StatusUnprocessableEntity, "Validation Failed", docsComments, map[string]string{
			"resource": "IssueComment", "code": "unprocessable", "field": "data", "message": "Body is too long (maximum is 65536 characters)"})
		return "", false
	}
	return *c.Body, true
}
