package giteatest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
)

// adminName is the user for whom the helpers work.
const adminName = "gitea-admin"

// ensureAdmin makes the administrator of a new server; the API can't do that.
func (s *Server) ensureAdmin(ctx context.Context) error {
	if s.state.AdminMade {
		return nil
	}
	cmd := exec.CommandContext(ctx, s.opts.Binary, "admin", "user", "create", "--config", s.path("app.ini"),
		"--admin", "--username", adminName, "--email", adminName+"@capstan.invalid",
		"--password", s.state.AdminPassword, "--must-change-password=false")
	cmd.Env = s.environ()
	out, err := cmd.CombinedOutput()
	s.state.AdminMade = true
	// Who was killed between this and the next line made it already.
	if err != nil && s.API(ctx, http.MethodGet, "/user", nil, nil) != nil {
		return fmt.Errorf("giteatest: make the administrator of Gitea: %w\n%s", err, out)
	}
	return s.state.save(s.path("state.json"))
}

// CreateUser makes a user who can sign in.
func (s *Server) CreateUser(ctx context.Context, name, password string) error {
	return s.API(ctx, http.MethodPost, "/admin/users", map[string]any{
		"username": name, "password": password, "email": name + "@capstan.invalid", "must_change_password": false,
	}, nil)
}

// Token makes a token of a user, with scopes such as "write:repository".
func (s *Server) Token(ctx context.Context, user string, scopes ...string) (string, error) {
	var token struct {
		Value string `json:"sha1"`
	}
	err := s.API(ctx, http.MethodPost, "/users/"+url.PathEscape(user)+"/tokens",
		map[string]any{"name": secret()[:10], "scopes": scopes}, &token)
	return token.Value, err
}

// CreateRepo makes an empty repository of a user.
func (s *Server) CreateRepo(ctx context.Context, owner, name string, private bool) error {
	return s.API(ctx, http.MethodPost, "/admin/users/"+url.PathEscape(owner)+"/repos",
		map[string]any{"name": name, "private": private}, nil)
}

// CreateHook makes a webhook of a repository for events such as "push".
func (s *Server) CreateHook(ctx context.Context, owner, repo, target, secret string, events ...string) error {
	return s.API(ctx, http.MethodPost, "/repos/"+url.PathEscape(owner)+"/"+url.PathEscape(repo)+"/hooks", map[string]any{
		"type": "gitea", "active": true, "events": events,
		"config": map[string]string{"url": target, "content_type": "json", "secret": secret},
	}, nil)
}

// API sends a request below /api/v1 as the administrator. In, unless nil, is sent
// as JSON; out, unless nil, is read from the answer.
func (s *Server) API(ctx context.Context, method, path string, in, out any) error {
	return s.api(ctx, method, "/api/v1"+path, in, out)
}

func (s *Server) api(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		content, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("giteatest: %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL()+path, body)
	if err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if s.state.AdminMade {
		req.SetBasicAuth(adminName, s.state.AdminPassword)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fmt.Errorf("giteatest: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("giteatest: %s %s: %w", method, path, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("giteatest: %s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(answer)))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("giteatest: %s %s: %w", method, path, err)
	}
	return nil
}
